"""Requests made from our own description of the API, right and wrong, to every route of a running service."""

import json
import re
from random import Random
from typing import Any
from urllib.parse import quote

import pytest
import trio
from fakes.fuzz import WEIRD, WORDS, Answer, Maker, ask, cases, mutated, request, written

from worker.app import ROUTES
from worker.openapi.document import describe_routes

DOCUMENT = json.loads(json.dumps(describe_routes(ROUTES)))
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = [
    (path, method.upper(), operation) for path, item in DOCUMENT["paths"].items() for method, operation in item.items()
]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")
MODELS = ("fake/m", "claude/m", "nobody", "", "x" * 600, "fake/é")
ANTHROPIC = re.compile(r"/(v1/)?messages")
FIELD = re.compile(r"`[\w.\[\]]+`")
OF_THE_UPSTREAM = "upstream says"

pytestmark = pytest.mark.integration


def value_of(random: Random, schema: dict[str, Any]) -> str:
    """A parameter's."""
    if random.random() < 0.5:
        made = Maker(random, SCHEMAS, 0.2).value(schema)
        return str(made[0] if isinstance(made, list) and made else made)
    return str(
        random.choice((*WEIRD, *WORDS, "24h", "2026-11-21", "0x10", "1_000", "٣", "%", "%zz", "a,b", "\r\nx: y"))
    )


def made_request(
    random: Random, path: str, method: str, operation: dict[str, Any], wrong: float
) -> tuple[bytes, bytes]:
    """A request, and its body."""
    query, headers = [], {}
    for parameter in operation.get("parameters", ()):
        given = value_of(random, parameter["schema"])[:300]
        match parameter["in"]:
            case "path":
                path = path.replace(f"{{{parameter['name']}}}", quote(given.encode("utf-8", "replace"), safe="/"))
            case "header" if random.random() < 0.3:
                headers[parameter["name"]] = re.sub(r"[^\x20-\x7e]", "", given).strip()
            case "query" if random.random() < 0.4:
                query.append(f"{parameter['name']}={quote(given.encode('utf-8', 'replace'))}")
    if query:
        path += "?" + "&".join(query)
    body = None
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        made = Maker(random, SCHEMAS, wrong).value(schema)
        if isinstance(made, dict) and isinstance(made.get("model"), str):
            made["model"] = random.choice(MODELS[:2] if random.random() < 0.8 else MODELS)
        text = written(made)
        body = text.encode("utf-8", "surrogatepass")
        if random.random() < wrong:
            body = mutated(random, body)
    return request(method, path, body, **headers), body or b""


def check_answer(answer: Answer, method: str, path: str, body: bytes) -> None:
    """Legal, in the caller's dialect, and of use to whoever reads it."""
    assert answer.status, f"no response: {answer.data[:300]!r}"
    assert answer.status != 500, answer.data
    assert "x-request-id" in answer.head
    if method == "HEAD" or answer.status < 400 or path.startswith("/health"):
        return
    told = json.loads(answer.body)
    if ANTHROPIC.match(path):
        assert set(told) == {"type", "error", "request_id"}, told
        assert told["error"].keys() >= {"type", "message"}
    elif "type" not in told:
        assert told["error"].keys() >= {"message", "type", "param", "code"}, told
    message = told["error"]["message"]
    assert message
    assert len(message) < 5000, len(message)
    assert "Traceback" not in message
    if message.startswith(OF_THE_UPSTREAM):
        return
    if answer.status == 400 and not message.startswith(("the body is not", "what was sent is not", "the body has to")):
        assert FIELD.search(message), message
        if "type" not in told and FIELD.match(message):
            assert told["error"]["param"], told


async def test_every_route_with_right_and_wrong_values(running):
    before = await running.belongings()

    def run() -> None:
        statuses = set()
        for name, random in cases(10):
            for path, method, operation in OPERATIONS:
                wrong = random.choice((0.0, 0.02, 0.1, 0.5))
                sent, body = made_request(random, path, method, operation, wrong)
                try:
                    answer = ask(running.port, sent, leave_after=1.0 if "x-websocket" in operation else None)
                    check_answer(answer, method, path, body)
                except AssertionError as error:
                    raise AssertionError(f"{name}: {sent[:3000]!r}: {error}") from error
                statuses.add(answer.status)
        assert {200, 400, 404} <= statuses

    await trio.to_thread.run_sync(run)
    await running.check(before)


async def test_every_method_of_every_path(running):
    before = await running.belongings()

    def run() -> None:
        for path in (
            *DOCUMENT["paths"],
            "/nope",
            "/v1",
            "//",
            "/%00",
            "/v1/messages/../models",
            "/%2e%2e/etc/passwd",
            "*",
        ):
            for method in METHODS:
                if (path, method) == ("/api/sessions/stale", "DELETE"):
                    continue
                answer = ask(running.port, request(method, path, b"{}" if method in ("POST", "PUT") else None))
                check_answer(answer, method, path, b"{}")
                if method == "BREW":
                    assert answer.status in (404, 405)

    await trio.to_thread.run_sync(run)
    await running.check(before)
