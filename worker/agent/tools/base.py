"""What a tool is: a name, arguments of a type, and a coroutine that turns them into text for the model.

    class LS(Tool[LSArguments]):
        name = "LS"
        description = "Lists the files of a folder."
        arguments = LSArguments
        async def run(self, context: Context, arguments: LSArguments) -> str: ...

A tool is made once a worker and holds no state of a run; all of that is in its `Context`.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import ClassVar, Generic, TypeVar

from msgspec import Struct

from shared.config import Agent
from worker.agent.errors import ToolError as ToolError
from worker.agent.processes import Processes
from worker.agent.threads import Threads
from worker.agent.workspace import Workspace

Arguments = TypeVar("Arguments", bound=Struct)


class RunEnds(Exception):
    """The tool's result is the run's answer: `text` is what the user gets, and the model is not asked again."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Todo(Struct, frozen=True):
    """One point of the model's own list."""

    content: str
    status: str


class Context(Struct, kw_only=True):
    """What a tool may use of the run that called it.  Everything started here dies with the run."""

    settings: Agent
    workspace: Workspace
    processes: Processes
    """Starts programs in their own session and process group."""
    threads: Threads
    """Runs what blocks."""
    ask: Callable[[str, int], Awaitable[str]]
    """A nested run with a prompt and a budget of turns: its answer.  `ToolError` when nesting is too deep."""
    search: Callable[[str], Awaitable[str]] | None = None
    """The provider's own web search, where it has one."""
    todos: list[Todo] = []
    max_output_chars: int = 30_000


class Tool(ABC, Generic[Arguments]):
    """See the module."""

    name: ClassVar[str]
    description: ClassVar[str]
    arguments: type[Arguments]
    parallel: ClassVar[bool] = True
    """Whether it may run beside others of its turn: it changes nothing."""

    @abstractmethod
    async def run(self, context: Context, arguments: Arguments) -> str:
        """The result.  Raises `ToolError`; a cancel leaves nothing behind."""
