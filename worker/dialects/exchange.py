"""A client's request, and how to answer it, whatever the upstream speaks.

    same dialect on both sides    `pass_request`, `pass_relay`: bytes as they came, but for the model's name
    two dialects                  body ─▶ neutral.Request ─▶ upstream body; upstream bytes ─▶ events ─▶ client bytes

`Exchange` is what the two dialects' exchanges have in common; the pump knows no more of them than stands here.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar

from shared.config import Provider, Streaming
from shared.errors import DialectError
from shared.records import Dialect
from worker.dialects.anthropic.upstream import AnthropicUpstream
from worker.dialects.codec import Reply, StreamEncoder, UpstreamCodec
from worker.dialects.estimate import estimate_tokens
from worker.dialects.neutral import Answer, Request
from worker.dialects.normalise import NormalisedStream, normalised
from worker.dialects.openai.upstream import OpenAIUpstream
from worker.dialects.relay import Relay, TranslatedBody, TranslatedStream

UPSTREAMS: dict[Dialect, UpstreamCodec] = {"openai": OpenAIUpstream(), "anthropic": AnthropicUpstream()}


class Exchange(ABC):
    """One request.  Making one raises `DialectError` for a body that can't be understood, for the client to read."""

    dialect: ClassVar[Dialect]
    ping: ClassVar[bytes]
    """What keeps a silent stream alive."""
    model: str
    """As asked."""
    stream: bool
    session: str | None
    """The session key in the body, if there is one."""

    def __init__(self, body: bytes, settings: Streaming, *, id: str, now: int) -> None:
        """`id` is unique, for ids that the upstream does not give; `now` in epoch seconds."""
        self.body_bytes = len(body)
        self._settings = settings
        self._id = id
        self._now = now

    def translates(self, provider: Provider) -> bool:
        """Whether more than the model's name changes on the way to this provider and back."""
        return provider.dialect != self.dialect

    def upstream_body(self, provider: Provider, model: str) -> bytes:
        """The request as this provider wants it; `DialectError` for what it can't be asked.

        Linear in the body's size: call it in a thread where that is large.
        """
        if not self.translates(provider):
            return self.pass_request(provider, model)
        if not (self.neutral.messages or self.neutral.system):
            raise DialectError("`messages`: at least one message that says something is needed")
        return UPSTREAMS[provider.dialect].encode_request(self.neutral, provider, model)

    def upstream_headers(self, provider: Provider) -> Mapping[str, str]:
        """Headers of the client's that this provider understands."""
        return {}

    def upstream_query(self, provider: Provider) -> str:
        """The client's query string, for a provider that understands it."""
        return ""

    def relay(self, provider: Provider) -> Relay:
        """A fresh way back from this provider."""
        rules = tuple(rule for rule in provider.normalise if rule != "model")  # what is written anew keeps to that
        if not self.translates(provider) and not rules:
            return self.pass_relay(provider)
        upstream = UPSTREAMS[provider.dialect]
        # What the other dialect's upstream tells of the prompt, it tells at the end only.
        prompt_tokens = estimate_tokens(self.neutral) if self.translates(provider) and self.stream else 0
        reply = self.reply(Reply(id=self._id, model=self.model, created=self._now, prompt_tokens=prompt_tokens))
        if self.stream:
            decoder = upstream.stream_decoder(self._settings)
            if rules:
                decoder = NormalisedStream(decoder, rules)
            return TranslatedStream(decoder, self.stream_encoder(reply))

        def decode(body: bytes) -> Answer:
            return normalised(upstream.decode_answer(body), rules)

        def encode(answer: Answer) -> bytes:
            return self.encode_answer(answer, reply)

        return TranslatedBody(decode, encode, self._settings.max_response_bytes)

    def renamed(self, provider: Provider) -> str | None:
        """What this provider's answers, if they pass, are to call the model; None: whatever they do."""
        return self.model if "model" in provider.normalise else None

    def passes_errors_of(self, provider: Provider) -> bool:
        """Whether this provider's error bodies are in the client's dialect."""
        return provider.dialect == self.dialect

    def error_message(self, provider: Provider, body: bytes) -> str | None:
        """What a provider's error body says; None if it isn't one."""
        return UPSTREAMS[provider.dialect].error_message(body)

    @cached_property
    def neutral(self) -> Request:
        """The request as both dialects understand it; `DialectError` names what can't be understood."""
        return self.decode_request()

    # --- what a dialect has to say

    @abstractmethod
    def pass_request(self, provider: Provider, model: str) -> bytes:
        """The body for a provider that speaks the client's dialect."""

    @abstractmethod
    def pass_relay(self, provider: Provider) -> Relay:
        """The way back from one."""

    @abstractmethod
    def decode_request(self) -> Request:
        """The body as a neutral request; `DialectError` names the field that is wrong."""

    @abstractmethod
    def reply(self, reply: Reply) -> Reply:
        """`reply`, and what the client said about how it wants to be answered."""

    @abstractmethod
    def stream_encoder(self, reply: Reply) -> StreamEncoder:
        """An encoder for one stream."""

    @abstractmethod
    def encode_answer(self, answer: Answer, reply: Reply) -> bytes:
        """A whole answer's body."""

    @abstractmethod
    def error_body(self, status: int, message: str, code: str | None = None, param: str | None = None) -> bytes:
        """An error as the client's dialect has it.

        `code` is a word for it, `param` the field that is wrong; where the dialect has a place for them.
        """

    @abstractmethod
    def error_event(self, message: str, type: str) -> bytes:
        """The event that ends a broken stream."""

    @abstractmethod
    def prompt_texts(self) -> Sequence[str]:
        """The text that the model reads.  Called in a thread where the body is large."""
