"""SIGUSR1: what is this process doing right now?  Stacks of every thread and the trio task tree, on stderr.

    SIGUSR1 ──▶ thread "stackdump" ── interrupt_main ──▶ Python handler in the main thread
     (blocked everywhere,  ▲                                  │ the task tree
      taken by sigwait)    └────────────── queue ─────────────┘

A thread of its own takes the signal, so that the threads' stacks appear even when the main thread is busy or blocked,
and so that no system call of the main thread is ever interrupted; signals that come during a dump are merged by the
kernel.  The task tree is asked of the main thread, whose own it is; if it doesn't answer in time, the dump says so.

The obvious `faulthandler.register(SIGUSR1, chain=True)` was measured to kill busy processes (CPython 3.11): it reads
frames while they change, in handlers that pile up on a stack for five.  It alone works while C code holds on to the
interpreter, though, and so it is at `LAST_WORDS` (SIGUSR2): for a process that is about to be killed anyway.

A dump holds places in the code, never values: those may be keys and prompts.  It is bounded in size and time, whatever
the process is and whoever reads stderr.
"""

import _thread
import faulthandler
import itertools
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from types import FrameType

import trio

from shared.journal import priority_prefix
from shared.stderr import ATOMIC_BYTES, stderr

LAST_WORDS = signal.SIGUSR2

MAX_TASKS = 200
MAX_FRAMES = 40
MAX_THREADS = 100
# How long the main thread may take to say what its tasks are, and whoever reads stderr to make room.
TREE_TIMEOUT = 0.5
WRITE_TIMEOUT = 1.0
# Between two dumps, so that a storm of signals leaves time for work.
PAUSE = 0.1


