"""One worker as the supervisor holds it: its state, its two pipes, its end.

Whatever a worker wrote before it died is accounted before its death is: its pipe is read to the end first, and what
is then still open is closed as `failed/worker_died`.

A worker keeps each terminal record until it hears that it is on the disk, so that it outlives this process: `Stored`
answers the beats.
"""

import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec
import trio

from shared import stackdump
from shared.channel import FrameReader, FrameWriter
from shared.errors import FrameError
from shared.logs import get_logger
from shared.messages import Beat, Down, Drain, Ready, Recycle, Stored, StreamEnded, StreamStarted, Up, decode_up, encode
from shared.records import StreamRecord
from supervisor.control import WorkerStatus
from supervisor.forkserver import WorkerProcess
from supervisor.heartbeat import AwakeClock
from supervisor.ledger import Ledger
from supervisor.plan import DrainMode, State, WorkerView

LINGER = 0.005
"""Between two reads of a pipe, on the average: under load many small frames cost one wake-up."""
READ_OUT = 0.2
"""After a worker's death its pipe ends at once, unless a child of its own holds it; then it is read for this long."""

log = get_logger()


class RecordStore(Protocol):
    """What takes the records (`supervisor.store.Store`): in order, the first `stored` of the `taken` ones are safe."""

    @property
    def taken(self) -> int: ...

    @property
    def stored(self) -> int: ...

    def put_nowait(self, record: StreamRecord) -> None: ...


class Hub(Protocol):
    """What hears everything that workers say (`supervisor.hub.Hub`), after the ledger has."""

    def joined(self, peer: "Link") -> None: ...

    def take(self, peer: "Link", message: Up) -> None: ...

    def left(self, peer: "Link", records: list[StreamRecord]) -> None: ...


