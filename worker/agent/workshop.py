"""What the turns of one run share, and the runs and searches that its tools start inside of it."""

import contextlib
from functools import partial

import trio
from msgspec import structs

from shared.config import Config
from shared.errors import UpstreamError
from worker.addressing import Addressed
from worker.admission import session_key
from worker.agent.asker import Asker
from worker.agent.bill import Bill
from worker.agent.calls import Calls
from worker.agent.errors import ToolError
from worker.agent.loop import Loop
from worker.agent.presenter import Silent
from worker.agent.processes import Processes
from worker.agent.search import can_search, search
from worker.agent.threads import Threads
from worker.agent.tools import Context
from worker.agent.turn import Turn, tell_nobody
from worker.agent.voice import Voice
from worker.agent.wish import Wish, asked_for
from worker.agent.workspace import Workspace
from worker.dialects.neutral import Answer, Message, Request, ToolCall
from worker.gateway import Gateway
from worker.models import Target
from worker.streaming.limits import LimitExceeded
from worker.streaming.refusal import sentence
from worker.streaming.report import tell_failure
from worker.streaming.session import Session
from worker.streaming.sink import ClientSink


class Workshop:
    """See the module.  `nursery` is the run's: all that is started here lives in it."""

    def __init__(
        self,
        gateway: Gateway,
        config: Config,
        addressed: Addressed,
        wish: Wish,
        session: Session,
        client: ClientSink,
        voice: Voice,
        bill: Bill,
        nursery: trio.Nursery,
    ) -> None:
        self._gateway = gateway
        self._config = config
        self._settings = config.agent
        self._start = addressed.start
        self._wish = wish
        self._session = session
        self._client = client
        self._voice = voice
        self._bill = bill
        self._nursery = nursery
        self._workspace = Workspace(self._settings.workspace)
        self._processes = Processes(self._settings, self._workspace, gateway.keeper, trace=self._start.trace)
        self._turns = 0
        self.asker = Asker(gateway, config, session, client, addressed.targets, bill, nursery)

    async def wait_for_older(self) -> None:
        """Until older runs of the session, which give way, have ended: the conversation is theirs till then."""
        if session_key(self._config, self._start) is None:
            return
        place = self.asker.place
        with contextlib.suppress(LimitExceeded):  # the turn will see to that, and to other providers
            await place.take(self._config.providers[self.asker.target.provider])
        place.leave()

    def loop(self, earlier: tuple[Message, ...]) -> Loop:
        """The run's own turns, behind what was said `earlier`."""
        wish = self._wish
        request = structs.replace(wish.request, messages=(*earlier, *wish.request.messages))
        calls = Calls(self._settings, wish.tools, self._voice, self._nursery, self._start.trace)
        return Loop(request, self._make_turn, self.asker, calls, self._voice, wish.tools, wish.clients)

    @property
    def context(self) -> Context:
        """What the tools of the run's own turns may use."""
        return self._context(depth=0)

    async def close(self) -> None:
        """Kill what has been left running; nothing has, unless it was cancelled."""
        await self._processes.kill_all()

    def _make_turn(self, request: Request, *, quiet: bool = False) -> Turn:
        self._turns += 1
        calls = (part for message in request.messages for part in message.parts if isinstance(part, ToolCall))
        return Turn(
            request,
            self._config.streaming,
            id=f"{self._start.id}_{self._turns}",
            taken_ids={call.id for call in calls},
            tell=tell_nobody if quiet else self._voice.tell,
            base=self._wish.base,
        )

    def _context(self, *, depth: int) -> Context:
        able = (target for target in self.asker.targets if can_search(self._config.providers[target.provider]))
        searcher = next(able, None)
        return Context(
            settings=self._settings,
            workspace=self._workspace,
            processes=self._processes,
            threads=Threads(self._settings, self._gateway.abandoned, self._start.trace),
            ask=partial(self._nest, depth + 1),
            search=None if searcher is None else partial(self._search, searcher),
            todos=[],
            max_output_chars=self._settings.max_output_chars,
        )

    async def _nest(self, depth: int, prompt: str, budget: int) -> str:
        """A run inside of this one, of which the client hears nothing: its answer.  `ToolError` if it has none."""
        settings, wish = self._settings, self._wish
        if depth > settings.max_depth:
            raise ToolError(f"runs may be nested {settings.max_depth} deep ([agent] max_depth): do it yourself")
        steps = max(1, min(budget, settings.max_iterations))
        request = asked_for(prompt, settings, wish.tools, wish.definitions, max_steps=steps, nested=True)
        with self._session.nested() as session:
            asker = self._asker_inside(session)
            voice = Voice(Silent(), session, self._client, self._gateway.counter.count_delta)
            calls = Calls(settings, wish.tools, voice, self._nursery, self._start.trace)
            loop = Loop(request, partial(self._make_turn, quiet=True), asker, calls, voice, wish.tools)
            try:
                ended = await loop.run(self._context(depth=depth), steps)
            except UpstreamError as error:
                if session.cancelled_at is None:
                    tell_failure(self._gateway.link, session, asker.target, error)
                raise ToolError(f"the nested run failed: {sentence(error)}") from error
        if ended.too_many:
            raise ToolError(f"the nested run came to no answer in {steps} turns; its last words: {ended.text}")
        return ended.text

    async def _search(self, target: Target, query: str) -> str:
        """The search of this target's provider."""

        async def ask(request: Request) -> Answer:
            with self._session.nested() as session:
                turn = self._make_turn(request, quiet=True)
                await self._asker_inside(session, target).ask(turn)
                return turn.answer

        return await search(ask, self._config.providers[target.provider], query)

    def _asker_inside(self, session: Session, target: Target | None = None) -> Asker:
        targets = self.asker.targets if target is None else (target,)
        place = self.asker.place
        return Asker(
            self._gateway, self._config, session, self._client, targets, self._bill, self._nursery, place=place
        )
