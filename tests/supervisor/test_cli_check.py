"""`kimi-proxy check`: what each layer says, what is not tried for whose sake, and that nothing is left running."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from fakes.openai_upstream import serve_openai
from fakes.service import free_port
from fakes.upstream import HANG, serve_upstream

from shared import VERSION
from shared.paths import resolve_paths
from supervisor.cli.check import render
from supervisor.cli.launcher.checkup import Checkup, Layer
from supervisor.cli.launcher.inquire import Answer
from supervisor.cli.launcher.masked import masked
from supervisor.cli.launcher.roundtrip import judge
from supervisor.instance import running_pid

ROOT = Path(__file__).parents[2]
KEY = "sk-0123456789abcdef"
CLAUDE = "#!/bin/sh\necho '2.1.300 (Claude Code)'\n"


class Place:
    """A home of its own, with a Claude Code that only tells its version."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.config = folder / "config.toml"
        commands = folder / "bin"
        commands.mkdir()
        (commands / "claude").write_text(CLAUDE)
        (commands / "claude").chmod(0o755)
        self.env = {
            "HOME": str(folder),
            "PATH": f"{commands}:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "STATE_DIRECTORY": str(folder / "s"),
            "RUNTIME_DIRECTORY": str(folder / "r"),
            "LOGS_DIRECTORY": str(folder / "l"),
            "FAKE_KEY": KEY,
        }

    def write(self, upstream: str, *, model: str = "text", more: str = "", auth: str = "") -> None:
        self.config.write_text(
            f'[server]\nbind = "127.0.0.1:{self.port}"\nworkers = 1\n{auth}\n[providers.fake]\n'
            f'base_url = "{upstream}"\napi_key_env = "FAKE_KEY"\n{more}\n'
            f'[models."claude-*"]\nprovider = "fake"\nmodel = "{model}"\n'
        )

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        done = await trio.run_process(
            [sys.executable, "-m", "supervisor", *arguments],
            cwd=self.folder,
            env=self.env,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    async def check(self, *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
        """The exit code, and the layers by name; the last one, where there are several of one name."""
        code, out, err = await self.run("check", "--json", *arguments)
        assert "Traceback" not in err
        told = json.loads(out)
        assert told["ok"] == (code == 0)
        assert told["version"] == VERSION
        assert KEY not in out + err
        return code, {layer["layer"]: layer for layer in told["layers"]}

    async def look(self, option: str | None = "config.toml") -> dict[str, Layer]:
        """The layers in this process, where no round trip is to be tried; the last one of a name."""
        option = str(self.folder / option) if option == "config.toml" else option
        layers = await trio.to_thread.run_sync(lambda: list(Checkup(option, self.env).layers()))
        return {layer.layer: layer for layer in layers}

    @property
    def runs(self) -> int | None:
        return running_pid(resolve_paths(self.env).instance_lock)

    @asynccontextmanager
    async def service(self):
        code, _, err = await self.run("start", "--config", str(self.config))
        assert code == 0, err
        try:
            yield
        finally:
            await self.run("stop")


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def states(layers):
    return {name: layer["state"] for name, layer in layers.items()}


def seen(layers):
    return {name: layer.state for name, layer in layers.items()}


WELL = dict.fromkeys(["config", "key", "port", "service", "provider", "claude", "round_trip"], "ok")


async def test_all_is_well_without_a_service_and_none_is_left(place):
    async with serve_openai() as upstream:
        place.write(upstream.base_url, auth='[auth]\nkeys = ["a-client-s-key-of-some-length"]')
        code, out, err = await place.run("check")
        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert lines[:3] == [
            "✓ config       ~/config.toml",
            "✓ key          fake: sk-0…ef, from $FAKE_KEY",
            f"✓ port         127.0.0.1:{place.port} is free",
        ]
        assert lines[3].startswith("– service      does not run now")
        assert lines[4].startswith("✓ provider     fake answers for text in ")
        assert lines[5] == f"✓ Claude Code  2.1.300, {place.folder}/bin/claude"
        assert lines[6].startswith(f"✓ round trip   streamed through http://127.0.0.1:{place.port} in ")
        assert lines[-1] == "All is well. Start Claude Code with: kimi-proxy launch"
    assert place.runs is None
    one, streamed = upstream.log
    assert (one.body.get("stream"), streamed.body["stream"]) == (None, True)


async def test_the_service_that_runs_is_used_and_left_alone(place):
    async with serve_openai() as upstream:
        place.write(upstream.base_url)
        async with place.service():
            pid = place.runs
            code, layers = await place.check()
            assert (code, states(layers)) == (0, WELL)
            assert layers["service"]["text"] == f"{VERSION} runs as pid {pid}, 1 of 1 workers"
            assert layers["port"]["text"] == f"127.0.0.1:{place.port} is the service's"
            del place.env["FAKE_KEY"]  # only this shell's
            code, layers = await place.check()
            assert code == 0
            assert states(layers) == WELL | {"provider": "not_tried"}
            assert "the running service has one" in layers["key"]["text"]
            other = place.folder / "other.toml"
            other.write_text('[providers.echo]\n[models."claude-*"]\nprovider = "echo"\nmodel = "echo"\n')
            code, layers = await place.check("--config", str(other))
            assert (layers["service"]["state"], layers["round_trip"]["state"]) == ("failed", "not_tried")
            assert layers["service"]["fix"] == f"kimi-proxy restart --config {other}"
            code, _, err = await place.run("provider", "fake", "--model", "other")
            assert (code, "the service was told" in err) == (0, True), err
            assert place.runs == pid


async def test_a_broken_configuration_is_named_with_its_line(place):
    place.config.write_text("[server]\nwokers = 1\n")
    layers = await place.look()
    assert f"{place.config}:2:" in layers["config"].text
    assert "did you mean" in layers["config"].text
    assert "kimi-proxy setup" in layers["config"].fix
    assert seen(layers) == dict.fromkeys(WELL, "not_tried") | {"config": "failed", "claude": "ok"}


async def test_without_anything_setup_is_what_comes_next(place, monkeypatch):
    layers = await place.look("none.toml")
    assert layers["config"].fix == "kimi-proxy setup --config none.toml"
    monkeypatch.chdir(place.folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place.folder))
    layers = await place.look(None)
    assert layers["config"].fix == "kimi-proxy setup"
    assert seen(layers) == dict.fromkeys(WELL, "not_tried") | {"config": "failed", "claude": "ok"}


async def test_a_stranger_s_config_toml_is_passed_over(place, monkeypatch):
    monkeypatch.chdir(place.folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place.folder / "cfg"))
    place.config.write_text('title = "A site"\n')
    layers = await place.look(None)
    assert (layers["config"].state, "yours by --config" in layers["config"].text) == ("failed", True)
    assert "\n" not in layers["config"].text
    (place.folder / "cfg/kimi-proxy").mkdir(parents=True)
    (place.folder / "cfg/kimi-proxy/config.toml").write_text("[providers.echo]\n")
    layers = await place.look(None)
    assert (layers["config"].state, layers["config"].text) == ("ok", "~/cfg/kimi-proxy/config.toml")


