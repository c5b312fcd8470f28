import contextlib
import json
import logging
import os
import subprocess
import sys
import threading

import pytest
from fakes.logger import restored_logger

from shared import logs
from shared.config import Logging
from shared.stderr import ATOMIC_BYTES


@pytest.fixture(autouse=True)
def restored():
    with restored_logger():
        yield


@contextlib.contextmanager
def stderr_into_pipe():
    """Puts a pipe in stderr's place; the reading end.  No fixture: pytest sets fd 2 again before the test's body."""
    read_fd, write_fd = os.pipe()
    saved = os.dup(2)
    os.dup2(write_fd, 2)
    os.close(write_fd)
    try:
        yield read_fd
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(read_fd)


def log_with(format="json", **context):
    logs.configure(Logging(format=format), **context)
    return logs.get_logger()


def json_lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_in_logfmt(capfd):
    log_with("logfmt", worker=2).info("stream_start", trace="t 1", session=None)
    line = capfd.readouterr().err
    assert line.startswith("timestamp=")
    assert 'level=info event=stream_start worker=2 trace="t 1" session=\n' in line


def test_a_line_in_json(capfd):
    log_with(worker=2).warning("provider_degraded", provider="kimi", errors=6)
    (entry,) = json_lines(capfd.readouterr().err)
    assert entry.pop("timestamp")
    assert entry == {"level": "warning", "event": "provider_degraded", "worker": 2, "provider": "kimi", "errors": 6}


def test_an_event_overrides_the_context(capfd):
    log_with(worker=2).info("worker_died", worker=5)
    assert json_lines(capfd.readouterr().err)[0]["worker"] == 5


def test_the_level_holds_and_may_be_changed(capfd):
    logs.configure(Logging(level="error", format="json"))
    log = logs.get_logger()
    log.info("hidden")
    logs.configure(Logging(level="debug", format="json"))
    logs.get_logger().debug("shown")
    assert [entry["event"] for entry in json_lines(capfd.readouterr().err)] == ["shown"]


def test_keys_are_blanked_out(capfd):
    log_with().info("x", api_key="short", message="sent Bearer abcdef to it", other="gsk_0123456789abcdef", tokens=5)
    (entry,) = json_lines(capfd.readouterr().err)
    assert entry["api_key"] == "[redacted]"
    assert entry["message"] == "sent [redacted] to it"
    assert entry["other"] == "[redacted]"
    assert entry["tokens"] == 5


def test_the_libraries_lines_are_events_whatever_they_pass(capfd, monkeypatch):
    log_with()
    library = logging.getLogger("library")
    library.log(35, "between %s", "levels")
    try:
        raise ValueError("inner")
    except ValueError:
        library.exception("outer")
    entries = json_lines(capfd.readouterr().err)
    assert [(entry["level"], entry["message"]) for entry in entries] == [
        ("warning", "between levels"),
        ("error", "outer"),
    ]
    assert "ValueError: inner" in entries[1]["exception"]
    monkeypatch.setattr(logging, "raiseExceptions", False)
    library.error("%d", "not a number")


@pytest.mark.parametrize("format", ["json", "logfmt"])
@pytest.mark.parametrize("value", ["\ud800", 2**80, float("nan"), b"\xff", {"a": {1}}, object()])
def test_no_value_breaks_a_line(capfd, format, value):
    log_with(format).info("odd", value=value, **{"a b": "\udcff"})
    line = capfd.readouterr().err
    assert "odd" in line
    assert line.count("\n") == 1
    if format == "json":
        json.loads(line)


@pytest.mark.parametrize("format", ["json", "logfmt"])
def test_a_client_forges_neither_lines_nor_terminal_commands(capfd, format):
    log_with(format).info("x", trace="a\nevent=forged\r\x1b[2J\x9b\u2028b")
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    assert all(character.isprintable() for character in line.rstrip("\n"))


