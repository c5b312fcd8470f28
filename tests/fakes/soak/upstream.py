"""A scripted upstream as a process of its own, which logs what it was asked and what it has sent.

    python -m fakes.soak.upstream openai LOG [PORT]

It prints its port, and takes orders on its standard input, a line each: `drop` resets all connections that stand, as if
it had been killed; `open` makes it print how many requests are open.  It ends when its input does.  LOG has one line of
JSON for each request that is over: see `Sent`.
"""

import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio
from fakes import upstream as raw
from fakes.anthropic_upstream import AnthropicUpstream
from fakes.openai_upstream import OpenAIUpstream
from fakes.script import text_in
from fakes.scripted_upstream import Row, ScriptedAnswer, ScriptedUpstream

TRACE = re.compile(r"soak-[a-z]+\d+-\d+(?:-b)?")
"""What the last message of a request has in it."""
UPSTREAMS: dict[str, type[ScriptedUpstream]] = {"openai": OpenAIUpstream, "anthropic": AnthropicUpstream}


class Sent(msgspec.Struct, frozen=True):
    """One request, and what was sent of its answer."""

    trace: str
    model: str
    outcome: str
    pieces: int
    """Of the script, so many were sent…"""
    perhaps: int
    """…or up to so many: the write of the last one was interrupted."""
    told: int | None
    """The completion tokens of the usage that it has sent; None: none."""


def is_piece(event: str) -> bool:
    """Whether an event of the stream carries a piece of the script."""
    data = event.partition("data: ")[2]
    if data.startswith("[DONE]"):
        return False
    try:
        said = json.loads(data)
    except ValueError:
        return False
    if "type" in said and "choices" not in said:
        block, delta = said.get("content_block") or {}, said.get("delta") or {}
        return block.get("type") == "tool_use" or delta.get("type") in (
            "text_delta",
            "thinking_delta",
            "input_json_delta",
        )
    deltas = [choice["delta"] for choice in said.get("choices") or ()]
    return any(delta.get("content") or delta.get("reasoning_content") or delta.get("tool_calls") for delta in deltas)


def usage_in(event: str) -> int | None:
    """The completion tokens that an event tells at the end of an answer."""
    try:
        said = json.loads(event.partition("data: ")[2])
    except ValueError:
        return None
    in_choice = [choice["usage"] for choice in said.get("choices") or () if choice.get("usage")]
    usage = said.get("usage") or (in_choice[0] if in_choice else {})
    return usage.get("completion_tokens", usage.get("output_tokens") if said.get("type") != "message_start" else None)


def account(answer: ScriptedAnswer) -> Sent:
    """What was sent of an answer that is over."""
    row = answer.row
    traces = TRACE.findall("\n".join(text_in(message) for message in row.body.get("messages") or ()))
    sent, perhaps, told = 0, 0, None
    if row.body.get("stream"):
        events = list(answer._all_events())
        count = len(events) if "pack" in answer.does and row.outcome == "completed" else row.chunks
        most = len(events) if "pack" in answer.does else row.chunks + (row.outcome == "client_closed")
        sent, perhaps = (sum(map(is_piece, events[:number])) for number in (count, most))
        told = next((usage for event in events[:count] if (usage := usage_in(event)) is not None), None)
    elif row.outcome == "completed" and not {"status", "html", "malformed"} & set(answer.does):
        flaky = answer.asked_before < answer.does.get("flaky", 0)
        if not flaky and answer.fault() is None:
            sent = perhaps = len(answer.script.pieces)
            usage = answer.whole().get("usage") or {}
            told = usage.get("completion_tokens", usage.get("output_tokens"))
    return Sent(traces[-1] if traces else "", row.model, row.outcome, sent, perhaps, told)


class Books:
    """Answers for one upstream, and writes down each when it is over."""

    def __init__(self, upstream: ScriptedUpstream, log: Path) -> None:
        self._upstream = upstream
        self._log = log.open("ab", buffering=0)
        self._asked: dict[str, int] = {}
        self._connections: set[raw.Connection] = set()
        self._number = 0
        self.open = 0

    async def answer(self, request: raw.Request, connection: raw.Connection) -> None:
        """As `ScriptedUpstream.answer`, but nothing of what is over stays in memory."""
        self._upstream.server.requests.clear()
        body: dict[str, Any] = request.json if request.body else {}
        messages = [message for message in body.get("messages") or [{}] if message.get("role") != "system"] or [{}]
        marker = text_in(messages[-1])
        row = Row(body.get("model", ""), marker, body, request.headers, request.path, trio.current_time())
        self._number += 1
        before = self._asked.get(marker, 0)
        if "flaky" in row.model:
            self._asked[marker] = before + 1
        answer = self._upstream.answers(row, request, connection, number=self._number, asked_before=before)
        self.open += 1
        self._connections.add(connection)
        try:
            await answer.give()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            row.outcome = "client_closed"
            raise
        finally:
            self._connections.discard(connection)
            self.open -= 1
            self._log.write(msgspec.json.encode(account(answer)) + b"\n")

    def drop(self) -> None:
        """Reset every connection on which an answer is under way."""
        for connection in list(self._connections):
            connection.reset()


async def serve(kind: str, log: Path, port: int) -> None:
    """Until the standard input ends."""
    async with raw.serve_upstream(port=port) as server:
        books = Books(UPSTREAMS[kind](server), log)
        server.default = [books.answer]
        print(server.port, flush=True)
        rest = b""
        async for data in trio.lowlevel.FdStream(0):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line == b"drop":
                    books.drop()
                print(books.open, flush=True)


if __name__ == "__main__":
    trio.run(partial(serve, sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0))
