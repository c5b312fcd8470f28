"""Runs of the agent as their clients see them.

config = agent_config(tmp_path, upstream)
async with serve_gateway(config) as gateway:
    upstream.script(*tool_call("Read", path="a"))
    upstream.script(*openai_stream("It says ", "hello."))
    events = await run(gateway, "What does a say?")
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fakes.gateway import RunningGateway, make_config
from fakes.upstream import FakeUpstream, openai_chunk, sse_response

from shared.config import Agent, Config
from shared.messages import Conversation, KeepConversation, Question

PATH = "/api/stream/message"
SOCKET = "/ws/stream"


def agent_config(workspace: Path, *upstreams: FakeUpstream, agent: dict[str, Any] | None = None, **more: Any) -> Config:
    """`make_config`, with an agent that asks model `m`."""
    settings = Agent(**{"enabled": True, "workspace": str(workspace), "model": "m", "sandbox": "off", **(agent or {})})
    return make_config(*upstreams, agent=settings, **more)


class Memory:
    """What the supervisor keeps of conversations: the `answer` of a `RunningGateway`."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str | None], bytes] = {}

    def __call__(self, question: Question) -> tuple[int, bytes] | None:
        match question:
            case KeepConversation(session, client, data):
                self.kept[session, client] = data
                return 200, b""
            case Conversation(session, client):
                data = self.kept.get((session, client))
                return (404, b'{"message":"there is none"}') if data is None else (200, data)
        return None


def tool_call(name: str, **arguments: Any) -> list[bytes]:
    """A turn of a model that calls one tool."""
    return tool_calls((name, arguments))


def tool_calls(*calls: tuple[str, dict[str, Any]], text: str = "") -> list[bytes]:
    """A turn of a model that says something, perhaps, and calls tools."""
    events = [openai_chunk({"content": text})] if text else []
    for index, (name, arguments) in enumerate(calls):
        function = {"name": name, "arguments": json.dumps(arguments)}
        call = {"index": index, "id": f"call_{index}", "type": "function", "function": function}
        events.append(openai_chunk({"tool_calls": [call]}))
    return sse_response([*events, openai_chunk({}, "tool_calls"), "data: [DONE]\n\n"])


def payloads(body: bytes) -> list[str]:
    """The data of server-sent events; comments are passed over."""
    events = body.decode().removesuffix("\n\n").split("\n\n")
    return [event.removeprefix("data: ") for event in events if not event.startswith(":")]


def events_in(body: bytes) -> list[dict[str, Any]]:
    """The events of a run in the format `json`."""
    return [json.loads(payload) for payload in payloads(body)]


def text_of(events: Iterable[dict[str, Any]]) -> str:
    """What the model said."""
    return "".join(event["content"] for event in events if event["type"] == "delta")


def message(text: str, **fields: Any) -> bytes:
    """The body of a request."""
    return json.dumps({"message": text, **fields}).encode()


async def run(gateway: RunningGateway, text: str, **fields: Any) -> list[dict[str, Any]]:
    """All events of one run."""
    client = await gateway.connect()
    await client.request("POST", PATH, message(text, **fields))
    head, body = await client.answer()
    assert head.status == 200, body
    return events_in(body)
