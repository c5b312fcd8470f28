import os

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from shared.channel import FrameReader, open_pipe
from shared.messages import ActiveSessions, Ask, Metrics, Told, decode_up
from worker import questions
from worker.asgi import HttpError
from worker.link import Link
from worker.questions import Questions


class Pipes:
    """A worker's link, and the supervisor's end of it."""

    def __init__(self):
        up_read, up_write = open_pipe()
        down_read, self.down = open_pipe()
        self.link = Link(up_write, down_read)
        self.up = FrameReader(up_read)

    def asked(self):
        """All that has been asked since the last look."""
        messages = [decode_up(payload) for payload in self.up.receive_available_nowait()]
        assert all(isinstance(message, Ask) for message in messages)
        return messages

    def close(self):
        self.link.close()
        self.up.close()
        os.close(self.down)


@pytest.fixture
async def pipes():
    pipes = Pipes()
    yield pipes
    pipes.close()


@pytest.fixture
async def asking(pipes):
    return Questions(pipes.link)


async def test_answers_in_another_order(asking, pipes, nursery):
    answers = {}

    async def ask(question):
        answers[question] = await asking.ask(question)

    nursery.start_soon(ask, Metrics())
    await wait_all_tasks_blocked()
    nursery.start_soon(ask, ActiveSessions())
    await wait_all_tasks_blocked()
    first, second = pipes.asked()
    assert (first.question, second.question) == (Metrics(), ActiveSessions())
    assert first.number != second.number
    asking.take(Told(second.number, 200, b"{}"))
    asking.take(Told(first.number, 404, b"text"))
    await wait_all_tasks_blocked()
    assert answers == {
        ActiveSessions(): Told(second.number, 200, b"{}"),
        Metrics(): Told(first.number, 404, b"text"),
    }


async def test_no_answer_in_time_is_503(asking, pipes, autojump_clock):
    with pytest.raises(HttpError) as refused:
        await asking.ask(Metrics(), timeout=2.0)
    assert trio.current_time() == pytest.approx(2.0, abs=0.1)
    assert refused.value.status == 503
    assert (b"retry-after", b"1") in refused.value.headers
    [late] = pipes.asked()
    asking.take(Told(late.number, 200, b"too late"))  # nobody waits


async def test_a_cancelled_question_is_forgotten(asking, pipes):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asking.ask, Metrics())
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    [asked] = pipes.asked()
    asking.take(Told(asked.number, 200, b""))


async def test_the_supervisor_s_end_answers_all(asking, pipes, autojump_clock):
    refused = []

    async def ask():
        with pytest.raises(HttpError) as error:
            await asking.ask(Metrics())
        refused.append(error.value.status)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        asking.supervisor_gone()
    assert refused == [503, 503]
    assert trio.current_time() < 1.0
    pipes.asked()
    with pytest.raises(HttpError):
        await asking.ask(Metrics())
    assert pipes.asked() == []


async def test_too_many_open_questions(asking, pipes, monkeypatch, nursery):
    monkeypatch.setattr(questions, "MAX_WAITING", 1)
    nursery.start_soon(asking.ask, Metrics())
    await wait_all_tasks_blocked()
    with pytest.raises(HttpError):
        await asking.ask(Metrics())
    [asked] = pipes.asked()
    asking.take(Told(asked.number, 200, b""))
