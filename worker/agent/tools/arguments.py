"""The arguments that a model wrote for a tool, checked, with errors that it can act on.  Pure.

Models err in known ways.  What can only mean one thing is taken as it was meant: numbers and booleans as strings, a
list as the text of one, unknown parameters without a value.  All else is told, what is missing or unknown at once.
"""

import re
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, ValidationError

from worker.agent.errors import ToolError
from worker.agent.tools.schema import Schema, schema_of
from worker.dialects.arguments import object_text

ArgumentsT = TypeVar("ArgumentsT", bound=Struct)

_KINDS = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "null": "null",
    "object": "an object",
    "str": "a string",
}
_WRONG_TYPE = re.compile(r"Expected `([^`]+)`, got `([^`]+)`(?: - at `\$\.?(.*)`)?")
_WRONG_VALUE = re.compile(r"Invalid enum value (.+?) - at `\$\.?(.*)`", re.DOTALL)
_OTHER = re.compile(r"(.+?) - at `\$\.?(.*)`", re.DOTALL)
_STEP = re.compile(r"[^.\[\]]+|\[[^\]]*\]")


def decode_arguments(arguments: type[ArgumentsT], text: str) -> ArgumentsT:
    """The arguments in the text of a JSON object; `ToolError` says what is wrong with it."""
    written = object_text(text)
    if written is None:
        raise ToolError(
            "the arguments are no complete JSON object: they may have been cut off, or quotes in them are not escaped;"
            " call the tool again, with less text if there is much"
        )
    given = msgspec.json.decode(written, type=dict[str, Any])
    schema = _schema_of(arguments)
    _check_names(given, schema)
    try:
        return _convert(given, arguments)
    except ValidationError as error:
        first = error
    # Some models write lists and objects as the text of one.
    unfolded = {name: _unfolded(value) for name, value in given.items()}
    if unfolded != given:
        try:
            return _convert(unfolded, arguments)
        except ValidationError:
            pass
    raise ToolError(_sentence(str(first), schema)) from None


@lru_cache(256)
def _schema_of(arguments: type[Struct]) -> Schema:
    return schema_of(arguments)


def _convert(given: dict[str, Any], arguments: type[ArgumentsT]) -> ArgumentsT:
    return msgspec.convert(given, arguments, strict=False)


def _unfolded(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            pass
    return value


def _check_names(given: dict[str, Any], schema: Schema) -> None:
    """`ToolError` names every parameter that is missing or unknown.

    Unknown ones without a value are taken out, and known ones that need none and are null.
    """
    known, required = schema["properties"], schema.get("required", [])
    for name in [name for name in given if given[name] is None and name in known and name not in required]:
        del given[name]
    faults = [f"the parameter `{name}` is required" for name in required if name not in given]
    for name in [name for name in given if name not in known]:
        if not given[name]:  # some models fill in everything that they have seen elsewhere
            del given[name]
            continue
        near = get_close_matches(name.lower().replace("_", ""), [other.replace("_", "") for other in known], 1)
        hint = next((f", did you mean `{other}`?" for other in known if other.replace("_", "") in near), "")
        faults.append(f"there is no parameter `{name}`{hint}")
    if faults:
        takes = ", ".join(name if name in required else f"{name} (optional)" for name in known) or "none"
        raise ToolError(f"{'; '.join(faults)}. The parameters are: {takes}")


def _sentence(message: str, schema: Schema) -> str:
    """What msgspec says of a value, in the model's words."""
    if match := _WRONG_TYPE.fullmatch(message):
        wanted, got, path = match.groups()
        kinds = [_KINDS.get(kind, kind) for kind in wanted.split(" | ") if kind != "null"]
        return f"{_place(path)} must be {' or '.join(kinds)}, but is {_KINDS.get(got, got)}"
    if match := _WRONG_VALUE.fullmatch(message):
        value, path = match.groups()
        choices = _part(schema, path).get("enum", ())
        one_of = f"; it must be one of {', '.join(map(str, choices))}" if choices else ""
        return f"{_place(path)} can't be {value}{one_of}"
    if match := _OTHER.fullmatch(message):
        said, path = match.groups()
        said = said.removeprefix("Object ")
        if said.startswith("Expected "):
            said = f"must be {said.removeprefix('Expected ').replace('`', '')}"
        return f"{_place(path)} {said}"
    return message


def _place(path: str | None) -> str:
    return f"`{path}`" if path else "each of the arguments"


def _part(schema: Schema, path: str) -> Schema:
    """What the schema says of the value at `path`; {} if it doesn't."""
    for step in _STEP.findall(path):
        part = schema.get("items") if step.startswith("[") else schema.get("properties", {}).get(step)
        if not isinstance(part, dict):
            return {}
        schema = part
    return schema
