"""What is wrong with the JSON of a request, in words for whoever wrote it, and which field it is.

A message about a field begins with its path in backticks, `messages[2].content[0].type`: `field_in` finds it there
again, for the dialect that tells it apart.
"""

import re
from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from worker.dialects.lenient import BAD_JSON

MAX_QUOTED_CHARS = 100

_FIELD = re.compile(r"`([\w.\[\]]+)`", re.ASCII)
_EXPECTED = re.compile(r"Expected `([^`]+)`(?:, got `([^`]+)`)?")
_BOUND = re.compile(r"Expected `\w+` ([<>]=) (\S+)")
_MISSING = re.compile(r"Object missing required field `(\w+)`")
_NO_CHOICE = re.compile(r"Invalid (?:enum )?value (.+)", re.DOTALL)
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_BYTE = re.compile(r"(.*) \(byte (\d+)\)", re.DOTALL)
_FORM = re.compile(rb"\s*[\w.%\[\]-]{1,64}=")
_KINDS = {
    "str": "a string",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_FOUND = {**_KINDS, "bool": "a truth value", "int": "a number", "float": "a number with a fraction"}
# What a body begins with that is something else.
_MAGIC = {
    b"\x1f\x8b": "compressed (gzip): send it as it is",
    b"\x28\xb5\x2f\xfd": "compressed (zstd): send it as it is",
    b"\xef\xbb\xbf": "preceded by a byte order mark: leave that out",
    b"\xff\xfe": "UTF-16: JSON is sent as UTF-8",
    b"\xfe\xff": "UTF-16: JSON is sent as UTF-8",
}
# What other languages write, by its first letter.
_FOREIGN_WORDS = {
    b"N": "NaN and None are no JSON, null is",
    b"T": "True is no JSON, true is",
    b"F": "False is no JSON, false is",
    b"I": "Infinity is no JSON",
    b"u": "undefined is no JSON, null is",
    b"'": "strings stand in double quotes, not in single ones",
    b"/": "JSON has no comments",
    b"#": "JSON has no comments",
}


def field_in(message: str) -> str | None:
    """The path of the field that a message begins with; None if it is about no field."""
    found = _FIELD.match(message)
    return found[1] if found else None


def quoted(said: str) -> str:
    """What a client said, in quotes, as far as he needs it to know it again."""
    return repr(said if len(said) <= MAX_QUOTED_CHARS else f"{said[:MAX_QUOTED_CHARS]}…")


def of_value(error: msgspec.ValidationError, json: bytes | msgspec.Raw, kind: Any, path: str = "") -> str:
    """What of `json`, which stands at `path`, is not what a decoder for the type `kind` wanted."""
    said, _, below = str(error).partition(" - at `$")
    below = below.rstrip("`")
    if missing := _MISSING.match(said):
        return f"`{_joined(path, f'{below}.{missing[1]}')}` is required"
    subject = _joined(path, below)
    problem = _problem(said, json, kind, below)
    return f"`{subject}`: {problem}" if subject else problem


def of_json(body: bytes, error: Exception) -> str:
    """Why `body` is no JSON; `error` is what a decoder said of it."""
    if not body.strip():
        return "it is empty"
    for magic, what in _MAGIC.items():
        if body.startswith(magic):
            return f"it is {what}"
    if b"\0" in body[:4]:
        return "it is UTF-16 or UTF-32: JSON is sent as UTF-8"
    if isinstance(error, UnicodeDecodeError):
        return "it is not valid UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if _FORM.match(body):
        return "it is a form: send JSON"
    found = _BYTE.fullmatch(str(error))
    if found is None:
        return "it ends before it is complete" if "truncated" in str(error) else str(error)
    said, at = found[1].removeprefix("JSON is malformed: "), int(found[2])
    line, column = body.count(b"\n", 0, at) + 1, at - body.rfind(b"\n", 0, at)
    return f"{_syntax(said, body[at : at + 1])} (line {line}, column {column})"


def _syntax(said: str, found: bytes) -> str:
    match said:
        case "trailing characters":
            return "something follows its end"
        case "object keys must be strings" if found not in (b"/", b"#"):
            return "names of fields stand in double quotes"
        case _ if found in _FOREIGN_WORDS:
            return _FOREIGN_WORDS[found]
        case "invalid character" if found < b" ":
            return r"a line break or another control character in a string has to be escaped, as in \n"
        case _:
            return said


def _problem(said: str, json: bytes | msgspec.Raw, kind: Any, below: str) -> str:
    if bound := _BOUND.match(said):
        return f"has to be {'at least' if bound[1] == '>=' else 'at most'} {bound[2]}"
    if expected := _EXPECTED.match(said):
        return _mismatch(expected[1].split(" | "), expected[2])
    if wrong := _NO_CHOICE.match(said):
        value = wrong[1] if len(wrong[1]) <= MAX_QUOTED_CHARS else f"{wrong[1][:MAX_QUOTED_CHARS]}…'"
        choices = list(dict.fromkeys(_choices(json, kind, below)))
        return f"there is no {value}; there are {', '.join(choices)}" if choices else f"there is no {value}"
    return said[:1].lower() + said[1:]


def _mismatch(wanted: list[str], found: str | None) -> str:
    needed = " or ".join(_KINDS.get(kind, kind) for kind in wanted if kind != "null" or len(wanted) == 1)
    if found is None:
        return f"{needed} is needed"
    return f"{needed} is needed, not {_FOUND.get(found, found)}"


def _joined(path: str, below: str) -> str:
    return f"{path}{below}" if path else below.removeprefix(".")


# What may stand where something else does: the decoder's types followed down the path.


def _choices(json: bytes | msgspec.Raw, kind: Any, below: str) -> Iterator[str]:
    try:
        kinds, value = list(_options(kind)), msgspec.json.decode(json)
    except BAD_JSON:  # in another place, which comes later
        return
    steps = [name or int(index) for name, index in _STEP.findall(below)]
    for number, step in enumerate(steps):
        if isinstance(step, int):
            kinds = [option for kind in kinds if get_origin(kind) is list for option in _options(get_args(kind)[0])]
        else:
            structs = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Struct)]
            if number == len(steps) - 1 and all(_tag_field(kind) == step for kind in structs):
                yield from (str(kind.__struct_config__.tag) for kind in structs)
                return
            fitting = [kind for kind in structs if value.get(_tag_field(kind)) in (None, kind.__struct_config__.tag)]
            fields = [field for kind in fitting for field in msgspec.structs.fields(kind) if field.encode_name == step]
            kinds = [option for field in fields for option in _options(field.type)]
        value = value[step]
    for kind in kinds:
        if get_origin(kind) is Literal:
            yield from map(str, get_args(kind))


def _options(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _tag_field(kind: type[Struct]) -> str:
    return kind.__struct_config__.tag_field or ""
