"""How an Anthropic upstream is asked to think, and when it can't be.

It refuses a request with `thinking` that also forces a tool, begins the answer, leaves no tokens beside the thought,
or goes on after tool results whose calls don't begin with a thought.  Thinking is the wish that gives way then.
"""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from worker.dialects.neutral import Effort, Message, RedactedThinking, Request, Thinking, ToolCall

MIN_BUDGET = 1024
"""Anthropic's own bound."""
# `reasoning_effort` in tokens.  Even the most leaves room for an answer within 32,000 tokens, which every model that
# thinks can write; and the way back, from a budget to a word, tells low, medium and high apart.
BUDGETS: dict[Effort, int] = {
    "minimal": MIN_BUDGET,
    "low": 2048,
    "medium": 8192,
    "high": 20480,
    "xhigh": 22528,
    "max": 23552,
}


class Plan(Struct, frozen=True):
    """The `thinking` to send, if any, and how many tokens thought and answer may have together."""

    thinking: dict[str, Any] | None
    max_tokens: int

    @property
    def thinks(self) -> bool:
        """Whether the rules for thinking requests hold."""
        return self.thinking is not None and self.thinking["type"] != "disabled"


def plan_thinking(
    request: Request, turns: Sequence[Message], *, max_tokens: int, most: int | None, forces_tool: bool
) -> Plan:
    """`turns` as they go upstream; `most`: the provider's bound on `max_tokens`, which is within it."""
    mode = _mode(request)
    if mode == "disabled":
        return Plan({"type": "disabled"}, max_tokens)
    if mode is None or forces_tool or (turns and turns[-1].role == "assistant"):
        return Plan(None, max_tokens)
    if mode == "adaptive":
        return Plan({"type": "adaptive"}, max_tokens)
    if _calls_without_thought(turns):
        return Plan(None, max_tokens)
    budget = max(MIN_BUDGET, _budget(request))
    room = max_tokens
    if budget >= room:  # the client's bound is meant for the answer
        room += budget
        if most is not None and room > most:
            room, budget = most, min(budget, most // 2)
    if budget < MIN_BUDGET:
        return Plan(None, max_tokens)
    return Plan({"type": "enabled", "budget_tokens": budget}, room)


def _mode(request: Request) -> str | None:
    if request.reasoning is not None:
        return request.reasoning.mode
    if request.effort is None:
        return None
    return "disabled" if request.effort == "none" else "enabled"


def _budget(request: Request) -> int:
    if request.reasoning is not None and request.reasoning.budget_tokens is not None:
        return request.reasoning.budget_tokens
    return BUDGETS.get(request.effort or "medium", BUDGETS["medium"])


def _calls_without_thought(turns: Sequence[Message]) -> bool:
    """Whether the last of the assistant's turns calls tools without having thought first."""
    last = next((turn for turn in reversed(turns) if turn.role == "assistant"), None)
    if last is None or isinstance(last.parts[0], Thinking | RedactedThinking):
        return False
    return any(isinstance(part, ToolCall) for part in last.parts)
