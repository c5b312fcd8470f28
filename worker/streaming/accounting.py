"""The token counts of a finished stream: the provider's where it told them, else ours."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import tiktoken
import trio
from msgspec import Struct

from shared.config import Price
from shared.records import Status, Tokens
from worker.cost import cost_of
from worker.dialects.relay import Relay
from worker.dialects.tokens import CHARS_PER_TOKEN, TokenMeter, count_tokens
from worker.streaming.inquiry import Inquiry

# About 2,000 tokens: counting them takes as long as a hop to a thread and back.
INLINE_CHARS = 8192
# A running answer's text is counted and let go whenever this much has come, so that memory stays bounded.
FOLD_CHARS = 256 * 1024
# How long a stream's record may wait for its count; then an estimate takes its place.
COUNT_TIMEOUT = 2.5
# How streams end whose last provider has not taken them up, and so charges nothing.
UNBILLED = frozenset(
    {"HTTPStatusError", "LimitExceeded", "CircuitOpen", "UntranslatableRequest", "ConnectError", "ConnectTimeout"}
)
FREE = Price()


class Account(Struct, frozen=True):
    """What goes into the record; `counted_completion` is our own count beside the provider's."""

    prompt: Tokens | None
    completion: Tokens | None
    counted_completion: int | None
    cache_read: int | None = None
    cache_write: int | None = None
    cost: float | None = None


class Counter:
    """Counts off the event loop; shared by all streams of a worker."""

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self._encoding = encoding
        self._limiter = trio.CapacityLimiter(2)
        self._asked_limiter = trio.CapacityLimiter(2)
        self._scopes: set[trio.CancelScope] = set()
        self._hurried = False

    def hurry(self) -> None:
        """Estimates stand for what is not counted by now: the process is about to end, and records must be written."""
        self._hurried = True
        for scope in self._scopes:
            scope.cancel()

    async def fold(self, meter: TokenMeter) -> None:
        """Count what the meter has gathered, in a thread.  If cancelled, the meter keeps an estimate."""
        chars = meter.chars
        texts = meter.take()
        counted: int | None = None
        try:
            counted = await self._count(lambda: texts, chars)
        finally:
            meter.counted += -(-chars // CHARS_PER_TOKEN) if counted is None else counted

    async def account(
        self,
        inquiry: Inquiry,
        relay: Relay | None,
        status: Status,
        *,
        sent: bool,
        price: Price | None = None,
        billed: bool = True,
    ) -> Account:
        """The counts for a stream that ended with `status`; `sent`: its request may have reached an upstream.

        What has arrived costs its `price`, however the stream ended, unless it is not `billed` at all.  Takes at most
        `COUNT_TIMEOUT`, whatever cancels the caller, and less after `hurry`: a record must be written.
        """
        usage = relay.usage if relay is not None else None
        told = usage.prompt_tokens if usage is not None else None
        prompt = Tokens(told, "provider") if told is not None else None
        count_prompt = prompt is None and sent
        if count_prompt:  # estimates stand where the counts come late
            prompt = Tokens(inquiry.body_bytes // CHARS_PER_TOKEN, "partial")
        inline = (relay is None or relay.meter.chars <= INLINE_CHARS) and (
            not count_prompt or inquiry.body_bytes <= INLINE_CHARS
        )
        with contextlib.nullcontext() if inline else self._bounded():
            if relay is not None:
                await self.fold(relay.meter)
            if count_prompt:
                prompt = Tokens(await self._count(inquiry.prompt_texts, inquiry.body_bytes), "counted")
        counted = relay.meter.counted if relay is not None else 0
        beside: int | None = None
        if usage is not None and usage.completion_tokens is not None:
            completion: Tokens | None = Tokens(usage.completion_tokens, "provider")
            beside = counted
        else:
            completion = Tokens(counted, "counted" if status == "completed" else "partial") if sent else None
        read, written = (usage.cache_read_tokens, usage.cache_write_tokens) if usage is not None else (None, None)
        cost = cost_of(
            price if billed or price is None else FREE,
            prompt.count if prompt else None,
            completion.count if completion else None,
            read,
            written,
        )
        return Account(prompt, completion, beside, read, written, cost)

    async def count_asked(self, count: Callable[[tiktoken.Encoding], int], size: int) -> int:
        """What `count` counts for a client that asked: in a thread, unless what is counted has a small `size` in bytes.

        It waits for its own kind only: streams' records come first.  If cancelled, the thread is left to itself.
        """
        if size <= INLINE_CHARS:
            return count(self._encoding)
        return await trio.to_thread.run_sync(count, self._encoding, abandon_on_cancel=True, limiter=self._asked_limiter)

    def count_delta(self, text: str) -> int:
        """The tokens of a part of an answer; an estimate where it is so long that counting would hold up others."""
        return -(-len(text) // CHARS_PER_TOKEN) if len(text) > INLINE_CHARS else count_tokens(self._encoding, [text])

    @contextlib.contextmanager
    def _bounded(self) -> Iterator[None]:
        with trio.CancelScope(deadline=trio.current_time() + COUNT_TIMEOUT, shield=True) as scope:
            if self._hurried:
                scope.cancel()
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)

    async def _count(self, texts: Callable[[], Sequence[str]], size: int) -> int:
        def count() -> int:
            return count_tokens(self._encoding, texts())

        if size <= INLINE_CHARS:
            return count()
        return await trio.to_thread.run_sync(count, abandon_on_cancel=True, limiter=self._limiter)
