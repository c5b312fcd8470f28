"""What a soak is judged by finds what it has to find: a ledger that sees nothing would always be good."""

from collections import Counter
from dataclasses import replace
from itertools import islice
from xml.etree import ElementTree

import pytest
from fakes.plot import Line, Marks, Panel, draw
from fakes.soak.faults import History, Victim
from fakes.soak.ledger import Books
from fakes.soak.plan import WEIGHTS, Ask, asks, injections
from fakes.soak.samples import theil_sen
from fakes.soak.seen import Seen, judge_body, judge_stream
from fakes.soak.upstream import Sent

ASK = Ask(trace="soak-stream1-1", client="reads", provider="fake", how="text-5")
SEEN = Seen(ASK, asked=10.0, connected=9.0, port=1234, ended=11.0, kind="completed", status=200, pieces=5)
SENT = Sent(trace=ASK.trace, model="text-5", outcome="completed", pieces=5, perhaps=5, told=5)
RECORD = {
    "trace": ASK.trace, "status": "completed", "error_type": None, "http_status": 200, "worker": 1, "started": 10.0,
    "duration": 1.0, "prompt_tokens": 11, "prompt_source": "provider", "completion_tokens": 5,
    "completion_source": "provider", "retries": 0,
}  # fmt: skip
PARTIAL = {"status": "cancelled", "error_type": "client_disconnect", "completion_source": "partial"}


def unexplained(seen=SEEN, records=(RECORD,), sent=(SENT,), begun=(ASK.trace,), history=None) -> list[str]:
    books = Books([seen], records, sent, Counter(begun), history or History(), [], lambda text: len(text.split()))
    return [one.what for one in books.close().unexplained]


def test_what_agrees_is_explained():
    assert unexplained() == []


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"records": ()}, "begun 1 times, 0 records"),
        ({"records": (RECORD, RECORD)}, "2 records"),
        ({"records": (RECORD, {**RECORD, "trace": "other"})}, "nobody asked"),
        ({"records": ({**RECORD, "completion_tokens": 4},)}, "4 tokens"),
        ({"records": ({**RECORD, "status": "failed", "error_type": "ReadError"},)}, "failed/ReadError"),
        ({"records": ({**RECORD, "status": "failed", "error_type": "worker_died"},)}, "worker_died for no reason"),
        ({"records": ({**RECORD, "http_status": 502},)}, "status 200"),
        ({"seen": replace(SEEN, kind="cut"), "records": (RECORD,)}, "cut"),
        ({"seen": replace(SEEN, kind="refused"), "records": (), "begun": ()}, "refused"),
        ({"seen": replace(SEEN, kind="closed idle")}, "closed without an answer"),
        ({"seen": replace(SEEN, kind="silence")}, "no end"),
        ({"seen": replace(SEEN, kind="error event")}, "says completed"),
        ({"seen": replace(SEEN, ask=replace(ASK, how="cut-after-3"))}, "completed, though"),
        ({"seen": replace(SEEN, faults=["a fault"])}, "a fault"),
    ],
)
def test_what_does_not_agree_is_not(found, words):
    assert any(words in what for what in unexplained(**found)), unexplained(**found)


def test_a_cut_is_explained_by_the_death_of_the_worker_that_held_its_connection():
    seen = replace(SEEN, kind="cut", pieces=2)
    record = {**RECORD, "status": "failed", "error_type": "worker_died", "completion_source": "partial"}
    record["completion_tokens"] = 0
    sent = replace_sent(outcome="client_closed", pieces=2, perhaps=3, told=None)
    killed = History(victims=[Victim(at=10.9, slot=1, ports={1234}, dead=11.0)])
    other = History(victims=[Victim(at=10.9, slot=2, ports={4321}, dead=11.0)])
    assert unexplained(seen, (record,), (sent,), history=killed) == []
    assert unexplained(seen, (record,), (sent,), history=other) != []


@pytest.mark.parametrize(("tokens", "is_explained"), [(1, False), (2, True), (3, True), (4, False)])
def test_counted_tokens_lie_between_what_was_read_and_what_was_written(tokens, is_explained):
    ask = replace(ASK, client="leaves", phase="in the answer")
    seen = replace(SEEN, ask=ask, kind="left", pieces=2)
    sent = replace_sent(outcome="client_closed", pieces=3, perhaps=3, told=None)
    found = unexplained(seen, ({**RECORD, **PARTIAL, "completion_tokens": tokens},), (sent,))
    assert (found == []) == is_explained


def replace_sent(**changes) -> Sent:
    return Sent(**{**{name: getattr(SENT, name) for name in SENT.__struct_fields__}, **changes})


def test_an_answer_is_read_to_the_last_byte():
    chunk = (
        b'data: {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": '
        b'[{"index": 0, "delta": %s, "finish_reason": %s}]}\n\n'
    )
    texts = [
        b'{"role": "assistant", "content": ""}',
        *(b'{"content": "%s"}' % w for w in (b"the ", b"quick ", b"brown ")),
    ]
    whole = b"".join(chunk % (text, b"null") for text in texts) + chunk % (b"{}", b'"stop"') + b"data: [DONE]\n\n"
    seen = replace(SEEN, ask=replace(ASK, how="text-3"), faults=[], pieces=0)
    judge_stream(seen, whole, whole=True)
    assert (seen.kind, seen.faults, seen.pieces) == ("completed", [], 3)
    for wrong in (whole.replace(b"quick", b"quack"), whole.replace(b"data: [DONE]\n\n", b"")):
        seen = replace(SEEN, ask=replace(ASK, how="text-3"), faults=[])
        judge_stream(seen, wrong, whole=True)
        assert seen.faults
    seen = replace(SEEN, status=502, faults=[])
    judge_body(seen, b'{"type": "error", "error": {"type": "api_error", "message": "no"}}')
    assert seen.faults == ["an error in the other dialect: " + seen.what]


def test_the_seed_alone_says_what_happens():
    def plan(seed):
        faults = [(one.fault, one.pause, one.workers) for one in islice(injections(seed, tuple(WEIGHTS), 2.0, 2), 60)]
        return faults, [list(islice(asks(seed, lane, 1, 1.0), 40)) for lane in ("stream", "short", "odd", "agent")]

    assert plan(3) == plan(3)
    assert plan(3) != plan(4)
    assert {fault for fault, _, _ in plan(3)[0][: len(WEIGHTS)]} == set(WEIGHTS)


def test_a_slope_is_not_moved_by_outliers():
    points = [(float(second), 100.0 + second / 3600 + (50.0 if second % 10 == 3 else 0.0)) for second in range(600)]
    slope = theil_sen(points)
    assert slope is not None
    assert slope.per_hour == pytest.approx(1.0, abs=0.01)
    assert theil_sen(points[:5]) is None


def test_a_picture_is_svg():
    panels = [Panel("Memory <all>", "MiB", [Line("a & b", [(0.0, 1.0), (1.0, 3.5), (30.0, 2.0)]), Line("none", [])])]
    tree = ElementTree.fromstring(draw(panels, [Marks("kill", [0.5, 20.0]), Marks("none", [])], 30.0))
    paths = [path.get("d") for path in tree.iter("{http://www.w3.org/2000/svg}path")]
    assert any(path.count("M") == 2 and path.count("L") == 1 for path in paths if path)
