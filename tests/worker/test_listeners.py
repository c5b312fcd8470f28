import math

import pytest
import trio
import trio.testing
from msgspec import json

from shared import events
from shared.messages import Happened, Listen
from worker import listeners as module
from worker.listeners import Batch, Listener, Listeners


class Link:
    def __init__(self):
        self.sent = []

    def send(self, message):
        self.sent.append(message)


class Connection:
    """A client's; `sending_since` tells whether a send waits for him to read, `room` whether the next one would not."""

    def __init__(self):
        self.sending_since = None
        self.room = True
        self.aborted = False

    def has_room(self):
        return self.room

    def abort(self):
        self.aborted = True


def batch(text, count=1):
    return Batch(text.encode(), count)


@pytest.fixture
def listener():
    return Listener(Connection())


def dropped(frame):
    """How many are said to be lost."""
    event = json.decode(frame[2:])
    assert event["type"] == "dropped"
    return event["count"]


def test_the_supervisor_is_told_of_the_first_and_the_last():
    link = Link()
    listeners = Listeners(link)
    for _ in range(2):
        with listeners.joined(Listener(Connection())), listeners.joined(Listener(Connection())):
            assert link.sent == [Listen(True)]
            assert len(listeners) == 2
        assert link.sent == [Listen(True), Listen(False)]
        assert not listeners
        link.sent.clear()


async def receive(listener):
    """What he is sent next."""
    await listener.wait(math.inf)
    return listener.take()


async def test_in_order(listener):
    listener.put(batch("a"))
    listener.put(batch("b"))
    assert await receive(listener) == b"ab"
    with trio.move_on_after(0) as waited:
        await receive(listener)
    assert waited.cancelled_caught
    assert listener.take() == b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_expect, listener, b"c")
        await trio.testing.wait_all_tasks_blocked()
        listener.put(batch("c"))


async def _expect(listener, frames):
    assert await receive(listener) == frames


async def test_waiting_no_longer_than_that(listener, autojump_clock):
    began = trio.current_time()
    await listener.wait(began + 3.0)
    assert trio.current_time() == began + 3.0
    listener.put(batch("a"))
    await listener.wait(began + 6.0)
    assert trio.current_time() <= began + 3.0 + module.TURN
    await listener.wait(began + 3.0)  # past
    assert listener.take() == b"a"


@pytest.mark.parametrize(
    ("first", "second", "bound"),
    [(batch("a", 600), batch("b", 401), "MAX_EVENTS"), (batch("a" * 60), batch("b" * 41), "MAX_BYTES")],
)
async def test_a_full_queue_is_emptied_before_anything_new_gets_in(listener, monkeypatch, first, second, bound):
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    monkeypatch.setattr(module, "MAX_EVENTS", 1000)
    listener.put(first)
    listener.put(second)
    listener.put(batch("small"))
    assert await receive(listener) == first.frames
    assert listener.waiting_bytes == 0
    assert dropped(await receive(listener)) == second.events + 1
    listener.put(second)
    assert await receive(listener) == second.frames


async def test_a_batch_larger_than_the_queue_gets_into_an_empty_one(listener):
    listener.put(batch("x" * (module.MAX_BYTES + 1), module.MAX_EVENTS + 1))
    listener.put(batch("y"))
    assert len(await receive(listener)) > module.MAX_BYTES
    assert dropped(await receive(listener)) == 1


async def test_what_waits_is_sent_together_up_to_a_size(listener, monkeypatch):
    monkeypatch.setattr(module, "SEND_BYTES", 5)
    for text in ("ab", "c", "de", "f", "toolong", "g"):
        listener.put(batch(text))
    assert [await receive(listener) for _ in range(3)] == [b"abcde", b"f", b"toolong"]
    assert listener.waiting_bytes == 1
    assert await receive(listener) == b"g"


async def test_all_in_turn(autojump_clock):
    """Each has his time in every `TURN`, however much happens."""
    times = []

    async def listen(listener):
        for _ in range(5):
            await receive(listener)
            times.append(trio.current_time())

    listeners = [Listener(Connection()) for _ in range(50)]
    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(listen, listener)
        while len(times) < 250:
            for listener in listeners:
                listener.put(batch("x"))
            await trio.sleep(module.TURN / 10)
    assert len(set(times[:50])) > 40
    assert times[-1] - times[0] < 6 * module.TURN


async def test_closing(listener):
    other = Listener(Connection())
    listener.put(batch("a"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other.wait, math.inf)
        await trio.testing.wait_all_tasks_blocked()
        other.close(1012)
    listener.close(1001)
    await listener.wait(math.inf)
    assert listener.close_code == 1001
    assert not listener._connection.aborted


@pytest.mark.parametrize(("sending_since", "room"), [(1.0, True), (None, False)])
async def test_closing_one_who_does_not_read(listener, sending_since, room):
    listener._connection.sending_since, listener._connection.room = sending_since, room
    listener.close(1012)
    assert listener._connection.aborted


async def test_the_same_bytes_for_everybody():
    listeners = Listeners(Link())
    everything, another, some = Listener(Connection()), Listener(Connection()), Listener(Connection(), frozenset({"x"}))
    happened = Happened(tuple(events.encode(events.ProviderRecovered(timestamp=1.0, provider=p)) for p in "ab"))
    with listeners.joined(everything), listeners.joined(another), listeners.joined(some):
        listeners.take(happened)
        frames = await receive(everything)
        assert frames is await receive(another)
        assert frames.count(b'"provider_recovered"') == 2
        assert some.waiting_bytes == 0
        listeners.take(Happened((), lost=7))
        assert [dropped(await receive(listener)) for listener in (everything, another, some)] == [7, 7, 7]
