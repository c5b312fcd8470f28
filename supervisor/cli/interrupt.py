"""What an interrupt does to a command: what has to be undone is undone, and nothing goes on in spite of it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_POLITE = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[None]:
    """For commands that have something to undo: SIGTERM, and the end of the terminal, raise `KeyboardInterrupt`, too.

    A signal that is ignored (nohup) stays so.  For the main thread only.
    """
    changed = [signum for signum in _POLITE if signal.getsignal(signum) is signal.SIG_DFL]
    for signum in changed:
        signal.signal(signum, signal.default_int_handler)
    try:
        yield
    finally:
        for signum in changed:
            signal.signal(signum, signal.SIG_DFL)


@contextmanager
def interrupt_ends() -> Iterator[None]:
    """For commands that have nothing to undo: Ctrl-C ends the process at once, also inside a long query of SQLite,
    which would not hear of `KeyboardInterrupt` before its end.  For the main thread only.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
