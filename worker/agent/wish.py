"""What a run is to do.  Pure."""

from msgspec import Struct

from shared.config import Agent
from worker.agent.calls import Tools
from worker.agent.instructions import instructions
from worker.dialects import neutral
from worker.dialects.exchange import Exchange
from worker.dialects.neutral import Message, Request, Text


class Wish(Struct, frozen=True, kw_only=True):
    """See the module."""

    request: Request
    """The conversation so far, and the tools that the model is told of."""
    tools: Tools
    """Those that are run here…"""
    definitions: tuple[neutral.Tool, ...]
    """…and what a model is told of them in nested runs."""
    clients: frozenset[str] = frozenset()
    """The names of those that the client runs."""
    remembers: bool = False
    """What the stream's session has said comes before, and is kept with all this."""
    base: Exchange | None = None
    """The client's own request, in whose dialect it is answered."""


def asked_for(
    text: str,
    settings: Agent,
    tools: Tools,
    definitions: tuple[neutral.Tool, ...],
    *,
    max_steps: int,
    nested: bool = False,
) -> Request:
    """The conversation that begins with a user's words, or those of a run that nests another in itself."""
    return Request(
        system=instructions(settings, tools, max_steps=max_steps, nested=nested),
        messages=(Message("user", (Text(text),)),),
        tools=definitions,
        stream=True,
    )
