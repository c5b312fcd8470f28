"""The conversations of the agent's sessions, for all workers.

    KeepConversation ──▶ store ── its thread ──▶ sessions.db
    Conversation ──▶ what the store has not written yet, else ── a thread ──▶ sessions.db ──▶ Told

So whoever asks is told what was kept last, wherever that is by now.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec
import trio

from shared.errors import StorageError
from shared.framing import MAX_FRAME_BYTES
from shared.history.queries import Query
from shared.history.reader import read
from shared.messages import Conversation, Down, KeepConversation, Told
from supervisor import schema
from supervisor.unwritten import Kept

READERS = 2
MAX_WAITING = 1000
READ_TIMEOUT = 4.0
"""Workers wait for 5 s."""
MAX_BODY_BYTES = MAX_FRAME_BYTES - 1024


class Asker(Protocol):
    """The worker that asks (`supervisor.link.Link`)."""

    def send(self, message: Down) -> None: ...


class Store(Protocol):
    """What writes (`supervisor.store.Store`)."""

    keep_conversations: float

    def keep_nowait(self, kept: Kept) -> None: ...

    def find_unwritten(self, session: str, client: str) -> Kept | None: ...


class Conversations:
    """See the module; `run` is its one task.  `now` gives epoch seconds."""

    def __init__(self, store: Store, path: Path, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._path = path
        self._now = now
        self._limiter = trio.CapacityLimiter(READERS)
        self._wanted, self._readable = trio.open_memory_channel[tuple[Asker, int, Conversation]](MAX_WAITING)

    def keep(self, message: KeepConversation) -> None:
        """From now on this is what is told."""
        self._store.keep_nowait(Kept(message.session, message.client or "", self._now(), message.data))

    def tell(self, asker: Asker, number: int, asked: Conversation) -> None:
        """Answer with the conversation as it is now; later, and from `run`, if it is in the database alone."""
        kept = self._store.find_unwritten(asked.session, asked.client or "")
        if kept is not None:
            asker.send(_told(number, kept.data if kept.updated >= self._expired() else b""))
            return
        try:
            self._wanted.send_nowait((asker, number, asked))
        except trio.WouldBlock:
            asker.send(_refused(number, "too many conversations are asked for"))

    async def run(self) -> None:
        """Read what is asked for, until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(READERS):
                nursery.start_soon(self._serve)

    async def _serve(self) -> None:
        async for asker, number, asked in self._readable:
            asker.send(await self._read(number, asked))

    async def _read(self, number: int, asked: Conversation) -> Told:
        query = Query(schema.FIND_CONVERSATION, (asked.session, asked.client or "", self._expired()))
        given_up = False

        def work() -> bytes:
            [rows] = read(self._path, query, stopped=lambda: given_up)
            data = rows[0][0] if rows else b""
            return data if isinstance(data, bytes) else b""

        try:
            with trio.fail_after(READ_TIMEOUT):
                return _told(number, await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter))
        except StorageError as error:
            return _refused(number, str(error))
        except trio.TooSlowError:
            return _refused(number, f"the database does not answer within {READ_TIMEOUT:g} s")
        finally:
            given_up = True

    def _expired(self) -> float:
        return self._now() - self._store.keep_conversations


def _told(number: int, data: bytes) -> Told:
    if not data:
        return Told(number, 404, msgspec.json.encode({"message": "nothing is known of this session"}))
    if len(data) > MAX_BODY_BYTES:  # only who writes into the database himself gets so far
        return _refused(number, f"the conversation has {len(data)} bytes, more than a frame takes")
    return Told(number, 200, data)


def _refused(number: int, message: str) -> Told:
    return Told(number, 503, msgspec.json.encode({"message": message}))
