"""Reading JSON of which a part may have an unexpected type: that part counts as absent, and the rest still counts."""

import re
from typing import Any, TypeVar, get_args, get_origin

import msgspec
from msgspec import Raw, Struct

# What decoding raises for bytes that are no JSON, beside `msgspec.DecodeError`: broken UTF-8, and a nest too deep.
BAD_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_object: msgspec.json.Decoder[dict[str, Raw]] = msgspec.json.Decoder(dict[str, Raw])
_list: msgspec.json.Decoder[list[Raw]] = msgspec.json.Decoder(list[Raw])
# Behind an even number of backslashes, as `\\ud83d` is a backslash and five letters.
_LONE_SURROGATE = re.compile(
    rb"(?<!\\)((?:\\\\)*)"
    rb"(?:\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)
# A tenth of a second a megabyte, where every letter is half a character.
MAX_MENDED_BYTES = 4 * 1024 * 1024
T = TypeVar("T")


def leniently(json: bytes, kind: type[T]) -> T:
    """What of `json` is a struct of the type `kind`; `BAD_JSON` if it is no object.

    For what a strict decoder has refused: it takes its time.
    """
    json = without_lone_surrogates(json)
    found: T | None = fitting(json, kind)
    return msgspec.json.decode(json, type=kind) if found is None else found  # which tells what is wrong


def without_lone_surrogates(json: bytes) -> bytes:
    """`json` with U+FFFD in the place of halves of characters, as JavaScript leaves them where it cuts a string.

    JSON may hold them, and most decoders read them; msgspec doesn't, as no Unicode text can.
    """
    if len(json) > MAX_MENDED_BYTES or b"\\u" not in json:
        return json
    return _LONE_SURROGATE.sub(rb"\1\\ufffd", json)


def fitting(json: bytes | Raw, kind: Any) -> Any:
    """What of `json` is of the type `kind`, part by part; None where nothing is.

    `kind` is a type as the fields of wire structs have it.  For what a strict decoder has refused: it takes its time.
    Raises `BAD_JSON` if `json` is none.
    """
    try:
        return msgspec.json.decode(json, type=kind)
    except msgspec.ValidationError:
        pass
    for option in get_args(kind) or (kind,):
        try:
            if get_origin(option) is list:
                items = [fitting(item, get_args(option)[0]) for item in _list.decode(json)]
                return [item for item in items if item is not None]
            if isinstance(option, type) and issubclass(option, Struct):
                parts = _object.decode(json)
                fields = [field for field in msgspec.structs.fields(option) if field.name in parts]
                return option(**{field.name: fitting(parts[field.name], field.type) for field in fields})
        except msgspec.ValidationError:
            continue
    return None
