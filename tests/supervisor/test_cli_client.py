"""The commands that talk to a running service, against a socket that answers as told."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from fakes.admin import AdminServer, status_reply

from shared.errors import ControlError
from shared.framing import MAX_FRAME_BYTES, frame
from shared.paths import Paths, resolve_paths
from supervisor import cli
from supervisor.cli import admin
from supervisor.cli.client import NotRunningError, control_paths, request
from supervisor.cli.status import render
from supervisor.control import Done, DumpStacks, Refused, Reload, Status, StatusReply, StorageStatus, encode

ROOT = Path(__file__).parents[2]
HOLD_LOCK = """
import signal, sys
from pathlib import Path
from supervisor.instance import InstanceLock
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
with InstanceLock.acquire(Path(sys.argv[1])):
    print("held", flush=True)
    print(signal.sigwait({signal.SIGUSR1}).name, flush=True)
"""


@pytest.fixture
def paths(tmp_path, monkeypatch):
    for name in ("STATE", "RUNTIME", "LOGS"):
        (tmp_path / name.lower()).mkdir()
        monkeypatch.setenv(f"{name}_DIRECTORY", str(tmp_path / name.lower()))
    return resolve_paths(os.environ)


@pytest.fixture
def lock_holder(paths):
    """A process that holds the instance lock, and prints SIGUSR1 when it gets that."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(paths.instance_lock)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_one_request_gets_one_reply(paths):
    with AdminServer(paths.admin_socket, lambda _: Done("done so")) as server:
        assert request(paths, Reload(), 5.0) == Done("done so")
        assert request(paths, Status(), 5.0) == Done("done so")
        assert server.requests == [Reload(), Status()]


def test_nobody_listens(paths):
    with pytest.raises(NotRunningError, match="not running; start it with: kimi-proxy start"):
        request(paths, Status(), 5.0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(paths.admin_socket))
    with pytest.raises(NotRunningError):
        request(paths, Status(), 5.0)


def test_a_service_that_is_starting(paths, lock_holder):
    with pytest.raises(ControlError, match=f"pid {lock_holder.pid} is starting or stopping") as caught:
        request(paths, Status(), 5.0)
    assert not isinstance(caught.value, NotRunningError)


def test_silence_is_bounded(paths):
    with (
        AdminServer(paths.admin_socket, lambda _: None),
        pytest.raises(ControlError, match=r"did not answer within 0\.05 s"),
    ):
        request(paths, Status(), 0.05)


@pytest.mark.parametrize(
    "sent",
    [b"", frame(encode(Done("cut short")))[:-3], frame(b"\xc1"), (MAX_FRAME_BYTES + 1).to_bytes(4, "big")],
    ids=["nothing", "half a frame", "garbage", "an oversized frame"],
)
def test_an_answer_that_breaks_off_or_is_none(paths, sent):
    with (
        AdminServer(paths.admin_socket, lambda _: sent),
        pytest.raises(ControlError, match="the service broke off its answer"),
    ):
        request(paths, Status(), 5.0)


def test_reload_says_what_came_of_it(paths, capsys):
    with AdminServer(paths.admin_socket, lambda _: Done("2 workers reconfigured")):
        assert cli.main(["reload"]) == 0
    assert capsys.readouterr().out == "2 workers reconfigured\n"
    paths.admin_socket.unlink()
    with AdminServer(paths.admin_socket, lambda _: Refused("config.toml:3: no such key")):
        assert cli.main(["reload"]) == 1
    assert capsys.readouterr().err == "kimi-proxy: config.toml:3: no such key\n"


def test_dumping_stacks_says_where_they_are(paths, capsys):
    paths.log_file.touch()
    with AdminServer(paths.admin_socket, lambda _: Done("asked 3 processes")) as server:
        assert cli.main(["dump-stacks"]) == 0
        assert server.requests == [DumpStacks()]
    captured = capsys.readouterr()
    assert captured.out == "asked 3 processes\n"
    assert str(paths.log_file) in captured.err


