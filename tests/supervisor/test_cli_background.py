"""`start`, `stop` and `restart`, with a stand-in for the service that is a real process."""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
from fakes.admin import status_reply

from shared.errors import ControlError, StartError
from shared.paths import prepare, resolve_paths
from supervisor import cli
from supervisor.cli import background, start
from supervisor.instance import running_pid

ROOT = Path(__file__).parents[2]


@pytest.fixture
def paths(tmp_path, monkeypatch):
    """Folders of the test's own; what was started in them is killed afterwards."""
    for name in ("STATE", "RUNTIME", "LOGS"):
        monkeypatch.setenv(f"{name}_DIRECTORY", str(tmp_path / name.lower()))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
    interpreter = tmp_path / "python"
    interpreter.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT / "tests/fakes/daemon.py"}" "$@"\n')
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    monkeypatch.setattr(background, "READY_TIMEOUT", 30.0)
    monkeypatch.chdir(tmp_path)
    paths = resolve_paths(os.environ)
    yield paths
    pid = running_pid(paths.instance_lock)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def born(paths):
    return json.loads((paths.state / "born.json").read_text())


def test_start_returns_when_the_service_is_ready(paths, capsys, monkeypatch):
    monkeypatch.setattr(background, "_STATUS_AFTER", 0.0)
    assert cli.main(["start"]) == 0
    captured = capsys.readouterr()
    pid = running_pid(paths.instance_lock)
    first_line, *example = captured.out.splitlines()
    assert first_line.endswith(f"serves http://127.0.0.1:8000 (pid {pid}); stop it with: kimi-proxy stop")
    assert example == ["Try it:", "  curl -N http://127.0.0.1:8000/v1/models"]
    assert "kimi-proxy: starting 2 workers\n" in captured.err
    assert paths.log_file.read_text() == "service_start\n"
    assert paths.log_file.stat().st_mode & 0o777 == 0o600

    assert cli.main(["start"]) == 1
    assert f"already running as pid {pid}" in capsys.readouterr().err

    assert cli.main(["stop"]) == 0
    assert f"stopped (pid {pid})" in capsys.readouterr().err
    assert running_pid(paths.instance_lock) is None


def test_the_service_is_a_daemon_with_a_clean_environment(paths, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(paths.state.parent / "manager"))
        manager.setblocking(False)
        for name, value in {
            "NOTIFY_SOCKET": str(paths.state.parent / "manager"),
            "WATCHDOG_USEC": "1000",
            "LISTEN_FDS": "1",
            "LISTEN_PID": str(os.getpid()),
        }.items():
            monkeypatch.setenv(name, value)
        assert cli.main(["start", "--config", "some.toml"]) == 0
        with pytest.raises(BlockingIOError):
            manager.recv(100)
    service = born(paths)
    assert service["argv"] == ["-P", "-m", "supervisor", "run", "--config", "some.toml"]
    assert service["session"] == service["pid"] != os.getsid(0)
    assert service["notify_socket"].startswith("@")
    assert service["passed_on"] == []
    assert service["stdin"] == os.devnull


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("refuse", "kimi-proxy: port 8000 on 127.0.0.1 is in use\n"),
        ("crash", "RuntimeError: a bug"),
        ("killed", "the service was killed by SIGKILL before it was ready"),
    ],
)
def test_a_service_that_gives_up_has_the_last_word(paths, monkeypatch, capsys, behaviour, said):
    monkeypatch.setenv("FAKE_SERVICE", behaviour)
    prepare(paths)
    paths.log_file.write_text("kimi-proxy: a sentence from long ago\n")
    assert cli.main(["start"]) == 1
    captured = capsys.readouterr()
    assert said in captured.err
    assert "long ago" not in captured.err
    assert captured.out == ""


def test_a_service_that_is_never_ready_is_stopped(paths, monkeypatch):
    monkeypatch.setenv("FAKE_SERVICE", "mute")
    prepare(paths)
    with pytest.raises(StartError, match=f"not ready within 2 s and was stopped; see {paths.log_file}"):
        background.launch(paths, None, os.environ, timeout=2.0)
    assert running_pid(paths.instance_lock) is None


def test_an_interrupt_while_starting_leaves_nothing_behind(paths, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_SERVICE", "mute")

    def interrupted(_message):
        raise KeyboardInterrupt

    monkeypatch.setattr(background, "_STATUS_AFTER", 0.0)
    monkeypatch.setattr(background, "say", interrupted)  # at "starting 2 workers"
    assert cli.main(["start"]) == 130
    assert running_pid(paths.instance_lock) is None


def test_restart_keeps_the_configuration_that_was_in_force(paths, capsys):
    config = paths.state.parent / "mine.toml"
    config.write_text("")
    assert cli.main(["start", "--config", str(config)]) == 0
    first = born(paths)
    assert cli.main(["restart"]) == 0
    second = born(paths)
    assert second["pid"] != first["pid"]
    assert second["argv"][-2:] == ["--config", str(config)]
    assert running_pid(paths.instance_lock) == second["pid"]


def test_restart_starts_what_did_not_run(paths):
    assert cli.main(["restart"]) == 0
    assert running_pid(paths.instance_lock) == born(paths)["pid"]


def test_a_stop_that_takes_too_long_says_how_to_go_on(paths, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_SERVICE", "stubborn")
    monkeypatch.setattr(background, "_SILENT", 0.0)
    monkeypatch.setattr(background, "_KILL_AFTER", 0.1)
    assert cli.main(["start"]) == 0
    pid = running_pid(paths.instance_lock)
    with pytest.raises(ControlError, match=f"`kill -9 {pid}` ends it"):
        background.stop(pid, paths, 0.0)
    assert f"waiting for the streams of pid {pid} to end" in capsys.readouterr().err
    assert running_pid(paths.instance_lock) == pid


def test_an_interrupt_while_stopping_hurries_the_service(paths, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_SERVICE", "stubborn")
    monkeypatch.setattr(background, "_SILENT", 0.0)
    assert cli.main(["start"]) == 0
    said = []

    def interrupt_once(message):
        said.append(message)
        if len(said) == 1:
            while not (paths.state / "asked_once").exists():
                time.sleep(0.01)
            raise KeyboardInterrupt

    monkeypatch.setattr(background, "say", interrupt_once)
    assert cli.main(["stop"]) == 0
    assert said[0].startswith("waiting for the streams")
    assert said[1].startswith("ending the remaining streams now")
    assert running_pid(paths.instance_lock) is None


def test_a_process_that_no_longer_holds_the_lock_gets_no_signal(paths):
    prepare(paths)
    background.stop(os.getpid(), paths, 1.0)  # would end the test run


def test_the_first_request_is_made_where_the_service_is():
    def shown(*bind):
        return start._first_request(status_reply(), list(bind))

    assert "curl -N https://127.0.0.1:8443/v1/models" in shown("unix:/run/socket", "https://127.0.0.1:8443")
    assert "curl -N --unix-socket /run/socket http://localhost/v1/models" in shown("unix:/run/socket")
