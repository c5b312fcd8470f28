"""Faults of upstreams that go on talking: HTTP that is none, events that are no answer, counts that can't be.

Where both sides speak the same dialect, an upstream's events pass as they are: what is wrong inside of one is the
client's to judge, and must neither cost the stream, nor the record, nor anybody else.
"""

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
import trio
from fakes import anthropic_events as anthropic
from fakes.grammar import parse_events
from fakes.laboratory import Lab, Rows, pause
from fakes.rogue_upstream import Call, Deed
from fakes.upstream import FIN, HANG, LAST_CHUNK, Step, chunk, head, whole

pytestmark = pytest.mark.integration

ROWS = Rows()
SAID = "one two "
FAILED = "`failed`/`{}`, one retry, no tokens but the prompt's"
IN_MID_STREAM = "`failed`/`{}`, the tokens of what came"
COMPLETED = "`completed`, the provider's tokens"


def saying(name: str, make: Callable[[Call], bytes]) -> None:
    """A deed: a chunked stream with these events."""

    async def act(call: Call) -> None:
        await call.play(call.head() + chunk(make(call)) + LAST_CHUNK)

    ROWS[name] = act


# --- HTTP that is none


def playing(name: str, *steps: Step) -> None:
    """A deed: these steps, whatever was asked."""

    async def act(call: Call) -> None:
        await call.play(*steps)

    ROWS[name] = act


