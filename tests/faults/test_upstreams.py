"""Faults of upstreams: they can't be reached, say nothing, break off, lie, and never end.

Each is seen by clients of both dialects, from upstreams of both where that makes a difference.
"""

from collections.abc import Callable
from typing import Any

import pytest
from fakes.answers import DIALECTS, connect, send_question, trace_of
from fakes.laboratory import SETUP, Lab, Rows, answer_early, pause
from fakes.rogue_upstream import Call, Deed
from fakes.service import wait_until
from fakes.upstream import FIN, HANG, LAST_CHUNK, RESET, chunk, head, whole

pytestmark = pytest.mark.integration

ROWS = Rows()
JSON = {"content-type": "application/json"}
SAID = "one two "
"""What has come before a stream breaks."""
FAILED = "`failed`/`{}`, one retry, no tokens but the prompt's"
NOT_SENT = "`failed`/`{}`, one retry, no tokens: nothing was sent"
IN_MID_STREAM = "`failed`/`{}`, the tokens of what came"


# --- no connection


@ROWS.row("refuses connections", saw="502 at once", kept=NOT_SENT.format("ConnectError"))
async def test_it_refuses(lab: Lab) -> None:
    for got in await lab.ask_provider("refusing"):
        got.must_be_refused(502, "ConnectError", retries=1)
        assert "refused" in got.error["message"]
        assert (got.record["prompt_tokens"], got.record["completion_tokens"]) == (None, None)


@ROWS.row("its name does not exist", saw="502", kept=NOT_SENT.format("ConnectError"))
async def test_its_name_does_not_exist(lab: Lab) -> None:
    for got in await lab.ask_provider("nowhere"):
        got.must_be_refused(502, "ConnectError", retries=1)
        assert got.record["prompt_tokens"] is None


@ROWS.row(
    "a certificate that nobody has signed, of another name, or out of date",
    saw="502 that says which",
    kept=NOT_SENT.format("ConnectError"),
)
async def test_its_certificate_is_wrong(lab: Lab) -> None:
    for name, why in (("selfsigned", "self"), ("othername", "mismatch"), ("expired", "expired")):
        async with lab.serve_tls(name):
            for got in await lab.ask_provider(name):
                got.must_be_refused(502, "ConnectError", retries=1)
                assert "certificate" in got.error["message"]
                assert why in got.error["message"] or lab.scene.setup != SETUP, got
                assert got.record["prompt_tokens"] is None


@ROWS.row(
    "accepts the connection, and never answers the TLS handshake",
    saw="504 after `connect_timeout`",
    kept=NOT_SENT.format("ConnectTimeout"),
)
async def test_it_does_not_shake_hands(lab: Lab) -> None:
    for got in await lab.ask_provider("deaf"):
        got.must_be_refused(504, "ConnectTimeout", retries=1)
        assert got.record["prompt_tokens"] is None


@ROWS.row(
    "its queue of connections is full",
    saw="504 after `connect_timeout`",
    kept=NOT_SENT.format("ConnectTimeout"),
)
async def test_its_queue_is_full(lab: Lab) -> None:
    for got in await lab.ask_provider("full"):
        got.must_be_refused(504, "ConnectTimeout", retries=1)
        assert got.record["prompt_tokens"] is None


# --- silence


@ROWS.deed
async def never_answers(call: Call) -> None:
    await call.play(HANG)


@ROWS.deed
async def headers_only(call: Call) -> None:
    await call.play(call.head() if call.streams else head(200, {"content-length": "100"}), HANG)


@ROWS.deed
async def stalls(call: Call) -> None:
    await call.play(call.begin("one ", "two "), HANG)


@ROWS.row(
    "never answers", saw="504 after `first_byte_timeout`", kept="`failed`/`ReadTimeout`, no retry, the prompt's tokens"
)
async def test_it_never_answers(lab: Lab) -> None:
    for got in await lab.ask("never_answers", by="curt", stream=None):
        got.must_be_refused(504, "ReadTimeout")
        assert got.record["prompt_source"] == "counted"


@ROWS.row(
    "answers with headers only",
    saw="504 after `first_byte_timeout`, streaming or not",
    kept="`failed`/`ReadTimeout`, no retry, the prompt's tokens",
)
async def test_it_answers_headers_only(lab: Lab) -> None:
    for got in await lab.ask("headers_only", by="curt", stream=None):
        got.must_be_refused(504, "ReadTimeout")
        assert got.record["prompt_source"] == "counted"