async def test_no_model_for_claude_code(place):
    place.config.write_text('[providers.echo]\n[providers.other]\nbase_url = "http://127.0.0.1:1/v1"\n')
    layers = await place.look()
    assert (layers["provider"].state, layers["round_trip"].state) == ("failed", "not_tried")
    assert layers["provider"].fix == "kimi-proxy provider echo"


async def test_a_wrong_key_is_named_and_not_repeated(place):
    async with serve_openai() as upstream:
        place.write(upstream.base_url, model="status-401")
        layers = await place.look()
    assert "does not know this key (401" in layers["provider"].text
    assert "kimi-proxy set-key fake" in layers["provider"].fix
    assert layers["round_trip"].text == "not tried: fake comes before it"
    assert not any(KEY in f"{layer.text}{layer.fix}" for layer in layers.values())


async def test_a_missing_key(place):
    async with serve_openai() as upstream:
        place.write(upstream.base_url)
        del place.env["FAKE_KEY"]
        layers = await place.look()
    assert "FAKE_KEY is not set" in layers["key"].text
    assert layers["key"].fix == "kimi-proxy set-key fake"
    assert (layers["provider"].state, layers["round_trip"].state) == ("not_tried", "not_tried")
    assert upstream.log == []


async def test_a_port_that_somebody_else_has(place):
    place.write(f"http://127.0.0.1:{free_port()}/v1")
    with socket.create_server(("127.0.0.1", place.port)):
        layers = await place.look()
    assert f"port {place.port} on 127.0.0.1 is in use by" in layers["port"].text
    assert f"(pid {os.getpid()})" in layers["port"].text
    assert "another port" in layers["port"].fix


