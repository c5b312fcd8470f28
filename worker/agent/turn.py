"""One turn of a run: a question to the model in neutral terms, and its answer, gathered as it streams.

A turn is asked like a client's request (`worker.streaming.asking`), so every provider, dialect, normalisation, retry,
fallback, limit and count works for it as for any stream.  Only its way back ends in a `Hearing`, which gathers the
answer and tells the client of it in the presenter's words.  Pure.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from shared.config import Provider, Streaming
from shared.errors import DialectError
from worker.dialects.estimate import texts_of
from worker.dialects.exchange import UPSTREAMS, Exchange
from worker.dialects.neutral import (
    Answer,
    Apart,
    Begin,
    Event,
    Failed,
    Part,
    Redacted,
    RedactedThinking,
    Request,
    SignatureDelta,
    Stop,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolDelta,
    ToolStart,
    Usage,
    UsageTold,
    fitting_stop,
)
from worker.dialects.normalise import NormalisedStream
from worker.dialects.openai.tool_names import long_names
from worker.dialects.relay import TranslatedStream

Tell = Callable[[Event], bytes]
"""What goes out to the client for an event of the model's."""


def tell_nobody(_event: Event) -> bytes:
    """For turns of which the client hears nothing."""
    return b""


class Turn:
    """See `worker.streaming.inquiry.Inquiry`."""

    stream = True

    def __init__(
        self,
        request: Request,
        settings: Streaming,
        *,
        id: str,
        taken_ids: Collection[str] = (),
        tell: Tell = tell_nobody,
        base: Exchange | None = None,
    ) -> None:
        """`id` is unique, for calls without an id or with one of `taken_ids`; `base`: whose headers go along."""
        self._request = request
        self._settings = settings
        self._id = id
        self._taken_ids = taken_ids
        self._tell = tell
        self._base = base
        self.body_bytes = sum(map(len, texts_of(request)))
        """About: in characters, without what the provider's dialect puts around them."""
        self.hearing = Hearing(tell)
        """Of the last attempt."""

    def translates(self, provider: Provider) -> bool:
        """Always."""
        return True

    def upstream_body(self, provider: Provider, model: str) -> bytes:
        """See `Inquiry`."""
        return UPSTREAMS[provider.dialect].encode_request(self._request, provider, model)

    def upstream_headers(self, provider: Provider) -> Mapping[str, str]:
        """Those of the client's own request, which has the provider's dialect if there are any."""
        return {} if self._base is None else self._base.upstream_headers(provider)

    def upstream_query(self, provider: Provider) -> str:
        """See `upstream_headers`."""
        return "" if self._base is None else self._base.upstream_query(provider)

    def relay(self, provider: Provider) -> TranslatedStream:
        """The way back into a fresh `hearing`."""
        decoder = UPSTREAMS[provider.dialect].stream_decoder(self._settings)
        rules = tuple(rule for rule in provider.normalise if rule != "model")
        self.hearing = Hearing(self._tell)
        return TranslatedStream(NormalisedStream(decoder, rules) if rules else decoder, self.hearing)

    def error_message(self, provider: Provider, body: bytes) -> str | None:
        """See `Inquiry`."""
        return UPSTREAMS[provider.dialect].error_message(body)

    def prompt_texts(self) -> Sequence[str]:
        """See `Inquiry`."""
        return list(texts_of(self._request))

    @property
    def answer(self) -> Answer:
        """What has come so far, with ids that no earlier call has, and the tools' names as they were given."""
        return self.hearing.answer(self._id, self._taken_ids, long_names(self._request.tools))


class _Piece:
    """A part of the answer that may still grow; `kind` is what it becomes."""

    __slots__ = ("id", "kind", "name", "signature", "texts")

    def __init__(self, kind: type[Part], text: str = "", *, id: str = "", name: str = "", signature: str = "") -> None:
        self.kind = kind
        self.texts = [text]
        self.id = id
        self.name = name
        self.signature = signature


class Hearing:
    """Gathers an answer.  See `worker.dialects.codec.StreamEncoder`."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._pieces: list[_Piece] = []
        self._calls: dict[int, _Piece] = {}
        self._last: _Piece | None = None
        """That more of its kind is added to."""
        self._stop: Stop | None = None
        self._usage = Usage()

    def send(self, event: Event) -> bytes:
        """Gather it; `DialectError` for arguments of a call that has not begun."""
        match event:
            case TextDelta(text):
                self._add(Text, text)
            case ThinkingDelta(text):
                self._add(Thinking, text)
            case SignatureDelta(signature):
                self._sign(signature)
            case Redacted(data):
                self._pieces.append(_Piece(RedactedThinking, data))
                self._last = None
            case ToolStart(index, id, name):
                self._calls[index] = _Piece(ToolCall, id=id, name=name)
                self._pieces.append(self._calls[index])
                self._last = None
                return b""
            case ToolDelta(index, text):
                if index not in self._calls:
                    raise DialectError(f"arguments of tool call {index}, which has not begun")
                self._calls[index].texts.append(text)
                return b""
            case Stop():
                self._stop = event
                return b""
            case UsageTold(usage):
                self._usage = self._usage.updated(usage)
                return b""
            case Apart():
                self._last = None
                return b""
            case Failed():
                return b""
            case Begin():
                pass
        return self._tell(event)

    def finish(self) -> bytes:
        """See `StreamEncoder`."""
        if self._stop is None:
            raise DialectError("the answer has ended, and nothing told why")
        return b""

    def answer(self, id: str, taken_ids: Collection[str], tool_names: Mapping[str, str]) -> Answer:
        """See `Turn.answer`."""
        taken = set(taken_ids)
        parts: list[Part] = []
        for number, piece in enumerate(self._pieces):
            text = "".join(piece.texts)
            if piece.kind is Text:
                parts.append(Text(text))
            elif piece.kind is Thinking:
                parts.append(Thinking(text, piece.signature))
            elif piece.kind is RedactedThinking:
                parts.append(RedactedThinking(text))
            else:
                call_id = piece.id if piece.id and piece.id not in taken else f"call_{id}_{number}"
                taken.add(call_id)
                parts.append(ToolCall(call_id, tool_names.get(piece.name, piece.name), text))
        stop = self._stop or Stop("end")
        return Answer(
            parts=tuple(parts),
            stop=fitting_stop(stop.reason, called_tools=bool(self._calls)),
            stop_sequence=stop.sequence,
            usage=self._usage,
        )

    def _add(self, kind: type[Part], text: str) -> None:
        if self._last is not None and self._last.kind is kind and not self._last.signature:
            self._last.texts.append(text)
            return
        self._last = _Piece(kind, text)
        self._pieces.append(self._last)

    def _sign(self, signature: str) -> None:
        if self._last is not None and self._last.kind is Thinking:
            self._last.signature = signature
        elif signature:
            self._pieces.append(_Piece(Thinking, signature=signature))
        self._last = None
