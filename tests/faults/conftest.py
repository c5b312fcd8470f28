"""The stage on which the rows of the catalogue are played."""

import queue
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
from fakes.faults import Fault, write_row, writes_documentation
from fakes.scene import Scene, Setup, open_scene

ROW_TIMEOUT = 60.0


class Stage:
    """A scene that stays from row to row as long as their setups are equal and none fails.

    It lives in a trio of its own, in a thread, as it outlives the tests.
    """

    def __init__(self, folders: Callable[[str], Path]) -> None:
        self._folders = folders
        self._scene: Scene | None = None
        self._stack = AsyncExitStack()
        self._jobs: queue.Queue[Fault | None] = queue.Queue()
        self._results: queue.Queue[BaseException | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def play(self, fault: Fault) -> None:
        """Play one row, and check the scene afterwards."""
        self._jobs.put(fault)
        if (failure := self._results.get()) is not None:
            raise failure

    def close(self) -> None:
        """Stop the last service."""
        self._jobs.put(None)
        self._thread.join()
        if (failure := self._results.get()) is not None:
            raise failure

    def _run(self) -> None:
        trio.run(self._serve)

    async def _serve(self) -> None:
        while (fault := await trio.to_thread.run_sync(self._jobs.get)) is not None:
            self._results.put(await self._safely(self._play, fault))
        self._results.put(await self._safely(self._strike))

    async def _safely(self, what: Callable[..., Awaitable[None]], *args: object) -> BaseException | None:
        try:
            await what(*args)
        except BaseException as error:  # the thread of the tests raises it, a skip too
            return _alone(error)
        return None

    async def _strike(self) -> None:
        stack, self._stack, self._scene = self._stack, AsyncExitStack(), None
        await stack.aclose()

    async def _play(self, fault: Fault) -> None:
        if self._scene is not None and (fault.alone or fault.setup != self._scene.setup):
            await self._strike()
        if self._scene is None:
            self._scene = await self._set(fault.setup, stop=not fault.alone)
        try:
            with trio.fail_after(ROW_TIMEOUT):
                await self._act(fault, self._scene)
        except BaseException as error:
            scene = self._scene
            print(f"requests that were not completed: {scene.told}\n{scene.service.log()[-20_000:]}")
            stack, self._stack, self._scene = self._stack, AsyncExitStack(), None
            await self._safely(stack.__aexit__, type(error), error, error.__traceback__)
            raise
        if writes_documentation():
            write_row(fault, self._scene.recovery)
        if fault.alone:
            await self._strike()

    async def _act(self, fault: Fault, scene: Scene) -> None:
        scene.begin_row()
        if fault.load:
            async with scene.load(fault.load):
                await fault.inject(scene)
        else:
            await fault.inject(scene)
        if fault.aftermath:
            await scene.aftermath()

    async def _set(self, setup: Setup, *, stop: bool) -> Scene:
        return await self._stack.enter_async_context(open_scene(self._folders("scene"), setup, stop=stop))


def _alone(error: BaseException) -> BaseException:
    """What the nurseries of a scene have wrapped."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        [error] = error.exceptions
    return error


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Iterator[Stage]:
    """The stage of one file."""
    stage = Stage(tmp_path_factory.mktemp)
    yield stage
    stage.close()
