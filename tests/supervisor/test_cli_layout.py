"""The frame of `kimi-proxy top`, for any service on any screen."""

import pytest
from fakes.admin import session, sessions_reply, status_reply
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cli.layout import render, share
from supervisor.cli.live import live_streams
from supervisor.cli.terminal import painted
from supervisor.cli.text import clip, columns, printable
from supervisor.control import ElderStatus, ProviderStatus, StorageStatus, WorkerStatus

WIDE, HIGH = 200, 200


def streams(*sessions):
    return live_streams(sessions_reply(*sessions))


def many(count):
    return streams(*(session(f"chatcmpl-{number}", age=100.0 - number) for number in range(count)))


def test_a_service_with_two_streams():
    shown = render(
        status_reply(),
        streams(
            session("chatcmpl-2", session="a session of someone with much to say", age=65.0, tokens_per_second=7.25),
            session("chatcmpl-1", model="claude-sonnet", worker=2, age=3700.0, tokens=12_345),
        ),
        WIDE,
        HIGH,
    )
    assert shown == [
        "kimi-proxy 0.1.0  running for 2 h 10 min (pid 4242)  127.0.0.1:8000",
        "streams  3 active, 10 completed, 0 cancelled, 1 failed of 14",
        "tokens   32.2/s, 1000 prompt, 500 completion",
        "workers  1 of 2 serving",
        "",
        "WORKER   PID  STATE     UP     STREAMS  CONNECTIONS    MEMORY    LAG  RESTARTS",
        "     1  4243  serving   1 min        3            0  25.1 MiB   0 ms         0",
        "     2  4244  starting  0 s          0            0       0 B  12 ms         2",
        "",
        "PROVIDER  HEALTH   ACTIVE  COMPLETED  CANCELLED  FAILED  LAST ERROR",
        "kimi      healthy       0         10          0       1  ReadError",
        "",
        "WORKER  AGE        TOKENS  TOKENS/S  PROVIDER  MODEL          SESSION                   STREAM",
        "     2  1 h 1 min   12345      25.0  kimi      claude-sonnet                            chatcmpl-1",
        "     1  1 min 5 s     100       7.2  kimi      kimi-k2.6      a session of someone wi…  chatcmpl-2",
    ]


def test_nothing_going_on():
    shown = render(status_reply(workers=[], providers=[]), [], WIDE, HIGH)
    assert len(shown) == 4
    assert shown[-1] == "workers  0 of 2 serving"


def test_problems_stand_in_the_header():
    status = status_reply(
        state="draining",
        config_error="config.toml:3: no such key",
        crash_loop="worker 2 died 5 times before it was ready",
        storage=StorageStatus(path="/s", problem="the disk is full"),
    )
    shown = render(status, [], WIDE, HIGH, note="the service did not answer within 2 s")
    assert shown[0].startswith("kimi-proxy 0.1.0  draining for")
    assert shown[1] == "the service did not answer within 2 s"
    assert shown[5:8] == [
        "refused  config.toml:3: no such key",
        "crashes  worker 2 died 5 times before it was ready",
        "storage  the disk is full",
    ]


def test_supervisors_that_finish_their_streams_stand_in_the_header():
    shown = render(status_reply(elders=[ElderStatus(7, 2), ElderStatus(8, 1)]), [], WIDE, HIGH)
    assert shown[4:6] == ["elder    pid 7 finishes 2 streams", "elder    pid 8 finishes 1 stream"]


def test_providers_in_trouble_come_first():
    providers = [
        ProviderStatus(name=name, dialect="openai", base_url="", has_key=True, health=health, active=active)
        for name, health, active in (("a", "healthy", 0), ("b", "healthy", 9), ("c", "open", 0), ("d", "degraded", 1))
    ]
    shown = render(status_reply(workers=[], providers=providers), [], WIDE, HIGH)
    assert [line.split()[:2] for line in shown[6:]] == [
        ["d", "degraded"],
        ["c", "open"],
        ["b", "healthy"],
        ["a", "healthy"],
    ]


def test_what_does_not_fit_is_counted():
    shown = render(status_reply(), many(40), 80, 24)
    assert len(shown) == 24
    assert [line for line in shown if line.startswith("…")] == ["… 30 more"]
    assert sum("chatcmpl-" in line for line in shown) == 10
    assert shown[-11].endswith("chatcmpl-0")  # the oldest are shown, as the stuck are among them


def test_a_screen_with_room_for_little():
    shown = render(status_reply(), many(40), 80, 9)
    assert shown[0].startswith("kimi-proxy")
    assert len(shown) <= 9
    assert render(status_reply(), many(40), 80, 1) == [
        "kimi-proxy 0.1.0  running for 2 h 10 min (pid 4242)  127.0.0.1:8000"
    ]
    assert render(status_reply(), many(40), 80, 0) == []


NAMES = st.text(max_size=40)


@given(
    width=st.integers(0, 120),
    height=st.integers(0, 60),
    names=st.lists(NAMES, max_size=30),
    providers=st.lists(NAMES, max_size=10),
    workers=st.integers(0, 10),
)
def test_it_always_fits(width, height, names, providers, workers):
    status = status_reply(
        providers=[ProviderStatus(name=name, dialect="openai", base_url="", has_key=False) for name in providers],
        workers=[WorkerStatus(worker=n, pid=n, generation=0, state="serving") for n in range(workers)],
    )
    live = streams(*(session(f"chatcmpl-{number}", session=name) for number, name in enumerate(names)))
    shown = render(status, live, width, height)
    assert len(shown) <= height
    for line in shown:
        assert columns(line) <= width
        assert line.isprintable()
    # Colours take no room and change no letter.
    dressed = render(status, live, width, height, lambda text, tone: f"<{tone}>{text}</>" if tone == "bad" else text)
    assert [line.replace("<bad>", "").replace("</>", "") for line in dressed] == shown


def test_colours_by_tone():
    shown = render(status_reply(), many(1), WIDE, HIGH, painted)
    assert shown[0].startswith("\x1b[1mkimi-proxy 0.1.0\x1b[m  \x1b[32mrunning\x1b[m for")
    assert "\x1b[33mstarting\x1b[m" in shown[7]
    assert "\x1b[33m2\x1b[m" in shown[7]  # restarts


@pytest.mark.parametrize(
    ("room", "wanted", "shares"),
    [
        (30, (5, 6, 7), [5, 6, 7]),
        (18, (5, 6, 100), [5, 6, 7]),
        (18, (100, 100, 100), [6, 6, 6]),
        (18, (100, 2, 100), [8, 2, 8]),
        (0, (5, 6, 7), [0, 0, 0]),
        (-3, (5, 6, 7), [0, 0, 0]),
        (10, (0, 0, 7), [0, 0, 7]),
    ],
)
def test_sharing_the_room(room, wanted, shares):
    assert share(room, wanted) == shares


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("abcd", 1, "…"),
        ("abcd", 0, ""),
        ("", 0, ""),
        ("月之暗面", 8, "月之暗面"),
        ("月之暗面", 7, "月之暗…"),
        ("月之暗面", 6, "月之…"),
        ("e\u0301e\u0301", 2, "e\u0301e\u0301"),
    ],
)
def test_clipping_counts_columns(text, width, shown):
    assert clip(text, width) == shown
    assert columns(shown) <= max(width, 0)


def test_what_steers_a_terminal_is_not_printed():
    assert printable("a\x1b[2Jb\nc\u202e\ud800ü月") == "a?[2Jb?c??ü月"
