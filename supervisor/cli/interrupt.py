"""What an interrupt does to a command: what has to be undone is undone, and nothing goes on in spite of it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_POLITE = (signal.SIGTERM, signal.SIGHUP)
SIGNALS = (signal.SIGINT, *_POLITE)
"""Those that ask a command to end."""


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


class Interrupted(KeyboardInterrupt):
    """One of `SIGNALS` came where `Held.let` allows it."""

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.signum = signum


class Held:
    """What `held` keeps waiting.  Its handler stays in place all the time, and is told when it may raise: handlers that
    were put in each other's place would leave gaps in which a signal raises where it must not.
    """

    def __init__(self) -> None:
        self.signals: list[int] = []
        """All that came, in their order, those that have raised included."""
        self._raises = False

    def handle(self, signum: int, _frame: FrameType | None = None) -> None:
        """Note the signal, and raise it if that is allowed: once, as what has to be undone then is not interrupted."""
        self.signals.append(signum)
        if self._raises:
            self._raises = False
            raise Interrupted(signum)

    def check(self) -> None:
        """Raise `Interrupted` if any came."""
        if self.signals:
            raise Interrupted(self.signals[0])

    @contextmanager
    def let(self) -> Iterator[None]:
        """Within the block a signal raises `Interrupted`, as one does at once that came before."""
        try:
            self._raises = True
            if self.signals:
                self._raises = False
                self.check()
            yield
        finally:
            self._raises = False

    @contextmanager
    def shut(self) -> Iterator[None]:
        """The opposite: what comes within the block is raised at its end, if it would have been raised in it."""
        before, self._raises = self._raises, False
        seen = len(self.signals)
        try:
            yield
        finally:
            if before and len(self.signals) == seen:
                self._raises = True
        if before and len(self.signals) > seen:
            raise Interrupted(self.signals[seen])


_outermost: Held | None = None


@contextmanager
def held() -> Iterator[Held]:
    """No signal ends, or interrupts, what is done within the block: it comes at its end, in its usual way.

    For what must be done whole, and for commands that say themselves, by `Held.let`, where they may be interrupted.  A
    signal that is ignored stays so.  For the main thread only.
    """
    global _outermost
    if _outermost is not None:
        with _outermost.shut():
            yield _outermost
        return
    kept = Held()
    # SIGINT last when they are put back: its own handler raises.
    changed = {signum: old for signum in reversed(SIGNALS) if (old := signal.getsignal(signum)) is not signal.SIG_IGN}
    try:
        for signum in changed:
            signal.signal(signum, kept.handle)
        _outermost = kept
        yield kept
    finally:
        _outermost = None
        for signum, old in changed.items():
            signal.signal(signum, old)
        for number in dict.fromkeys(kept.signals):
            signal.raise_signal(number)