def test_a_long_traceback_reaches_a_file_whole(capfd):
    log_with().error("failed", exception="x" * 60_000)
    assert len(json_lines(capfd.readouterr().err)[0]["exception"]) == 60_000


@pytest.mark.parametrize("format", ["json", "logfmt"])
@pytest.mark.parametrize("fields", [{"exception": "é\n" * 5000 + "the end"}, {f"f{n}": "v" * 400 for n in range(50)}])
def test_a_line_too_long_for_a_pipe_is_shortened_field_by_field(format, fields):
    with stderr_into_pipe() as read_fd:
        log_with(format).error("failed", **fields)
        line = os.read(read_fd, 1_000_000)
    assert len(line) <= ATOMIC_BYTES
    assert line.endswith(b"\n")
    assert b"failed" in line
    if "exception" in fields:
        assert b"the end" in line
    if format == "json":
        assert json.loads(line)["event"] == "failed"


def test_a_full_pipe_drops_counts_and_tells():
    with stderr_into_pipe() as read_fd:
        log = log_with()
        for number in range(2000):
            log.info("line", number=number, padding="p" * 100)
        received = json_lines(os.read(read_fd, 1_000_000))
        log.info("after")
        notice, after = json_lines(os.read(read_fd, 1_000_000))
    assert 100 < len(received) < 2000
    assert [entry["number"] for entry in received] == list(range(len(received)))
    assert (notice["event"], notice["count"]) == ("log_lines_dropped", 2000 - len(received))
    assert after["event"] == "after"


def test_the_inherited_pipe_stays_blocking_for_others():
    with stderr_into_pipe():
        log_with().info("x")
        assert os.get_blocking(2)


def test_a_reader_that_left_harms_nothing():
    script = """
from shared import logs
from shared.config import Logging
logs.configure(Logging())
print("ready", flush=True)
input()
for _ in range(10):
    logs.get_logger().info("x")
"""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        process.stderr.close()
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.wait(20) == 0


def test_lines_of_several_processes_stay_whole_in_one_file(tmp_path):
    script = """
import sys
from shared import logs
from shared.config import Logging
logs.configure(Logging(format="json"), process=sys.argv[1])
print("ready", flush=True)
input()
for number in range(300):
    logs.get_logger().info("line", number=number, padding="p" * (number * 37 % 9000))
"""
    path = tmp_path / "log"
    with path.open("ab") as file:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", script, str(number)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            for number in range(3)
        ]
        for process in processes:
            assert process.stdout.readline() == b"ready\n"
        for process in processes:
            process.stdin.write(b"\n")
            process.stdin.flush()
        for process in processes:
            with process:
                assert process.wait(60) == 0
    entries = json_lines(path.read_text())
    assert len(entries) == 900
    for name in ("0", "1", "2"):
        assert [entry["number"] for entry in entries if entry["process"] == name] == list(range(300))


def test_a_line_cut_short_does_not_swallow_the_next(tmp_path):
    script = """
import resource, sys
from shared import logs
from shared.config import Logging
logs.configure(Logging(format="json"))
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
logs.get_logger().info("first")
logs.get_logger().info("cut", padding="p" * 1000)
logs.get_logger().info("refused")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
logs.get_logger().info("last")
"""
    path = tmp_path / "log"
    with path.open("ab") as file:
        subprocess.run(
            [sys.executable, "-c", script],
            stderr=file,
            check=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    first, _torn, notice, last = path.read_text().splitlines()
    assert json.loads(first)["event"] == "first"
    assert json.loads(notice)["count"] == 2
    assert json.loads(last)["event"] == "last"


def test_a_loggers_thread_does_not_matter(capfd):
    log = log_with().bind(part="store")
    thread = threading.Thread(target=log.info, args=("from_a_thread",))
    thread.start()
    thread.join()
    assert json_lines(capfd.readouterr().err)[0]["event"] == "from_a_thread"
