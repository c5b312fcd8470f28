"""Reloading: how requests coalesce, and what a configuration file does to a fleet (here one that never runs)."""

import os
import socket
from pathlib import Path

import pytest
import trio
import trio.testing
from fakes.streams import ListedStore

from shared.config import Config, Server, Storage
from shared.config.locate import load_config
from shared.paths import Paths
from supervisor import reload
from supervisor.fleet import Fleet, Settings
from supervisor.forkserver import ForkServer
from supervisor.hub import Hub
from supervisor.ledger import Ledger
from supervisor.listen import close_listeners, open_listeners
from supervisor.reload import Outcome, Reloader, Reloads


class Reloading:
    """A reload that takes until it is let go."""

    def __init__(self):
        self.begun = 0
        self.gate = trio.Event()

    async def __call__(self):
        self.begun += 1
        number, gate = self.begun, self.gate
        await gate.wait()
        return Outcome(True, f"reload {number}")

    def let_go(self):
        gate, self.gate = self.gate, trio.Event()
        gate.set()


async def test_a_storm_of_requests_is_one_more_reload(nursery):
    reloading = Reloading()
    reloads = Reloads(reloading)
    nursery.start_soon(reloads.run)
    first = reloads.request_nowait()
    await trio.testing.wait_all_tasks_blocked()
    assert reloads.running
    later = [reloads.request_nowait() for _ in range(1000)]
    await trio.testing.wait_all_tasks_blocked()
    assert reloading.begun == 1
    reloading.let_go()
    assert await first.wait() == Outcome(True, "reload 1")
    await trio.testing.wait_all_tasks_blocked()
    reloading.let_go()
    for request in later:
        assert await request.wait() == Outcome(True, "reload 2")
    await trio.testing.wait_all_tasks_blocked()
    assert reloading.begun == 2
    assert not reloads.running


async def test_requests_before_the_task_runs_are_served(nursery):
    reloading = Reloading()
    reloads = Reloads(reloading)
    request = reloads.request_nowait()
    reloading.let_go()
    reloading.gate.set()
    nursery.start_soon(reloads.run)
    assert (await request.wait()).message == "reload 1"


async def test_begin_and_end_are_told(nursery):
    told = []
    reloading = Reloading()
    reloads = Reloads(reloading)
    reloads.around(lambda: told.append("begins"), lambda: told.append("ends"))
    nursery.start_soon(reloads.run)
    reloading.gate.set()
    await reloads.request_nowait().wait()
    assert told == ["begins", "ends"]


class PlayedStore:
    settings = Storage()
    keep_conversations = 0.0


def make_fleet(settings):
    """One that never runs."""
    ledger = Ledger()
    nowhere = Path("/nowhere")
    return Fleet(
        ForkServer(),
        settings,
        ledger=ledger,
        store=ListedStore(),
        hub=Hub(settings.config, ledger),
        supervisor_pid=os.getpid(),
        paths=Paths(state=nowhere, runtime=nowhere, logs=nowhere),
    )


class Scene:
    """A fleet as it stands, and the file that may change it."""

    def __init__(self, path):
        self.path = path
        config = load_config(str(path), {}).config
        self.listeners = open_listeners(config.server.bind, tcp_user_timeout=config.server.tcp_user_timeout)
        settings = Settings(config=config, keys={}, listeners=tuple(self.listeners))
        self.fleet = make_fleet(settings)
        self.store = PlayedStore()
        self.env = {}
        self.told = []
        self.reloader = Reloader(self.fleet, option=str(path), env=self.env, store=self.store, publish=self.told.append)

    async def reload(self, text):
        self.path.write_text(text)
        return await self.reloader.reload()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.fixture
def text():
    return f'[server]\nbind = ["127.0.0.1:{free_port()}"]\n'


@pytest.fixture
async def scene(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text)
    scene = Scene(path)
    yield scene
    close_listeners(scene.fleet.open_listeners)


