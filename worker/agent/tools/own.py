"""The user's own tools: a Python file that `[agent] tools_file` names.

    from typing import Annotated
    from worker.agent.tools import Context, ToolError, tool

    @tool
    def parcel(number: Annotated[str, "As on the slip"], details: bool = False) -> str:
        \"\"\"Says where a parcel is.\"\"\"

A function may be `async`; one that isn't runs in a thread, which a cancelled run abandons.  A parameter of the type
`Context` is not the model's.  A result that is no string goes to the model as JSON, and what the function raises as an
error.  A class of `Tool`, complete, is a tool as well; one whose name begins with `_` is not.
"""

import ast
import inspect
import linecache
import os
import re
import stat
import sys
import traceback
from collections.abc import Callable, Iterator
from types import CodeType, ModuleType
from typing import Annotated, Any, get_args, get_origin, get_type_hints, overload

import msgspec
from msgspec import Meta, Struct

from shared.errors import ConfigError
from worker.agent.tools.base import Context, Tool
from worker.agent.tools.schema import schema_of

MODULE = "kimi_proxy_tools"
"""What the file's module is called."""
MAX_BYTES = 4 * 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

Function = Callable[..., Any]


@overload
def tool(function: Function, /) -> "FunctionTool": ...
@overload
def tool(*, name: str | None = None, parallel: bool = False) -> Callable[[Function], "FunctionTool"]: ...
def tool(
    function: Function | None = None, /, *, name: str | None = None, parallel: bool = False
) -> "FunctionTool | Callable[[Function], FunctionTool]":
    """Makes a function a tool.  `name`: the function's, if it isn't given.

    `parallel`: it changes nothing, so it may run beside other tools.
    """
    if function is not None:
        return FunctionTool(function, function.__name__, parallel=False)
    return lambda decorated: FunctionTool(decorated, name or decorated.__name__, parallel=parallel)


class FunctionTool(Tool[Struct]):
    """A function as a tool; `TypeError` for one that can't be."""

    def __init__(self, function: Function, name: str, *, parallel: bool) -> None:
        self.function = function
        self.name = name  # type: ignore[misc]  # of the class elsewhere
        self.parallel = parallel  # type: ignore[misc]
        self.description = inspect.getdoc(function) or ""  # type: ignore[misc]
        self._context: str | None = None
        """The parameter that gets the run's context."""
        self.arguments = self._struct(function)

    def _struct(self, function: Function) -> type[Struct]:
        hints = get_type_hints(function, include_extras=True)
        required: list[tuple[str, Any]] = []
        optional: list[tuple[str, Any, Any]] = []
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise TypeError(f"the parameter {parameter} of {function.__name__} has no name that a model could use")
            hint = hints.get(parameter.name)
            if hint is None:
                raise TypeError(f"the parameter {parameter.name} of {function.__name__} needs a type")
            if hint is Context:
                self._context = parameter.name
            elif parameter.default is parameter.empty:
                required.append((parameter.name, _described(hint)))
            else:
                optional.append((parameter.name, _described(hint), parameter.default))
        return msgspec.defstruct(f"{function.__name__}_arguments", [*required, *optional], kw_only=True)

    async def run(self, context: Context, arguments: Struct) -> str:
        """See `Tool`; raises whatever the function raises."""
        given = {name: getattr(arguments, name) for name in arguments.__struct_fields__}
        if self._context is not None:
            given[self._context] = context
        if inspect.iscoroutinefunction(self.function):
            result = await self.function(**given)
        else:

            def call() -> Any:
                return self.function(**given)

            call.__qualname__ = self.name  # as the log is to call it, if it is left behind
            result = await context.threads.run(call)
        return result if isinstance(result, str) else msgspec.json.encode(result, enc_hook=str).decode()


def _described(hint: Any) -> Any:
    """`Annotated[int, "How many"]` as msgspec has it."""
    if get_origin(hint) is not Annotated:
        return hint
    type, *notes = get_args(hint)
    return Annotated[(type, *(Meta(description=note) if isinstance(note, str) else note for note in notes))]


