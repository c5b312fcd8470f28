"""The arguments of a tool call: what models write, made what both dialects want, the text of a JSON object."""

import msgspec
from msgspec import Raw

_text: msgspec.json.Decoder[str] = msgspec.json.Decoder(str)
_object: msgspec.json.Decoder[dict[str, Raw]] = msgspec.json.Decoder(dict[str, Raw])
_NOTHING = frozenset({"", "null", '""'})
# UnicodeError: half a surrogate pair, which has no bytes.
_BAD_TEXT = (msgspec.DecodeError, UnicodeError, RecursionError)


def object_text(text: str) -> str | None:
    """`text` if it is a JSON object, to the letter; None if it is something else, or cut off.

    Nothing at all, `null` and `""` are `{}`.  An object inside a JSON string, as some models write it, is taken out.
    """
    written = text.strip()
    if written.startswith('"'):
        try:
            text = _text.decode(written)
        except _BAD_TEXT:
            return None
        written = text.strip()
    if written in _NOTHING:
        return "{}"
    try:
        _object.decode(text)
    except _BAD_TEXT:
        return None
    return text
