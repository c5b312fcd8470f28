"""`POST /v1/messages/count_tokens`: how long a prompt is.

No provider is asked, so any model's name will do that the client may ask for.
"""

from collections.abc import Callable, Iterable

import tiktoken

from shared.errors import DialectError
from worker.addressing import check_model
from worker.asgi import HttpError, Request
from worker.dialects.anthropic.decode_request import decode_request
from worker.dialects.anthropic.request import parse_request, prompt_texts
from worker.dialects.estimate import frame_tokens, media_tokens, texts_of
from worker.dialects.tokens import count_tokens as count_exactly
from worker.gateway import Gateway

# About a million tokens, and half a second.  Hardly a model reads more; longer texts are judged by samples.
MAX_COUNTED_CHARS = 4 * 1024 * 1024
SAMPLES = 64


async def count_tokens(gateway: Gateway, request: Request) -> None:
    """`{"input_tokens": N}`: tiktoken's count of the text, and an estimate of images and documents."""
    server = gateway.config.server
    body = await request.read_body(server.max_body_bytes, server.body_timeout)

    def check(model: str) -> None:
        check_model(gateway, request, model, "anthropic")

    def count(encoding: tiktoken.Encoding) -> int:
        return input_tokens(encoding, body, check)

    try:
        counted = await gateway.counter.count_asked(count, len(body))
    except DialectError as error:
        raise HttpError(400, str(error)) from None
    await request.respond_json({"input_tokens": counted})


def input_tokens(encoding: tiktoken.Encoding, body: bytes, check: Callable[[str], None] = lambda model: None) -> int:
    """The tokens of a request's body.  `DialectError` if it is none.  Takes long for long ones.

    `check` is told the model before they are counted, and raises what it likes.
    """
    request = parse_request(body)
    check(request.model)
    try:
        asked = decode_request(request.fields)
    except DialectError:
        # Unknown kinds of blocks: a provider of this dialect may know them, so the text in them counts.
        return max(1, count_text(encoding, prompt_texts(request)))
    return count_text(encoding, texts_of(asked)) + media_tokens(asked) + frame_tokens(asked)


def count_text(encoding: tiktoken.Encoding, texts: Iterable[str], most: int = MAX_COUNTED_CHARS) -> int:
    """The tokens of `texts` joined; of more than `most` characters, evenly spread samples of so many are counted."""
    text = "".join(texts)
    if len(text) <= most:
        return count_exactly(encoding, [text])
    starts = [len(text) * n // SAMPLES for n in range(SAMPLES)]
    samples = [text[start : start + most // SAMPLES] for start in starts]
    return count_exactly(encoding, samples) * len(text) // sum(map(len, samples))
