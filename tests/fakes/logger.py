"""The logger of the tests' own process, which some of them configure as a process of the service does."""

import contextlib
import logging
from collections.abc import Iterator

import structlog

from shared import logs
from shared.stderr import stderr


@contextlib.contextmanager
def restored_logger() -> Iterator[None]:
    """Whatever is configured within, tests that come later log as before."""
    root = logging.getLogger()
    handlers, level, logger, config = root.handlers[:], root.level, logs._logger, structlog.get_config()
    try:
        yield
    finally:
        structlog.configure(**config)
        logs._logger = logger
        root.handlers[:] = handlers
        root.setLevel(level)
        stderr.reopen()
