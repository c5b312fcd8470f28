"""Questions to the supervisor about the whole service, and the tasks that wait for the answers.

endpoint ── ask ──▶ Ask on the up pipe … Told on the down pipe ── take ──▶ endpoint
"""

from collections.abc import Callable

import trio

from shared.messages import Ask, Question, Told
from worker.asgi import HttpError
from worker.link import Link

TIMEOUT = 5.0
MAX_WAITING = 1000
"""Questions of one worker that are not answered yet; more than that are asked by nobody who reads the answers."""


class Questions:
    """See the module."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._last = 0
        self._answered: dict[int, Callable[[Told | None], None]] = {}
        self._gone = False

    async def ask(self, question: Question, timeout: float = TIMEOUT) -> Told:
        """The supervisor's answer; `HttpError` 503 if none comes within `timeout` seconds, or none can.

        Cancellation forgets the question; an answer that comes later is passed over.
        """
        if self._gone or self._link.up.congested or len(self._answered) >= MAX_WAITING:
            raise unanswered()
        self._last += 1
        number = self._last
        answers: list[Told | None] = []
        came = trio.Event()

        def take(told: Told | None) -> None:
            answers.append(told)
            came.set()

        self._answered[number] = take
        try:
            self._link.send(Ask(number, question))
            with trio.move_on_after(timeout):
                await came.wait()
        finally:
            self._answered.pop(number, None)
        if not answers or answers[0] is None:
            raise unanswered()
        return answers[0]

    def take(self, told: Told) -> None:
        """An answer has come; nobody may wait for it any more."""
        if answered := self._answered.pop(told.number, None):
            answered(told)

    def supervisor_gone(self) -> None:
        """No answer will come: those that wait for one are told so."""
        self._gone = True
        waiting, self._answered = self._answered, {}
        for answered in waiting.values():
            answered(None)


def unanswered() -> HttpError:
    """What a client is told when the supervisor has not answered."""
    return HttpError(
        503, "the gateway's supervisor does not answer at the moment; try again", headers=[(b"retry-after", b"1")]
    )
