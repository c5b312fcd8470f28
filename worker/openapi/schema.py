"""Types as JSON schemas (draft 2020-12, as OpenAPI 3.1 has them); structs become components that are referred to.

`msgspec.json.schema_components` does the same, but not for `msgspec.Raw`, of which the dialects are full.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import inspect

Schema = dict[str, Any]

# Whose types would else have one name.
PREFIXES = {"worker.dialects.openai": "Chat", "shared.events": "Event"}


class Components:
    """Collects the schemas of all structs that `of` comes across."""

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = {}

    def of(self, kind: Any) -> Schema:
        """The schema of a type."""
        return self._schema(inspect.type_info(kind))

    def fields(self, *kinds: type[msgspec.Struct], but: frozenset[str] = frozenset()) -> Mapping[str, Schema]:
        """The schemas of the fields of structs, by name."""
        return {
            field.encode_name: self._field(field)
            for kind in kinds
            for field in self._info(kind).fields
            if field.encode_name not in but
        }

    @staticmethod
    def _info(kind: type[msgspec.Struct]) -> inspect.StructType:
        info = inspect.type_info(kind)
        assert isinstance(info, inspect.StructType)
        return info

    def _schema(self, info: inspect.Type) -> Schema:
        match info:
            case inspect.StructType():
                return self._reference(info)
            case inspect.UnionType(types=types):
                return self._union(types)
            case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
                return {"type": "array", "items": self._schema(item)}
            case inspect.DictType(value_type=value):
                return {"type": "object", "additionalProperties": self._schema(value)}
            case inspect.LiteralType(values=values):
                return {"enum": list(values)}
            case inspect.IntType(ge=least, le=most) | inspect.FloatType(ge=least, le=most):
                bounds = {"minimum": least, "maximum": most}
                name = "integer" if isinstance(info, inspect.IntType) else "number"
                return {"type": name, **{word: bound for word, bound in bounds.items() if bound is not None}}
            case inspect.StrType():
                return {"type": "string"}
            case inspect.BoolType():
                return {"type": "boolean"}
            case inspect.NoneType():
                return {"type": "null"}
            case inspect.AnyType() | inspect.RawType():
                return {}
            case _:
                raise TypeError(f"no schema for {info}")

    def _union(self, types: tuple[inspect.Type, ...]) -> Schema:
        options = [self._schema(kind) for kind in types]
        structs = [kind for kind in types if isinstance(kind, inspect.StructType)]
        tags = {kind.tag_field for kind in structs}
        schema: Schema = {"anyOf": options}
        if len(structs) == len(types) and len(tags) == 1 and None not in tags:
            schema["discriminator"] = {
                "propertyName": tags.pop(),
                "mapping": {str(kind.tag): self._schema(kind)["$ref"] for kind in structs},
            }
        return schema

    def _reference(self, info: inspect.StructType) -> Schema:
        module = info.cls.__module__
        prefix = next((word for start, word in PREFIXES.items() if module.startswith(start)), "")
        name = f"{prefix}{info.cls.__name__.lstrip('_').removeprefix(prefix)}"
        if name not in self.schemas:
            self.schemas[name] = {}  # it may hold itself
            self.schemas[name] = self._object(info)
        return {"$ref": f"#/components/schemas/{name}"}

    def _object(self, info: inspect.StructType) -> Schema:
        required = [field.encode_name for field in info.fields if field.required]
        properties = {field.encode_name: self._field(field) for field in info.fields}
        if info.tag_field is not None:
            properties = {info.tag_field: {"const": info.tag}, **properties}
            required = [info.tag_field, *required]
        schema: Schema = {"type": "object", "properties": properties}
        if required:
            schema["required"] = required
        if info.cls.__doc__ and not info.cls.__doc__.startswith(f"{info.cls.__name__}("):
            schema["description"] = sentence(info.cls.__doc__)
        return schema

    def _field(self, field: inspect.Field) -> Schema:
        schema = self._schema(field.type)
        if isinstance(field.default, str | bool | int | float):
            schema = {**schema, "default": field.default}
        return schema


def sentence(doc: str) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(doc.strip().partition("\n\n")[0].split())
