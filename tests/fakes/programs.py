"""Programs that don't want to die, and who of them is still there.

mark = new_mark()
script = STUBBORN["double fork"].format(mark=mark)      for bash -c
await until(lambda: asleep(mark))
"""

import contextlib
import itertools
import os

import psutil
import trio

STUBBORN = {
    "plain": "sleep {mark}",
    "ignores signals": "trap '' TERM INT HUP; while :; do sleep {mark}; done",
    "background of a subshell": "(sleep {mark} &); (trap '' TERM; sleep {mark} & wait)",
    "own session": "setsid sleep {mark} & sleep {mark}",
    "own session, ignores signals": "trap '' TERM; setsid nohup sleep {mark} >/dev/null 2>&1 & sleep {mark}",
    "double fork": "setsid bash -c 'trap \"\" TERM; (setsid sleep {mark} & exec sleep {mark}) &' & sleep {mark}",
    "empty environment": "env -i setsid bash -c '(exec -a sleep env -i sleep {mark} &)'; sleep {mark}",
    "closes its output": "exec >&- 2>&-; sleep {mark}",
    "stops itself": "sleep {mark} & kill -STOP $$",
    "forks on and on": "trap '' TERM; while :; do (setsid sleep {mark} &); (sleep {mark} &); done",
    "endless output": "sleep {mark} & yes",
}
"""Scripts for bash; `{mark}` is how long they sleep, which is what they are found by."""

_numbers = itertools.count(1)


def new_mark() -> str:
    """A duration that no other process sleeps."""
    return f"{100_000_000 + os.getpid()}.{next(_numbers):06}"


def alive(mark: str) -> list[psutil.Process]:
    """Every process of the machine whose command line has the mark, zombies and those in namespaces included."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(mark in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            pass
    return found


def asleep(mark: str) -> list[psutil.Process]:
    """Those of them that have begun to sleep: the shell around them has the mark in its command line, too."""
    found = []
    for process in alive(mark):
        with contextlib.suppress(psutil.Error):
            if process.name() == "sleep":
                found.append(process)
    return found


def offspring() -> list[psutil.Process]:
    """Everybody below this process."""
    return psutil.Process().children(recursive=True)


async def until(condition, seconds=10):
    """Wait for something that has no event."""
    with trio.fail_after(seconds):
        while not (found := condition()):  # noqa: ASYNC110
            await trio.sleep(0.002)
        return found
