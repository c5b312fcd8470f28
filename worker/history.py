"""The worker's way to the history: the database file, read in a thread.

Nothing that waits for the disk is on the event loop, and no query outlives the client that wanted its answer.
"""

import trio

from shared.errors import StorageError
from shared.history.queries import Query, Row
from shared.history.reader import read

# A summary of a year's streams takes some seconds.
QUERY_TIMEOUT = 30.0
MAX_QUERIES = 2
"""At once, in one worker; others wait."""


class History:
    """`path` need not exist.  Shared by all requests of a worker."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._limiter = trio.CapacityLimiter(MAX_QUERIES)

    async def read(self, *queries: Query) -> list[list[Row]]:
        """The rows of each of `queries`, as of one moment.  `StorageError` if they can't be had, or not in time.

        If cancelled, the queries are given up, and the thread is left to itself for the moment that it needs to end.
        """
        given_up = False

        def work() -> list[list[Row]]:
            return read(self._path, *queries, stopped=lambda: given_up)

        try:
            with trio.fail_after(QUERY_TIMEOUT):
                return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)
        except trio.TooSlowError:
            raise StorageError(f"the query took more than {QUERY_TIMEOUT:g} s: ask for less", passing=True) from None
        finally:
            given_up = True
