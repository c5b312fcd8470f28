"""The JSON schema of a tool's arguments, as plain as every provider takes it.  Pure.

What a provider may refuse is left out: `$ref` (it is written out), `title`, and the `null` of what may be left out
anyway.  What one may demand is put in: a `type` beside every `enum`.
"""

from typing import Any

import msgspec
from msgspec import Struct

_REFERENCE = "#/$defs/"
_TYPES: dict[type, str] = {str: "string", int: "integer"}
_NULL = {"type": "null"}

Schema = dict[str, Any]


def schema_of(arguments: type[Struct]) -> Schema:
    """The schema of an object of type `arguments`.  `TypeError` for a type that JSON has no words for."""
    (reference,), components = msgspec.json.schema_components([arguments], ref_template=_REFERENCE + "{name}")
    schema = _plain(reference, components, ())
    schema.pop("description", None)  # is there for those who read the code
    return schema


def _plain(schema: Schema, components: Schema, inside: tuple[str, ...]) -> Schema:
    """`schema` without references; `inside`: the components that it stands in."""
    schema = _without_null(schema)
    if (reference := schema.pop("$ref", None)) is not None:
        name = reference.removeprefix(_REFERENCE)
        if name in inside:  # it holds itself: so deep the model is not told more
            return {"type": "object", **schema}
        return _plain({**components[name], **schema}, components, (*inside, name))
    schema.pop("title", None)
    if "default" in schema and (schema["default"] is None or isinstance(schema["default"], list | dict)):
        del schema["default"]
    if "required" in schema and not schema["required"]:
        del schema["required"]
    for key in ("properties", "items", "additionalProperties", "anyOf", "prefixItems"):
        value = schema.get(key)
        if key == "properties" and value is not None:
            schema[key] = {name: _plain(part, components, inside) for name, part in value.items()}
        elif isinstance(value, dict):
            schema[key] = _plain(value, components, inside)
        elif isinstance(value, list):
            schema[key] = [_plain(part, components, inside) for part in value]
    kinds = {_TYPES[type(value)] for value in schema.get("enum", ())}
    return {"type": kinds.pop(), **schema} if len(kinds) == 1 else schema


def _without_null(schema: Schema) -> Schema:
    """A copy in which nothing may be `null`; a choice of one is none."""
    schema = dict(schema)
    if "enum" in schema:
        schema["enum"] = [value for value in schema["enum"] if value is not None]
    if "anyOf" in schema:
        schema["anyOf"] = choices = [choice for choice in schema["anyOf"] if choice != _NULL]
        if len(choices) == 1:
            del schema["anyOf"]
            return _without_null({**choices[0], **schema})
    return schema