class _Dumper:
    """The thread and what it needs to know; see `_dumper`, the only instance."""

    def __init__(self) -> None:
        self.name = "python"
        self.on_signal: Callable[[], None] | None = None
        self._thread = threading.Thread()
        self._asks = False
        # Reentrant, as its other end is a signal handler.
        self._trees: queue.SimpleQueue[str] = queue.SimpleQueue()

    def start(self) -> None:
        signal.signal(signal.SIGUSR1, self._answer)
        # Inherited by all threads from here on; an older one may still get the signal, see `_answer`.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        if not self._thread.is_alive():  # in a forked process it is not, whatever was started before
            self._thread = threading.Thread(target=self._run, name="stackdump", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            signal.sigwait({signal.SIGUSR1})
            try:
                self.write(self._ask_tree())
                if self.on_signal:
                    self.on_signal()
            except Exception as error:  # the next signal wants an answer, too
                stderr.write(f"the stack dump of {self.name} failed: {type(error).__name__}\n".encode(), WRITE_TIMEOUT)
            time.sleep(PAUSE)

    def _ask_tree(self) -> str:
        while not self._trees.empty():  # a late answer to an earlier question
            self._trees.get_nowait()
        self._asks = True
        _thread.interrupt_main(signal.SIGUSR1)
        try:
            return self._trees.get(timeout=TREE_TIMEOUT)
        except queue.Empty:
            return "trio task tree: the main thread is blocked and does not answer"

    def _answer(self, _signum: int, _frame: FrameType | None) -> None:
        if not self._asks:  # no question, but a signal that went to a thread which doesn't block it
            if self._thread.is_alive() and self._thread.ident:  # not after a fork
                signal.pthread_kill(self._thread.ident, signal.SIGUSR1)
            return
        self._asks = False
        try:
            tree = format_task_tree()
        except Exception as error:  # it would otherwise come out of whatever line the main thread was at
            tree = f"trio task tree: {type(error).__name__} while looking at it"
        self._trees.put(tree)

    def write(self, tree: str) -> None:
        deadline = time.monotonic() + WRITE_TIMEOUT
        prefix = f"{priority_prefix('notice')}{self.name}[{os.getpid()}]| "
        for piece in _pieces(_prefixed(prefix, _report(self.name, tree))):
            if stderr.write(piece, deadline - time.monotonic()) < len(piece):
                return


_dumper = _Dumper()


def install(name: str, on_signal: Callable[[], None] | None = None) -> None:
    """Dump on SIGUSR1 from now on, as `name` (such as `worker 2`).  Main thread only; may be called again.

    Call it before other threads are started.  `on_signal` is called after each dump, in the thread "stackdump": it may
    send signals to other processes or use a `TrioToken`.  Nobody else may handle SIGUSR1.  Child processes are born
    with SIGUSR1 blocked: those that call `install` answer a signal that came too early as soon as they can.
    """
    stderr.reopen()
    _dumper.name, _dumper.on_signal = name, on_signal
    _dumper.start()
    faulthandler.register(LAST_WORDS, file=stderr.fd, all_threads=True)


def dump() -> None:
    """Write a dump now, with the task tree of this thread.  Waits at most `WRITE_TIMEOUT` for a full pipe."""
    _dumper.write(format_task_tree())


def format_task_tree() -> str:
    """The tasks of the trio that runs in this thread, nested by nursery, each with the stack it waits in.

    At most `MAX_TASKS` are listed, then their number.  A sentence if no trio runs here.
    """
    try:
        root = trio.lowlevel.current_root_task()
    except RuntimeError:
        root = None
    return "\n".join(_task_lines(root) if root else ["trio: not running in this thread"])


def _report(name: str, tree: str) -> Iterator[str]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    yield f"==== stack dump of {name}, pid {os.getpid()}, {now}"
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames()
    for ident, frame in itertools.islice(frames.items(), MAX_THREADS):
        yield f"thread {names.get(ident, 'unknown to Python')} ({ident})"
        yield from _stack_lines(((frame, frame.f_lineno) for frame in _outwards(frame)), "  ")
    if len(frames) > MAX_THREADS:
        yield f"… and {len(frames) - MAX_THREADS} more threads"
    yield from tree.split("\n")
    yield "==== end"


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        if frame.f_code.co_filename != __file__:
            yield frame
        frame = frame.f_back


def _task_lines(root: trio.lowlevel.Task) -> Iterator[str]:
    yield "trio task tree"
    try:
        running = trio.lowlevel.current_task()
    except RuntimeError:
        running = None
    listed = 0
    # A stack of our own, as the signal may come close to the recursion limit.  Tasks and nurseries, with their depth.
    todo: list[tuple[int, trio.lowlevel.Task | trio.Nursery]] = [(0, root)]
    left_out = 0
    while todo:
        depth, node = todo.pop()
        indent = "  " * min(depth, 30)
        if isinstance(node, trio.Nursery):
            if listed < MAX_TASKS:
                yield f"{indent}nursery{' (cancelled)' if node.cancel_scope.cancel_called else ''}"
            children = sorted(node.child_tasks, key=lambda task: task.name, reverse=True)
            todo += [(depth + 1, task) for task in children]
            continue
        todo += [(depth + 1, nursery) for nursery in reversed(node.child_nurseries)]
        if listed >= MAX_TASKS:
            left_out += 1
            continue
        listed += 1
        yield f"{indent}task {node.name}{' (running)' if node is running else ''}"
        if node is not running:  # its stack is the main thread's, above
            try:
                yield from _stack_lines(node.iter_await_frames(), f"{indent}  ")
            except Exception as error:  # an awaitable of a kind that trio doesn't know; the others still count
                yield f"{indent}  {type(error).__name__} while looking at its stack"
    if left_out:
        yield f"… and {left_out} more tasks"


def _stack_lines(frames: Iterable[tuple[FrameType, int | None]], indent: str) -> Iterator[str]:
    frames = iter(frames)
    for frame, line in itertools.islice(frames, MAX_FRAMES):
        code = frame.f_code
        yield f"{indent}{code.co_filename}:{line} {code.co_qualname}"
    if more := sum(1 for _ in frames):
        yield f"{indent}… and {more} more frames"


def _prefixed(prefix: str, lines: Iterable[str]) -> Iterator[bytes]:
    """Every line says whose it is: several processes dump at the same time to the same journal."""
    for line in lines:
        yield f"{prefix}{line[:1000]}\n".encode("utf-8", "backslashreplace")


def _pieces(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Whole lines, in as many bytes as a pipe takes in one piece."""
    piece = b""
    for line in lines:
        if piece and len(piece) + len(line) > ATOMIC_BYTES:
            yield piece
            piece = b""
        piece += line
    yield piece
