"""The signals of the service contract: SIGHUP reloads, SIGTERM and SIGINT stop, a second one stops sooner.

SIGUSR1 is not here: `shared.stackdump` handles it where no event loop is needed.
"""

import signal
from collections import deque
from collections.abc import Callable
from types import FrameType, TracebackType

import trio

STOP = (signal.SIGTERM, signal.SIGINT)
HANDLED = (signal.SIGHUP, *STOP)


class SignalsBeforeTrio:
    """Keeps the signals of the time in which no event loop runs; a context manager for the whole of `run`.

    While the service is being set up, a stop is a `SystemExit(0)` that unwinds it, and SIGHUP waits.  After `hold`
    every signal waits, for `obey` or, at the very end, for ever: nothing cuts short the last flush to disk.
    """

    def __init__(self) -> None:
        self.waiting: deque[int] = deque()
        self._holding = False
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> "SignalsBeforeTrio":
        for signum in HANDLED:
            self._before[signum] = signal.signal(signum, self._take)
        return self

    def __exit__(self, _type: type[BaseException] | None, _value: object, _traceback: TracebackType | None) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def hold(self) -> None:
        """From now on signals wait."""
        self._holding = True

    def _take(self, signum: int, _frame: FrameType | None) -> None:
        if signum in STOP and not self._holding:
            raise SystemExit(0)
        self.waiting.append(signum)


async def obey(
    early: SignalsBeforeTrio,
    *,
    on_reload: Callable[[], object],
    on_stop: Callable[[], object],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Call `on_reload` and `on_stop` as signals come, those first that came early; for ever."""

    def act(signum: int) -> None:
        if signum in STOP:
            on_stop()
        else:
            on_reload()

    with trio.open_signal_receiver(*HANDLED) as signals:
        task_status.started()
        while early.waiting:
            act(early.waiting.popleft())
        async for signum in signals:
            act(signum)
