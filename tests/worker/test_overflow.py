import json

import pytest

from worker.dialects.overflow import Overflow, find_overflow

LONG = [
    (
        "This model's maximum context length is 128000 tokens. However, your messages resulted in 130000 tokens "
        "(129000 in the messages, 1000 in the functions). Please reduce the length of the messages or functions.",
        Overflow(128000, 130000),
    ),
    (
        "This model's maximum context length is 131072 tokens. However, you requested 140000 tokens (130000 in the "
        "messages, 10000 in the completion). Please reduce the length of the messages or completion.",
        Overflow(131072, 130000, 10000),
    ),
    (
        "'max_tokens' or 'max_completion_tokens' is too large: 64000. This model's maximum context length is 32768 "
        "tokens and your request has 12345 input tokens (64000 > 32768 - 12345).",
        Overflow(32768, 12345, 64000),
    ),
    (
        "You passed 32769 input tokens and requested 1 output tokens. However, the model's context length is only "
        "32768 tokens, resulting in a maximum input length of 32767 tokens. Please reduce the length of the prompt.",
        Overflow(32768, 32769),
    ),
    (
        "This endpoint's maximum context length is 131072 tokens. However, you requested about 150000 tokens (100000 "
        "of text input, 18000 of tool input, 32000 in the output). Please reduce the length of either one.",
        Overflow(131072, 118000, 32000),
    ),
    (
        "Requested token count exceeds the model's maximum context length of 32768 tokens. You requested a total of "
        "44768 tokens: 12768 tokens from the input messages and 32000 tokens for the completion.",
        Overflow(32768, 12768, 32000),
    ),
    ("The input (40000 tokens) is longer than the model's context length (32768 tokens).", Overflow(32768, 40000)),
    ("Invalid request: Your request exceeded model token limit: 131072", Overflow(131072)),
    ("Your request exceeded model token limit: 262144 (requested: 265000)", Overflow(262144, 265000)),
    (
        "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
        Overflow(32768, 40000),
    ),
    (
        "The input token count (1,200,000) exceeds the maximum number of tokens allowed (1,048,576).",
        Overflow(1048576, 1200000),
    ),
    (
        "Please reduce the length of the messages or completion. Current length is 8500 while limit is 8192",
        Overflow(8192, 8500),
    ),
    (
        "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
        Overflow(131072, 537812),
    ),
    ("request (12345 tokens) exceeds the available context size (4096 tokens)", Overflow(4096, 12345)),
    (
        "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens and 1000 `max_new_tokens`",
        Overflow(4096, 4000, 1000),
    ),
    ("prompt token count of 130000 exceeds the limit of 128000", Overflow(128000, 130000)),
    ("Range of input length should be [1, 129024]", Overflow(129024)),
    ("length of prompt_tokens (40000) must be less than max_seq_len (32768).", Overflow(32768, 40000)),
    ("Prompt exceeds max length", Overflow()),
    ("Input is too long for requested model.", Overflow()),
    ("invalid params, context window exceeds limit (2013)", Overflow()),
    ("prompt is too long: 208310 tokens > 200000 maximum", Overflow(200000, 208310)),
    (
        "input length and `max_tokens` exceed context limit: 188059 + 20000 > 200000, decrease input length or "
        "`max_tokens` and try again",
        Overflow(200000, 188059, 20000),
    ),
]
OTHER = [
    "max_tokens is too large: 64000. This model supports at most 16384 completion tokens",
    "Request too large for model `x` on tokens per minute (TPM): Limit 6000, Requested 10000, please reduce your "
    "message size and try again.",
    "Rate limit: reduce the length of the messages",
    "`messages[3].content` is too long",
    "invalid temperature",
    "",
]


@pytest.mark.parametrize(("message", "overflow"), LONG)
def test_what_hosts_say(message, overflow):
    body = json.dumps({"error": {"message": message}}).encode()
    for status in (400, 413, 422):
        assert find_overflow(status, body, message) == overflow
    assert find_overflow(500, body, message) is None
    assert find_overflow(429, body, message) is None


@pytest.mark.parametrize("message", OTHER)
def test_what_is_something_else(message):
    assert find_overflow(400, b"{}", message) is None
    assert find_overflow(413, json.dumps({"error": {"message": message, "code": "x"}}).encode(), message) is None


def test_a_code_tells_it_whatever_the_message():
    for error in ({"code": "context_length_exceeded"}, {"type": "exceed_context_size_error", "code": 400}):
        assert find_overflow(400, json.dumps({"error": error}).encode(), "no") == Overflow()
    told = {"type": "exceed_context_size_error", "n_prompt_tokens": 5000, "n_ctx": 4096}
    assert find_overflow(400, json.dumps({"error": told}).encode(), "no") == Overflow(4096, 5000)


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"error": "x"}', b'{"error": {"code": [1]}}'])
def test_bodies_of_any_kind(body):
    assert find_overflow(400, body, "Prompt exceeds max length") == Overflow()
    assert find_overflow(400, body, "no") is None


def test_in_anthropic_s_words():
    assert Overflow().in_anthropic_s_words("M") == "prompt is too long; the upstream said: M"
    assert Overflow(10).in_anthropic_s_words("M") == "prompt is too long; the upstream said: M"
    assert Overflow(10, 9).in_anthropic_s_words("M") == "prompt is too long; the upstream said: M"
    told = Overflow(10, 11).in_anthropic_s_words("M")
    assert told == "prompt is too long: 11 tokens > 10 maximum; the upstream said: M"
    told = Overflow(10, 9, 2).in_anthropic_s_words("M")
    assert told.startswith("input length and `max_tokens` exceed context limit: 9 + 2 > 10, decrease input length")


def test_long_messages_cost_little():
    assert find_overflow(400, b"{}", "prompt contains " * 100_000 + "9" * 100_000) is None
