"""The model's name in an answer that passes as it came but for that: told as the client asked for it.

Only the events that hold a name, and hold another one, are written anew, and in them all other values keep their bytes.
"""

import msgspec
from msgspec import Raw

from worker.dialects.lenient import BAD_JSON
from worker.dialects.sse import payloads, split_events, with_data

_object: msgspec.json.Decoder[dict[str, Raw]] = msgspec.json.Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode


class Renaming:
    """What a client calls the model, and where answers name it: `Renaming("m", "message", "model")`."""

    __slots__ = ("_name", "_path")

    def __init__(self, name: str, *path: str) -> None:
        self._name = Raw(_encode(name))
        self._path = path

    def block(self, block: bytes) -> bytes:
        """Whole events."""
        return b"".join(map(self._event, split_events(block)))

    def body(self, body: bytes) -> bytes:
        """A JSON body."""
        return _replaced(body, self._path, self._name)

    def _event(self, event: bytes) -> bytes:
        for data in payloads(event):
            renamed = self.body(data)
            if renamed is not data:
                return with_data(event, renamed)
        return event


def _replaced(json: bytes, path: tuple[str, ...], value: Raw) -> bytes:
    """`json` with `value` in the place of another one at `path`; itself if there is none."""
    try:
        fields = _object.decode(json)
    except BAD_JSON:
        return json
    name, *below = path
    if name not in fields:
        return json
    old = bytes(fields[name])
    new = _replaced(old, tuple(below), value) if below else bytes(value)
    if new == old:
        return json
    fields[name] = Raw(new)
    return _encode(fields)
