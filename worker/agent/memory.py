"""The conversations of sessions, which the supervisor keeps for all workers.

A conversation belongs to the session and to the key of its client: nobody else can continue it.

    run ── load ──▶ … turns … ── keep ──▶ the stream's record, the client's last event

`load` comes after the run's admission, when an older run of the session has ended, and `keep` before the record: the
supervisor hears of both in this order, from whichever workers.
"""

from collections.abc import Sequence

from shared.logs import get_logger
from shared.messages import Conversation, KeepConversation
from worker.agent.conversation import decode, encode
from worker.asgi import HttpError
from worker.dialects.neutral import Message
from worker.gateway import Gateway

KEEP_TIMEOUT = 1.0
"""How long a client may be kept from its last event, until the supervisor is known to have the conversation."""


async def load(gateway: Gateway, session: str | None, client: str | None) -> tuple[Message, ...]:
    """What the session has said before, legal to be continued with the user's words; () if it is new, or has expired.

    `client`: the fingerprint of the client's key (`Request.client`).  `HttpError` 503 if it can't be had at the moment:
    to go on without would be to answer another question.
    """
    if session is None or not gateway.config.agent.keep_conversations:
        return ()
    told = await gateway.questions.ask(Conversation(session, client))
    if told.status == 404:
        return ()
    if told.status != 200:
        raise HttpError(
            told.status,
            "what this session has said before can't be read at the moment; try again",
            headers=[(b"retry-after", b"1")],
        )
    return decode(told.body)


async def keep(gateway: Gateway, session: str | None, client: str | None, messages: Sequence[Message]) -> None:
    """Have all of `messages` kept, in the place of what was, however the run ended; returns when a next run sees it.

    They are sent before anything is waited for, so it does its work in a cancelled scope too, and then raises
    `trio.Cancelled`.  No other failure is an error: the log has it.
    """
    settings = gateway.config.agent
    if session is None or not settings.keep_conversations:
        return
    data = encode(messages, settings.max_conversation_bytes)
    try:
        await gateway.questions.ask(KeepConversation(session, client, data), timeout=KEEP_TIMEOUT)
    except HttpError as error:
        get_logger().warning("conversation_unacknowledged", session=session, problem=error.message)
