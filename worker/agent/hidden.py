"""The turns of a run that its client never sees, and yet continues: it is handed back calls of its own tools.

A client of `execute_client_tools` holds the conversation itself.  When the model calls one of the client's tools after
turns in which it called ours, the client's next request has the call's result, but nothing of those turns.  So they are
kept as a conversation of their own, by the id of a call that is handed back; `restore` puts them back in their place.
"""

from collections.abc import Sequence

import msgspec
from msgspec import structs

from shared.logs import get_logger
from shared.messages import Conversation, KeepConversation
from shared.records import StreamStart
from worker.agent.memory import KEEP_TIMEOUT
from worker.asgi import HttpError
from worker.dialects.neutral import Message, Request, ToolCall
from worker.gateway import Gateway

MARK = "toolu_kept_"
_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[tuple[Message, ...]] = msgspec.json.Decoder(tuple[Message, ...])


async def keep_hidden(
    gateway: Gateway, said: Sequence[Message], handed_back: tuple[ToolCall, ...], start: StreamStart
) -> tuple[ToolCall, ...]:
    """Keep all that a run has `said`, if its client has not seen all of that; the calls as they are handed back then.

    What is too long is not kept.
    """
    settings = gateway.config.agent
    if len(said) < 2 or not settings.keep_conversations:
        return handed_back
    old, new = handed_back[0].id, f"{MARK}{start.id}"
    data = _encoder.encode([_renamed(message, old, new) for message in said])
    if len(data) > settings.max_conversation_bytes:
        return handed_back
    try:
        await gateway.questions.ask(KeepConversation(new, start.client, data), KEEP_TIMEOUT)
    except HttpError as error:
        get_logger().warning("conversation_unacknowledged", session=new, problem=error.message)
    return (structs.replace(handed_back[0], id=new), *handed_back[1:])


async def restore(gateway: Gateway, client: str | None, request: Request) -> Request:
    """`request` with the hidden turns in it; without those that are not kept any more."""
    messages: list[Message] = []
    for message in request.messages:
        marked = (part.id for part in message.parts if isinstance(part, ToolCall) and part.id.startswith(MARK))
        kept = await _load(gateway, next(marked, None), client)
        messages += kept or (message,)
    return structs.replace(request, messages=tuple(messages))


async def _load(gateway: Gateway, id: str | None, client: str | None) -> tuple[Message, ...]:
    if id is None:
        return ()
    try:
        told = await gateway.questions.ask(Conversation(id, client))
        return _decoder.decode(told.body) if told.status == 200 else ()
    except (HttpError, msgspec.DecodeError):
        return ()


def _renamed(message: Message, old: str, new: str) -> Message:
    parts = (structs.replace(p, id=new) if isinstance(p, ToolCall) and p.id == old else p for p in message.parts)
    return Message(message.role, tuple(parts))
