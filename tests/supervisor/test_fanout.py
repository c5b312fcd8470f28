import pytest
from msgspec import json

from shared.events import ConfigReloaded, Dropped, Progress, ProviderRecovered, StreamEnd, StreamingError, StreamStart
from shared.messages import Happened, Trouble
from shared.messages import Progress as Step
from shared.records import StreamRecord, Tokens
from shared.records import StreamStart as Start
from supervisor import fanout as module
from supervisor.fanout import Fanout
from supervisor.ledger import Ledger

EVENT = StreamStart | Progress | StreamingError | StreamEnd | ProviderRecovered | ConfigReloaded | Dropped
decoder = json.Decoder(EVENT)


class Peer:
    """A worker that remembers what it is told."""

    def __init__(self, pid):
        self.pid = pid
        self.backlog = 0
        self.messages = []

    def send(self, message):
        assert isinstance(message, Happened)
        self.messages.append(message)

    def told(self):
        """The events since the last call."""
        messages, self.messages = self.messages, []
        return [decoder.decode(event) for message in messages for event in message.events]


def start(id="a", worker=1, **more):
    fields = {"session": "s", "provider": "one", "model": "m", "dialect": "openai", "streaming": True, "started": 50.0}
    return Start(id=id, trace=f"req_{id}", worker=worker, **{**fields, **more})


def record(of, **more):
    fields = {"provider": "two", "upstream_model": "m-2", "status": "completed", "duration": 1.5}
    return StreamRecord(start=of, **{**fields, **more})


def recovered(name):
    return ProviderRecovered(timestamp=1.0, provider=name)


@pytest.fixture
def ledger():
    return Ledger()


@pytest.fixture
def fanout(ledger):
    return Fanout(ledger)


@pytest.fixture
def peer(fanout):
    peer = Peer(11)
    fanout.listen(peer, True)
    return peer


def test_nobody_listens(fanout, ledger):
    peer = Peer(11)
    fanout.publish(recovered("one"))
    ledger.started(11, start())
    fanout.started(start())
    fanout.progress(1.0)
    fanout.ended(record(start()))
    fanout.flush()
    fanout.listen(peer, True)
    fanout.flush()
    assert peer.messages == []


def test_what_happened_between_two_flushes_is_one_message_to_each_who_listens(fanout, peer):
    other, deaf = Peer(12), Peer(13)
    fanout.listen(other, True)
    fanout.listen(other, True)
    fanout.listen(deaf, True)
    fanout.listen(deaf, False)
    fanout.publish(recovered("one"))
    fanout.publish(recovered("two"))
    assert peer.messages == []
    fanout.flush()
    fanout.flush()
    assert len(peer.messages) == len(other.messages) == 1
    assert peer.told() == other.told() == [recovered("one"), recovered("two")]
    assert deaf.messages == []


def test_the_last_one_left(fanout, peer):
    fanout.publish(recovered("one"))
    fanout.left(peer)
    fanout.left(peer)
    fanout.publish(recovered("two"))
    fanout.listen(peer, True)
    fanout.flush()
    assert len(fanout) == 1
    assert peer.messages == []


def test_a_stream(fanout, peer):
    begun = start(client="1a2b", context_size=1000, prompt_estimate=250)
    fanout.started(begun)
    done = record(begun, first_byte=0.2, prompt=Tokens(3, "provider"), completion=Tokens(5, "counted"), cost=0.01)
    fanout.ended(done)
    fanout.flush()
    first, last = peer.told()
    assert first == StreamStart(
        timestamp=50.0,
        id="a",
        trace="req_a",
        session="s",
        worker=1,
        provider="one",
        model="m",
        dialect="openai",
        streaming=True,
        client="1a2b",
        context_size=1000,
        prompt_estimate=250,
    )
    assert last.timestamp > 1e9
    for name in set(last.__struct_fields__) - {"timestamp"}:
        assert getattr(last, name) == getattr(done, name, getattr(begun, name, None)), name
    assert (last.provider, last.model, last.upstream_model) == ("two", "m", "m-2")


def test_an_error(fanout, peer, ledger):
    ledger.started(11, start())
    for id in ("a", "gone"):
        fanout.trouble(
            Trouble(
                id=id,
                provider="one",
                error_type="ReadError",
                message="broken",
                retry_count=1,
                tokens_received=7,
                retried=True,
                at=60.0,
                http_status=503,
            )
        )
    fanout.flush()
    of_a, of_gone = peer.told()
    assert of_a == StreamingError(
        timestamp=60.0,
        id="a",
        trace="req_a",
        provider="one",
        error_type="ReadError",
        retry_count=1,
        tokens_received=7,
        message="broken",
        retried=True,
        http_status=503,
    )
    assert (of_gone.id, of_gone.trace) == ("gone", None)


