"""The supervisor that we took the service over from, for as long as its last streams go on.

Its workers, and those of its own elder, are known here by pid.  What they say is told to the ledger and to the hub as
if they were ours, so that sessions, cancellations, sums and live events are those of the whole service.  Their records
are the elder's to write.
"""

import math
import signal
import time
from collections.abc import Callable

import trio

from shared.channel import FrameWriter
from shared.logs import get_logger
from shared.messages import Admit, Beat, CancelStream, Down, StreamEnded, StreamStarted
from shared.records import StreamRecord
from supervisor.control import ElderStatus
from supervisor.handover import Cancel, Said, Stop, WorkerLeft, encode
from supervisor.hub import Hub
from supervisor.ledger import Ledger
from supervisor.link import RecordStore
from supervisor.plan import KILL_GRACE

ORPHAN_TIME = 8.0
"""When the elder has been killed: its workers take so long to end and to leave their records in files, and we to
import these."""
_KILL_AFTER = KILL_GRACE + 15.0
"""A stop's timeout does not count what the elder itself does at its end: it writes its last records for up to 10 s."""
_LAST_WORDS = 1.0

log = get_logger()


class ElderWorker:
    """One of its workers: a `Peer` of the hub.  All that it can be told from here is to cancel a stream."""

    backlog = 0

    def __init__(self, supervisor: int, pid: int, slot: int, tell: Callable[[Cancel], None]) -> None:
        self.supervisor = supervisor
        self.pid = pid
        self.slot = slot
        self._tell = tell

    def send(self, message: Down) -> None:
        if isinstance(message, CancelStream):
            self._tell(Cancel(self.pid, message.id, message.reason))


class Elder:
    """See the module.  `writer` leads to it; `heir` reads what it says and calls `take`, and `lost` at its end."""

    def __init__(
        self, pid: int, pidfd: int, writer: FrameWriter, *, ledger: Ledger, hub: Hub, store: RecordStore
    ) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._writer = writer
        self._ledger = ledger
        self._hub = hub
        self._store = store
        self._workers: dict[int, ElderWorker] = {}
        self._lost = False
        self._gone = trio.Event()
        self._kill_at = math.inf
        self._patience = trio.CancelScope()

    def statuses(self) -> list[ElderStatus]:
        """It, and those before it that still have streams."""
        if self._lost:
            return []
        pids = dict.fromkeys([self.pid, *(worker.supervisor for worker in self._workers.values())])
        streams = {
            pid: sum(self._ledger.active_count(w.pid) for w in self._workers.values() if w.supervisor == pid)
            for pid in pids
        }
        return [ElderStatus(pid, count) for pid, count in streams.items()]

    def take(self, message: Said | WorkerLeft) -> None:
        """What it tells of its workers."""
        if isinstance(message, WorkerLeft):
            if (worker := self._workers.get(message.pid)) is not None:
                self._leave(worker)
            return
        worker = self._workers.get(message.pid)
        if worker is None:
            worker = ElderWorker(
                message.supervisor, message.pid, message.slot, lambda order: self._writer.send_nowait(encode(order))
            )
            self._workers[message.pid] = worker
            self._hub.joined(worker)
        said, now = message.message, trio.current_time()
        match said:
            case StreamStarted(start):
                self._ledger.started(worker.pid, start, now - max(0.0, time.time() - start.started))
            case StreamEnded(record):
                if self._ledger.ended(worker.pid, record) is None:
                    return
            case Beat(progress=progress):
                self._ledger.progress(worker.pid, progress, now)
            case Admit():
                self._hub.take_older(worker, said)
                return
            case _:
                pass
        self._hub.take(worker, said)

    def stop(self, timeout: float) -> None:
        """Have it end its streams within `timeout` seconds, and make sure that it ends; may be called again."""
        self._writer.send_nowait(encode(Stop(timeout)))
        self._kill_at = min(self._kill_at, trio.current_time() + timeout + _KILL_AFTER)
        self._patience.deadline = self._kill_at

    async def lost(self) -> None:
        """The link has ended, as all its streams have, or because it was killed; waits until that is settled."""
        self._lost = True
        open_streams: list[StreamRecord] = []
        for worker in list(self._workers.values()):
            open_streams += self._leave(worker)
        log.info("elder_gone", pid=self.pid, left_open=len(open_streams))
        self._gone.set()
        if open_streams:
            try:
                # Its workers outlive it by some seconds and know better; what they have told by then stands.
                await trio.sleep(ORPHAN_TIME)
            finally:
                for record in open_streams:
                    self._store.put_nowait(record)

    async def wait_gone(self) -> None:
        """Wait until its process has ended and all that it said has been heard; after `stop` by force if need be."""
        with trio.CancelScope(deadline=self._kill_at) as self._patience:
            await trio.lowlevel.wait_readable(self._pidfd)
        if self._patience.cancelled_caught:
            log.error("elder_killed", pid=self.pid)
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            await trio.lowlevel.wait_readable(self._pidfd)
        with trio.move_on_after(_LAST_WORDS):
            await self._gone.wait()

    def _leave(self, worker: ElderWorker) -> list[StreamRecord]:
        del self._workers[worker.pid]
        records = self._ledger.worker_died(worker.pid, time.time())
        self._hub.left(worker, records)
        return records
