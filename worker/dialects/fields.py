"""A JSON object of a request, read field by field: `null` counts as absent, a wrong type is told with its path.

    fields = Fields({"role": Raw(b'"user"')}, "messages[2]")
    fields.text("role")             # "user"
    fields.integer("role")          # DialectError: `messages[2].role`: a whole number is needed, not a string

Objects are kept as raw JSON by key, so that what only passes through keeps its bytes.
"""

from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from shared.errors import DialectError
from worker.dialects import fault
from worker.dialects.lenient import BAD_JSON

T = TypeVar("T")

_text: msgspec.json.Decoder[str] = msgspec.json.Decoder(str)
_flag: msgspec.json.Decoder[bool] = msgspec.json.Decoder(bool)
_integer: msgspec.json.Decoder[int] = msgspec.json.Decoder(int)
_number: msgspec.json.Decoder[float] = msgspec.json.Decoder(float)
_list: msgspec.json.Decoder[list[Raw]] = msgspec.json.Decoder(list[Raw])
_object: msgspec.json.Decoder[dict[str, Raw]] = msgspec.json.Decoder(dict[str, Raw])
_plain: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])


class Fields:
    """The fields of the object that stands at `path`; "" is the body itself."""

    __slots__ = ("path", "raw")

    def __init__(self, raw: dict[str, Raw], path: str = "") -> None:
        self.raw = raw
        self.path = path

    def at(self, name: str) -> str:
        """The path of a field."""
        return f"{self.path}.{name}" if self.path else name

    def has(self, name: str) -> bool:
        """Whether the field is there, and not `null`."""
        return name in self.raw and self._start(name) != b"null"

    def is_text(self, name: str) -> bool:
        """Whether the field is a string."""
        return name in self.raw and self._start(name).startswith(b'"')

    def text(self, name: str) -> str | None:
        """A string."""
        return self._read(name, _text)

    def flag(self, name: str) -> bool | None:
        """A truth value."""
        return self._read(name, _flag)

    def integer(self, name: str) -> int | None:
        """A whole number."""
        return self._read(name, _integer)

    def number(self, name: str) -> float | None:
        """A number."""
        return self._read(name, _number)

    def plain(self, name: str) -> dict[str, Any] | None:
        """An object whose fields are no matter of ours."""
        return self._read(name, _plain)

    def object(self, name: str) -> "Fields | None":
        """An object."""
        found = self._read(name, _object)
        return None if found is None else Fields(found, self.at(name))

    def objects(self, name: str) -> "list[Fields]":
        """The objects of a list; none if it is absent."""
        return [Fields(decoded(item, _object, path), path) for path, item in self._items(name)]

    def texts(self, name: str) -> list[str]:
        """The strings of a list; none if it is absent."""
        return [decoded(item, _text, path) for path, item in self._items(name)]

    def object_raw(self, name: str) -> Raw | None:
        """An object, to the byte."""
        return self.raw[name] if self._read(name, _object) is not None else None

    def needed(self, name: str) -> str:
        """A string that has to be there."""
        text = self.text(name)
        if text is None:
            raise DialectError(f"`{self.at(name)}` is required")
        return text

    def _items(self, name: str) -> list[tuple[str, Raw]]:
        items = self._read(name, _list)
        return [] if items is None else [(f"{self.at(name)}[{index}]", item) for index, item in enumerate(items)]

    def _start(self, name: str) -> bytes:
        """Enough of a field to tell what it is; whole, it may be megabytes of an image."""
        return bytes(memoryview(self.raw[name])[:4])

    def _read(self, name: str, decoder: msgspec.json.Decoder[T]) -> T | None:
        return decoded(self.raw[name], decoder, self.at(name)) if self.has(name) else None


def decoded(raw: Raw, decoder: msgspec.json.Decoder[T], path: str) -> T:
    """`raw` as what `decoder` makes of it; `DialectError` names `path`."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise DialectError(fault.of_value(error, raw, decoder.type, path)) from None
    except BAD_JSON as error:
        raise DialectError(f"`{path}`: {fault.of_json(bytes(raw), error)}") from None
