"""A configuration that can't be applied: the one before it stays in force, and the status says why."""

import os
import shutil
import signal
from collections.abc import Callable

import psutil
import pytest
from fakes.faults import fault
from fakes.scene import Scene
from fakes.service import wait_until

pytestmark = pytest.mark.integration

NOTHING = "nothing"
OLD = "the configuration in force; status and log say why, with "


async def refused(scene: Scene, damage: Callable[[], object], *words: str) -> None:
    """SIGHUP with a damaged file changes nothing but the status, which has these words; then it is mended."""
    service = scene.service
    before = await service.wait_serving(2)
    good = scene.config()
    damage()
    await service.reload()
    error = (await service.status()).config_error
    assert error is not None
    for word in words:
        assert word in error
    assert service.events("reload_failed")[-1]["error"] == error
    await wait_until(lambda: any(error in line for line in service.heard("STATUS")), "it in STATUS=")
    assert all([await scene.fresh(dialect) for dialect in ("openai", "anthropic")])
    if service.config_file.is_dir():
        service.config_file.rmdir()
    service.config_file.unlink(missing_ok=True)
    service.write_config(good)
    scene.injected()
    service.send_signal(signal.SIGHUP)
    await scene.recovered()
    await scene.settle()
    assert scene.not_completed == [], scene.told
    assert await service.worker_pids() == before


@fault(
    "SIGHUP with a syntax error", family="Configuration", saw=NOTHING, kept=OLD + "file and line", load=1, lasting=True
)
async def test_a_syntax_error(scene: Scene) -> None:
    text = scene.config() + "[server\n"
    line = len(text.splitlines())
    await refused(scene, lambda: scene.service.write_config(text), f"{scene.service.config_file}:{line}:")


@fault(
    "SIGHUP with a misspelt key", family="Configuration", saw=NOTHING, kept=OLD + "line and key", load=1, lasting=True
)
async def test_a_misspelt_key(scene: Scene) -> None:
    text = scene.config().replace("workers =", "workerz =")
    await refused(scene, lambda: scene.service.write_config(text), "config.toml:3:", '"workerz"', "workers")


@fault(
    "SIGHUP with a value of a wrong type",
    family="Configuration",
    saw=NOTHING,
    kept=OLD + "line and key",
    load=1,
    lasting=True,
)
async def test_a_wrong_type(scene: Scene) -> None:
    text = scene.config().replace("workers = 2", 'workers = "two"')
    await refused(scene, lambda: scene.service.write_config(text), "config.toml:3:", "[server] workers")


@fault(
    "SIGHUP with a key that is nowhere",
    family="Configuration",
    saw=NOTHING,
    kept=OLD + "the provider",
    load=1,
    lasting=True,
)
async def test_a_missing_key(scene: Scene) -> None:
    text = scene.config(more='[providers.kimi]\napi_key_env = "NOT_SET_ANYWHERE"\n')
    await refused(scene, lambda: scene.service.write_config(text), "kimi", "NOT_SET_ANYWHERE")


@fault(
    "SIGHUP with a half-written file",
    family="Configuration",
    saw=NOTHING,
    kept=OLD + "file and line",
    load=1,
    lasting=True,
)
async def test_half_a_file(scene: Scene) -> None:
    text = scene.config()
    half = text[: text.index("[providers.claude]") + 12]
    await refused(scene, lambda: scene.service.write_config(half), f"{scene.service.config_file}:")


@fault("SIGHUP with an empty file", family="Configuration", saw=NOTHING, kept=OLD + "the file", load=1, lasting=True)
async def test_an_empty_file(scene: Scene) -> None:
    await refused(scene, lambda: scene.service.write_config(""), f"{scene.service.config_file}: the file is empty")


@fault(
    "SIGHUP with a file of random bytes",
    family="Configuration",
    saw=NOTHING,
    kept=OLD + "the file",
    load=1,
    lasting=True,
)
async def test_random_bytes(scene: Scene) -> None:
    def damage() -> None:
        scene.service.config_file.write_bytes(bytes(range(128, 256)) * 10)

    await refused(scene, damage, f"{scene.service.config_file}")


@fault("SIGHUP with a deleted file", family="Configuration", saw=NOTHING, kept=OLD + "the file", load=1, lasting=True)
async def test_a_deleted_file(scene: Scene) -> None:
    await refused(scene, scene.service.config_file.unlink, f"{scene.service.config_file}")


@fault(
    "SIGHUP with a folder in its place",
    family="Configuration",
    saw=NOTHING,
    kept=OLD + "the file",
    load=1,
    lasting=True,
)
async def test_a_folder_in_its_place(scene: Scene) -> None:
    def damage() -> None:
        scene.service.config_file.unlink()
        scene.service.config_file.mkdir()

    await refused(scene, damage, f"{scene.service.config_file}")


@fault(
    "a storm of reloads: 4, 1 and 2 workers, each between five refused files",
    family="Configuration",
    saw=NOTHING,
    kept="a record `completed` for every stream",
)
async def test_a_storm_of_reloads(scene: Scene) -> None:
    service = scene.service
    good = scene.config()
    broken = ["[server\n", good.replace("workers =", "workerz ="), "", "[server]\nbind = [", good + "[providers.x]\n"]
    scene.injected()
    for workers in (4, 1, 2):
        for text in broken:
            service.write_config(text)
            service.send_signal(signal.SIGHUP)
            await scene.completed_more(1)
        service.write_config(scene.config(server={"workers": workers}, provider={"chunk_timeout": 20.0 + workers}))
        await service.reload()
        await service.reload()  # the first may have read a file from before
        await service.wait_serving(workers)
    service.write_config(good)
    await service.reload()
    await scene.recovered()
    await scene.completed_more()
    await scene.settle()
    assert scene.not_completed == [], scene.told
    assert {record["status"] for record in scene.records()} == {"completed"}


@fault(
    "SIGHUP while the next worker starts, with another number of workers",
    family="Configuration",
    saw="only the streams of the worker that was killed were cut",
    kept="a record of every stream; there were as many workers as the new configuration wants",
)
async def test_a_reload_while_a_worker_starts(scene: Scene) -> None:
    service = scene.service
    victim, _ = await scene.busiest()
    psutil.Process(victim).suspend()
    held = scene.connections_of(victim)
    service.write_config(scene.config(server={"workers": 3}))
    started = len(service.events("worker_start"))
    os.kill(victim, signal.SIGKILL)
    await wait_until(lambda: len(service.events("worker_start")) > started, "the next worker", poll=0.001)
    service.send_signal(signal.SIGHUP)
    await service.wait_serving(3)
    scene.injected()
    service.write_config(scene.config())
    await service.reload()
    await scene.recovered()
    await scene.settle()
    assert {asked.port for asked in scene.not_completed} <= held, scene.told


@fault(
    "the folder of the configuration is deleted, with everything in it",
    family="Configuration",
    saw=NOTHING,
    kept=OLD + "the file",
    lasting=True,
)
async def test_a_deleted_folder(scene: Scene) -> None:
    service = scene.service
    folder = service.folder / "etc"
    folder.mkdir()
    linked = service.config_file
    (folder / "config.toml").write_text(scene.config())
    linked.unlink()
    linked.symlink_to(folder / "config.toml")
    await service.reload()
    assert (await service.status()).config_error is None
    await refused(scene, lambda: shutil.rmtree(folder), f"{linked}")