async def test_nobody_there_and_no_claude_code(place):
    place.write(f"http://127.0.0.1:{free_port()}/v1")
    (place.folder / "bin/claude").unlink()
    place.env["PATH"] = str(place.folder / "bin")
    layers = await place.look()
    assert "refuses the connection" in layers["provider"].text
    assert layers["claude"].text == "was not found"
    assert "npm install" in layers["claude"].fix


async def test_a_client_s_key_is_not_made_here(place):
    async with serve_openai() as upstream:
        place.write(upstream.base_url, auth=f'[auth.clients.ci]\nkey = "sha256:{"0" * 64}"')
        before = place.config.read_text()
        layers = await place.look()
    assert seen(layers) == WELL | {"service": "not_tried", "round_trip": "not_tried"}
    assert "takes a client's key" in layers["round_trip"].text
    assert place.config.read_text() == before


async def test_an_interrupt_leaves_nothing_behind(place):
    async with serve_upstream() as upstream:
        upstream.default = [HANG]
        place.write(upstream.base_url)
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "supervisor", "check"],
            cwd=place.folder,
            env=place.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        request = await upstream.wait_request()
        process.send_signal(signal.SIGINT)
        with trio.fail_after(10):
            assert await process.wait() == 130
            await request.closed.wait()
        assert await process.stderr.receive_some() == b""
        await process.stderr.aclose()


async def test_an_interrupt_of_the_round_trip_stops_the_service(place):
    async with serve_upstream() as upstream:
        place.write(upstream.base_url)
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "supervisor", "check"],
            cwd=place.folder,
            env=place.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        await upstream.wait_request()
        upstream.default = [HANG]
        request = await upstream.wait_request(2)
        assert place.runs is not None
        process.send_signal(signal.SIGINT)
        with trio.fail_after(15):
            assert await process.wait() == 130
            await request.closed.wait()
    assert place.runs is None


@pytest.mark.parametrize(
    ("key", "shown"), [("sk-0123456789", "sk-0…89"), ("short", "…"), ("elevenchars", "…"), ("twelve-chars", "twel…rs")]
)
def test_little_of_a_key_is_shown(key, shown):
    assert masked(key) == shown


def test_colours_and_plain_marks():
    layer = Layer(layer="port", state="failed", text="taken\x1b[2J", fix="end it")
    assert render(layer, colours=False, encoding="utf-8") == "✗ port         taken?[2J\n               → end it"
    assert render(layer, colours=False, encoding="ascii").startswith("x port ")
    painted = render(layer, colours=True, encoding="utf-8")
    assert painted.startswith("\x1b[31m✗\x1b[m port ")
    assert "\x1b[31m→ end it\x1b[m" in painted
    well = Layer(layer="round_trip", state="ok", text="fine", fix=None)
    assert render(well, colours=False, encoding="utf-8") == "✓ round trip   fine"


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (200, b'data: {"type": "message_start"}\n\ndata: {"type": "message_stop"}\n\n', None),
        (200, b'data: {"type": "message_start"}\n\n', "no end"),
        (200, b"<html>", "no stream of messages"),
        (
            200,
            b'data: {"type": "message_start"}\n\ndata: {"type": "error", "error": {"message": "gone"}}\n\n',
            "broke off: gone",
        ),
        (401, b'{"type": "error", "error": {"message": "who are you?"}}', "401: who are you?"),
        (404, b"{}", "404"),
        (429, b"{}", "429"),
        (502, b"", "502"),
    ],
)
def test_what_the_gateway_answers(status, body, says):
    problem, fix = judge(Answer(status=status, headers={}, body=body), None)
    assert (problem is None) == (fix is None) == (says is None)
    assert says is None or says in problem
