from fakes.streams import make_record, make_start

from shared.records import Tokens
from supervisor.recent import Minute, Recent


def ended_at(when, **changes):
    return make_record(start=make_start(started=when - 5.0), duration=5.0, **changes)


def test_streams_by_the_minute_in_which_they_ended():
    recent = Recent()
    recent.ended(ended_at(600.0, cost=0.5))
    recent.ended(ended_at(659.9, status="cancelled", completion=Tokens(3, "partial"), cost=0.25))
    recent.ended(ended_at(599.9, status="failed", prompt=None, completion=None))
    assert recent.minutes(700.0) == [
        Minute(at=540, failed=1),
        Minute(at=600, completed=1, cancelled=1, prompt_tokens=20, completion_tokens=23, cost=0.75),
    ]


def test_only_an_hour_is_kept():
    recent = Recent()
    for minute in range(200):
        recent.ended(ended_at(minute * 60.0 + 1))
    assert [minute.at // 60 for minute in recent.minutes(200 * 60.0)] == list(range(141, 200))
    recent.ended(ended_at(1.0))  # a worker's clock was set back: it pushes nothing newer out
    assert len(recent.minutes(199 * 60.0)) == 60
    assert recent.minutes(1e9) == []
