"""The journal's native protocol, and what the log does where stderr is the journal."""

import contextlib
import json
import os
import socket
import struct

import pytest
from fakes.journal import decoded, journal
from fakes.logger import restored_logger

from shared import journal as journald
from shared import logs, stackdump
from shared.config import Logging
from shared.stderr import stderr
from supervisor.cli.text import say


@pytest.fixture(autouse=True)
def restored():
    with restored_logger():
        yield


@contextlib.contextmanager
def stderr_is_journal(monkeypatch, path):
    """stderr is a stream socket, as systemd makes it, and `JOURNAL_STREAM` names it; what is written to it."""
    ours, theirs = socket.socketpair()
    saved = os.dup(2)
    with ours, theirs:
        status = os.fstat(theirs.fileno())
        os.dup2(theirs.fileno(), 2)
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        monkeypatch.setattr(journald, "SOCKET", str(path))
        monkeypatch.setattr(logs._sink, "journal", None)
        monkeypatch.setattr(logs._sink, "dropped", 0)
        stderr.reopen()
        ours.setblocking(False)
        try:
            yield ours
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            if logs._sink.journal is not None:
                logs._sink.journal.close()


def text_of(stream: socket.socket) -> str:
    """What stderr has got since the last look."""
    with contextlib.suppress(BlockingIOError):
        return stream.recv(1 << 20).decode()
    return ""


def test_an_entry_has_text_priority_and_fields():
    entry = journald.encode(
        b"the line",
        "warning",
        {"timestamp": "now", "level": "warning", "event": "STREAM_ERROR", "http status": 502, "retried": False}
        | {"session": None, "trace": "", "naïve-name": "ü"},
    )
    assert decoded(entry) == {
        "MESSAGE": "the line",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "kimi-proxy",
        "KIMI_EVENT": "STREAM_ERROR",
        "KIMI_HTTP_STATUS": "502",
        "KIMI_RETRIED": "false",
        "KIMI_NA_VE_NAME": "ü",
    }


def test_only_a_traceback_keeps_its_lines():
    entry = journald.encode(b"x", "error", {"exception": "a\nb\x1b", "trace": "a\nKIMI_EVENT=forged"})
    assert b"KIMI_EXCEPTION\n" + struct.pack("<Q", 9) + b"a\nb\\u001b\n" in entry
    assert decoded(entry)["KIMI_TRACE"] == "a\\u000aKIMI_EVENT=forged"
    assert "KIMI_EVENT" not in decoded(entry)


def test_a_text_of_several_lines_is_one_entry():
    assert decoded(journald.encode(b"a\nPRIORITY=0", "info", {})) == {
        "MESSAGE": "a\nPRIORITY=0",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "kimi-proxy",
    }


def test_long_values_and_names_are_shortened():
    fields = decoded(journald.encode(b"x", "info", {"message": "a" * 9000 + "end", "n" * 300: 1}))
    assert len(fields["KIMI_MESSAGE"]) < 2100
    assert fields["KIMI_MESSAGE"].endswith("end")
    assert max(map(len, fields)) == 64


@pytest.mark.parametrize("value", ["", "1", "1:", ":1", "x:y", "1:2", "-1:2", "²:³"])
def test_what_is_not_the_journal(value):
    assert not journald.is_journal({"JOURNAL_STREAM": value})


def test_the_variable_alone_is_not_enough(monkeypatch, tmp_path):
    # A shell that a service runs has its own stderr, and JOURNAL_STREAM all the same.
    with stderr_is_journal(monkeypatch, tmp_path / "j"):
        assert journald.is_journal(os.environ)
    assert not journald.is_journal(os.environ)


@pytest.mark.parametrize("format", ["json", "logfmt"])
def test_lines_go_to_the_journal_whole(monkeypatch, tmp_path, format):
    with journal(tmp_path) as entries, stderr_is_journal(monkeypatch, entries.path) as stream:
        logs.configure(Logging(format=format), worker=2)
        logs.get_logger().warning("STREAM_ERROR", trace="t1", provider="kimi", message="sent Bearer abcdef to it")
        logs.get_logger().info("stream_end", api_key="secret", duration=0.5)
        first, second = entries.take(2)
        assert text_of(stream) == ""
    assert first["PRIORITY"] == "4"
    assert (first["KIMI_EVENT"], first["KIMI_TRACE"], first["KIMI_WORKER"]) == ("STREAM_ERROR", "t1", "2")
    assert first["KIMI_MESSAGE"] == "sent [redacted] to it"
    assert "abcdef" not in first["MESSAGE"]
    assert second["KIMI_API_KEY"] == "[redacted]"
    assert second["PRIORITY"] == "6"
    if format == "json":
        assert json.loads(second["MESSAGE"])["duration"] == 0.5
    else:
        assert " event=stream_end worker=2 " in second["MESSAGE"]


