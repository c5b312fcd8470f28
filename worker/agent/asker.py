"""Asks the turns of one run, and puts each on the bill."""

from collections.abc import Sequence

import trio

from shared.config import Config
from shared.errors import UpstreamError
from shared.records import Status
from worker.agent.bill import Bill, Item
from worker.agent.turn import Turn
from worker.agent.voice import TurnSink
from worker.gateway import Gateway
from worker.models import Target
from worker.streaming.accounting import UNBILLED
from worker.streaming.asking import Asking
from worker.streaming.place import Place
from worker.streaming.session import Session
from worker.streaming.sink import Sink


class Asker:
    """See the module.  `session` is the stream's, or a nested run's, whose `place` is then the stream's."""

    def __init__(
        self,
        gateway: Gateway,
        config: Config,
        session: Session,
        client: Sink,
        targets: Sequence[Target],
        bill: Bill,
        nursery: trio.Nursery,
        place: Place | None = None,
    ) -> None:
        """`nursery` belongs to the run: turns are counted there, as nobody has to wait for that."""
        self._session = session
        self._sink = TurnSink(client)
        self._targets = targets
        self._bill = bill
        self._nursery = nursery
        self._asking = Asking(gateway, config, session, self._sink, targets, place=place, drains=False)

    @property
    def place(self) -> Place:
        """The stream's place at a provider."""
        return self._asking.place

    @property
    def target(self) -> Target:
        """Which is asked, or was asked last."""
        return self._asking.target

    @property
    def targets(self) -> Sequence[Target]:
        """Who may be asked."""
        return self._targets

    async def ask(self, turn: Turn) -> None:
        """Have `turn` answered.  `UpstreamError` if that fails for good; what came till then is in the turn.

        Whoever has answered is asked first for the next one: he knows the signatures of his own thought, and those
        before him have just failed.
        """
        session, asking = self._session, self._asking
        asking.reached_upstream = False
        self._sink.begin()
        status: Status = "cancelled"
        error_type: str | None = None
        try:
            answered = await asking.ask(turn, self._targets)
            if answered.error is not None:
                raise answered.error
            status = "completed"
        except UpstreamError as error:
            status, error_type = "failed", error.error_type
            raise
        finally:
            session.close_upstream()
            asking.leave()
            relay, session.relay = session.relay, None
            if relay is not None:
                session.earlier_tokens += relay.meter.estimate
            self._bill.add(
                Item(
                    inquiry=turn,
                    relay=relay,
                    status=status,
                    sent=asking.reached_upstream and error_type not in ("ConnectError", "ConnectTimeout"),
                    price=asking.target.price,
                    billed=error_type not in UNBILLED,
                )
            )
            self._nursery.start_soon(self._bill.settle)
        self._targets = self._targets[self._targets.index(asking.target) :]
