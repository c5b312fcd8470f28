"""TodoWrite: the model's own list of what is to be done."""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from worker.agent.tools.base import Context, Todo, Tool, ToolError

MAX_TODOS = 200
MAX_CHARS = 2000
"""Of one point."""
_MARKS = {"pending": "[ ]", "in_progress": "[>]", "completed": "[x]"}


class TodoArgument(Struct):
    """One point of the list."""

    content: Annotated[str, Meta(description="What is to be done, as an order: Run the tests", min_length=1)]
    status: Annotated[Literal["pending", "in_progress", "completed"], Meta(description="How far it is")]
    active_form: Annotated[str | None, Meta(description="The same while it is done: Running the tests")] = field(
        default=None, name="activeForm"
    )


class TodoWriteArguments(Struct):
    """What TodoWrite takes."""

    todos: Annotated[list[TodoArgument], Meta(description="The whole list, which replaces the one before")]


class TodoWrite(Tool[TodoWriteArguments]):
    """See the module."""

    name = "TodoWrite"
    description = (
        "Keeps a list of what is to be done, for tasks of three steps or more. Give the whole list each time; have one"
        " point in_progress at a time, and mark a point completed as soon as it is."
    )
    arguments = TodoWriteArguments
    parallel = False

    async def run(self, context: Context, arguments: TodoWriteArguments) -> str:
        """See `Tool`."""
        todos = arguments.todos
        if len(todos) > MAX_TODOS:
            raise ToolError(f"The list has {len(todos)} points, and at most {MAX_TODOS} will do: join some.")
        if any(len(todo.content) > MAX_CHARS for todo in todos):
            raise ToolError(f"A point of the list has more than {MAX_CHARS} characters: say it shorter.")
        context.todos[:] = [Todo(todo.content, todo.status) for todo in todos]
        if not todos:
            return "The list is empty now."
        lines = [f"{_MARKS[todo.status]} {todo.content}" for todo in todos]
        done = sum(todo.status == "completed" for todo in todos)
        return "\n".join([f"The list is kept: {done} of {len(todos)} done.", *lines])
