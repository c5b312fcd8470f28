"""Starts that can't work: one sentence that says why, no traceback, exit code 1, nothing left behind."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from fakes.service import REPOSITORY, Service, config_text, free_port

pytestmark = pytest.mark.integration


class BadStart:
    """A start that is to fail: what is prepared here comes before it."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.service = Service(folder, config_text(self.port))
        self.held: list[socket.socket] = []

    def write(self, text: str) -> None:
        self.service.write_config(text)

    def take_port(self) -> None:
        sock = socket.socket()
        sock.bind(("127.0.0.1", self.port))
        sock.listen()
        self.held.append(sock)

    def unreadable(self) -> None:
        self.service.config_file.unlink()
        self.service.config_file.mkdir()  # permissions don't stop root

    def folder_is_a_file(self) -> None:
        (self.service.folder / "file").touch()
        self.service.env["STATE_DIRECTORY"] = os.fspath(self.service.folder / "file" / "below")

    def long_path(self) -> None:
        self.service.env["RUNTIME_DIRECTORY"] = os.fspath(self.service.folder / ("long" * 30))


PREPARATIONS: dict[str, tuple[Callable[[BadStart], object], str]] = {
    "port in use": (BadStart.take_port, "is in use by"),
    "no configuration": (lambda start: start.service.config_file.unlink(), "config.toml"),
    "unreadable configuration": (BadStart.unreadable, "config.toml"),
    "not TOML": (lambda start: start.write("[server\n"), "config.toml:1: this is not valid TOML"),
    "unknown key": (
        lambda start: start.write("[server]\nworkerz = 2\n"),
        'config.toml:2: [server] has no key "workerz"',
    ),
    "bad type": (lambda start: start.write('[server]\nworkers = "two"\n'), "config.toml:2: [server] workers must be"),
    "missing key": (lambda start: start.write("[providers.kimi]\n"), "provider kimi: "),
    "open to all without keys": (
        lambda start: start.write('[server]\nbind = "0.0.0.0:0"\n'),
        "there are no client keys: ",
    ),
    "unwritable state folder": (BadStart.folder_is_a_file, "STATE_DIRECTORY"),
    "path too long for a socket": (BadStart.long_path, "RUNTIME_DIRECTORY"),
    "no such address": (
        lambda start: start.write('[server]\nbind = "192.0.2.1:80"\n[auth]\nkeys = ["k"]\n'),
        "192.0.2.1",
    ),
}


@pytest.fixture
def start(tmp_path) -> Iterator[BadStart]:
    start = BadStart(tmp_path)
    yield start
    # multiprocessing's resource tracker ends a moment after the supervisor.
    _, left = psutil.wait_procs(start.service.processes(), timeout=10)
    start.service.kill_everything()
    for sock in start.held:
        sock.close()
    assert not left


@pytest.mark.parametrize("command", ["run", "start"])
@pytest.mark.parametrize("case", PREPARATIONS)
def test_a_bad_start(start, case, command):
    prepare, expected = PREPARATIONS[case]
    prepare(start)
    start.service.env.pop("NOTIFY_SOCKET")
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", command, "--config", os.fspath(start.service.config_file)],
        cwd=REPOSITORY,
        env=start.service.env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if not line.startswith("timestamp=")]
    assert done.returncode == 1
    assert len(said) == 1, done.stderr
    assert said[0].startswith("kimi-proxy: ")
    assert expected in said[0]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_second_instance_in_the_same_folders(start):
    env = {**start.service.env}
    env.pop("NOTIFY_SOCKET")

    def kimi(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "supervisor", *arguments],
            cwd=REPOSITORY,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    config = ["--config", os.fspath(start.service.config_file)]
    first = kimi("start", *config)
    assert first.returncode == 0, first.stderr
    try:
        for command in ("run", "start"):
            second = kimi(command, *config)
            said = [line for line in second.stderr.splitlines() if not line.startswith("timestamp=")]
            assert second.returncode == 1
            [sentence] = said
            assert "already running as pid" in sentence
    finally:
        stopped = kimi("stop")
    assert stopped.returncode == 0, stopped.stderr
