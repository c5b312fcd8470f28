"""The routes as an OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.1).

What OpenAPI has no words for stands in extensions: `x-event-schema` beside a `text/event-stream` is the schema of one
event's data; `x-websocket` at a GET holds those of the messages that client and server may send once it is open.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from shared import VERSION
from worker.dialects.openai.decode_messages import WireMessage
from worker.dialects.openai.decode_request import Options
from worker.dialects.openai.request import ChatKnown
from worker.openapi import answers
from worker.openapi.operations import CHAT_REQUEST, JSON, OPERATIONS, SSE, Operation, Parameter
from worker.openapi.schema import Components, Schema, sentence

if TYPE_CHECKING:
    from worker.app import Route

KEYS: tuple[dict[str, list[str]], ...] = ({"bearer": []}, {"x-api-key": []}, {})
"""Either way to send a key will do, and none where the configuration asks for none."""
BODIES = frozenset({"POST", "PUT", "PATCH"})
TAGS = {
    "models": "Chat completions and messages, by whichever provider has the model.",
    "streams": "The live streams of all workers.",
    "history": "What became of every stream.",
    "agent": "A model with tools on the gateway's machine.",
    "service": "Health, metrics, live events.",
    "dashboard": "The page for people.",
}
STATUSES = {
    400: "the request is wrong: the message begins with the path of the field",
    401: "a key of this gateway is needed",
    402: "the provider's account is empty",
    403: "this client, page or Host may not",
    404: "there is no such path, model or stream",
    408: "the body came too slowly",
    409: "a newer stream of the session took the place of this one",
    413: "the body is too large",
    415: "the body is compressed",
    426: "this is a WebSocket",
    429: "a limit is reached: `retry-after` tells when to ask again",
    500: "the gateway failed",
    502: "the provider can't be reached, or broke off",
    503: "not now: `retry-after` may tell when to ask again",
    504: "the provider was silent for too long",
    529: "the provider is overloaded",
}


def describe_routes(routes: Mapping[str, "Route"]) -> dict[str, Any]:
    """The document of `worker.app.ROUTES`."""
    components = Components()
    schemas = components.schemas
    chat = {**components.fields(ChatKnown), **components.fields(Options, but=frozenset({"stream", "messages"}))}
    chat["messages"] = {"type": "array", "items": components.of(WireMessage)}
    chat["model"] = {"type": "string"}
    schemas[CHAT_REQUEST] = {
        "type": "object",
        "description": "A chat completion request; fields of other names reach providers that speak this dialect.",
        "properties": chat,
        "required": ["model", "messages"],
    }
    paths = {}
    for path, route in routes.items():
        operation = OPERATIONS[_name(route)]
        full = path if operation.below is None else f"{path}{{{operation.below.name}}}"
        paths[full] = {
            method.lower(): _operation(components, full, method, route, operation) for method in sorted(route.methods)
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "kimi-proxy",
            "version": VERSION,
            "summary": "An LLM streaming gateway whose streams always end.",
            "description": "Every path answers to OPTIONS, too (CORS).  Every response has an `x-request-id`.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "a key of this gateway"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _name(route: "Route") -> str:
    endpoint: Any = route.endpoint
    return f"{endpoint.__module__.rpartition('.')[2]}.{endpoint.__name__}"


def _operation(components: Components, path: str, method: str, route: "Route", operation: Operation) -> dict[str, Any]:
    parameters = ((operation.below,) if operation.below else ()) + operation.parameters
    described: dict[str, Any] = {
        "operationId": f"{method.lower()} {path}".translate(_TO_NAME).strip("_"),
        "tags": [operation.tag],
        "summary": sentence(route.endpoint.__doc__ or ""),
        "security": list(KEYS) if route.needs_key else [],
        "responses": _responses(components, method, route, operation),
    }
    if parameters:
        described["parameters"] = [_parameter(parameter) for parameter in parameters]
    if operation.body is not None and method in BODIES:
        described["requestBody"] = {
            "required": not operation.body_is_optional,
            "content": {JSON: {"schema": _schema(components, operation.body)}},
        }
    if route.websocket:
        messages = {"client": operation.hears, "server": operation.tells}
        described["x-websocket"] = {who: components.of(kind) for who, kind in messages.items() if kind is not None}
    return described


_TO_NAME = str.maketrans(dict.fromkeys(" /{}.", "_"))


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema = {"type": "array", "items": parameter.schema} if parameter.repeats else parameter.schema
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.description,
        "schema": schema,
    }


def _responses(components: Components, method: str, route: "Route", operation: Operation) -> dict[str, Any]:
    has_body = method != "HEAD"
    if route.websocket:
        responses: dict[str, Any] = {"101": {"description": "the WebSocket is open: see x-websocket"}}
    else:
        content = _content(components, operation) if has_body else {}
        responses = {str(operation.success): {"description": "done", **({"content": content} if content else {})}}
    statuses = {
        403,
        500,
        *operation.statuses,
        *((401,) if route.needs_key else ()),
        *((426,) if route.websocket else ()),
    }
    errors = _errors(components, route) if has_body else {}
    for status in sorted(statuses):
        responses[str(status)] = {"description": STATUSES[status], **errors}
    if 503 in statuses and operation.answer is answers.Health and has_body:  # not an error: how it is
        responses["503"]["content"] = {JSON: {"schema": components.of(answers.Health)}}
    return responses


def _content(components: Components, operation: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {kind: {"schema": {"type": "string"}} for kind in operation.content}
    shapes = [kind for kind in (operation.answer, operation.answer_of_anthropic) if kind is not None]
    if shapes:
        content[JSON] = {"schema": _any_of(_schema(components, kind) for kind in shapes)}
    if JSON in operation.content:
        content[JSON] = {"schema": {"type": "array"}}
    if operation.event is not None:
        content[SSE] = {"schema": {"type": "string"}, "x-event-schema": components.of(operation.event)}
    return content


def _errors(components: Components, route: "Route") -> dict[str, Any]:
    """In the dialect of the route; where it has none, in the caller's."""
    shapes = {"openai": answers.OpenAIError, "anthropic": answers.AnthropicError}
    kinds = [shapes[route.dialect]] if route.dialect is not None else list(shapes.values())
    return {"content": {JSON: {"schema": _any_of(components.of(kind) for kind in kinds)}}}


def _any_of(schemas: Iterable[Schema]) -> Schema:
    found = list(schemas)
    return found[0] if len(found) == 1 else {"anyOf": found}


def _schema(components: Components, kind: Any) -> Schema:
    return {"$ref": f"#/components/schemas/{kind}"} if isinstance(kind, str) else components.of(kind)
