import msgspec
import pytest
from fakes.admin import status_reply
from fakes.streams import make_record, make_start

from shared.config import Config, Model
from shared.messages import (
    ActiveSessions,
    Ask,
    CancelSession,
    CancelStale,
    Conversation,
    KeepConversation,
    Metrics,
    Overview,
    Progress,
    Told,
    decode_down,
    encode,
)
from shared.records import Tokens
from supervisor import answers
from supervisor.answers import Answers
from supervisor.health import ProviderHealth
from supervisor.ledger import Ledger
from supervisor.recent import Minute

CONFIG = Config(models=(Model(name="m", provider="kimi", max_context_size=128_000),))


class Service:
    """What the answers are made from, and who gets them."""

    def __init__(self):
        self.ledger = Ledger()
        self.clock = 100.0
        self.told = []
        self.cancelled = []
        self.conversations = []
        self.gauges = None
        self.text = b"# metrics\n"
        self.answers = Answers(
            self.ledger,
            config=lambda: CONFIG,
            status=status_reply,
            health=lambda: {"kimi": ProviderHealth(state="degraded", errors=6, types={"ReadError": 6})},
            waiting=lambda: 3,
            metrics=self.render,
            recent=lambda now: [Minute(at=int(now))],
            conversations=self,
            cancel=lambda pid, id: self.cancelled.append((pid, id)),
            clock=lambda: self.clock,
            now=lambda: 5_000.0,
        )

    def keep(self, message):
        self.conversations.append(message)

    def tell(self, asker, number, asked):
        assert asker is self
        self.conversations.append((number, asked))

    def render(self, gauges):
        self.gauges = gauges
        return self.text

    def send(self, message):
        assert decode_down(encode(message)) == message
        self.told.append(message)

    def ask(self, question):
        self.answers.answer(self, Ask(len(self.told) + 1, question))
        told = self.told[-1]
        assert isinstance(told, Told)
        assert told.number == len(self.told)
        return told

    def ask_json(self, question):
        told = self.ask(question)
        return told.status, msgspec.json.decode(told.body)


@pytest.fixture
def service():
    return Service()


def test_the_live_streams_of_all_workers(service):
    ledger = service.ledger
    ledger.started(12, make_start("young", worker=2, session="s", context_size=1000, prompt_estimate=250), 90.0)
    ledger.started(11, make_start("old", client="1a2b"), 40.0)
    ledger.progress(12, [Progress("young", 10, 400)], 95.0)
    ledger.progress(12, [Progress("young", 30, 900)], 97.0)
    status, body = service.ask_json(ActiveSessions())
    assert status == 200
    assert body == {
        "sessions": [
            {
                **{"id": "old", "trace": "trace-old", "session": None, "client": "1a2b", "worker": 1},
                **{"provider": "kimi", "model": "kimi-k2", "dialect": "openai", "streaming": True},
                **{"context_size": None, "prompt_estimate": None, "started": 1000.0, "age": 60.0, "idle": 60.0},
                **{"tokens": 0, "received_bytes": 0, "tokens_per_second": 0.0},
            },
            {
                **{"id": "young", "trace": "trace-young", "session": "s", "client": None, "worker": 2},
                **{"provider": "kimi", "model": "kimi-k2", "dialect": "openai", "streaming": True},
                **{"context_size": 1000, "prompt_estimate": 250, "started": 1000.0, "age": 10.0, "idle": 3.0},
                **{"tokens": 30, "received_bytes": 900, "tokens_per_second": 10.0},
            },
        ],
        "active": 2,
        "tokens_per_second": 10.0,
        "token_accuracy": None,
        "totals": {
            **{"started": 2, "active": 2, "completed": 0, "cancelled": 0, "failed": 0},
            **{"prompt_tokens": 0, "completion_tokens": 0},
        },
    }


def test_how_well_we_count(service):
    for id, told, ours in (("a", 100, 98), ("b", 300, 298)):
        service.ledger.ended(11, make_record(id, completion=Tokens(told, "provider"), counted_completion=ours))
    service.ledger.ended(11, make_record("c", completion=Tokens(7, "partial")))
    _, body = service.ask_json(ActiveSessions())
    assert body["sessions"] == []
    assert body["token_accuracy"] == 0.99


def test_cancelling_by_the_stream_s_id(service):
    service.ledger.started(11, make_start("a", session="s"))
    service.ledger.started(12, make_start("b", session="s"))
    assert service.ask_json(CancelSession("a")) == (200, {"cancelled": ["a"]})
    assert service.cancelled == [(11, "a")]


def test_cancelling_all_streams_of_a_session(service):
    service.ledger.started(11, make_start("a", session="s"))
    service.ledger.started(12, make_start("b", session="s"))
    service.ledger.started(12, make_start("c", session="another"))
    assert service.ask_json(CancelSession("s")) == (200, {"cancelled": ["a", "b"]})
    assert service.cancelled == [(11, "a"), (12, "b")]


def test_nothing_to_cancel(service):
    service.ledger.started(11, make_start("a"))
    service.ledger.ended(11, make_record("a"))
    status, body = service.ask_json(CancelSession("a"))
    assert status == 404
    assert "'a'" in body["message"]
    assert service.cancelled == []


def test_cancelling_the_stale(service):
    ledger = service.ledger
    for id in ("silent", "moves", "young"):
        ledger.started(11, make_start(id), 30.0 if id != "young" else 90.0)
    ledger.progress(11, [Progress("silent", 5, 50), Progress("moves", 5, 50)], 35.0)
    ledger.progress(11, [Progress("silent", 5, 50), Progress("moves", 5, 51)], 60.0)
    assert service.ask_json(CancelStale()) == (200, {"cancelled": ["silent"], "idle": 60.0})
    assert service.ask_json(CancelStale(30.0)) == (200, {"cancelled": ["silent", "moves"], "idle": 30.0})
    service.clock = 35.0
    assert service.ask_json(CancelStale()) == (200, {"cancelled": [], "idle": 60.0})


def test_metrics_are_told_what_the_ledger_knows(service):
    service.ledger.started(11, make_start("a"))
    told = service.ask(Metrics())
    assert (told.status, told.body) == (200, b"# metrics\n")
    assert service.gauges.active == {"kimi": 1}
    assert service.gauges.waiting == 3
    assert service.gauges.status == status_reply()
    assert service.gauges.health["kimi"].state == "degraded"


def test_the_service_at_a_glance(service):
    status, body = service.ask_json(Overview())
    assert status == 200
    for name, value in msgspec.json.decode(msgspec.json.encode(status_reply())).items():
        assert body[name] == value
    assert body["now"] == 5000.0
    assert body["waiting"] == 3
    assert body["health"]["kimi"]["types"] == {"ReadError": 6}
    assert body["recent"][0]["at"] == 5000
    assert body["models"] == [{"name": "m", "provider": "kimi", "max_context_size": 128_000}]


def test_an_answer_that_no_frame_takes_is_refused(service, monkeypatch):
    monkeypatch.setattr(answers, "MAX_BODY_BYTES", 8)
    assert service.ask_json(Metrics())[0] == 500


def test_conversations_are_kept_at_once_and_told_later(service):
    kept = KeepConversation("s", "1a2b", b"[1]")
    assert service.ask_json(kept) == (200, {})
    service.answers.answer(service, Ask(7, Conversation("s", "1a2b")))
    assert service.conversations == [kept, (7, Conversation("s", "1a2b"))]
    assert len(service.told) == 1