def test_a_dead_worker_s_streams(fanout, peer, ledger):
    ledger.started(12, start(worker=2))
    ledger.progress(12, [Step("a", 9, 100)])
    for died in ledger.worker_died(12, 70.0):
        fanout.ended(died)
    fanout.flush()
    error, end = peer.told()
    assert isinstance(error, StreamingError)
    assert (error.error_type, error.tokens_received, error.trace) == ("worker_died", 9, "req_a")
    assert error.message == "worker 2 died"
    assert (end.status, end.error_type) == ("failed", "worker_died")


def test_progress_of_all_workers_is_told_once_a_second(fanout, peer, ledger):
    ledger.started(11, start("a"), 0.0)
    ledger.started(12, start("b", worker=2), 0.0)
    for now, tokens in ((1.0, 10), (1.5, 15), (2.0, 30), (2.5, 35)):
        ledger.progress(
            11 if now in (1.0, 2.0) else 12, [Step("a" if now in (1.0, 2.0) else "b", tokens, tokens * 4)], now
        )
        fanout.progress(now)
    fanout.flush()
    first, second = peer.told()
    assert [(m.id, m.tokens, m.tokens_per_second, m.received_bytes) for m in first.streams] == [
        ("a", 10, 10.0, 40),
        ("b", 0, 0.0, 0),
    ]
    assert [(m.id, m.tokens, m.tokens_per_second) for m in second.streams] == [("a", 30, 20.0), ("b", 15, 10.0)]
    assert (second.tokens, second.tokens_per_second, second.active) == (45, 30.0, 2)
    assert all(m.age > 0 for m in second.streams)


def test_beats_a_little_early_don_t_halve_the_rate(fanout, peer, ledger):
    ledger.started(11, start())
    for beat in range(10):
        fanout.progress(100.0 + beat * 0.99)
    fanout.flush()
    assert len(peer.told()) == 10


def test_the_last_stream_s_end_is_progress_once(fanout, peer, ledger):
    fanout.progress(1.0)
    ledger.started(11, start())
    fanout.progress(2.0)
    ledger.ended(11, record(start()))
    fanout.progress(3.0)
    fanout.progress(4.0)
    fanout.flush()
    assert [(event.active, event.tokens_per_second) for event in peer.told()] == [(1, 0.0), (0, 0.0)]


def test_many_streams_are_told_in_parts_and_less_often(fanout, peer, ledger, monkeypatch):
    monkeypatch.setattr(module, "PROGRESS_STREAMS", 4)
    monkeypatch.setattr(module, "PROGRESS_STREAMS_A_SECOND", 5)
    for number in range(10):
        ledger.started(11, start(f"{number}"))
        ledger.progress(11, [Step(f"{number}", 1, 1)])
    for now in (1.0, 2.0, 3.0, 4.0):
        fanout.progress(now)
    fanout.flush()
    told = peer.told()
    assert [len(event.streams) for event in told] == [4, 4, 2] * 2
    assert {event.active for event in told} == {event.tokens for event in told} == {10}


def test_a_worker_that_does_not_read_loses_events_and_is_told_how_many(fanout, peer):
    slow = Peer(12)
    fanout.listen(slow, True)
    slow.backlog = module.MAX_BACKLOG_BYTES + 1
    for name in ("one", "two"):
        fanout.publish(recovered(name))
        fanout.publish(recovered(name))
        fanout.flush()
    assert slow.messages == []
    assert len(peer.told()) == 4
    slow.backlog = 0
    fanout.publish(recovered("three"))
    fanout.flush()
    fanout.flush()
    [message] = slow.messages
    assert message.lost == 4
    assert slow.told() == [recovered("three")]


def test_it_is_told_even_if_nothing_happens_any_more(fanout, peer):
    peer.backlog = module.MAX_BACKLOG_BYTES + 1
    fanout.publish(recovered("one"))
    fanout.flush()
    peer.backlog = 0
    fanout.flush()
    fanout.flush()
    assert peer.messages == [Happened((), lost=1)]


def test_more_than_can_be_told(fanout, peer):
    event = ConfigReloaded(timestamp=1.0, source="x" * 1000, ok=True)
    for _ in range(1000):
        fanout.publish(event)
    fanout.flush()
    fanout.publish(event)
    fanout.flush()
    first, second = peer.messages
    assert sum(map(len, first.events)) <= module.MAX_PENDING_BYTES
    assert first.lost == 0
    assert len(first.events) + second.lost == 1000
    assert len(second.events) == 1