def load_own_tools(path: str) -> list[Tool[Any]]:
    """The tools that the file declares, in its order.  Runs the file, each time anew.

    `ConfigError` names the file, the line where there is one, and what is wrong.
    """
    source = _read(path)
    code = _compile(source, path)
    module = ModuleType(MODULE)
    module.__file__ = path
    linecache.checkcache(path)  # the log is to show this file's lines, not those it had before
    before = sys.modules.get(MODULE)
    sys.modules[MODULE] = module  # where msgspec and others look for what annotations name
    try:
        _execute(code, module, path)
        return list(_declared(module, path, _lines(source)))
    except BaseException:
        del sys.modules[MODULE]
        if before is not None:
            sys.modules[MODULE] = before
        raise


def _read(path: str) -> bytes:
    try:
        # A FIFO would make the worker wait for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"{path}: [agent] tools_file is no regular file")
            source = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: [agent] tools_file can't be read: {error.strerror}") from None
    if len(source) > MAX_BYTES:
        raise ConfigError(f"{path}: [agent] tools_file is larger than {MAX_BYTES:,} bytes")
    return source


def _compile(source: bytes, path: str) -> CodeType:
    try:
        return compile(source, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        place = path if error.lineno is None else f"{path}:{error.lineno}"
        raise ConfigError(f"{place}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:  # NUL bytes; too much nesting
        raise ConfigError(f"{path}: {_said(error)}") from None


def _execute(code: CodeType, module: ModuleType, path: str) -> None:
    try:
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        place = f"{path}:{lines[-1]}" if lines else path
        raise ConfigError(f"{place}: {_said(error)}") from error


def _declared(module: ModuleType, path: str, lines: dict[str, int]) -> Iterator[Tool[Any]]:
    seen: dict[str, str] = {}
    for variable, value in list(vars(module).items()):
        is_class = isinstance(value, type) and issubclass(value, Tool)
        if variable.startswith("_") or (is_class and value.__module__ != MODULE):
            continue
        if not is_class and not isinstance(value, Tool):
            continue
        place = f"{path}:{lines[variable]}" if variable in lines else path
        try:
            found: Tool[Any] = value() if is_class else value
            _check(found)
        except Exception as error:
            said = str(error) if isinstance(error, ConfigError) else _said(error)
            raise ConfigError(f"{place}: {variable} is no tool: {said}") from None
        if found.name in seen:
            raise ConfigError(f"{place}: {variable} and {seen[found.name]} are both called {found.name}")
        seen[found.name] = variable
        yield found
    if not seen:
        raise ConfigError(f"{path}: declares no tool: mark a function with @tool, from worker.agent.tools")


def _check(found: Tool[Any]) -> None:
    """`ConfigError` with half a sentence about what it lacks."""
    for attribute, wanted in (("name", str), ("description", str), ("arguments", type)):
        if not isinstance(getattr(found, attribute, None), wanted):
            raise ConfigError(f"it has no `{attribute}`")
    if not _NAME.fullmatch(found.name):
        raise ConfigError(f'"{found.name}" is no name for a tool: 1 to 64 letters, digits, _ and - make one')
    if not found.description.strip():
        raise ConfigError("a model needs a description: write a docstring")
    if not issubclass(found.arguments, Struct):
        raise ConfigError("its `arguments` are no msgspec.Struct")
    schema_of(found.arguments)


def _lines(source: bytes) -> dict[str, int]:
    """On which line each name of the module is bound last, as far as that can be seen."""
    lines: dict[str, int] = {}
    for node in ast.parse(source).body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                lines[name] = node.lineno
            case ast.Assign(targets=targets):
                lines |= {target.id: node.lineno for target in targets if isinstance(target, ast.Name)}
    return lines


def _said(error: BaseException) -> str:
    """An exception on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