playing("another_protocol", b"SSH-2.0-OpenSSH_9.2\r\n", HANG)
playing("negative_length", b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nhello", HANG)
playing("two_lengths", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 7\r\n\r\nhello", HANG)
playing("two_framings", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello", HANG)
playing("short", head(200, {"content-type": "application/json", "content-length": "5"}) + b'{"id": 1}')
playing("long", head(200, {"content-type": "application/json", "content-length": "99"}) + b'{"id": 1}', FIN)


@ROWS.row("speaks another protocol", saw="502", kept=FAILED.format("RemoteProtocolError"))
async def test_it_speaks_another_protocol(lab: Lab) -> None:
    for got in await lab.ask("another_protocol", stream=None):
        got.must_be_refused(502, "RemoteProtocolError", retries=1)


@ROWS.row(
    "a `content-length` below 0, two of them, or one beside `transfer-encoding`",
    saw="502",
    kept=FAILED.format("RemoteProtocolError"),
)
async def test_its_length_is_ambiguous(lab: Lab) -> None:
    for got in await lab.ask("negative_length", "two_lengths", "two_framings", clients=("openai",)):
        got.must_be_refused(502, "RemoteProtocolError", retries=1)


@ROWS.row(
    "a `content-length` that is too small or too large for the body",
    saw="502; the rest of the body never became another's answer",
    kept="`failed`/`DecodingError` or `RemoteProtocolError`, one retry",
)
async def test_its_length_is_wrong(lab: Lab) -> None:
    for got in await lab.ask("short", "long", stream=False):
        short = got.record["upstream_model"] == "short"
        got.must_be_refused(502, "DecodingError" if short else "RemoteProtocolError", retries=1)


@ROWS.deed
async def endless_headers(call: Call) -> None:
    await call.play(b"HTTP/1.1 200 OK\r\n")
    while not call.request.closed.is_set():
        await call.play(b"x-filler: 0123456789\r\n" * 100)


@ROWS.deed
async def endless_1xx(call: Call) -> None:
    while not call.request.closed.is_set():
        await call.play(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


@ROWS.row("headers without an end", saw="502 at 64 KiB of them", kept=FAILED.format("RemoteProtocolError"))
async def test_its_headers_never_end(lab: Lab) -> None:
    for got in await lab.ask("endless_headers"):
        got.must_be_refused(502, "RemoteProtocolError", retries=1)


@ROWS.row("`100 Continue` without an end", saw="502 at 64 KiB of them", kept=FAILED.format("RemoteProtocolError"))
async def test_its_interim_responses_never_end(lab: Lab) -> None:
    for got in await lab.ask("endless_1xx"):
        got.must_be_refused(502, "RemoteProtocolError", retries=1)


LIMITED = b"HTTP/1.1 429 No\r\nretry-after: 7%s\r\ncontent-length: 2\r\n\r\n{}"
playing("bare_cr", LIMITED % b"\rx-evil: 1")
playing("nul", LIMITED % b"\0")
playing("control", LIMITED % b"\x01")
playing("high", LIMITED % b"\r\nx-ratelimit-note: caf\xe9")
playing("folded", LIMITED % b"\r\n x-evil: 1")


@ROWS.row(
    "bare CR, NUL, control characters or a folded line in a header that is passed on",
    saw="502, or the error without them; never a header of the upstream's making",
    kept="`failed`/`RemoteProtocolError` or `HTTPStatusError`",
)
async def test_it_injects_headers(lab: Lab) -> None:
    for got in await lab.ask("bare_cr", "nul", "control", "high", "folded"):
        told = (got.status, got.record["error_type"])
        assert told in {(502, "RemoteProtocolError"), (429, "HTTPStatusError")}, got
        got.must_be_refused(*told, retries=got.record["retries"])
        assert "x-evil" not in got.headers
        assert got.record["upstream_model"] == "high" or got.status == 502, got


@ROWS.deed
async def bad_chunk(call: Call) -> None:
    await call.play(call.begin("one ", "two ") + b"zz\r\n", HANG)


@ROWS.deed
async def huge_chunk(call: Call) -> None:
    await call.play(call.begin("one ", "two ") + b"fffffffffffffffff\r\n", HANG)


@ROWS.row(
    "a chunk whose size is no number, or has 17 digits",
    saw="what came, then an error as the last event",
    kept=IN_MID_STREAM.format("RemoteProtocolError"),
)
async def test_its_chunks_are_wrong(lab: Lab) -> None:
    for got in await lab.ask("bad_chunk", "huge_chunk"):
        got.must_break("RemoteProtocolError", SAID)


BOMB = gzip.compress(bytes(64 * 2**20))


def compressed(data: Callable[[Call], bytes]) -> Deed:
    async def act(call: Call) -> None:
        kind = "text/event-stream" if call.streams else "application/json"
        await call.play(whole(200, data(call), {"content-type": kind, "content-encoding": "gzip"}))

    return act


ROWS["gzip"] = compressed(lambda call: gzip.compress(call.stream("one ", "two") if call.streams else call.whole_json()))
ROWS["gzip_bomb"] = compressed(lambda call: BOMB)


@ROWS.row(
    "a compressed body, though not asked for; also one that would be a thousand times as large",
    saw="502 that says so",
    kept=FAILED.format("DecodingError"),
)
async def test_it_compresses(lab: Lab) -> None:
    for got in await lab.ask("gzip", "gzip_bomb", stream=None):
        got.must_be_refused(502, "DecodingError", retries=1)
        assert "compressed its answer (gzip)" in got.error["message"]


@ROWS.deed
async def no_framing(call: Call) -> None:
    await call.play(b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + call.stream("one ", "two"), FIN)


@ROWS.deed
async def odd_type(call: Call) -> None:
    start = head(200, {"content-type": "application/octet-stream"}, chunked=True)
    await call.play(start + chunk(call.stream("one ", "two")) + LAST_CHUNK)


@ROWS.row("a stream in HTTP/1.0, which ends with the connection", saw="the whole answer", kept=COMPLETED)
async def test_it_speaks_http_1_0(lab: Lab) -> None:
    for got in await lab.ask("no_framing"):
        got.must_succeed()


@ROWS.row("a stream of another content type", saw="the whole answer, as `text/event-stream`", kept=COMPLETED)
async def test_its_content_type_is_wrong(lab: Lab) -> None:
    for got in await lab.ask("odd_type"):
        got.must_succeed()
        assert got.streamed


# --- bodies that are no answer

JSON, HTML = {"content-type": "application/json"}, {"content-type": "text/html"}
playing("half", whole(200, b'{"id": "chatcmpl-1", "choices": [', JSON))
playing("nothing", whole(200, b"", JSON))
playing("page", whole(200, b"<html>It works!</html>", HTML))
playing("null", whole(200, b"null", JSON))
playing("deep", whole(200, b"[" * 100_000, JSON))


@ROWS.row(
    "200 with half of a JSON, with none, with HTML, `null` or 100,000 brackets",
    saw="502, streaming or not",
    kept="`failed`/`RemoteProtocolError` where a stream was asked for, else `DecodingError`; one retry",
)
async def test_its_body_is_no_answer(lab: Lab) -> None:
    for got in await lab.ask("half", "nothing", "page", "null", "deep", stream=None):
        got.must_be_refused(502, "RemoteProtocolError" if got.record["streaming"] else "DecodingError", retries=1)


# --- events that are no answer


@ROWS.deed
async def byte_by_byte(call: Call) -> None:
    await call.play(call.head())
    for byte in call.stream("one ", "two"):
        await call.play(chunk(bytes([byte])))
    await call.play(LAST_CHUNK)


@ROWS.row("writes of one byte", saw="the whole answer, event by event", kept=COMPLETED)
async def test_it_writes_single_bytes(lab: Lab) -> None:
    for got in await lab.ask("byte_by_byte"):
        got.must_succeed()


@ROWS.deed
async def split_characters(call: Call) -> None:
    await call.play(call.head())
    data = call.stream("日本", "naïve").decode().replace("\\u65e5\\u672c", "日本").replace("\\u00ef", "ï").encode()
    assert "日本".encode() in data
    for byte in data:
        await call.play(chunk(bytes([byte])))
        if byte >= 0x80:
            await trio.sleep(0.002)
    await call.play(LAST_CHUNK)


@ROWS.row("writes that end inside a character", saw="the whole answer", kept=COMPLETED)
async def test_it_splits_characters(lab: Lab) -> None:
    for got in await lab.ask("split_characters"):
        got.must_succeed("日本naïve")


saying("crlf", lambda call: call.stream("one ", "two").replace(b"\n", b"\r\n"))
saying("cr", lambda call: call.stream("one ", "two").replace(b"\n", b"\r"))


@ROWS.row("lines that end with CRLF, or with CR alone", saw="the whole answer", kept=COMPLETED)
async def test_its_lines_end_otherwise(lab: Lab) -> None:
    for got in await lab.ask("crlf", "cr"):
        got.must_succeed()


def wrong_event(name: str, make: Callable[[Call], bytes]) -> None:
    """A deed: this between the two words of a good answer."""

    async def act(call: Call) -> None:
        rest = make(call) + call.words("two") + call.finish() + call.done()
        await call.play(call.begin("one "), call.settle, chunk(rest) + LAST_CHUNK)

    ROWS[name] = act


wrong_event("malformed", lambda call: b'data: {"choices": [\n\n')
wrong_event("brackets", lambda call: b"data: " + b"[" * 100_000 + b"\n\n")
wrong_event("invalid_utf8", lambda call: call.words("?").replace(b"?", b"\xff\xfe"))
wrong_event("raw_nul", lambda call: call.words("?").replace(b"?", b"\0"))


async def see_wrong_event(lab: Lab, name: str) -> None:
    for got in await lab.ask(name):
        if got.passed:
            assert not got.cut, got
            assert (got.record["status"], got.record["completion_tokens"]) == ("completed", 2), got
            assert got.body.rstrip().endswith(b'"message_stop"}' if got.client == "anthropic" else b"[DONE]"), got
        else:
            got.must_break("DialectError", "one ")


PASSES = "the event as it came where both speak the same; else what came before, then an error as the last event"
PASSED = "`completed` where it passed; else `failed`/`DialectError`, the tokens of what came"


@ROWS.row("an event that is no JSON", saw=PASSES, kept=PASSED)
async def test_its_event_is_no_json(lab: Lab) -> None:
    await see_wrong_event(lab, "malformed")


@ROWS.row("an event of 100,000 brackets", saw=PASSES, kept=PASSED)
async def test_its_event_is_too_deep(lab: Lab) -> None:
    await see_wrong_event(lab, "brackets")


@ROWS.row("an event with invalid UTF-8", saw=PASSES, kept=PASSED)
async def test_its_event_is_no_utf8(lab: Lab) -> None:
    await see_wrong_event(lab, "invalid_utf8")


@ROWS.row("an event with a NUL in it", saw=PASSES, kept=PASSED)
async def test_its_event_has_a_nul(lab: Lab) -> None:
    await see_wrong_event(lab, "raw_nul")


saying("goes_on", lambda call: call.stream("one ", "two") + call.words(" more") + call.done())


@ROWS.deed
async def goes_on_later(call: Call) -> None:
    await call.play(
        call.head() + chunk(call.stream("one ", "two")), pause(0.02), chunk(call.words(" more")) + LAST_CHUNK
    )


@ROWS.deed
async def goes_on_after_an_error(call: Call) -> None:
    error = (b"event: error\n" if call.is_anthropic else b"") + b"data: " + call.error() + b"\n\n"
    rest = error + call.words(" more") + call.finish() + call.done()
    await call.play(call.begin("one ", "two "), call.settle, chunk(rest) + LAST_CHUNK)


@ROWS.row(
    "goes on behind `[DONE]`, `message_stop` or an error",
    saw="the answer up to there, and nothing more",
    kept="`completed`, or `failed`/`UpstreamError`; tokens up to there",
)
async def test_it_goes_on(lab: Lab) -> None:
    for got in await lab.ask("goes_on", "goes_on_later"):
        got.must_succeed()
        assert got.record["counted_completion"] == 2
    for got in await lab.ask("goes_on_after_an_error"):
        got.must_break("UpstreamError", SAID)


saying("starts_twice", lambda call: call.opening() + call.stream("one ", "two"))


@ROWS.row(
    "begins its message twice",
    saw="one beginning, unless both speak the same: then its events as they came",
    kept=COMPLETED,
)
async def test_it_starts_twice(lab: Lab) -> None:
    for got in await lab.ask("starts_twice"):
        got.must_succeed(careless=True)


@ROWS.deed
async def interleaves(call: Call) -> None:
    body = anthropic.message_start() + anthropic.block_start(0, "text") + anthropic.block_start(1, "text")
    for index, word in ((0, "one "), (1, "two "), (0, "three "), (1, "four")):
        body += anthropic.block_delta(index, "text_delta", text=word)
    body += anthropic.block_stop(0) + anthropic.block_stop(1) + anthropic.message_delta() + anthropic.MESSAGE_STOP
    await call.play(call.head() + chunk(body) + LAST_CHUNK)


@ROWS.row(
    "feeds two blocks of a message in turn",
    saw="all of the text, in the order in which it came",
    kept=COMPLETED,
)
async def test_it_interleaves(lab: Lab) -> None:
    for got in await lab.ask("interleaves", upstreams=("anthropic",)):
        got.must_succeed("one two three four", careless=True)
        assert got.record["completion_tokens"] == 7


# --- counts that can't be

COUNTS: dict[str, Any] = {
    "usage-negative": -5,
    "usage-huge": 10**30,
    "usage-text": "7",
    "usage-fraction": 7.5,
    "usage-null": None,
    "usage-list": [1],
    "usage-true": True,
}


def counting(name: str, count: object) -> None:
    saying(name, lambda call: call.opening() + call.words("one ", "two") + call.finish(count) + call.done())


for _name, _count in COUNTS.items():
    counting(_name, _count)


@ROWS.row(
    "usage that is negative, huge, a text, a fraction, `null`, a list or `true`",
    saw="the whole answer",
    kept="`completed`, tokens that we counted ourselves",
)
async def test_its_usage_is_absurd(lab: Lab) -> None:
    for got in await lab.ask(*COUNTS):
        got.must_succeed(careless=True)
        assert (got.record["completion_tokens"], got.record["completion_source"]) == (2, "counted"), got
        if not got.passed:
            told = [json.loads(data) for _, data in parse_events(got.body) if data != "[DONE]"]
            usages = [event["usage"] for event in told if event.get("usage")]
            assert all(type(count) is int for usage in usages for count in usage.values()), got
