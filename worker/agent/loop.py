"""The turns of a run: the model is asked, its calls are run, and it is asked again with what they said.

`decide` says what follows from an answer, purely; `Loop` does it.

    answer        no calls: the run is over
    calls         ours are run, the client's are handed back to it, which ends the run
    pause         the provider wants to be asked to go on
    too many      `max_iterations` turns, and it still calls: the run is over without an answer
    plan          a tool ends the run with a text (`RunEnds`)
"""

from collections.abc import Callable, Collection, Sequence

from msgspec import Struct, structs

from worker.agent.asker import Asker
from worker.agent.calls import Calls, Tools
from worker.agent.tools import Context, RunEnds
from worker.agent.turn import Turn
from worker.agent.voice import Voice
from worker.dialects.neutral import (
    Answer,
    Message,
    Request,
    Stop,
    StopReason,
    Text,
    TextDelta,
    ToolCall,
    ToolResult,
)


class Ends(Struct, frozen=True):
    """The answer is what the run was for."""


class GoesOn(Struct, frozen=True):
    """The model is asked to go on."""


class Acts(Struct, frozen=True):
    """Calls `ours` are to be run, side by side if `together`; `theirs` are the client's, and end the run."""

    ours: tuple[ToolCall, ...]
    theirs: tuple[ToolCall, ...]
    together: bool


class TooMany(Struct, frozen=True):
    """It calls tools, but has no turn left to hear what they say."""


Step = Ends | GoesOn | Acts | TooMany


def decide(answer: Answer, tools: Tools, clients: Collection[str], *, step: int, max_steps: int) -> Step:
    """What follows from the answer of the `step`-th turn.  `clients`: the names of tools that the client runs.

    A name that nobody knows is ours: the model is told so, and can do better.
    """
    calls = [part for part in answer.parts if isinstance(part, ToolCall)]
    if not calls:
        return GoesOn() if answer.stop == "pause" and step < max_steps else Ends()
    theirs = tuple(call for call in calls if call.name in clients)
    ours = tuple(call for call in calls if call.name not in clients)
    if not theirs and step >= max_steps:
        return TooMany()
    return Acts(ours, theirs, all(call.name not in tools or tools[call.name].parallel for call in ours))


class Ended(Struct, frozen=True):
    """How a run ended by itself."""

    stop: StopReason
    text: str = ""
    """The answer's."""
    handed_back: tuple[ToolCall, ...] = ()
    """Calls that the client is to answer."""
    too_many: bool = False


class Loop:
    """The turns of one run.  `messages` grows with it, so that whatever ends it early, what was said is there."""

    def __init__(
        self,
        request: Request,
        make_turn: Callable[[Request], Turn],
        asker: Asker,
        calls: Calls,
        voice: Voice,
        tools: Tools,
        clients: Collection[str] = (),
    ) -> None:
        self.messages = list(request.messages)
        self._request = request
        self._make_turn = make_turn
        self._asker = asker
        self._calls = calls
        self._voice = voice
        self._tools = tools
        self._clients = clients

    async def run(self, context: Context, max_steps: int) -> Ended:
        """Carry it to its end.  `UpstreamError` if no provider answers."""
        voice = self._voice
        for step in range(1, max_steps + 1):
            if step > 1:
                await voice.say(voice.presenter.status_thinking(step))
            answer = await self._ask(step)
            match decide(answer, self._tools, self._clients, step=step, max_steps=max_steps):
                case Ends():
                    return Ended(answer.stop, text_of(answer))
                case TooMany():
                    return Ended(answer.stop, text_of(answer), too_many=True)
                case Acts(ours, theirs, together):
                    try:
                        await self._act(ours, context, together=together)
                    except RunEnds as end:
                        await voice.say(voice.tell(TextDelta(end.text)))
                        self.messages.append(Message("assistant", (Text(end.text),)))
                        return Ended("end", end.text)
                    if theirs:
                        return Ended(answer.stop, text_of(answer), theirs)
                case GoesOn():
                    pass
        raise AssertionError("the last turn decides")

    async def _ask(self, step: int) -> Answer:
        request = structs.replace(self._request, messages=tuple(self.messages))
        if step > 1 and request.tool_choice is not None and request.tool_choice.mode in ("required", "named"):
            request = structs.replace(request, tool_choice=None)  # it has called; for ever would be too often
        turn = self._make_turn(request)
        try:
            await self._asker.ask(turn)
        finally:
            answer = turn.answer
            if answer.parts:
                self.messages.append(Message("assistant", answer.parts))
        return answer

    async def _act(self, calls: Sequence[ToolCall], context: Context, *, together: bool) -> None:
        if not calls:
            return
        results: list[ToolResult] = []
        try:
            await self._calls.run(calls, context, results, together=together)
        finally:
            # In the order of the calls, as some providers want it.
            order = {call.id: number for number, call in enumerate(calls)}
            results.sort(key=lambda result: order[result.call_id])
            if results:
                self.messages.append(Message("user", tuple(results)))


def text_of(answer: Answer) -> str:
    """What an answer says."""
    return "".join(part.text for part in answer.parts if isinstance(part, Text))


def ending(ended: Ended) -> Stop:
    """The run's end, as a dialect tells it."""
    return Stop("tools" if ended.handed_back else "end" if ended.stop in ("tools", "pause") else ended.stop)
