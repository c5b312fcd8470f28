"""What a client has seen of one request: how it ended, and what it has read of the answer.  Pure."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from fakes.grammar import anthropic_faults, ends_in_error, openai_faults, parse_events
from fakes.script import Piece, Script, behaviour, script_of
from fakes.soak.plan import Ask

Kind = Literal["completed", "error event", "JSON error", "left", "cut", "refused", "closed idle", "stopped", "silence"]
"""`closed idle`: a connection that was kept alive was closed, not a byte of an answer came, as the request went out.
`stopped`: the service ended the connection of a client that did not behave; `silence`: nothing, for too long."""

CARELESS = ("no-role", "tools-noid", "usage-none")
"""What an upstream leaves out, and a gateway that passes its answer on, too."""
ENDS = (b"data: [DONE]\n\n", b'data: {"type": "message_stop"}\n\n')


@dataclass(eq=False)
class Seen:
    """The end of one request.  Times are epoch seconds."""

    ask: Ask
    asked: float
    connected: float = 0.0
    port: int = 0
    """The client's own."""
    ended: float = 0.0
    kind: Kind = "silence"
    status: int | None = None
    trace: str | None = None
    """The x-request-id of the answer."""
    pieces: int = 0
    """Of the script, so many were read."""
    what: str = ""
    faults: list[str] = field(default_factory=list)
    """What was not as it should be, as far as the answer itself tells."""

    def fault(self, what: str) -> None:
        self.faults.append(what)


def script(ask: Ask) -> Script:
    """What the upstream says, if nothing prevents it."""
    return script_of(behaviour(ask.how), {"messages": [{"role": "user", "content": ask.trace}]})


def ordered(ask: Ask) -> list[Piece]:
    """The pieces in the order in which the upstream sends them."""
    pieces = list(script(ask).pieces)
    return sorted(pieces, key=lambda piece: piece.index) if _speaks_anthropic(ask) else pieces


def judge_stream(seen: Seen, body: bytes, *, whole: bool) -> None:
    """Read what came of a stream.  `whole`: its body has ended as HTTP has it; then the grammar must hold."""
    ask = seen.ask
    passed = _speaks_anthropic(ask) == (ask.dialect == "anthropic")
    if "malformed" in ask.how and passed:  # which goes on as it came
        body = b"\n\n".join(event for event in body.split(b"\n\n") if _is_json(event))
    if whole:
        if passed and any(part in CARELESS for part in ask.how.split("+")):
            faults = [] if body.endswith(ENDS) or ends_in_error(body) else ["it has no end"]
        else:
            faults = (anthropic_faults if ask.dialect == "anthropic" else openai_faults)(body, passed=passed)
        seen.faults += faults
        if not faults:
            seen.kind = "error event" if ends_in_error(body) else "completed"
            seen.what = body[-300:].decode(errors="replace") if seen.kind == "error event" else ""
    else:
        body = body[: body.rfind(b"\n\n") + 2] if b"\n\n" in body else b""
    try:
        read = list(_pieces(body, ask.dialect))
    except ValueError as error:
        seen.fault(f"not a stream: {error}")
        return
    expected = [piece for piece in ordered(ask) if piece.text or piece.kind == "call"]
    seen.pieces = min(len(read), len(expected))
    _compare(seen, read, whole=seen.kind == "completed")


def _compare(seen: Seen, read: list[tuple[str, str]], *, whole: bool) -> None:
    for kind in ("thinking", "text"):
        told = "".join(text for what, text in read if what == kind)
        meant = script(seen.ask).joined(kind)
        if told != meant if whole else not meant.startswith(told):
            seen.fault(f"{kind} {told[-60:]!r} of {len(told)} characters, {len(meant)} were meant")
    calls = sum(what == "call" for what, _ in read)
    if whole and calls != len(script(seen.ask).calls()):
        seen.fault(f"{calls} calls, {len(script(seen.ask).calls())} were meant")


def judge_body(seen: Seen, body: bytes) -> None:
    """Read an answer that came as one body."""
    try:
        told = json.loads(body)
    except ValueError as error:
        seen.fault(f"no JSON: {error}: {body[:100]!r}")
        return
    ask = seen.ask
    if seen.status == 200:
        seen.kind = "completed"
        read = list(_whole_pieces(told, ask.dialect))
        seen.pieces = len(ordered(ask))
        _compare(seen, read, whole=True)
        return
    seen.kind = "JSON error"
    seen.what = body[:300].decode(errors="replace")
    error = told.get("error")
    names = ("type", "message")
    if not isinstance(error, dict) or not all(isinstance(error.get(name), str) and error[name] for name in names):
        seen.fault(f"an error without type or message: {seen.what}")
    elif (ask.dialect == "anthropic") != (told.get("type") == "error"):
        seen.fault(f"an error in the other dialect: {seen.what}")


def _pieces(body: bytes, dialect: str) -> list[tuple[str, str]]:
    """Kind and text of each piece in a stream."""
    found: list[tuple[str, str]] = []
    for _, data in parse_events(body):
        if data == "[DONE]":
            continue
        event = json.loads(data)
        if dialect == "anthropic":
            delta, block = event.get("delta") or {}, event.get("content_block") or {}
            if block.get("type") == "tool_use":
                found.append(("call", ""))
            for name, kind in (("text", "text"), ("thinking", "thinking"), ("partial_json", "arguments")):
                if delta.get(name):
                    found.append((kind, delta[name]))
            continue
        for choice in event.get("choices") or ():
            found += _delta_pieces(choice.get("delta") or {})
    return found


def _delta_pieces(delta: dict[str, Any]) -> list[tuple[str, str]]:
    found = [("thinking", delta["reasoning_content"])] if delta.get("reasoning_content") else []
    if delta.get("content"):
        found.append(("text", delta["content"]))
    for call in delta.get("tool_calls") or ():
        function = call.get("function") or {}
        found.append(("call" if function.get("name") else "arguments", function.get("arguments") or ""))
    return found


def _whole_pieces(told: dict[str, Any], dialect: str) -> list[tuple[str, str]]:
    if dialect == "openai":
        return _delta_pieces((told.get("choices") or [{}])[0].get("message") or {})
    found = []
    for block in told.get("content") or ():
        kind = block["type"]
        found.append(("call", "") if kind == "tool_use" else (kind, block.get(kind, "")))
    return found


def _speaks_anthropic(ask: Ask) -> bool:
    """Whether the upstream does."""
    return ask.provider == "claude"


def _is_json(event: bytes) -> bool:
    data = event.partition(b"data: ")[2]
    if not data or data == b"[DONE]":
        return True
    try:
        json.loads(data)
    except ValueError:
        return False
    return True