async def test_a_good_one_is_in_force(scene, text):
    scene.env["FAKE_KEY"] = "k" * 20
    outcome = await scene.reload(
        text + "workers = 5\n[storage]\nkeep_days = 3\n[logging]\nlevel = 'error'\n"
        "[agent]\nkeep_conversations = 7\n"
        "[providers.fake]\nbase_url = 'http://127.0.0.1:9/v1'\napi_key_env = 'FAKE_KEY'\n"
    )
    assert outcome.applied
    settings = scene.fleet.settings
    assert settings.config.server.workers == 5
    assert settings.keys == {"fake": "k" * 20}
    assert settings.generation == 1
    assert settings.listeners == tuple(scene.listeners)
    assert scene.store.settings.keep_days == 3
    assert scene.store.keep_conversations == 7.0
    assert scene.reloader.error is None


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("[server]\nworkrs = 2\n", ":2:"),
        ("[server\n", ":1:"),
        ("[server]\nworkers = 'two'\n", "workers"),
        ("[providers.fake]\nbase_url = 'http://127.0.0.1:9/v1'\napi_key_env = 'NOT_SET'\n", "NOT_SET"),
    ],
    ids=["misspelt", "half-written", "wrong type", "missing key"],
)
async def test_a_bad_one_changes_nothing_until_the_next_good_one(scene, text, broken, said):
    before = scene.fleet.settings
    loaded = scene.reloader.loaded
    outcome = await scene.reload(broken)
    assert not outcome.applied
    assert said in outcome.message
    assert scene.reloader.error == outcome.message
    assert scene.reloader.loaded == loaded
    assert scene.fleet.settings is before
    assert (await scene.reload(text)).applied
    assert scene.reloader.error is None


async def test_a_missing_file_is_refused(scene):
    scene.path.unlink()
    outcome = await scene.reloader.reload()
    assert not outcome.applied
    assert "no such file" in outcome.message


async def test_a_file_that_never_ends_is_refused_in_time(scene, monkeypatch):
    monkeypatch.setattr(reload, "READ_TIMEOUT", 0.05)
    scene.path.unlink()
    os.mkfifo(scene.path)
    outcome = await scene.reloader.reload()
    assert not outcome.applied
    assert "could not be read within" in outcome.message
    os.close(os.open(scene.path, os.O_WRONLY | os.O_NONBLOCK))  # lets the abandoned thread go


async def test_a_new_bind_opens_first_and_rolls(scene):
    [old] = scene.listeners
    outcome = await scene.reload(f'[server]\nbind = ["127.0.0.1:{free_port()}"]\n')
    assert outcome.applied
    assert "one by one for bind" in outcome.message
    [new] = scene.fleet.settings.listeners
    assert scene.fleet.settings.generation == 2
    assert set(scene.fleet.open_listeners) == {old, new}


async def test_a_bind_that_comes_back_before_it_was_closed_is_the_same_socket(scene, text):
    [old] = scene.listeners
    await scene.reload(f'[server]\nbind = ["127.0.0.1:{free_port()}"]\n')
    assert (await scene.reload(text)).applied
    assert scene.fleet.settings.listeners == (old,)
    assert scene.fleet.settings.generation == 3


async def test_a_port_in_use_refuses_the_whole_reload(scene, text):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        outcome = await scene.reload(f'[server]\nbind = ["127.0.0.1:{port}"]\nworkers = 7\n')
    assert not outcome.applied
    assert "in use" in outcome.message
    assert scene.fleet.settings.config.server.workers == Server().workers
    assert scene.fleet.open_listeners == tuple(scene.listeners)


async def test_a_service_that_stops_takes_nothing_new(scene):
    scene.fleet.stop(1.0)
    outcome = await scene.reload(f'[server]\nbind = ["127.0.0.1:{free_port()}"]\n')
    assert outcome == Outcome(False, "the service is stopping")
    assert scene.fleet.open_listeners == tuple(scene.listeners)


async def test_the_built_in_configuration_reloads_to_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings(config=Config(server=Server(bind=())), keys={}, listeners=())
    fleet = make_fleet(settings)
    env = {"HOME": str(tmp_path), "KIMI_PROXY_CONFIG": str(tmp_path / "config.toml")}
    (tmp_path / "config.toml").write_text("[server]\nbind = ['127.0.0.1:0']\n")
    reloader = Reloader(fleet, option=None, env=env, store=PlayedStore(), publish=lambda event: None)
    assert (await reloader.reload()).applied
    close_listeners(fleet.open_listeners)


async def test_listeners_are_told_how_it_went(scene):
    await scene.reload("[server]\nbind = ['127.0.0.1:0']\nworkers = 3\n")
    await scene.reload("[server]\nworkers = 'many'\n")
    good, bad = scene.told
    assert (good.ok, good.error, bad.ok, bad.message) == (True, None, False, None)
    assert "workers" in good.message
    assert "workers" in bad.error
    assert good.source == bad.source == str(scene.path)
