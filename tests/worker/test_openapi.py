"""The document says what the code does: every route and method, every kind of block, every answer."""

import json
import re

import pytest
from fakes.gateway import make_config, serve_gateway
from jsonschema import Draft202012Validator
from msgspec import structs

from shared import events
from shared.config import Auth, Model
from shared.history import parameters
from shared.history.columns import COLUMNS
from worker.app import ROUTES
from worker.dialects.anthropic.decode_content import IN_RESULTS, KINDS
from worker.openapi import requests
from worker.openapi.document import describe_routes
from worker.openapi.operations import OPERATIONS

DOCUMENT = json.loads(json.dumps(describe_routes(ROUTES)))
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS_TOLD = {
    (path, method): operation for path, item in DOCUMENT["paths"].items() for method, operation in item.items()
}


def validator(schema):
    return Draft202012Validator({**schema, "components": {"schemas": SCHEMAS}})


def valid(schema, value):
    """What is wrong with `value`."""
    return [f"{error.json_path}: {error.message}" for error in validator(schema).iter_errors(value)]


def nodes(node):
    yield node
    for below in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes(below)


def test_every_route_and_method_is_there():
    told = {
        re.sub(r"{\w+}$", "", path): {method.upper() for method in item} for path, item in DOCUMENT["paths"].items()
    }
    assert told == {path: set(route.methods) for path, route in ROUTES.items()}


def test_no_operation_is_told_of_that_there_is_not():
    used = {f"{route.endpoint.__module__.rpartition('.')[2]}.{route.endpoint.__name__}" for route in ROUTES.values()}
    assert used == set(OPERATIONS)


def test_its_structure():
    assert DOCUMENT["openapi"].startswith("3.1.")
    ids = [operation["operationId"] for operation in OPERATIONS_TOLD.values()]
    assert len(ids) == len(set(ids))
    for node in nodes(DOCUMENT):
        if isinstance(node, dict) and "$ref" in node:
            assert node["$ref"].removeprefix("#/components/schemas/") in SCHEMAS
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for (path, method), operation in OPERATIONS_TOLD.items():
        assert set(operation["tags"]) <= tags
        assert operation["summary"].endswith(".")
        assert all(response["description"] for response in operation["responses"].values())
        told = operation.get("parameters", [])
        assert re.findall(r"{(\w+)}", path) == [one["name"] for one in told if one["in"] == "path"]
        assert ("requestBody" in operation) <= (method == "post")


def test_keys_are_asked_for_where_they_are():
    for path, route in ROUTES.items():
        for (told, _), operation in OPERATIONS_TOLD.items():
            if re.sub(r"{\w+}$", "", told) == path:
                assert bool(operation["security"]) == route.needs_key
                assert ("401" in operation["responses"]) == route.needs_key


def test_the_kinds_of_blocks_are_those_that_are_read():
    def kinds(name):
        schema = SCHEMAS[name]["properties"]["content"]
        [listed] = [option for option in schema.get("anyOf", [schema]) if option.get("type") == "array"]
        options = listed["items"].get("anyOf", [listed["items"]])
        return {SCHEMAS[option["$ref"].rpartition("/")[2]]["properties"]["type"]["const"] for option in options}

    assert {role: kinds(f"{role.title()}Turn") for role in KINDS} == {role: set(there) for role, there in KINDS.items()}
    assert kinds("ToolResultBlock") == set(IN_RESULTS)
    assert kinds("SearchResultBlock") == {"text"}


def test_the_events_and_parameters_are_the_code_s():
    tells = OPERATIONS_TOLD["/ws", "get"]["x-websocket"]["server"]
    assert set(tells["discriminator"]["mapping"]) == set(events.TYPES)
    for path, names in (("streams", parameters.LISTING), ("stats", parameters.GROUPING), ("export", parameters.EXPORT)):
        assert [one["name"] for one in OPERATIONS_TOLD[f"/api/{path}", "get"]["parameters"]] == list(names)
    assert list(SCHEMAS["StreamRow"]["properties"]) == list(COLUMNS)


CHAT = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "seed": 5}
MESSAGES = {
    "model": "m",
    "max_tokens": 5,
    "system": [{"type": "text", "text": "be brief"}],
    "messages": [
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "LS", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "a"}]},
    ],
}


@pytest.mark.parametrize(
    ("path", "body", "is_valid"),
    [
        ("/v1/chat/completions", CHAT, True),
        ("/v1/chat/completions", {**CHAT, "messages": 5}, False),
        ("/v1/chat/completions", {**CHAT, "messages": [{"role": "robot"}]}, False),
        ("/v1/chat/completions", {"model": "m"}, False),
        ("/v1/messages", MESSAGES, True),
        ("/v1/messages", {**MESSAGES, "system": 5}, False),
        ("/v1/messages", {**MESSAGES, "messages": [{"role": "user", "content": [{"type": "image"}]}]}, False),
        ("/api/stream/message", {"message": "hi"}, True),
        ("/api/stream/message", {"message": 5}, False),
    ],
)
def test_requests(path, body, is_valid):
    schema = OPERATIONS_TOLD[path, "post"]["requestBody"]["content"]["application/json"]["schema"]
    assert (not valid(schema, body)) == is_valid, valid(schema, body)


async def test_the_gateway_answers_as_the_document_says(upstream):
    config = make_config(upstream, models=(Model(name="a-secret-project", provider="one"),))
    async with serve_gateway(config) as gateway:
        client = await gateway.connect()
        head, body = await client.get("/openapi.json")
        assert (head.status, head.headers["content-type"]) == (200, "application/json")
        assert json.loads(body) == DOCUMENT
        assert b"a-secret-project" not in body
        for path, status, headers in (
            ("/health", 200, {}),
            ("/v1/models", 200, {}),
            ("/v1/models", 200, {"anthropic_version": "2023-06-01"}),
            ("/v1/models?limit=x", 400, {"anthropic_version": "2023-06-01"}),
            ("/v1/models/m", 200, {}),
            ("/v1/models/m", 200, {"anthropic_version": "2023-06-01"}),
            ("/v1/models/nobody-s/thing", 404, {}),
            ("/api/streams?limit=x", 400, {}),
        ):
            told = re.sub(r"^(/v1/models/).*", r"\1{model}", path.partition("?")[0])
            head, body = await client.get(path, **headers)
            assert head.status == status
            schema = OPERATIONS_TOLD[told, "get"]["responses"][str(status)]["content"]["application/json"]["schema"]
            assert valid(schema, json.loads(body)) == [], path


async def test_no_key_is_needed(upstream):
    async with serve_gateway(make_config(upstream, auth=Auth(("secret",)))) as gateway:
        client = await gateway.connect()
        head, body = await client.get("/openapi.json")
        assert head.status == 200
        await client.request("HEAD", "/openapi.json")
        head = await client.head()
        assert (head.status, head.headers["content-length"]) == (200, str(len(body)))


def test_what_the_gateway_s_own_routes_read():
    assert {field.encode_name for field in structs.fields(requests.AgentMessage)} == {"message", "session_id", "model"}
