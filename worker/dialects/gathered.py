"""An answer that comes as one JSON body: gathered to its end, then read, and passed on or translated."""

from abc import ABC, abstractmethod

from shared.errors import DialectError
from worker.dialects.neutral import Usage
from worker.dialects.rename import Renaming
from worker.dialects.tokens import TokenMeter


class GatheredBody(ABC):
    """See `worker.dialects.relay.Relay`.  `model`: the name that the answer is to tell, if another than it does."""

    error: str | None = None
    refusal: bytes | None = None

    def __init__(self, *, max_response_bytes: int, model: str | None = None) -> None:
        self._max = max_response_bytes
        self._renaming = None if model is None else Renaming(model, "model")
        self._body = bytearray()
        self.meter = TokenMeter()
        self.usage: Usage | None = None
        self.done = False

    def receive(self, data: bytes) -> bytes:
        """Gathers; the client gets the body when it is whole.  `DialectError` above the bound."""
        self._body += data
        if len(self._body) > self._max:
            raise DialectError(f"the upstream's answer is larger than max_response_bytes = {self._max}")
        return b""

    def receive_eof(self) -> bytes:
        """The whole body; `UpstreamBroken` if it is no answer, `DialectError` if the client's dialect can't say it."""
        out = self._read(bytes(self._body))
        self.done = True
        return out if self._renaming is None else self._renaming.body(out)

    @abstractmethod
    def _read(self, body: bytes) -> bytes:
        """Note usage and texts of the answer in `body`; the client's body.  Raises as `receive_eof`."""
