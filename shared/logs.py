"""Structured log lines on stderr: one event each, `key=value` or JSON, which journald, a file or a terminal keeps.

    log = get_logger()
    log.info("stream_start", trace=trace, session=session, provider=provider)

A line never blocks the event loop: where stderr is a pipe whose reader has stopped, lines are dropped and counted,
and the next one that gets through says how many.  A line goes out in one write and stays whole beside those of other
processes: up to 4096 bytes in a pipe, any length in a file that is appended to.  Where stderr is systemd's journal, it
goes there with its fields (`shared.journal`).  Keys and prompts are never given to a logger; `redact` is the second
line of defence.
"""

import logging
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
import structlog

from shared.config.types import Logging
from shared.journal import CONTROL, PRIORITIES, Journal, encode, escape, is_journal
from shared.stderr import ATOMIC_BYTES, stderr

MAX_LINE_BYTES = 64 * 1024
"""The bound where stderr is no pipe; long enough for any traceback."""

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_SECRET_NAME = re.compile(r"(api_?key|authorization|secret|password|cookie)", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"\b(sk|gsk|nvapi|csk|AIza|hf)[-_A-Za-z0-9]{12,}|(?i:bearer)\s+\S+")
_NOT_IN_NAME = re.compile(r'[\s"=]')
_NEEDS_QUOTES = re.compile(r'[\s"=\\]')

_logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()


def get_logger() -> structlog.typing.FilteringBoundLogger:
    """The process's logger.  One that was fetched before `configure` works, too; it looks the settings up each time."""
    return _logger


_Line = tuple[bytes, bytes | None]
"""The text for stderr, and the entry that the journal gets instead, if it can."""


class _Sink:
    """Where all lines of the process go: never blocking, never raising."""

    def __init__(self) -> None:
        self.dropped = 0
        self.notice: Callable[[int], _Line] = lambda count: (b"event=log_lines_dropped count=%d" % count, None)
        self.journal: Journal | None = None
        self._torn = False

    @property
    def max_line_bytes(self) -> int:
        """With the newline."""
        return ATOMIC_BYTES if stderr.is_pipe else MAX_LINE_BYTES

    def line(self, text: bytes, entry: bytes | None = None) -> None:
        if self.dropped and self._give(self.notice(self.dropped)):
            self.dropped = 0
        if self.dropped or not self._give((text, entry)):
            self.dropped += 1

    def _give(self, line: "_Line") -> bool:
        text, entry = line
        return (entry is not None and self.journal is not None and self.journal.send(entry)) or self._write(text)

    def _write(self, line: bytes) -> bool:
        # A line that a full disk cut short must not swallow the beginning of the next.
        data = b"\n" + line + b"\n" if self._torn else line + b"\n"
        written = stderr.write(data)
        if written:
            self._torn = written < len(data)
        return written == len(data)

    # structlog's methods, all the same: the level stands in the line.
    msg = debug = info = warning = warn = error = critical = exception = fatal = failure = log = line


_sink = _Sink()


