"""What a run says to its client: the presenter's words, sent in order, with a checkpoint every so many tokens."""

from collections.abc import Callable

import trio

from worker.agent.presenter import Presenter
from worker.agent.tally import Tally
from worker.asgi import Header
from worker.dialects.neutral import Begin, Event, TextDelta
from worker.streaming.session import Session
from worker.streaming.sink import Sink

CHECKPOINT_TOKENS = 50


class Voice:
    """See the module.  `count`: the tokens of a text."""

    def __init__(self, presenter: Presenter, session: Session, client: Sink, count: Callable[[str], int]) -> None:
        self.presenter = presenter
        self._session = session
        self._client = client
        self._tally = Tally(count, CHECKPOINT_TOKENS)
        self._saying = trio.Lock()
        self._begun = False

    def tell(self, event: Event) -> bytes:
        """What goes out for an event of the model's."""
        match event:
            case Begin():
                if self._begun:
                    return b""
                self._begun = True
            case TextDelta(text):
                said = self.presenter.event(event)
                for step in self._tally.add(text):
                    said += self.presenter.checkpoint(step * CHECKPOINT_TOKENS)
                return said
            case _:
                pass
        return self.presenter.event(event)

    async def say(self, data: bytes) -> None:
        """Send what the presenter has made.  Tools that run side by side say it when they end: one after the other."""
        if data and not self._session.client_gone:
            async with self._saying:
                await self._client.send(data)


class TurnSink:
    """The way to the client for one turn after the other, none of which ends the answer: a `Sink`."""

    def __init__(self, client: Sink) -> None:
        self._client = client
        self.committed = False
        """The client has heard something of this turn, so that it can't be asked anew."""

    def begin(self) -> None:
        """The next turn."""
        self.committed = False

    @property
    def may_ping(self) -> bool:
        """See `Sink`."""
        return self._client.may_ping

    @may_ping.setter
    def may_ping(self, may: bool) -> None:
        self._client.may_ping = may

    @property
    def extra_headers(self) -> list[Header]:
        """See `Sink`."""
        return self._client.extra_headers

    @extra_headers.setter
    def extra_headers(self, headers: list[Header]) -> None:
        if not self._client.committed:
            self._client.extra_headers = headers

    async def send(self, data: bytes) -> None:
        """See `Sink`."""
        self.committed = True
        await self._client.send(data)

    async def finish(self, data: bytes = b"") -> None:
        """The end of the turn."""
        if data:
            await self.send(data)
