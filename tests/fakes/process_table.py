"""The processes of this machine, looked at again and again: when was the last one of a run seen?

async with watch_processes() as table:
    ... something starts `sleep MARK`, MARK of `fakes.programs.new_mark` ...
    await wait_until(lambda: mark in table.asleep)
    ... and is killed ...
    await table.next_look()
    assert mark not in table.alive
    table.gone[mark]                                    # trio's time
"""

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio
from fakes.programs import new_mark

INTERVAL = 0.004
_MARK = re.compile(re.escape(new_mark().partition(".")[0].encode()) + rb"\.\d{6}")


class ProcessTable:
    """See the module.  A zombie counts until it is buried."""

    def __init__(self) -> None:
        self.alive: dict[str, set[int]] = {}
        """Mark → the processes whose command line has it, as of the last look."""
        self.asleep: set[str] = set()
        """The marks that a `sleep` of them has as its argument: what is around it has begun to run."""
        self.gone: dict[str, float] = {}
        """Mark → the end of the look that was the first not to find it any more."""
        self._pids: dict[int, str] = {}
        self._looked = trio.Event()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            before = set(self.alive)
            self._pids, self.asleep = await trio.to_thread.run_sync(_look, self._pids)
            self.alive = {}
            for pid, mark in self._pids.items():
                self.alive.setdefault(mark, set()).add(pid)
                self.gone.pop(mark, None)
            for mark in before - set(self.alive):
                self.gone[mark] = trio.current_time()
            looked, self._looked = self._looked, trio.Event()
            looked.set()
            await trio.sleep(INTERVAL)

    async def next_look(self) -> None:
        """Until one that began after this call has ended."""
        for _ in range(2):
            await self._looked.wait()


def _look(known: dict[int, str]) -> tuple[dict[int, str], set[str]]:
    """Every marked process, and the marks of those that sleep.  `known`: what the look before has found."""
    found: dict[int, str] = {}
    asleep: set[str] = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
            line = file.read()
            if match := _MARK.search(line):
                found[int(name)] = mark = match[0].decode()
                if line.startswith(b"sleep\0"):
                    asleep.add(mark)
            elif not line and int(name) in known:  # a zombie has no command line any more
                found[int(name)] = known[int(name)]
    return found, asleep


@asynccontextmanager
async def watch_processes() -> AsyncIterator[ProcessTable]:
    """A table that is kept up to date."""
    table = ProcessTable()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(table.run)
        yield table
        nursery.cancel_scope.cancel()