def test_a_traceback_can_be_read(monkeypatch, tmp_path):
    with journal(tmp_path) as entries, stderr_is_journal(monkeypatch, entries.path):
        logs.configure(Logging())
        try:
            raise ValueError("inner")
        except ValueError:
            logs.get_logger().exception("stream_crashed")
        [entry] = entries.take(1)
    assert entry["KIMI_EXCEPTION"].startswith("Traceback")
    assert entry["KIMI_EXCEPTION"].endswith("\nValueError: inner")
    assert entry["PRIORITY"] == "3"


@pytest.mark.parametrize("value", ["\ud800", 2**80, float("nan"), b"\xff", {"a": {1}}, object()])
def test_no_value_breaks_an_entry(monkeypatch, tmp_path, value):
    with journal(tmp_path) as entries, stderr_is_journal(monkeypatch, entries.path):
        logs.configure(Logging())
        logs.get_logger().info("odd", value=value, **{"a b": "\udcff"})
        [entry] = entries.take(1)
    assert entry["KIMI_EVENT"] == "odd"


def test_without_journald_lines_go_to_stderr_with_their_priority(monkeypatch, tmp_path):
    with stderr_is_journal(monkeypatch, tmp_path / "nobody") as stream:
        logs.configure(Logging())
        logs.get_logger().error("storage_problem", path="p")
        line = text_of(stream)
    assert line.startswith("<3>timestamp=")
    assert line.endswith(" event=storage_problem path=p\n")


def test_a_restarted_journald_is_found_again(monkeypatch, tmp_path):
    with stderr_is_journal(monkeypatch, tmp_path / "journal") as stream:
        logs.configure(Logging())
        for name in ("before", "after"):
            with journal(tmp_path) as entries:
                logs.get_logger().info(name)
                assert [entry["KIMI_EVENT"] for entry in entries.take(1)] == [name]
            logs.get_logger().info("between")
            assert text_of(stream).startswith("<6>")


def test_what_no_datagram_holds_goes_to_stderr(monkeypatch, tmp_path):
    monkeypatch.setattr(journald, "_SEND_BUFFER_BYTES", 8192)
    with journal(tmp_path) as entries, stderr_is_journal(monkeypatch, entries.path) as stream:
        logs.configure(Logging())
        logs.get_logger().info("huge", value="x" * 30_000)
        logs.get_logger().info("next")
        assert [entry["KIMI_EVENT"] for entry in entries.take(1)] == ["next"]
        assert text_of(stream).startswith("<6>timestamp=")


def test_a_journald_that_does_not_read_makes_nobody_wait(monkeypatch, tmp_path):
    with journal(tmp_path) as entries, stderr_is_journal(monkeypatch, entries.path) as stream:
        logs.configure(Logging())
        for number in range(5000):
            logs.get_logger().info("line", number=number, padding="p" * 500)
        dropped = logs._sink.dropped
        assert dropped > 0
        taken = entries.take_all()
        told = text_of(stream).count("event=line ")
        assert len(taken) + told + dropped == 5000
        logs.get_logger().info("after")
        notice, after = entries.take(2)
    assert (notice["KIMI_EVENT"], notice["KIMI_COUNT"], notice["PRIORITY"]) == ("log_lines_dropped", str(dropped), "4")
    assert after["KIMI_EVENT"] == "after"


def test_stack_dumps_and_sentences_have_their_level(monkeypatch, tmp_path):
    with stderr_is_journal(monkeypatch, tmp_path / "nobody") as stream:
        stackdump.dump()
        lines = text_of(stream).splitlines()
        assert lines
        assert all(line.startswith("<5>python[") for line in lines)
        with os.fdopen(os.dup(2), "w") as file:
            monkeypatch.setattr("sys.stderr", file)
            say("it can't be", "error")
        monkeypatch.undo()
        assert text_of(stream) == "<3>kimi-proxy: it can't be\n"
