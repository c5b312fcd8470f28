"""What blocks, in threads that a cancelled run leaves behind.

Python can't interrupt a thread that sits in a system call or in C.  So a cancelled run goes on without it at once; a
thread that has not ended within the run's grace is counted and logged, and a worker that has collected too many asks
the supervisor, once, to be replaced while its streams finish.

    AbandonedThreads   one a worker: who was left behind, and is he still there
    Threads            one a run: the way into a thread
"""

from collections.abc import Callable
from typing import Protocol, TypeVar, TypeVarTuple

import trio
from msgspec import Struct

from shared.config import Agent
from shared.logs import get_logger
from shared.messages import Recycle

MAX_THREADS = 64
"""At once in a worker, those included that were left behind; more wait for their turn."""

Result = TypeVar("Result")
Args = TypeVarTuple("Args")


class Sender(Protocol):
    """The way to the supervisor (`worker.link.Link`)."""

    def send(self, message: Recycle) -> None: ...


class _NobodyWaits(Exception):
    """The run was cancelled before its thread began."""


class _Call(Struct, eq=False):
    """A function in a thread.  The thread writes `begun` and `over`, the loop the rest."""

    what: str
    trace: str
    grace: float
    max_abandoned: int
    begun: bool = False
    over: bool = False
    left_at: float | None = None
    is_counted: bool = False


class AbandonedThreads:
    """The threads that cancelled runs of this worker have left behind.  `check` is called from the worker's clock."""

    def __init__(self, link: Sender) -> None:
        self._link = link
        self._calls: list[_Call] = []
        self._asked = False
        self.limiter = trio.CapacityLimiter(MAX_THREADS)
        self.total = 0
        """How many have outlived their grace since the worker started."""

    @property
    def count(self) -> int:
        """How many are beyond their grace and still not over."""
        return sum(call.is_counted and not call.over for call in self._calls)

    def leave(self, call: _Call) -> None:
        """A run goes without it."""
        call.left_at = trio.current_time()
        if call.begun and not call.over:  # else it will not begin
            self._calls.append(call)

    def check(self, now: float) -> None:
        """Count and log those whose grace is over; ask for a new worker when they are too many.  Never waits."""
        if not self._calls:
            return
        self._calls = [call for call in self._calls if not call.over]
        for call in self._calls:
            if not call.is_counted and call.left_at is not None and now - call.left_at >= call.grace:
                call.is_counted = True
                self.total += 1
                get_logger().warning(
                    "agent_task_timeout_on_cancel", trace=call.trace, task=call.what, abandoned=self.count
                )
        count = self.count
        if not self._asked and any(count > call.max_abandoned for call in self._calls if call.is_counted):
            self._asked = True
            self._link.send(Recycle(reason=f"{count} threads can't be interrupted"))


class Threads:
    """The threads of one run; `trace` names it in the log."""

    def __init__(self, settings: Agent, abandoned: AbandonedThreads, trace: str) -> None:
        self._settings = settings
        self._abandoned = abandoned
        self._trace = trace

    async def run(self, function: Callable[[*Args], Result], *args: *Args) -> Result:
        """What `function` returns or raises, run in a thread.

        A cancel ends the wait at once and leaves the thread to itself, so `function` must own what it uses: it closes
        its files, and nobody else touches them.
        """
        call = _Call(
            getattr(function, "__qualname__", repr(function)),
            self._trace,
            self._settings.cancel_grace,
            self._settings.max_abandoned_threads,
        )

        def work() -> Result:
            call.begun = True
            try:
                if call.left_at is not None:
                    raise _NobodyWaits
                return function(*args)
            finally:
                call.over = True

        try:
            return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._abandoned.limiter)
        except trio.Cancelled:
            self._abandoned.leave(call)
            raise
