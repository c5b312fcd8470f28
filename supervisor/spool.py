"""Brings the records home that workers had to leave in files, because the supervisor before this one was killed.

Such workers need some seconds to end, so files may still come when the next supervisor runs: it looks once a second.
A file is deleted when its records are in the database; whatever is imported twice has one row.
"""

from pathlib import Path

import trio

from shared.logs import get_logger
from shared.records import StreamRecord
from shared.spool import Spool, find_spools, read_spool, set_aside
from supervisor.link import RecordStore

LOOK_INTERVAL = 1.0
POLL = 0.05
ROOM = 100
"""No more is put while the store has as many to write: an import must not fill the buffer that streams need."""

log = get_logger()


class SpoolImporter:
    """`run` is its one task.  A file that can't be read or removed is reported once and then left alone."""

    def __init__(self, folder: Path, store: RecordStore) -> None:
        self._folder = folder
        self._store = store
        self._hopeless: set[Path] = set()

    async def run(self) -> None:
        """Look for files, and import them one after the other, for ever.  Cancellation leaves them as they are."""
        while True:
            await self.import_all()
            await trio.sleep(LOOK_INTERVAL)

    async def import_all(self) -> None:
        """Import what is there now; returns when it is in the database."""
        try:
            paths = await trio.to_thread.run_sync(find_spools, self._folder, abandon_on_cancel=True)
        except OSError as error:
            self._give_up(self._folder, error)
            return
        for path in paths:
            if path not in self._hopeless:
                try:
                    await self._import(path)
                except OSError as error:
                    self._give_up(path, error)

    async def _import(self, path: Path) -> None:
        spool = await trio.to_thread.run_sync(read_spool, path, abandon_on_cancel=True)
        for record in spool.records:
            await self._put(record)
        await self._wait_stored(self._store.taken)
        await trio.to_thread.run_sync(self._dispose, path, spool)
        log.info("records_recovered", path=str(path), count=len(spool.records))

    async def _put(self, record: StreamRecord) -> None:
        await self._wait_stored(self._store.taken - ROOM)
        before = self._store.taken
        self._store.put_nowait(record)
        while self._store.taken == before:  # a buffer that is smaller than `ROOM` is full
            await trio.sleep(LOOK_INTERVAL)
            self._store.put_nowait(record)

    async def _wait_stored(self, position: int) -> None:
        while self._store.stored < position:  # noqa: ASYNC110 (its thread has no event for that)
            await trio.sleep(POLL)

    def _dispose(self, path: Path, spool: Spool) -> None:
        if spool.damage is None:
            path.unlink(missing_ok=True)
        else:
            kept_as = set_aside(path)
            log.error("spool_corrupt", path=str(path), problem=spool.damage, kept_as=str(kept_as))

    def _give_up(self, path: Path, error: OSError) -> None:
        if path not in self._hopeless:
            self._hopeless.add(path)
            log.error("spool_problem", path=str(path), problem=error.strerror or str(error))
