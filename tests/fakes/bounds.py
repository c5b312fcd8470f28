"""A plugin of pytest: a bound on every test, so that one that hangs fails by its own name and says where it stood.

At the bound a test in trio is cancelled together with its fixtures, so that they clean up; any other test has an
exception raised in it.  So has whatever stands still after that, again and again, until the process ends in the end.
"""

import faulthandler
import os
import signal
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from types import FrameType
from typing import Any

import pytest
import trio

from shared.stackdump import format_task_tree

BOUND = 120.0
"""Seconds for a test with its fixtures, whatever else the machine does; the marker `bound` gives it others."""
PATIENCE = 20.0
"""Seconds that it has after these to clean up, before it is torn out of whatever it does."""

STDERR = pytest.StashKey[int]()
"""What is not taken for the output of a test."""

_give_ups: list[Callable[[], None]] = []
"""How to end the test that runs in trio, if one does; it can be asked to once."""


def run_bounded(function: Callable[..., Awaitable[object]], *arguments: object, **options: Any) -> None:
    """`trio.run`, for a test that can be given up."""

    async def run() -> None:
        scope, token = trio.CancelScope(), trio.lowlevel.current_trio_token()
        tree = ""

        def cancel() -> None:
            nonlocal tree
            tree = format_task_tree()
            scope.cancel()

        _give_ups.append(partial(token.run_sync_soon, cancel))
        try:
            with scope:
                await function(*arguments)
        finally:
            _give_ups.clear()
            if tree:
                raise TimeoutError(f"not done in time; it stood at\n{tree}")

    trio.run(run, **options)


def _give_up(_signum: int, _frame: FrameType | None) -> None:
    if _give_ups:
        _give_ups.pop()()
    else:
        pytest.fail("not done in time; it stood where this traceback ends")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STDERR] = os.dup(2)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("trio"):
            item.add_marker(pytest.mark.trio(run=run_bounded), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    marker = item.get_closest_marker("bound")
    seconds = float(marker.args[0]) if marker else BOUND
    before = signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds, PATIENCE)
    faulthandler.dump_traceback_later(seconds + 5 * PATIENCE, exit=True, file=item.config.stash[STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
