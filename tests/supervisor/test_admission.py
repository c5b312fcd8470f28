"""Who may begin, as the workers hear it."""

import random

from shared.config import Config, Provider, RateLimit, RateLimiting, Sessions
from shared.messages import Admit, CancelStream, Down, Leave, Verdict
from shared.records import StreamRecord, StreamStart
from supervisor.admission import Admission
from supervisor.registry import GRACE


class Worker:
    """A peer that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Down] = []

    def send(self, message: Down) -> None:
        self.told.append(message)

    def new(self) -> list[tuple[str, str]]:
        """What it has been told since the last time: (`cancel`, `in` or `refused`, id)."""
        told, self.told = self.told, []
        return [(self._word(message), message.id) for message in told if isinstance(message, CancelStream | Verdict)]

    @staticmethod
    def _word(message: CancelStream | Verdict) -> str:
        if isinstance(message, Verdict):
            return "in" if message.admitted else "refused"
        assert message.reason == "registry_new_stream"
        return "cancel"


def config(on_new_stream="cancel", *, rate=None, at_once=None, max_wait=0.0) -> Config:
    limit = RateLimit(requests_per_minute=rate[0], burst_size=rate[1]) if rate else None
    return Config(
        providers={name: Provider(name=name, rate_limit=limit, max_concurrent=at_once) for name in "pq"},
        sessions=Sessions(on_new_stream=on_new_stream),
        rate_limiting=RateLimiting(max_wait=max_wait),
    )


def record(id: str, error_type: str | None = None) -> StreamRecord:
    start = StreamStart(
        id=id, trace=id, session=None, worker=1, provider="p", model="m", dialect="openai", streaming=True, started=0.0
    )
    return StreamRecord(
        start=start, provider="p", upstream_model="m", status="failed", duration=1.0, error_type=error_type
    )


def admit(admission, worker, id, now, *, session=None, client=None, provider="p") -> list[tuple[str, str]]:
    """What the worker is told at once when a stream asks."""
    admission.admit(worker, Admit(id, provider, session, client), now)
    return worker.new()


# --- sessions


def test_a_new_stream_cancels_the_older_one_wherever_it_runs_and_begins_when_that_has_ended():
    admission, one, two = Admission(config()), Worker(), Worker()
    assert admit(admission, one, "a", 0.0, session="s") == [("in", "a")]
    assert admit(admission, two, "b", 1.0, session="s") == []
    assert one.new() == [("cancel", "a")]
    admission.tick(1.05)
    assert two.new() == []
    admission.ended(record("a"), 1.1)
    assert (one.new(), two.new()) == ([], [("in", "b")])


def test_a_stream_that_does_not_end_is_not_waited_for():
    admission, one, two = Admission(config()), Worker(), Worker()
    admit(admission, one, "a", 0.0, session="s")
    admit(admission, two, "b", 1.0, session="s")
    admission.tick(1.0 + GRACE - 0.01)
    assert two.new() == []
    admission.tick(1.0 + GRACE)
    assert two.new() == [("in", "b")]
    admission.ended(record("a"), 3.0)
    assert two.new() == []


def test_the_last_of_several_newcomers_wins():
    admission, worker = Admission(config()), Worker()
    admit(admission, worker, "a", 0.0, session="s")
    assert admit(admission, worker, "b", 0.1, session="s") == [("cancel", "a")]
    assert admit(admission, worker, "c", 0.2, session="s") == [("cancel", "b")]
    admission.leave(Leave("b", "p", unused=True), 0.2)
    admission.ended(record("b"), 0.2)
    assert worker.new() == []
    admission.ended(record("a"), 0.3)
    assert worker.new() == [("in", "c")]


def test_other_sessions_other_clients_and_streams_without_one_are_left_alone():
    admission, worker = Admission(config()), Worker()
    for id, session, client in [
        ("a", "s", None),
        ("b", "t", None),
        ("c", "s", "k1"),
        ("d", "s", "k2"),
        ("e", None, "k1"),
    ]:
        assert admit(admission, worker, id, 0.0, session=session, client=client) == [("in", id)]


def test_allow_supersedes_nobody():
    admission, worker = Admission(config("allow")), Worker()
    assert admit(admission, worker, "a", 0.0, session="s") == [("in", "a")]
    assert admit(admission, worker, "b", 0.0, session="s") == [("in", "b")]
    admission.configure(config("cancel"))
    assert admit(admission, worker, "c", 0.0, session="s") == [("in", "c")]
    assert admit(admission, worker, "d", 0.0, session="s") == [("cancel", "c")]


def test_a_fallback_does_not_supersede_a_newer_stream_and_is_still_superseded():
    admission, worker = Admission(config()), Worker()
    admit(admission, worker, "a", 0.0, session="s")
    admission.leave(Leave("a", "p"), 0.1)
    assert admit(admission, worker, "a", 0.1, session="s", provider="q") == [("in", "a")]
    assert admit(admission, worker, "b", 0.2, session="s") == [("cancel", "a")]
    assert admit(admission, worker, "a", 0.3, session="s") == [], "its cancel is on its way"
    admission.ended(record("a"), 0.4)
    assert worker.new() == [("in", "b")]


def test_one_that_is_superseded_while_it_waits_for_a_limit_waits_no_longer():
    admission, worker = Admission(config(at_once=1, max_wait=10.0)), Worker()
    admit(admission, worker, "a", 0.0)
    assert admit(admission, worker, "b", 0.0, session="s") == []
    assert admit(admission, worker, "c", 0.0, session="s") == [("cancel", "b")]
    admission.ended(record("a"), 0.1)
    assert worker.new() == []
    admission.ended(record("b"), 0.2)
    assert worker.new() == [("in", "c")]


def test_the_death_of_a_worker_ends_its_streams():
    admission, one, two = Admission(config()), Worker(), Worker()
    admit(admission, one, "a", 0.0, session="s")
    admit(admission, two, "b", 0.1, session="s")
    one.new()
    admission.left(one)
    assert two.new() == [("in", "b")]


# --- limits


def test_a_limit_counts_all_workers():
    admission, workers = Admission(config(rate=(60, 3))), [Worker() for _ in range(4)]
    told = [admit(admission, workers[number % 4], f"s{number}", 0.0) for number in range(8)]
    assert [word for [(word, _)] in told] == ["in"] * 3 + ["refused"] * 5


def test_a_verdict_says_which_provider_and_what_is_left():
    admission, worker = Admission(config(rate=(60, 3))), Worker()
    admission.admit(worker, Admit("a", "q"), 0.0)
    [verdict] = worker.told
    assert (verdict.id, verdict.provider, verdict.admitted) == ("a", "q", True)
    assert (verdict.limit.name, verdict.limit.remaining) == ("provider q", 2)


def test_a_stream_asks_for_its_limits_when_its_session_is_free():
    """The older one's place is the newer one's."""
    admission, worker = Admission(config(at_once=1)), Worker()
    admit(admission, worker, "a", 0.0, session="s")
    assert admit(admission, worker, "b", 0.0, session="s") == [("cancel", "a")]
    admission.ended(record("a"), 0.1)
    assert worker.new() == [("in", "b")]


def test_waiting_and_leaving():
    admission, worker = Admission(config(at_once=1, max_wait=10.0)), Worker()
    admit(admission, worker, "a", 0.0)
    for id in "bcd":
        assert admit(admission, worker, id, 0.0) == []
    assert (admission.inside, admission.waiting) == (1, 3)
    admission.leave(Leave("b", "p", unused=True), 0.1)
    admission.ended(record("c"), 0.1)
    assert worker.new() == []
    admission.leave(Leave("a", "p"), 0.2)
    assert worker.new() == [("in", "d")]
    admission.ended(record("a"), 0.3)
    admission.ended(record("d"), 0.4)
    assert (admission.inside, admission.waiting) == (0, 0)


def test_who_has_waited_too_long_is_refused():
    admission, worker = Admission(config(at_once=1, max_wait=1.0)), Worker()
    admit(admission, worker, "a", 0.0)
    admit(admission, worker, "b", 0.5)
    admission.tick(1.4)
    assert worker.new() == []
    admission.tick(1.5)
    assert worker.new() == [("refused", "b")]


def test_an_unused_token_goes_back():
    admission, worker = Admission(config(rate=(60, 1))), Worker()
    admit(admission, worker, "a", 0.0)
    admission.leave(Leave("a", "p", unused=True), 0.0)
    assert admit(admission, worker, "b", 0.0) == [("in", "b")]
    admission.leave(Leave("b", "p"), 0.0)
    assert admit(admission, worker, "c", 0.0) == [("refused", "c")]


def test_leaving_a_provider_that_was_left_already_changes_nothing():
    admission, worker = Admission(config(at_once=1)), Worker()
    admit(admission, worker, "a", 0.0, provider="p")
    admit(admission, worker, "a", 0.0, provider="q")
    admission.leave(Leave("a", "p"), 0.0)
    admission.leave(Leave("unknown", "p"), 0.0)
    admission.ended(record("unknown"), 0.0)
    assert admit(admission, worker, "b", 0.0, provider="q") == [("refused", "b")]


def test_a_dead_worker_s_places_go_to_those_who_live():
    """All at once: none of its own, which may stand first in line, gets one in between."""
    admission, dying, living = Admission(config(rate=(60, 2), at_once=2, max_wait=10.0)), Worker(), Worker()
    for id in ("a", "b", "c", "d"):
        admit(admission, dying, id, 0.0)
    admit(admission, living, "e", 0.0)
    dying.new()
    for id in ("a", "b", "c", "d"):
        admission.ended(record(id, "worker_died"), 1.0)
    admission.left(dying)
    assert (dying.new(), living.new()) == ([], [("in", "e")])
    assert (admission.inside, admission.waiting) == (1, 0)


class Story:
    """Streams of three workers, in random order, and what is known of each."""

    def __init__(self, seed: int) -> None:
        self.rnd = rnd = random.Random(seed)
        self.admission = Admission(config(rate=(600, 3), at_once=2, max_wait=rnd.choice([0.0, 0.4])))
        self.workers = [Worker() for _ in range(3)]
        self.live: dict[str, Worker] = {}
        self.answered: set[str] = set()
        self.cancelled: set[str] = set()

    def event(self, number: int, now: float) -> None:
        rnd, admission, live = self.rnd, self.admission, self.live
        match rnd.choice(["admit", "admit", "admit", "leave", "end", "tick", "die"]):
            case "admit":
                live[f"s{number}"] = worker = rnd.choice(self.workers)
                admission.admit(worker, Admit(f"s{number}", rnd.choice("pq"), rnd.choice(["x", "y", None])), now)
            case "leave" if live:
                admission.leave(Leave(rnd.choice(list(live)), rnd.choice("pq"), rnd.random() < 0.5), now)
            case "end" if live:
                id = rnd.choice(list(live))
                admission.ended(record(id), now)
                del live[id]
            case "die" if rnd.random() < 0.3:
                dead = rnd.choice(self.workers)
                for id in [id for id, worker in live.items() if worker is dead]:
                    admission.ended(record(id, "worker_died"), now)
                    del live[id]
                admission.left(dead)
                assert dead.new() == []
            case _:
                admission.tick(now)

    def hear(self) -> None:
        for worker in self.workers:
            for word, id in worker.new():
                assert self.live[id] is worker
                assert id not in self.cancelled, "who is to go hears nothing more"
                known = self.cancelled if word == "cancel" else self.answered
                assert id not in known
                known.add(id)


def test_whatever_happens_each_stream_is_answered_at_most_once_and_nothing_is_left():
    for seed in range(200):
        story, now = Story(seed), 0.0
        for number in range(60):
            now += story.rnd.random() / 4
            story.event(number, now)
            story.hear()
        for id in story.live:
            story.admission.ended(record(id), now)
        assert (story.admission.inside, story.admission.waiting) == (0, 0)
        assert (len(story.admission._streams), len(story.admission._registry)) == (0, 0)