@ROWS.row(
    "stalls in mid-stream",
    saw="what came, and after `chunk_timeout` an error as the last event",
    kept=IN_MID_STREAM.format("ReadTimeout"),
)
async def test_it_stalls(lab: Lab) -> None:
    for got in await lab.ask("stalls", by="hasty"):
        got.must_break("ReadTimeout", SAID)


# --- never-ending


@ROWS.deed
async def drips(call: Call) -> None:
    await call.play(call.begin())
    while not call.request.closed.is_set():
        await call.play(chunk(call.words("drip ")), pause(0.05))


@ROWS.deed
async def comments(call: Call) -> None:
    await call.play(call.begin("one "))
    while not call.request.closed.is_set():
        await call.play(chunk(": working\n\n"), pause(0.05))


@ROWS.deed
async def gushes(call: Call) -> None:
    await call.play(call.begin())
    block = chunk(call.words(*["word "] * 100))
    while not call.request.closed.is_set():
        await call.play(block)


async def read_and_leave(lab: Lab, model: str, size: int) -> None:
    """A client of each dialect reads so much of something endless, and leaves."""
    for dialect in DIALECTS:
        trace = trace_of("endless")
        client = await connect(lab.scene.port)
        try:
            await send_question(client, f"hasty/{model}", trace, dialect)
            assert (await client.head()).status == 200
            left = size
            while left > 0:
                left -= len(await client.piece())
        finally:
            client.close()
        [call] = lab.rogue.asked(trace)
        await call.request.closed.wait()
        record = await lab.scene.service.record(trace)
        assert (record["status"], record["error_type"]) == ("cancelled", "client_disconnect")
        assert (record["completion_source"], record["cancel_latency"] < 0.5) == ("partial", True)
        assert record["completion_tokens"] > 0


@ROWS.row(
    "drips for ever, each time just before `chunk_timeout`",
    saw="each word as it came; when the client had enough, the upstream was closed at once",
    kept="`cancelled`/`client_disconnect`, the tokens of what came",
)
async def test_it_drips(lab: Lab) -> None:
    await read_and_leave(lab, "drips", 1500)


@ROWS.row(
    "a never-ending stream, as fast as it can be read",
    saw="all of it; when the client had enough, the upstream was closed at once",
    kept="`cancelled`/`client_disconnect`, the tokens of what came; memory stays bounded",
)
async def test_it_gushes(lab: Lab) -> None:
    async def rss() -> int:
        return max(worker.rss_bytes for worker in (await lab.scene.service.status()).workers)

    before = await rss()
    await read_and_leave(lab, "gushes", 4_000_000)
    assert await rss() < before + 48 * 1024 * 1024


@ROWS.deed
async def gushes_in_one_body(call: Call) -> None:
    await call.play(head(200, JSON, chunked=True))
    while not call.request.closed.is_set():
        await call.play(chunk(b" " * (1 << 20)))


@ROWS.row(
    "a never-ending body where no stream was asked for",
    saw="502 at `max_response_bytes`",
    kept="`failed`/`DialectError`, the prompt's tokens",
)
async def test_its_body_never_ends(lab: Lab) -> None:
    [got] = await lab.ask("gushes_in_one_body", by="hasty", stream=False, clients=("openai",), upstreams=("openai",))
    got.must_be_refused(502, "DialectError")
    assert "max_response_bytes" in got.error["message"]


@ROWS.deed
async def endless_event(call: Call) -> None:
    await call.play(call.begin("one ", "two "), call.settle, head_of_chunk := chunk(b"data: " + b"x" * (1 << 20)))
    while not call.request.closed.is_set():
        await call.play(chunk(b"x" * len(head_of_chunk)))


@ROWS.row(
    "an event larger than `max_event_bytes`",
    saw="what came before, then an error as the last event",
    kept=IN_MID_STREAM.format("DialectError"),
)
async def test_its_event_is_too_large(lab: Lab) -> None:
    for got in await lab.ask("endless_event", upstreams=("openai",)):
        got.must_break("DialectError", SAID)


WORDS = "The quick brown fox jumps over the lazy dog. "