class Link:
    """A worker from its start to its end; `run` is its one task, everything else are plain calls.

    `store` takes the records; `on_ready` is called when the worker has said `Ready`, `on_worn` when it wants to be
    replaced.
    """

    def __init__(
        self,
        process: WorkerProcess,
        *,
        slot: int,
        generation: int,
        ledger: Ledger,
        store: RecordStore,
        hub: Hub,
        clock: AwakeClock,
        on_ready: Callable[[], None],
        on_worn: Callable[[], None],
    ) -> None:
        self._process = process
        self._ledger = ledger
        self._store = store
        self._hub = hub
        self._clock = clock
        self._on_ready = on_ready
        self._on_worn = on_worn
        self._reader = FrameReader(process.up_fd, linger=LINGER)
        self._writer = FrameWriter(process.down_fd)
        self._read_to_end = trio.Event()
        self._drain_mode: DrainMode | None = None
        self._drain_deadline = 0.0
        self._last_words_asked = False
        self._killed = False
        self._worn = False
        self._ended = 0
        self._unstored: deque[tuple[int, int]] = deque()
        """(n, count): the first `count` records of this worker are safe once the store has stored n."""
        self._beat = Beat(streams=0, connections=0, rss_bytes=0, lag=0.0, dropped=0)
        self.slot = slot
        self.generation = generation
        self.pid = process.pid
        self.state: State = "starting"
        self.was_ready = False
        self.born = trio.current_time()
        self.last_heard = clock.read(self.born)
        """In the clock's waking time."""
        self.stuck_since: float | None = None

    @property
    def asked_to_leave(self) -> bool:
        """It was told to drain: its death is none of the slot's troubles."""
        return self._drain_mode is not None

    @property
    def backlog(self) -> int:
        """Bytes that wait for its pipe to have room."""
        return self._writer.pending_bytes

    def view(self) -> WorkerView:
        """What the plan needs to know."""
        return WorkerView(
            slot=self.slot,
            generation=self.generation,
            pid=self.pid,
            state=self.state,
            drain_mode=self._drain_mode,
            drain_deadline=self._drain_deadline,
            killed=self._killed,
            worn=self._worn,
        )

    def status(self, restarts: int) -> WorkerStatus:
        """What people want to know; `restarts` is the slot's."""
        beat = self._beat
        return WorkerStatus(
            worker=self.slot,
            pid=self.pid,
            generation=self.generation,
            state=self.state,
            streams=self._ledger.active_count(self.pid),
            connections=beat.connections,
            rss_bytes=beat.rss_bytes,
            uptime=trio.current_time() - self.born,
            restarts=restarts,
            lag=beat.lag,
            dropped=beat.dropped,
            up_pipe_bytes=self._reader.unread_bytes,
            down_pipe_bytes=self._writer.unread_bytes,
        )

    def send(self, message: Down) -> None:
        """Put a command on the pipe, or behind those that wait; a dead worker's are dropped."""
        self._writer.send_nowait(encode(message))

    def drain(self, mode: DrainMode, deadline: float) -> None:
        """Have it finish its streams until `deadline` and exit; a second call replaces the first."""
        timeout = max(deadline - trio.current_time(), 0.0)
        log.info("drain_start", worker=self.slot, pid=self.pid, mode=mode, timeout=round(timeout, 3))
        self.send(Drain(mode, timeout))
        self._drain_mode = mode
        self._drain_deadline = deadline
        if self.state != "stuck":
            self.state = "draining"

    def dump_stacks(self) -> None:
        """Have it write its stacks, if it is old enough to have a handler for that.  Safe in a signal handler."""
        if self.was_ready:
            self._process.send_signal(signal.SIGUSR1)

    def declare_stuck(self, silence: float) -> None:
        """It no longer counts; it is asked for its stacks before it is killed."""
        log.error("worker_stuck", worker=self.slot, pid=self.pid, silent=round(silence, 1))
        self.state = "stuck"
        self.stuck_since = trio.current_time()
        self.dump_stacks()

    def ask_last_words(self) -> None:
        """Have the C side write its stacks, once: that may crash it, but it is about to be killed."""
        if self.was_ready and not self._last_words_asked:
            self._last_words_asked = True
            self._process.send_signal(stackdump.LAST_WORDS)

    def kill(self, reason: str) -> None:
        """SIGKILL, once."""
        if not self._killed:
            log.warning("worker_killed", worker=self.slot, pid=self.pid, reason=reason)
            self._killed = True
            self._process.send_signal(signal.SIGKILL)

    async def run(self) -> None:
        """Read and write the pipes until the process is dead and accounted for, then close them.

        Cancellation closes them too, which tells a living worker that its supervisor is gone.
        """
        self._hub.joined(self)
        records: list[StreamRecord] = []
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._writer.run)
                nursery.start_soon(self._read)
                await self._process.wait_exit()
                with trio.move_on_after(READ_OUT):
                    await self._read_to_end.wait()
                nursery.cancel_scope.cancel()
            self._read_available()
            records = self._ledger.worker_died(self.pid, time.time())
            for record in records:
                self._store.put_nowait(record)
        finally:
            self._hub.left(self, records)
            self._reader.close()
            self._writer.close()

    async def _read(self) -> None:
        try:
            while payloads := await self._reader.receive():
                self._take_all(payloads)
        except (FrameError, msgspec.DecodeError) as error:
            self._distrust(error)
        self._read_to_end.set()

    def _read_available(self) -> None:
        """What a dead worker's pipe still holds; nothing if it was read to its end."""
        if not self._read_to_end.is_set():
            try:
                self._take_all(self._reader.receive_available_nowait())
            except (FrameError, msgspec.DecodeError) as error:
                self._distrust(error)

    def _distrust(self, error: Exception) -> None:
        """Its memory, or its code, is not what it should be: nothing it says from now on counts."""
        log.error("worker_garbage", worker=self.slot, pid=self.pid, error=str(error))
        self.kill("garbage on its pipe")

    def _take_all(self, payloads: list[bytes]) -> None:
        self.last_heard = self._clock.read(trio.current_time())
        for payload in payloads:
            self._take(decode_up(payload))

    def _take(self, message: Up) -> None:
        match message:
            case Beat(progress=progress):
                self._beat = message
                self._ledger.progress(self.pid, progress, trio.current_time())
                self._acknowledge()
            case StreamStarted(start):
                self._ledger.started(self.pid, start, trio.current_time())
            case StreamEnded(record):
                kept = self._ledger.ended(self.pid, record)
                if kept is not None:
                    self._store.put_nowait(kept)
                self._note_ended()
                if kept is None:
                    return  # it was told before
            case Ready():
                self._take_ready()
            case Recycle(reason):
                self._take_recycle(reason)
            case _:
                pass
        self._hub.take(self, message)

    def _note_ended(self) -> None:
        """Remember when this record is safe.  One that the ledger had already was put before, so it is so by then."""
        self._ended += 1
        taken = self._store.taken
        if self._unstored and self._unstored[-1][0] == taken:
            self._unstored.pop()
        self._unstored.append((taken, self._ended))

    def _acknowledge(self) -> None:
        """Tell the worker what it need not keep any longer."""
        count = 0
        while self._unstored and self._unstored[0][0] <= self._store.stored:
            _, count = self._unstored.popleft()
        if count:
            self.send(Stored(count))

    def _take_ready(self) -> None:
        if self.was_ready:
            return
        self.was_ready = True
        log.info("worker_ready", worker=self.slot, pid=self.pid, after=round(trio.current_time() - self.born, 3))
        if self.state == "starting":
            self.state = "serving"
        self._on_ready()

    def _take_recycle(self, reason: str) -> None:
        if self._worn or self.asked_to_leave:
            return
        self._worn = True
        log.warning("worker_recycle", worker=self.slot, pid=self.pid, reason=reason)
        self._on_worn()
