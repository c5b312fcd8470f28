"""Structured log lines on stderr: one event each, `key=value` or JSON, which journald, a file or a terminal keeps.

    log = get_logger()
    log.info("stream_start", trace=trace, session=session, provider=provider)

A line never blocks the event loop: where stderr is a pipe whose reader has stopped, lines are dropped and counted,
and the next one that gets through says how many.  Keys and prompts are never given to a logger; `redact` is the
second line of defence.
"""

import logging
import os
import re
import select
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from shared.config.types import Logging

STDERR = 2
# A pipe that polls writable takes at least this much without blocking (POSIX: PIPE_BUF).
MAX_LINE_BYTES = select.PIPE_BUF

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_SECRET_NAME = re.compile(r"(api_?key|authorization|secret|password|cookie)", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"\b(sk|gsk|nvapi|csk|AIza|hf)[-_A-Za-z0-9]{12,}|(?i:bearer)\s+\S+")

get_logger: Callable[..., structlog.typing.FilteringBoundLogger] = structlog.get_logger


class _Stderr:
    """The sink: one `write` a line, never blocking, never raising."""

    def __init__(self, fd: int = STDERR) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self.dropped = 0

    def line(self, data: bytes) -> None:
        if len(data) >= MAX_LINE_BYTES:
            data = data[: MAX_LINE_BYTES - 4] + "…".encode()
        try:
            ready = self._poll.poll(0)
            if not ready or not ready[0][1] & select.POLLOUT:
                self.dropped += 1
                return
            if self.dropped:
                lost, self.dropped = self.dropped, 0
                os.write(self._fd, b"event=log_lines_dropped level=warning count=%d\n" % lost)
            os.write(self._fd, data + b"\n")
        except OSError:  # EPIPE, ENOSPC, EIO: whoever read the log is gone; the service is not
            self.dropped += 1

    # structlog's methods, all the same: the level stands in the line.
    msg = debug = info = warning = warn = error = critical = exception = fatal = failure = log = line


def redact(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Blank out what looks like a key, by the field's name or by its value."""
    for name, value in event.items():
        if _SECRET_NAME.search(name) and value:
            event[name] = "[redacted]"
        elif isinstance(value, str) and len(value) > 12 and _SECRET_VALUE.search(value):
            event[name] = _SECRET_VALUE.sub("[redacted]", value)
    return event


def _render_bytes(renderer: Callable[..., str | bytes]) -> Callable[..., bytes]:
    def render(logger: Any, method: str, event: structlog.typing.EventDict) -> bytes:
        rendered = renderer(logger, method, event)
        return rendered if isinstance(rendered, bytes) else rendered.encode("utf-8", "backslashreplace")

    return render


class _Bridge(logging.Handler):
    """Lines of the libraries (Hypercorn, httpx), as events of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        fields = {"logger": record.name, "message": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            fields["exception"] = structlog.processors._format_exception(record.exc_info)
        get_logger().log(record.levelno, "library_log", **fields)


def configure(settings: Logging, **context: Any) -> None:
    """Set up logging for this process; `context` (such as `worker=2`) stands on every line.  May be called again."""
    encode_json = msgspec.json.Encoder(enc_hook=repr)
    renderer: Callable[..., str | bytes] = (
        structlog.processors.JSONRenderer(serializer=lambda event, **_: encode_json.encode(event).decode())
        if settings.format == "json"
        else structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False)
    )
    sink = _Stderr()
    level = _LEVELS[settings.level]
    structlog.configure(
        processors=[
            lambda _logger, _method, event: {**event, **context},
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            redact,
            _render_bytes(renderer),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(max(level, logging.WARNING))
