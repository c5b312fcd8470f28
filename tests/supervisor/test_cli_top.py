"""`kimi-proxy top` in a real terminal, and without one; the service is one that answers as told."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.admin import AdminServer, session, sessions_reply, status_reply
from fakes.terminal import Terminal

from shared.paths import resolve_paths
from supervisor.control import ProviderStatus, Sessions

ROOT = Path(__file__).parents[2]
TOP = [sys.executable, "-m", "supervisor", "top"]


class Service:
    """What the service says; may be changed at any time."""

    def __init__(self):
        self.status = status_reply()
        self.sessions = sessions_reply(session("chatcmpl-1", tokens=100))

    def __call__(self, request):
        return self.sessions if isinstance(request, Sessions) else self.status


@pytest.fixture
def env(tmp_path, monkeypatch):
    for name in ("STATE", "RUNTIME", "LOGS"):
        (tmp_path / name.lower()).mkdir()
        monkeypatch.setenv(f"{name}_DIRECTORY", str(tmp_path / name.lower()))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    return dict(os.environ)


@pytest.fixture
def paths(env):
    return resolve_paths(env)


@pytest.fixture
def service(paths):
    service = Service()
    with AdminServer(paths.admin_socket, service):
        yield service


def shown(terminal, *texts):
    """Wait until all of `texts` are on the alternate screen."""
    terminal.wait(lambda: "?1049" in terminal.modes and all(text in terminal.text for text in texts))


def assert_clean(terminal):
    """The terminal is as it was: nothing switched on, nothing left on the screen, keys are echoed by lines."""
    assert terminal.modes == {"?25"}
    assert terminal.received.endswith("\x1b[?25h\x1b[?1049l")
    assert terminal.settings_now() == terminal.settings


@pytest.mark.parametrize("key", [b"q", b"Q", b"\x03"], ids=["q", "Q", "Ctrl-C"])
def test_it_shows_the_service_until_told_to_leave(env, service, key):
    with Terminal(100, 30) as terminal:
        process = terminal.run(TOP, env)
        shown(terminal, "kimi-proxy 0.1.0", "kimi", "chatcmpl-1", "100")
        assert terminal.modes == {"?1049"}
        terminal.type(key)
        assert terminal.wait_exit(process) == 0
        assert_clean(terminal)


def test_it_goes_with_the_time(env, service):
    with Terminal(100, 30) as terminal:
        process = terminal.run(TOP, env)
        shown(terminal, "chatcmpl-1")
        service.sessions = sessions_reply(session("chatcmpl-2", tokens=7))
        service.status = status_reply(
            providers=[
                ProviderStatus(name="kimi", dialect="openai", base_url="", has_key=True, health="degraded"),
            ]
        )
        shown(terminal, "chatcmpl-2", "degraded")
        assert "chatcmpl-1" not in terminal.text
        terminal.type(b"q")
        terminal.wait_exit(process)


def test_it_follows_the_size_of_the_window(env, service):
    service.sessions = sessions_reply(*(session(f"chatcmpl-{number}") for number in range(40)))
    with Terminal(100, 20) as terminal:
        process = terminal.run(TOP, env)
        shown(terminal, "… ")
        assert len([line for line in terminal.lines if line.strip()]) > 14
        for width, height in ((60, 60), (30, 8), (1, 1), (120, 60)):
            terminal.received = ""
            terminal.resize(width, height)
            terminal.wait(lambda: "\x1b[J" in terminal.received)
        shown(terminal, "chatcmpl-39", "TOKENS/S")
        terminal.type(b"q")
        assert terminal.wait_exit(process) == 0
        assert_clean(terminal)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_polite_signal_leaves_the_terminal_clean(env, service, signum):
    with Terminal() as terminal:
        process = terminal.run(TOP, env)
        shown(terminal, "kimi-proxy")
        process.send_signal(signum)
        assert terminal.wait_exit(process) == 0
        assert_clean(terminal)


def test_stopped_and_continued(env, service):
    """Ctrl-Z, and `fg`."""
    with Terminal() as terminal:
        process = terminal.run(TOP, env)
        shown(terminal, "kimi-proxy")
        terminal.type(b"\x1a")
        terminal.wait(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        terminal.wait(lambda: "?1049" not in terminal.modes)
        assert_clean(terminal)
        process.send_signal(signal.SIGCONT)
        shown(terminal, "kimi-proxy")
        terminal.type(b"q")
        assert terminal.wait_exit(process) == 0
        assert_clean(terminal)


def test_keys_that_mean_nothing(env, service):
    with Terminal() as terminal:
        process = terminal.run(TOP, env)
        shown(terminal, "kimi-proxy")
        terminal.type(b"x\x1bOQ")  # the second is F2
        terminal.received = ""
        terminal.wait(lambda: terminal.received.count("\x1b[J") >= 2)
        assert process.poll() is None
        assert "xterm" not in terminal.text
        terminal.type(b"q")
        assert terminal.wait_exit(process) == 0


def test_without_a_keyboard(env, service):
    with Terminal() as terminal:
        process = terminal.run(TOP, env, keyboard=False)
        shown(terminal, "kimi-proxy")
        terminal.received = ""
        terminal.wait(lambda: "\x1b[J" in terminal.received)
        process.send_signal(signal.SIGINT)
        assert terminal.wait_exit(process) == 0
        assert_clean(terminal)


def test_a_service_that_goes_away_is_waited_for(env, paths):
    with Terminal(100, 30) as terminal:
        with AdminServer(paths.admin_socket, Service()):
            process = terminal.run(TOP, env)
            shown(terminal, "chatcmpl-1")
        paths.admin_socket.unlink()
        shown(terminal, "not running; start it with: kimi-proxy start", "chatcmpl-1")
        with AdminServer(paths.admin_socket, Service()):
            terminal.wait(lambda: "not running" not in terminal.text)
            terminal.type(b"q")
            assert terminal.wait_exit(process) == 0
        assert_clean(terminal)


def test_no_service_at_all(env):
    with Terminal() as terminal:
        assert terminal.wait_exit(terminal.run(TOP, env)) == 1
        assert "kimi-proxy: not running; start it with: kimi-proxy start" in terminal.text
        assert terminal.modes == {"?25"}


def test_colours(env, service):
    for extra, wanted in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        with Terminal() as terminal:
            process = terminal.run(TOP, {**env, **extra})
            shown(terminal, "kimi-proxy")
            terminal.type(b"q")
            terminal.wait_exit(process)
            assert bool(terminal.colours) == wanted


def test_once(env, service):
    with Terminal(60, 12) as terminal:
        assert terminal.wait_exit(terminal.run([*TOP, "--once"], env)) == 0
        assert "?1049" not in terminal.received
        assert "kimi-proxy 0.1.0" in terminal.text
        assert terminal.settings_now() == terminal.settings


def test_into_a_pipe(env, service):
    """Whole, without colours, once; as long and as wide as it is."""
    service.sessions = sessions_reply(*(session(f"chatcmpl-{number}") for number in range(100)))
    for command in (TOP, [*TOP, "--once"]):
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        assert "\x1b" not in done.stdout
        assert done.stdout.count("chatcmpl-") == 100
        assert done.stderr == ""


def test_what_a_client_called_its_session_does_not_steer_the_terminal(env, service):
    service.sessions = sessions_reply(session("chatcmpl-1", session="\x1b[2J\x07bell"))
    with Terminal() as terminal:
        process = terminal.run(TOP, env)
        shown(terminal, "?[2J?bell")
        terminal.type(b"q")
        terminal.wait_exit(process)
