"""The database of finished streams and of conversations: a thread that owns the connection, fed without ever waiting.

    put_nowait ──▶ buffer (in memory, bounded) ──▶ thread "store", in batches ──▶ sessions.db

A record leaves the buffer when its transaction has been committed into the file that stands at the path.  While that
fails (disk full, file locked, folder read-only) the buffer grows, `status().problem` says why, and the thread tries
again; whatever it writes twice has one row.  A damaged file is put aside, never deleted.

Records are written in the order in which they were taken: what was put when `taken` was n is safe once `stored` is n.

Conversations (`supervisor.unwritten`) go the same way, behind the records, and are no reason to hold these up: of each
session only the newest is written, and those that no room is left for are lost, the oldest first.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from shared.config import Agent, Storage
from shared.errors import StartError, StorageError
from shared.logs import get_logger
from shared.records import StreamRecord
from supervisor import database
from supervisor.control import StorageStatus
from supervisor.unwritten import Kept, Unwritten

BATCH_RECORDS = 500
BATCH_CONVERSATIONS = 50
MAX_UNWRITTEN_BYTES = 64 * 1024 * 1024
BATCH_SECONDS = 0.05
FIRST_RETRY = 0.1
LAST_RETRY = 2.0
PRUNE_SECONDS = 3600.0
PRUNE_ROWS = 500
DAY_SECONDS = 86_400.0

log = get_logger()


class Store:
    """See the module.  `now` gives epoch seconds."""

    def __init__(
        self,
        path: Path,
        settings: Storage,
        now: Callable[[], float] = time.time,
        keep_conversations: float = Agent().keep_conversations,
    ) -> None:
        self.taken = 0
        """How many records have been put so far, lost ones not included."""
        self.stored = 0
        """How many of them are committed, or refused for good; to be read from any thread."""
        self.keep_conversations = keep_conversations
        """Seconds; may be replaced at any time, which the next pruning heeds."""
        self._path = path
        self._settings = settings
        self._now = now
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        # The condition guards what follows; it is never held during I/O, so the event loop never waits for the disk.
        self._changed = threading.Condition()
        self._buffer: deque[StreamRecord] = deque()
        self._put_at: deque[float] = deque()
        """When each of the buffer's records was put, by the monotonic clock."""
        self._unwritten = Unwritten(MAX_UNWRITTEN_BYTES)
        self._problem: str | None = None
        self._lost = 0
        self._loss_noted = False
        self._close_at: float | None = None
        self._next_prune = 0.0
        # Only the thread touches these, once it runs.
        self._database: database.Database | None = None
        self._check: database.Check | None = None
        self._was_open = False
        self._problem_since = 0.0

    def open(self, *, check: bool = True) -> None:
        """Check, create or upgrade the database and start the thread; blocking.

        `StartError` if this user can't write the file, or if it comes from a newer version.  What may pass by itself,
        a full disk or a lock, does not prevent the start: records are buffered, as are those that were put before.
        `check`: look for damage first, which takes its time.
        """
        try:
            self._database = database.connect(self._path, self._now(), "quick_check" if check else None)
        except StorageError as error:
            if not error.passing:
                raise StartError(f"can't use the database {self._path}: {error}") from error
            self._check = "quick_check"
            self._note_problem(error)
        else:
            self._was_open = True
        self._thread.start()

    @property
    def settings(self) -> Storage:
        """May be replaced at any time; what is too old now goes at once."""
        return self._settings

    @settings.setter
    def settings(self, settings: Storage) -> None:
        with self._changed:
            self._settings = settings
            self._next_prune = 0.0
            self._changed.notify()

    def put_nowait(self, record: StreamRecord) -> None:
        """Take a record; never waits for the disk.

        Above `settings.max_buffered_records`, and after `close`, the record is lost and counted.
        """
        with self._changed:
            if self._close_at is None and len(self._buffer) < self.settings.max_buffered_records:
                self._buffer.append(record)
                self._put_at.append(time.monotonic())
                self.taken += 1
                # Wake the thread for the first of a batch and for a full batch, not for each record between.
                if len(self._buffer) in (1, BATCH_RECORDS):
                    self._changed.notify()
                return
            self._lost += 1
            noted, self._loss_noted = self._loss_noted, True
        if not noted:  # one line when it begins; `status` and `storage_recovered` have the count
            log.error("storage_losing_records", path=str(self._path), problem=self._problem)

    def keep_nowait(self, kept: Kept) -> None:
        """Take a conversation; never waits for the disk.  What finds no room, or comes after `close`, is lost."""
        with self._changed:
            lost = [kept] if self._close_at is not None else self._unwritten.put(kept)
            self._changed.notify()
        for one in lost:
            log.error("conversation_lost", path=str(self._path), session=one.session, problem=self._problem)

    def find_unwritten(self, session: str, client: str) -> Kept | None:
        """What the database does not have yet of a session; None: what it has is the newest."""
        with self._changed:
            return self._unwritten.find(session, client)

    def status(self) -> StorageStatus:
        """How it is going, for `kimi-proxy status`."""
        with self._changed:
            return StorageStatus(
                path=str(self._path),
                problem=self._problem,
                buffered=len(self._buffer),
                lost=self._lost,
                lag=time.monotonic() - self._put_at[0] if self._put_at else 0.0,
            )

    def close(self, timeout: float) -> bool:
        """Write what is buffered, for at most `timeout` seconds, and stop the thread; blocking.

        False if records were left: they are lost, and a log line says how many; so it does of conversations.
        """
        with self._changed:
            self._close_at = time.monotonic() + timeout
            self._changed.notify()
        if self._thread.ident is not None:
            # A little longer, as it may be inside a last try; it is a daemon, should the disk never answer.
            self._thread.join(timeout + 2 * database.BUSY_SECONDS)
        with self._changed:
            left = len(self._buffer)
            self._buffer.clear()
            self._put_at.clear()
            self._lost += left
            conversations = self._unwritten.clear()
        if conversations:
            log.error("conversations_lost", path=str(self._path), count=conversations, problem=self._problem)
        if left:
            log.error("storage_records_lost", path=str(self._path), count=left, problem=self._problem)
        return left == 0

    def _run(self) -> None:
        delay = FIRST_RETRY if self._problem else 0.0
        while self._wait(delay):
            try:
                self._work()
            except Exception as error:
                if not isinstance(error, StorageError):  # our mistake; but nobody else would write the next record
                    log.exception("storage_error", path=str(self._path))
                elif error.corrupt:
                    self._check = "integrity_check"
                self._disconnect()
                self._note_problem(error)
                delay = min(LAST_RETRY, delay * 2 or FIRST_RETRY)
            else:
                self._note_recovery()
                delay = 0.0
        self._disconnect()

    def _wait(self, delay: float) -> bool:
        """Wait until there is something to do, or for `delay` after a failure; False once it is time to end."""
        with self._changed:
            if not delay:
                self._changed.wait_for(self._is_busy, self._next_prune - time.monotonic())
                if self._has_work():
                    self._changed.wait_for(self._is_urgent, BATCH_SECONDS)
            elif self._close_at is None:
                self._changed.wait_for(self._is_closing, delay)
            else:
                self._changed.wait(min(delay, FIRST_RETRY))
            if self._close_at is None:
                return True
            return self._has_work() and time.monotonic() < self._close_at

    def _is_closing(self) -> bool:
        return self._close_at is not None

    def _has_work(self) -> bool:
        return bool(self._buffer or self._unwritten)

    def _is_busy(self) -> bool:
        return self._has_work() or self._is_closing() or time.monotonic() >= self._next_prune

    def _is_urgent(self) -> bool:
        return len(self._buffer) >= BATCH_RECORDS or self._is_closing()

    def _work(self) -> None:
        """One batch of either kind, and one step of pruning if it is due.  A batch stays here until it is safe."""
        if self._database is None:
            # Since we had it first, a supervisor of a newer version may have upgraded it, to take the service over.
            self._database = database.connect(self._path, self._now(), self._check, newer=self._was_open)
            self._check = None
            self._was_open = True
        with self._changed:
            batch = list(itertools.islice(self._buffer, BATCH_RECORDS))
            conversations = self._unwritten.batch(BATCH_CONVERSATIONS)
        if batch:
            refused = self._database.write(batch)
            if self._has_moved(self._database):
                return
            self._forget(batch, refused)
        expired = self._now() - self.keep_conversations
        if conversations:
            self._database.keep(conversations, expired)
            if self._has_moved(self._database):
                return
            with self._changed:
                self._unwritten.forget(conversations)
        if time.monotonic() >= self._next_prune:
            settings = self._settings
            before = self._now() - settings.keep_days * DAY_SECONDS
            done = self._database.prune(before, PRUNE_ROWS) < PRUNE_ROWS
            done = self._database.keep((), expired) < database.FORGET_ROWS and done
            with self._changed:
                if done and settings is self._settings:  # else new ones came meanwhile
                    self._next_prune = time.monotonic() + PRUNE_SECONDS

    def _has_moved(self, connected: database.Database) -> bool:
        """Asked after a commit: SQLite writes happily into a file that was deleted a moment before."""
        if not connected.moved():
            return False
        log.warning("storage_replaced", path=str(self._path))
        self._disconnect()
        return True

    def _forget(self, batch: list[StreamRecord], refused: list[StreamRecord]) -> None:
        with self._changed:
            for _ in range(min(len(batch), len(self._buffer))):  # `close` may have given up on them meanwhile
                self._buffer.popleft()
                self._put_at.popleft()
                self.stored += 1
            self._lost += len(refused)
            if not self._buffer:
                self._loss_noted = False
        for record in refused:
            log.error("storage_record_refused", path=str(self._path), id=record.start.id)

    def _disconnect(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _note_problem(self, error: Exception) -> None:
        with self._changed:
            known, self._problem = self._problem, str(error) or type(error).__name__
        if known is None:
            self._problem_since = time.monotonic()
            log.error("storage_problem", path=str(self._path), problem=self._problem)

    def _note_recovery(self) -> None:
        with self._changed:
            known, self._problem = self._problem, None
            buffered, lost = len(self._buffer), self._lost
        if known is not None:
            seconds = round(time.monotonic() - self._problem_since, 3)
            log.info("storage_recovered", path=str(self._path), seconds=seconds, buffered=buffered, lost=lost)
