"""What is wrong with a value, in words: which key, what it must be, what was probably meant.

Values of strings are never repeated, except for what was chosen from a fixed list: they may be secrets.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec
from msgspec import Struct, inspect

from shared.config.lines import Path

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SHOWN_BELOW = 10**20  # a larger number would make the sentence unreadable


def key_name(path: Path) -> str:
    """A key as people write it: `[server] workers`, `[models."claude-*"] provider`, `[server] bind (entry 2)`."""
    tables = [part for part in path[:-1] if isinstance(part, str)]
    last = path[-1] if path else ""
    if isinstance(last, int):
        return f"{key_name(path[:-1])} (entry {last + 1})"
    prefix = f"[{'.'.join(map(_quoted, tables))}] " if tables else ""
    return prefix + _quoted(last)


def table_name(path: Path) -> str:
    """A table as its header is written: `[models."claude-*"]`."""
    return f"[{'.'.join(_quoted(part) for part in path if isinstance(part, str))}]"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `name` was probably meant to be."""
    by_folded = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), by_folded, n=1)
    return by_folded[close[0]] if close else None


def hint(name: str, known: Iterable[str], otherwise: str) -> str:
    """`did you mean "kimi"?`, or `otherwise` when nothing is near."""
    close = nearest(name, known)
    return f'did you mean "{close}"?' if close else otherwise


def _quoted(part: str) -> str:
    return part if _BARE_KEY.fullmatch(part) else msgspec.json.encode(part).decode()


def find_faults(value: Any, kind: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """What of `value` is not of the type `kind`, in the order of the text; nothing where all is well.

    msgspec stops at the first fault too, but names neither keys of dicts nor the allowed names.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        options = [option for option in arguments if option is not type(None)]
        found = [list(find_faults(value, option, path)) for option in options]
        if all(found):
            deepest = max((fault for faults in found for fault in faults), key=lambda fault: len(fault[0]))
            yield deepest if len(deepest[0]) > len(path) else (path, _expected(value, kind, path))
    elif origin is dict and isinstance(value, dict):
        for key, item in value.items():
            yield from find_faults(item, arguments[1], (*path, key))
    elif origin is list and isinstance(value, list):
        for index, item in enumerate(value):
            yield from find_faults(item, arguments[0], (*path, index))
    elif isinstance(kind, type) and issubclass(kind, Struct) and isinstance(value, dict):
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        for key, item in value.items():
            if key in fields:
                yield from find_faults(item, fields[key].type, (*path, key))
            else:
                yield (*path, key), _unknown(key, item, kind, path)
        for name, field in fields.items():
            if field.required and name not in value:
                yield path, f"{table_name(path)} has no {name}: add {name} = … to it"
    else:
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError:
            yield path, _expected(value, kind, path)


def _unknown(key: str, value: Any, kind: type[Struct], path: Path) -> str:
    known = [field.name for field in msgspec.structs.fields(kind)]
    if path:
        return f'{table_name(path)} has no key "{key}": {hint(key, known, "its keys are " + ", ".join(known))}'
    if not isinstance(value, dict):
        sections = msgspec.structs.fields(kind)
        homes = [section.name for section in sections if key in getattr(section.type, "__annotations__", ())]
        fix = f"put it below [{homes[0]}]" if homes else f"the sections are {', '.join(known)}"
        return f'"{key}" stands outside of every section: {fix}'
    close = nearest(key, known)
    fix = f"did you mean [{close}]?" if close else f"the sections are {', '.join(known)}"
    return f"there is no section {table_name((key,))}: {fix}"


def _expected(value: Any, kind: Any, path: Path) -> str:
    info = inspect.type_info(kind)
    close = nearest(value, _choices(info)) if isinstance(value, str) else None
    return f"{key_name(path)}{_shown(value)} must be {_phrase(info)}" + (f': did you mean "{close}"?' if close else "")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return " = true" if value else " = false"
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < _SHOWN_BELOW):
        return f" = {value}"
    return ""


def _choices(info: inspect.Type) -> list[str]:
    if isinstance(info, inspect.UnionType):
        return [choice for option in info.types for choice in _choices(option)]
    return [str(value) for value in info.values] if isinstance(info, inspect.LiteralType) else []


def _phrase(info: inspect.Type) -> str:
    match info:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "a whole number" + _bounds(info)
        case inspect.FloatType():
            return "a number" + _bounds(info)
        case inspect.StrType():
            return "a string"
        case inspect.LiteralType():
            return " or ".join(f'"{value}"' for value in info.values)
        case inspect.ListType():
            return "a list of strings"
        case inspect.UnionType():
            return " or ".join(_phrase(option) for option in info.types if not isinstance(option, inspect.NoneType))
        case _:
            return "a table"


def _bounds(info: inspect.IntType | inspect.FloatType) -> str:
    low = f" over {info.gt:g}" if info.gt is not None else f" from {info.ge}"
    joint = " and at most" if info.gt is not None else " to"
    return f"{low}{joint} {info.le}"
