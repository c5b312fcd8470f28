"""What a scripted upstream says: the model's name chooses, whatever dialect it is then said in.  Pure.

The parts of a name are joined with `+`; `SAYS` lists those that choose what is said.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

SAYS = """
    text-N              N words (16 by default), one a piece          big-N              each word N KiB long
    reasoning           thought, then the text                        length, content-filter, stop-sequence  end so
    tools               a tool call, its arguments in fragments       tools-whole        its arguments in one piece
    tools-parallel      two calls, one after the other                tools-interleaved  two, their fragments mixed
    tools-noid          a call that has no id                         reasoning-tools    thought, then a call
    think-tags          thought inside the text, between <think> tags
    kimi-markers        a tool call inside the text, between Kimi's markers

A call is get_weather({"city": "Oslo 🎉"}) unless the messages hold `[[tool:NAME {…}]]`; behind its result all of these
say FINAL.
"""
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "naïve", "日本", "🎉", "and", "more"]
THOUGHTS = ["Let ", "me ", "think ", "about ", "it."]
FINAL = ["final ", "answer ", "after ", "tool"]
CITIES = [{"city": "Oslo 🎉"}, {"city": "Bergen"}]
PROMPT_TOKENS = 11
CACHED_TOKENS, WRITTEN_TOKENS = 6, 2
"""Of the prompt, with `cached`."""
MARKERS = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>{arguments}"
    "<|tool_call_end|><|tool_calls_section_end|>"
)

Finish = Literal["stop", "length", "tool_calls", "content_filter", "stop_sequence"]


def text_of(words: int, kib: int = 0) -> list[str]:
    """The deltas of `text-N`."""
    return ["x" * (kib * 1024) if kib else WORDS[i % len(WORDS)] + " " for i in range(words)]


def behaviour(model: str) -> dict[str, int]:
    """The parts of a model's name, each with its number, or 1; plain `text` is a text of the usual length."""
    parts: dict[str, int] = {}
    for part in model.split("+"):
        name, _, number = part.rpartition("-")
        parts.update({name: int(number)} if number.isdecimal() else {part: 1} if part != "text" else {})
    return parts


@dataclass(frozen=True)
class Piece:
    """What goes into one chunk.  `index`, `id` and `name` are a tool call's, whose arguments are `text`s."""

    kind: Literal["thinking", "text", "call", "arguments"]
    text: str = ""
    index: int = 0
    id: str = ""
    name: str = ""


@dataclass(frozen=True)
class Script:
    """A whole answer."""

    pieces: tuple[Piece, ...]
    finish: Finish

    def joined(self, kind: str) -> str:
        """All that is said in one kind."""
        return "".join(piece.text for piece in self.pieces if piece.kind == kind)

    def calls(self) -> list[tuple[Piece, str]]:
        """Each call, and its arguments."""
        heads = [piece for piece in self.pieces if piece.kind == "call"]
        return [(head, self._arguments(head.index)) for head in heads]

    def _arguments(self, index: int) -> str:
        fragments = (piece for piece in self.pieces if piece.kind in ("call", "arguments") and piece.index == index)
        return "".join(piece.text for piece in fragments)


def script_of(does: dict[str, int], body: dict[str, Any]) -> Script:
    """The answer to a request's body, in either dialect."""
    messages = body.get("messages") or []
    thoughts = [Piece("thinking", text) for text in THOUGHTS]
    kind = next((part for part in does if "tools" in part or part == "kimi-markers"), None)
    pieces = thoughts if "reasoning" in does or "reasoning-tools" in does else []
    if kind is not None and _follows_results(messages):
        return Script((*pieces, *(Piece("text", text) for text in FINAL)), "stop")
    if kind == "kimi-markers":
        name, arguments = _wanted(messages)[0]
        said = "Let me see. " + MARKERS.format(name=name, arguments=arguments)
        return Script((*pieces, *(Piece("text", text) for text in _split(said, 7))), "stop")
    if kind is not None:
        return Script((*pieces, *_calls(kind, messages)), "tool_calls")
    texts = text_of(does.get("text", 16), does.get("big", 0))
    if "think-tags" in does:
        texts = [*_split(f"<think>{''.join(THOUGHTS)}</think>", 7), *texts]
    ends: dict[str, Finish] = {
        "length": "length",
        "content-filter": "content_filter",
        "stop-sequence": "stop_sequence",
    }
    finish: Finish = next((ends[part] for part in does if part in ends), "stop")
    return Script((*pieces, *(Piece("text", text) for text in texts)), finish)


def _calls(kind: str, messages: list[Any]) -> Iterator[Piece]:
    wanted = _wanted(messages)[: 2 if kind in ("tools-parallel", "tools-interleaved") else 1]
    calls = []
    for index, (name, arguments) in enumerate(wanted):
        id = "" if kind == "tools-noid" else f"call_{index + 1}"
        head = Piece("call", arguments if kind == "tools-whole" else "", index, id, name)
        fragments = [] if kind == "tools-whole" else _split(arguments, 5)
        calls.append([head, *(Piece("arguments", text, index) for text in fragments)])
    if kind == "tools-interleaved":
        calls = [[piece for row in zip_longest(*calls) for piece in row if piece is not None]]
    for call in calls:
        yield from call


def _wanted(messages: list[Any]) -> list[tuple[str, str]]:
    """Name and arguments of the calls to make."""
    asked = re.findall(r"\[\[tool:(\w+)\s*(\{.*?\})\]\]", "\n".join(map(text_in, messages)), re.DOTALL)
    return asked or [("get_weather", json.dumps(city, ensure_ascii=False)) for city in CITIES]


def _split(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def text_in(message: Any) -> str:
    """A message's text, in either dialect, that of its tool results included."""
    content = message.get("content") if isinstance(message, dict) else message
    if not isinstance(content, list):
        return str(content or "")
    texts = (part.get("text") or part.get("content") or "" for part in content if isinstance(part, dict))
    return "".join(text if isinstance(text, str) else text_in({"content": text}) for text in texts)


def _follows_results(messages: list[Any]) -> bool:
    """Whether what is to be answered are the results of tool calls."""
    for message in reversed(messages):
        if message.get("role") == "assistant":
            return False
        content = message.get("content")
        parts = content if isinstance(content, list) else []
        if message.get("role") == "tool" or any(part.get("type") == "tool_result" for part in parts):
            return True
    return False