@ROWS.deed
async def five_megabytes(call: Call) -> None:
    text = WORDS * (5 * 2**20 // len(WORDS))
    await call.play(call.head() + chunk(call.stream(text)) + LAST_CHUNK)


@ROWS.row("an event of 5 MB", saw="all of it", kept="`completed`, the provider's tokens")
async def test_an_event_of_5_mb(lab: Lab) -> None:
    for got in await lab.ask("five_megabytes", clients=("anthropic",), upstreams=("openai",)):
        got.must_succeed(None)
        assert len(got.body) > 5_000_000
        assert got.record["completion_source"] == "provider"


# --- broken off


@ROWS.deed
async def closes_before_its_head(call: Call) -> None:
    await call.play(FIN)


@ROWS.deed
async def resets_before_its_head(call: Call) -> None:
    await call.play(RESET)


@ROWS.deed
async def resets(call: Call) -> None:
    await call.play(call.begin("one ", "two "), call.settle, RESET)


@ROWS.deed
async def closes(call: Call) -> None:
    await call.play(call.begin("one ", "two "), FIN)


@ROWS.deed
async def closes_inside_an_event(call: Call) -> None:
    await call.play(call.begin("one ", "two ") + chunk(call.words("three")[:-9]), FIN)


@ROWS.deed
async def ends_early(call: Call) -> None:
    await call.play(call.begin("one ", "two ") + LAST_CHUNK)


@ROWS.deed
async def forgets_done(call: Call) -> None:
    await call.play(call.begin("one ", "two") + chunk(call.finish()) + LAST_CHUNK)


@ROWS.deed
async def stays_open(call: Call) -> None:
    await call.play(call.head() + chunk(call.stream("one ", "two")), HANG)


@ROWS.row("closes the connection instead of answering", saw="502", kept=FAILED.format("RemoteProtocolError"))
async def test_it_closes_before_its_head(lab: Lab) -> None:
    for got in await lab.ask("closes_before_its_head", stream=None):
        got.must_be_refused(502, "RemoteProtocolError", retries=1)


@ROWS.row("resets the connection instead of answering", saw="502", kept=FAILED.format("ReadError"))
async def test_it_resets_before_its_head(lab: Lab) -> None:
    for got in await lab.ask("resets_before_its_head", stream=None):
        got.must_be_refused(502, "ReadError", retries=1)


@ROWS.row(
    "RST in mid-stream",
    saw="what came, then an error as the last event",
    kept=IN_MID_STREAM.format("ReadError"),
)
async def test_it_resets(lab: Lab) -> None:
    for got in await lab.ask("resets"):
        got.must_break("ReadError", SAID)


@ROWS.row(
    "FIN without the last chunk, between events or inside of one",
    saw="the whole events that came, then an error as the last one",
    kept=IN_MID_STREAM.format("RemoteProtocolError"),
)
async def test_it_closes(lab: Lab) -> None:
    for got in await lab.ask("closes", "closes_inside_an_event"):
        got.must_break("RemoteProtocolError", SAID)


@ROWS.row(
    "a clean end in the middle of the answer",
    saw="what came, then an error as the last event: never as if it were whole",
    kept=IN_MID_STREAM.format("IncompleteStream"),
)
async def test_it_ends_early(lab: Lab) -> None:
    for got in await lab.ask("ends_early"):
        got.must_break("IncompleteStream", SAID)


@ROWS.row(
    "a clean end without `[DONE]` or `message_stop`",
    saw="the whole answer, with the missing end",
    kept="`completed`, the provider's tokens",
)
async def test_it_forgets_done(lab: Lab) -> None:
    for got in await lab.ask("forgets_done"):
        got.must_succeed()
        assert (got.record["completion_tokens"], got.record["completion_source"]) == (2, "provider")


@ROWS.row(
    "says `[DONE]` or `message_stop`, and keeps its body open",
    saw="the whole answer and its end at once",
    kept="`completed`; the connection is closed after a second",
)
async def test_it_stays_open(lab: Lab) -> None:
    for got in await lab.ask("stays_open"):
        got.must_succeed()
        assert got.seconds < 1.0 <= got.record["duration"], got


@ROWS.deed
async def cuts_its_body(call: Call) -> None:
    await call.play(head(200, {**JSON, "content-length": "99"}) + b'{"id": 1', call.settle, FIN)


@ROWS.deed
async def resets_its_body(call: Call) -> None:
    await call.play(head(200, {**JSON, "content-length": "99"}) + b'{"id": 1', call.settle, RESET)


@ROWS.row("RST or FIN inside a body that is no stream", saw="502", kept="`failed`/`ReadError` or `RemoteProtocolError`")
async def test_it_cuts_its_body(lab: Lab) -> None:
    for name, error_type in (("cuts_its_body", "RemoteProtocolError"), ("resets_its_body", "ReadError")):
        for got in await lab.ask(name, stream=False):
            got.must_be_refused(502, error_type, retries=1)


@ROWS.deed
async def error_first(call: Call) -> None:
    await call.play(call.head() + chunk(error_event(call)) + LAST_CHUNK)


@ROWS.deed
async def error_later(call: Call) -> None:
    await call.play(call.begin("one ", "two ") + chunk(error_event(call)) + LAST_CHUNK)


def error_event(call: Call) -> bytes:
    return (b"event: error\n" if call.is_anthropic else b"") + b"data: " + call.error() + b"\n\n"


@ROWS.row(
    "200, and an error as the first event of the stream",
    saw="the error as a response, with the status that it stands for",
    kept="`failed`/`UpstreamError`, one retry",
)
async def test_its_first_event_is_an_error(lab: Lab) -> None:
    for got in await lab.ask("error_first"):
        got.must_be_refused(529, "UpstreamError", retries=1)


@ROWS.row(
    "an error event in mid-stream",
    saw="what came, and the error as the last event",
    kept=IN_MID_STREAM.format("UpstreamError"),
)
async def test_it_says_an_error_in_mid_stream(lab: Lab) -> None:
    for got in await lab.ask("error_later"):
        got.must_break("UpstreamError", SAID)


# --- refusals

STATUSES = (401, 403, 404, 413, 429, 500, 503, 529)


def refuse(status: int, kind: str) -> Deed:
    """An error with one of three bodies."""

    async def act(call: Call) -> None:
        body = {"JSON": call.error(), "HTML": b"<html><h1>No</h1></html>", "nothing": b""}[kind]
        types = {"JSON": "application/json", "HTML": "text/html", "nothing": "text/plain"}
        await call.play(whole(status, body, {"content-type": types[kind], "retry-after": "7"}))

    return act


ROWS |= {f"{status}-{kind}": refuse(status, kind) for status in STATUSES for kind in ("JSON", "HTML", "nothing")}


async def see_refusals(lab: Lab, kind: str) -> None:
    for got in await lab.ask(*(f"{status}-{kind}" for status in STATUSES)):
        status = int(got.record["upstream_model"].partition("-")[0])
        got.must_be_refused(status, "HTTPStatusError")  # it asks for more time than a retry would give it
        assert got.headers["retry-after"] == "7"
        assert b"<html>" not in got.body
        if kind == "JSON":
            assert got.error["message"] == "upstream says no"


IN_OUR_WORDS = "the same status and `retry-after`, with an error of the dialect"
REFUSED = "`failed`/`HTTPStatusError`, the status, the prompt's tokens"
STATUS_WORDS = ", ".join(map(str, STATUSES))


@ROWS.row(f"{STATUS_WORDS} with JSON", saw="the same status, `retry-after` and message", kept=REFUSED)
async def test_it_refuses_in_json(lab: Lab) -> None:
    await see_refusals(lab, "JSON")


@ROWS.row(
    f"{STATUS_WORDS} with HTML", saw="the same status and `retry-after`, with an error of the dialect", kept=REFUSED
)
async def test_it_refuses_in_html(lab: Lab) -> None:
    await see_refusals(lab, "HTML")


@ROWS.row(
    f"{STATUS_WORDS} without a body",
    saw="the same status and `retry-after`, with an error of the dialect",
    kept=REFUSED,
)
async def test_it_refuses_without_a_word(lab: Lab) -> None:
    await see_refusals(lab, "nothing")


@ROWS.deed
async def redirects(call: Call) -> None:
    await call.play(whole(302, b"", {"location": "http://elsewhere.example/"}))


@ROWS.deed
async def not_modified(call: Call) -> None:
    await call.play(b"HTTP/1.1 304 Not Modified\r\n\r\n")


@ROWS.deed
async def no_content(call: Call) -> None:
    await call.play(b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello")


@ROWS.deed
async def reset_content(call: Call) -> None:
    await call.play(b"HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n")


@ROWS.deed
async def switches_protocols(call: Call) -> None:
    await call.play(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", HANG)


@ROWS.row(
    "a redirect, or 304", saw="502 that names the status; nobody is asked elsewhere", kept="`failed`/`HTTPStatusError`"
)
async def test_it_redirects(lab: Lab) -> None:
    for got in await lab.ask("redirects", "not_modified", stream=None):
        got.must_be_refused(502, "HTTPStatusError")
        assert "redirects are not followed" in got.error["message"]


@ROWS.row(
    "204 (with a body all the same) or 205",
    saw="502; the stray body never became another's answer",
    kept="`failed`/`IncompleteStream`, or `DecodingError` if it was no stream",
)
async def test_it_has_no_content(lab: Lab) -> None:
    for got in await lab.ask("no_content", "reset_content", stream=None):
        streamed = got.record["streaming"]
        got.must_be_refused(502, "IncompleteStream" if streamed else "DecodingError", retries=1)


@ROWS.row("101 to a request for no such thing", saw="502", kept=FAILED.format("RemoteProtocolError"))
async def test_it_switches_protocols(lab: Lab) -> None:
    for got in await lab.ask("switches_protocols", stream=None):
        got.must_be_refused(502, "RemoteProtocolError", retries=1)


@ROWS.row(
    "answers 413 before it has read the request, and hangs up",
    saw="413 with its message",
    kept="`failed`/`HTTPStatusError`",
)
async def test_it_answers_early(lab: Lab) -> None:
    trace = trace_of("early")
    async with lab.serve("early", answer_early):
        client = await connect(lab.scene.port)
        long = [{"role": "user", "content": "many words " * 300_000}]
        await client.ask({"model": "early/any", "messages": long}, x_request_id=trace)
        answer, body = await client.answer()
        assert (answer.status, b"too much" in body) == (413, True)
        client.close()
    record = await lab.scene.service.record(trace)
    assert (record["status"], record["error_type"], record["http_status"]) == ("failed", "HTTPStatusError", 413)


# --- connections


def stale(end: Any) -> Deed:
    async def act(call: Call) -> None:
        await (call.play(end) if call.number else call.answer())

    return act


ROWS |= {"stale_fin": stale(FIN), "stale_reset": stale(RESET)}


@ROWS.row(
    "closes or resets an idle connection just as it is used again",
    saw="the answer: the request was sent once more, on a fresh connection",
    kept="`completed`, no retry counted",
)
async def test_it_closes_an_idle_connection(lab: Lab) -> None:
    for name in ("stale_fin", "stale_reset"):
        client = await connect(lab.scene.port)  # one connection, so one worker, so one pool
        traces = []
        for stream in (True, False) * 2:
            traces.append(trace_of(name))
            await send_question(client, f"rogue/{name}", traces[-1], "openai", stream=stream)
            answer, body = await client.answer()
            assert answer.status == 200, body
        client.close()
        for trace in traces:
            record = await lab.scene.service.record(trace)
            assert (record["status"], record["retries"]) == ("completed", 0)
        assert [len(lab.rogue.asked(trace)) for trace in traces][1:] == [2, 2, 2], "it was no reused connection"


def answer_of(text: str) -> Callable[[Call], bytes]:
    return lambda call: whole(200, call.whole_json(text), JSON)


@ROWS.deed
async def answers_twice(call: Call) -> None:
    await call.play(answer_of("one two")(call) + answer_of("evil")(call))


@ROWS.deed
async def speaks_when_idle(call: Call) -> None:
    await call.play(answer_of("one two")(call), pause(0.01), answer_of("evil")(call))


@ROWS.row(
    "a second response to one request, at once or a moment later",
    saw="the first one; nobody ever got the second",
    kept="`completed`; the connection was not used again",
)
async def test_it_answers_twice(lab: Lab) -> None:
    for name in ("answers_twice", "speaks_when_idle"):
        client = await connect(lab.scene.port)
        for _ in range(3):
            trace = trace_of(name)
            await send_question(client, f"rogue/{name}", trace, "openai", stream=False)
            answer, body = await client.answer()
            assert answer.status == 200
            assert b"one two" in body
            assert b"evil" not in body
            assert (await lab.scene.service.record(trace))["status"] == "completed"
            [call] = lab.rogue.asked(trace)
            await wait_until(lambda call=call: lab.rogue.busy == 0, "all that it says")
        client.close()
