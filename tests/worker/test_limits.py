import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.config import Provider, Streaming
from shared.messages import LimitState
from worker.dialects.anthropic.exchange import AnthropicExchange
from worker.dialects.openai.exchange import OpenAIExchange
from worker.streaming.limits import LimitExceeded, duration, limit_headers
from worker.streaming.refusal import of_upstream_error

NOW = 1_700_000_000.0
FULL = LimitState("provider kimi", limit=600, remaining=0, reset_after=1.0, retry_after=0.0973)
BUSY = LimitState("key 1a2b3c4d5e6f", limit=4, remaining=0, reset_after=1.0, retry_after=1.0, concurrent=True)
ROOM = LimitState("provider kimi", limit=600, remaining=7, reset_after=61.2)
BODY = b'{"model": "m", "messages": [], "max_tokens": 1}'


def told(limit, dialect="openai"):
    return {name.decode(): value.decode() for name, value in limit_headers(limit, dialect, NOW)}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.017, "17ms"),
        (0.0001, "1ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (1.2, "1.2s"),
        (59.9996, "1m0s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (61.25, "1m1.25s"),
        (3600, "1h0m0s"),
        (90061.5, "25h1m1.5s"),
    ],
)
def test_durations_as_go_prints_them(seconds, text):
    assert duration(seconds) == text


@given(st.floats(0, 1e6))
def test_a_duration_is_never_too_short(seconds):
    units = {"h": 3600, "m": 60, "s": 1}
    text, total, number = duration(seconds), 0.0, ""
    if text.endswith("ms"):
        total = int(text[:-2]) / 1000
    else:
        for char in text:
            if char in units:
                total += float(number) * units[char]
                number = ""
            else:
                number += char
    assert seconds - 1e-6 <= total <= seconds + 0.0011


def test_who_is_let_in_is_told_what_is_left():
    assert told(ROOM) == {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "7",
        "x-ratelimit-reset-requests": "1m1.2s",
    }


def test_anthropic_s_clients_are_told_in_their_words_too():
    assert told(ROOM, "anthropic") == {
        **told(ROOM),
        "anthropic-ratelimit-requests-limit": "600",
        "anthropic-ratelimit-requests-remaining": "7",
        "anthropic-ratelimit-requests-reset": "2023-11-14T22:14:22Z",
    }


def test_who_is_refused_is_told_when_to_come_back():
    headers = told(FULL)
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("1", "98")
    assert told(LimitState("p", 1, 0, 70.0, retry_after=59.01))["retry-after"] == "60"


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        (FULL, "the limit of 600 requests a minute for provider kimi is reached; try again in 0.0973 s"),
        (BUSY, "the limit of 4 streams at once for key 1a2b3c4d5e6f is reached; try again in 1 s"),
        (
            LimitState("provider p", 1, 0, 1e4, retry_after=1234.56),
            "the limit of 1 requests a minute for provider p is reached; try again in 1235 s",
        ),
    ],
)
def test_the_message_names_the_limit(limit, sentence):
    assert str(LimitExceeded(limit, [])) == sentence


@pytest.mark.parametrize("exchange", [OpenAIExchange, AnthropicExchange])
def test_the_refusal(exchange):
    more = {"request_id": "req_7"} if exchange is AnthropicExchange else {}
    client = exchange(BODY, Streaming(), id="0" * 32, now=1, **more)
    error = LimitExceeded(FULL, limit_headers(FULL, client.dialect, NOW))
    status, body, headers = of_upstream_error(client, Provider(name="kimi"), error)
    assert status == 429
    names = [name.decode() for name, _ in headers]
    assert len(names) == len(set(names))
    assert {"content-type", *told(FULL, client.dialect)} == set(names)
    said = json.loads(body)["error"]
    assert (said["type"], said["message"]) == ("rate_limit_error", str(error))
    if client.dialect == "openai":
        assert said["code"] == "rate_limit_exceeded"
