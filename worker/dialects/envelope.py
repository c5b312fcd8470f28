"""What the gateway needs to know of a body in either dialect, before anybody looks at the conversation in it."""

from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from shared.errors import DialectError
from worker.dialects import fault
from worker.dialects.lenient import BAD_JSON, without_lone_surrogates

OURS = frozenset({"session_id"})
"""The gateway's own fields; upstreams that check their input would refuse them."""

_object: msgspec.json.Decoder[dict[str, Raw]] = msgspec.json.Decoder(dict[str, Raw])


class Known(Struct):
    """The fields that are read here, with the types that they must have; a dialect may add its own."""

    model: str | None = None
    messages: list[Raw] | None = None
    stream: bool | None = None
    session_id: str | None = None


K = TypeVar("K", bound=Known)


def read_envelope(body: bytes, decoder: msgspec.json.Decoder[K]) -> tuple[bytes, K, dict[str, Raw], str]:
    """The body with its surrogates mended, what is known of it, all its fields to the byte, and the model's name.

    `DialectError` says what is wrong with it, for the client to read.
    """
    try:
        known = decoder.decode(body)
        fields = _object.decode(body)
    except msgspec.ValidationError as error:
        what = fault.of_value(error, body, decoder.type)
        raise DialectError(what if fault.field_in(what) else f"the body is not a JSON object: {what}") from None
    except BAD_JSON as error:
        if (mended := without_lone_surrogates(body)) != body:
            return read_envelope(mended, decoder)
        raise DialectError(f"the body is not a JSON object: {fault.of_json(body, error)}") from None
    if not known.model:
        is_missing = known.model is None
        raise DialectError(f"`model` is {'required' if is_missing else 'empty'}: name the model as a string")
    if known.messages is None:
        raise DialectError("`messages` is required: a list of messages")
    return body, known, fields, known.model