@lru_cache(1024)
def _is_secret_name(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def redact(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Blank out what looks like a key, by the field's name or by its value."""
    for name, value in event.items():
        if value and _is_secret_name(name):
            event[name] = "[redacted]"
        elif isinstance(value, str) and len(value) > 12:
            event[name] = redacted(value)
    return event


def redacted(text: str) -> str:
    """A text without what looks like a key."""
    return _SECRET_VALUE.sub("[redacted]", text)


@lru_cache(1024)
def _logfmt_name(name: str) -> str:
    return _NOT_IN_NAME.sub("_", name) or "_"


def logfmt(_logger: Any, _method: str, event: structlog.typing.EventDict) -> str:
    """`name=value` pairs in their order.

    structlog's own renderer looks at every character of every name, at three times the cost.
    """
    pairs = []
    for name, value in event.items():
        if value is None:
            text = ""
        elif value is True or value is False:
            text = "true" if value else "false"
        else:
            text = value if type(value) is str else str(value)
            if _NEEDS_QUOTES.search(text):
                text = '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
        pairs.append(f"{_logfmt_name(name)}={text}")
    return " ".join(pairs)


class _Render:
    """The last processor: an event becomes a line that fits the sink, whatever its values are."""

    def __init__(self, renderer: Callable[..., str | bytes]) -> None:
        self._renderer = renderer

    def __call__(self, logger: Any, method: str, event: structlog.typing.EventDict) -> bytes:
        # The newline counts, and so does the one that may mend a torn line.
        bound = _sink.max_line_bytes - 2
        line = self._render(event)
        # Whole fields are shortened, never the line, which would no longer parse.
        for max_chars in (2048, 512, 64):
            if len(line) <= bound:
                break
            line = self._render({name: _shorten(value, max_chars) for name, value in event.items()})
        return line if len(line) <= bound else line[:bound]

    def _render(self, event: structlog.typing.EventDict) -> bytes:
        try:
            line = self._renderer(None, "", dict(event))
        except Exception as error:  # a field that can't be written down must not break what wanted to tell about it
            plain = {name.replace(" ", "_") or "_": _plain(value) for name, value in event.items()}
            line = self._renderer(None, "", plain | {"log_error": ascii(error)})
        text = line.decode() if isinstance(line, bytes) else line
        return CONTROL.sub(escape, text).encode()


class _ForJournal:
    """The last processor where stderr is the journal: the same line, once as an entry and once for stderr."""

    def __init__(self, render: _Render) -> None:
        self._render = render

    def __call__(self, logger: Any, method: str, event: structlog.typing.EventDict) -> tuple[_Line, dict[str, Any]]:
        return self.line(event), {}

    def line(self, event: structlog.typing.EventDict) -> _Line:
        text, level = self._render(None, "", event), event["level"]
        try:
            entry = encode(text, level, event)
        except Exception:  # a value that can't be written down; the text has found a way
            entry = encode(text, level, {"event": event["event"]})
        return b"<%d>%s" % (PRIORITIES.get(level, PRIORITIES["info"]), text), entry


def _plain(value: Any) -> str:
    return value.encode("ascii", "backslashreplace").decode() if isinstance(value, str) else ascii(value)


def _shorten(value: Any, max_chars: int) -> Any:
    """Without its middle: the end of a traceback says most."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= max_chars else f"{text[: max_chars // 4]} … {text[-max_chars * 3 // 4 :]}"


# Out of descriptors, trio says so ten times a second; its sentence is enough.
_SAYS_ALL = frozenset({"trio.serve_listeners"})


class _Bridge(logging.Handler):
    """Lines of the libraries (Hypercorn, httpx), as events of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = max(at for at in (0, *_LEVELS.values()) if at <= record.levelno)
            fields: dict[str, Any] = {"logger": record.name, "message": record.getMessage()}
            if record.exc_info and record.exc_info[1] is not None and record.name not in _SAYS_ALL:
                fields["exc_info"] = record.exc_info
            get_logger().log(level or logging.DEBUG, "library_log", **fields)
        except Exception:  # as every handler does: a malformed call of a library is not its caller's failure
            self.handleError(record)


def configure(settings: Logging, **context: Any) -> None:
    """Set up logging for this process; `context` (such as `worker=2`) stands on every line that says nothing else.

    May be called again, and must be in a process that has been forked.
    """
    stderr.reopen()
    encode_json = msgspec.json.Encoder(enc_hook=repr)
    render = _Render(
        structlog.processors.JSONRenderer(serializer=lambda event, **_: encode_json.encode(event).decode())
        if settings.format == "json"
        else logfmt
    )
    journalled = _open_journal(render)
    dropped = {"level": "warning", "event": "log_lines_dropped"}
    if journalled is not None:
        _sink.notice = lambda count: journalled.line({**dropped, **context, "count": count})
    else:
        _sink.notice = lambda count: (render(None, "", {**dropped, "count": count}), None)
    level = _LEVELS[settings.level]
    structlog.configure(
        processors=[
            lambda _logger, method, event: {
                "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "level": "error" if method == "exception" else method,
                "event": event.pop("event"),
                **context,
                **event,
            },
            structlog.processors.format_exc_info,
            redact,
            journalled or render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _sink,
        cache_logger_on_first_use=False,
    )
    global _logger
    _logger = structlog.get_logger().bind()
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(max(level, logging.WARNING))


def _open_journal(render: _Render) -> _ForJournal | None:
    """The journal, opened for this process, if stderr is it."""
    if not is_journal(os.environ):
        _sink.journal = None
        return None
    if _sink.journal is None:
        _sink.journal = Journal()
    return _ForJournal(render)
