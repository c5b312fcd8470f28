"""What many tests share lives apart from them: in a trio of its own, in a thread.

@pytest.fixture(scope="module")
def service():
    with live_apart(run_service(folder, config)) as service:
        yield service
"""

import queue
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import Any, TypeVar

import trio

T = TypeVar("T")
READY_TIMEOUT = 60.0


@contextmanager
def live_apart(manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """What `manager` gives; a test only looks at it.  What fails in there is raised here, at the latest on leaving."""
    ready: queue.Queue[Any] = queue.Queue()
    ends: list[tuple[trio.lowlevel.TrioToken, trio.Event]] = []
    failures: list[BaseException] = []

    async def live() -> None:
        end = trio.Event()
        ends.append((trio.lowlevel.current_trio_token(), end))
        async with manager as value:
            ready.put(value)
            await end.wait()

    def run() -> None:
        try:
            trio.run(live)
        except BaseException as error:
            failures.append(error)
            ready.put(None)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        value = ready.get(timeout=READY_TIMEOUT)
        if not failures:
            yield value
    finally:
        for token, end in ends:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(end.set)
        thread.join()
    if failures:
        raise failures[0]