def test_a_supervisor_that_does_not_answer_gets_the_signal(paths, capsys, lock_holder, monkeypatch):
    monkeypatch.setattr(admin, "_DUMP_TIMEOUT", 0.05)
    with AdminServer(paths.admin_socket, lambda _: None):
        assert cli.main(["dump-stacks"]) == 0
    assert lock_holder.stdout.readline() == f"{signal.SIGUSR1.name}\n"
    assert f"pid {lock_holder.pid} does not answer; it was sent SIGUSR1" in capsys.readouterr().err


def test_status_for_people_and_for_programs(paths, capsys):
    reply = status_reply()
    with AdminServer(paths.admin_socket, lambda _: reply):
        assert cli.main(["status"]) == 0
        assert "running for 2 h 10 min (pid 4242)" in capsys.readouterr().out
        assert cli.main(["status", "--json"]) == 0
        out = capsys.readouterr().out
    fields = msgspec.json.decode(out)
    assert fields["workers"][0]["pid"] == 4243
    assert msgspec.convert({**fields, "type": "StatusReply"}, StatusReply) == reply


def test_the_status_at_a_glance():
    assert render(status_reply(), now=1_700_000_060.0).splitlines() == [
        "kimi-proxy 0.1.0",
        "",
        "  state    running for 2 h 10 min (pid 4242)",
        "  serves   127.0.0.1:8000",
        "  config   /etc/kimi-proxy/config.toml, loaded 1 min ago",
        "  streams  3 active, 10 completed, 0 cancelled, 1 failed of 14",
        "  tokens   1000 prompt, 500 completion",
        "  workers  1 of 2 serving",
        "",
        "WORKER   PID  STATE     UP     STREAMS  CONNECTIONS    MEMORY    LAG  RESTARTS",
        "     1  4243  serving   1 min        3            0  25.1 MiB   0 ms         0",
        "     2  4244  starting  0 s          0            0       0 B  12 ms         2",
        "",
        "PROVIDER  DIALECT  KEY  HEALTH   ACTIVE  COMPLETED  CANCELLED  FAILED  LAST ERROR",
        "kimi      openai   yes  healthy       0         10          0       1  ReadError",
    ]


def test_problems_stand_out_in_the_status():
    shown = render(
        status_reply(
            config_source=None,
            config_error="config.toml:3: no such key",
            crash_loop="worker 2 died 5 times before it was ready",
            storage=StorageStatus(path="/s/sessions.db", problem="disk full", buffered=7, lost=1),
            workers=[],
            providers=[],
        ),
        now=0.0,
    )
    assert "  config   built in, loaded 0 s ago" in shown
    assert "  refused  config.toml:3: no such key (the configuration before it is in force)" in shown
    assert "  crashes  worker 2 died 5 times before it was ready" in shown
    assert "  storage  disk full (/s/sessions.db; 7 waiting, 1 lost)" in shown
    assert "WORKER" not in shown


def test_an_answer_of_another_kind(paths, capsys):
    with AdminServer(paths.admin_socket, lambda _: status_reply()):
        assert cli.main(["reload"]) == 1
    assert "another version" in capsys.readouterr().err


def test_the_systems_service_is_found_when_nothing_of_ones_own_runs(tmp_path, lock_holder, paths):
    env = {"STATE_DIRECTORY": str(tmp_path / "own"), "HOME": str(tmp_path)}
    found = control_paths(env, system_runtime=paths.runtime)
    assert found.runtime == paths.runtime
    named = control_paths({**env, "RUNTIME_DIRECTORY": str(tmp_path / "named")}, system_runtime=paths.runtime)
    assert named.runtime == tmp_path / "named"


def test_no_service_at_all_means_ones_own(tmp_path):
    own = resolve_paths({"HOME": str(tmp_path)})
    assert isinstance(own, Paths)
    assert control_paths({}, system_runtime=tmp_path / "nothing").runtime == resolve_paths({}).runtime
