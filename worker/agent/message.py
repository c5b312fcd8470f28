"""What a client asks the agent for: `{"message": …, "session_id"?, "model"?}`.  Pure."""

import msgspec
from msgspec import Raw, Struct

from shared.errors import DialectError
from worker.dialects.fault import of_json, of_value
from worker.dialects.fields import Fields
from worker.dialects.lenient import BAD_JSON, without_lone_surrogates

_object: msgspec.json.Decoder[dict[str, Raw]] = msgspec.json.Decoder(dict[str, Raw])


class BadMessage(DialectError):
    """It can't be understood."""


class Message(Struct, frozen=True):
    """A user's message; None where the client left the choice to us."""

    text: str
    session: str | None = None
    model: str | None = None


def read_object(body: bytes) -> Fields:
    """The fields of a JSON object; `BadMessage` if it is none."""
    try:
        return Fields(_object.decode(without_lone_surrogates(body)))
    except msgspec.ValidationError as error:
        raise BadMessage(f"what was sent is not a JSON object: {of_value(error, body, _object.type)}") from None
    except BAD_JSON as error:
        raise BadMessage(f"what was sent is not JSON: {of_json(body, error)}") from None


def read_message(fields: Fields) -> Message:
    """The message in an object; `BadMessage` for a field that is wrong.  Fields of other names are passed over."""
    text = read_text(fields, "message")
    if text is None:
        raise BadMessage("`message` is required: the user's message as a string")
    if not text.strip():
        raise BadMessage("`message` is empty")
    return Message(text, read_text(fields, "session_id") or None, read_text(fields, "model") or None)


def read_text(fields: Fields, name: str) -> str | None:
    """A string that may be absent; `BadMessage` for anything else."""
    try:
        return fields.text(name)
    except DialectError as error:
        raise BadMessage(str(error)) from None
