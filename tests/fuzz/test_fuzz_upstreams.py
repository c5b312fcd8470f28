"""Answers that no upstream should give, through a real gateway: the client always gets a legal end in its dialect."""

import json
import re
from pathlib import Path
from random import Random

import pytest
import trio
from fakes.fuzz import cases, mutated, pieces
from fakes.gateway import CHAT, MESSAGES, Client, serve_gateway
from fakes.grammar import anthropic_faults, openai_faults
from fakes.patient_upstream import MESSAGE, anthropic_events
from fakes.upstream import COMPLETION, FIN, LAST_CHUNK, RESET, Step, chunk, head, openai_stream, serve_upstream, whole

from shared.config import Config, Model, Provider

GOLDEN = Path(__file__).parents[1] / "golden"
STREAMS = {
    "openai": sorted((GOLDEN / "openai_to_anthropic").glob("*.in.sse")),
    "anthropic": sorted((GOLDEN / "anthropic_to_openai").glob("*.in.sse")),
}
ANSWERS = {"openai": COMPLETION, "anthropic": MESSAGE}
PATHS = {"openai": CHAT, "anthropic": MESSAGES}
FAULTS = {"openai": openai_faults, "anthropic": anthropic_faults}
PER_GATEWAY = 50
ASKED = {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}


def config(upstream) -> Config:
    """One upstream as two providers, one of each dialect."""
    providers = {
        dialect: Provider(
            name=dialect,
            base_url=upstream.base_url,
            dialect=dialect,
            max_retries=0,
            first_byte_timeout=2.0,
            chunk_timeout=2.0,
        )
        for dialect in ("openai", "anthropic")
    }
    return Config(providers=providers, models=tuple(Model(name=name, provider=name) for name in providers))


def streamed(random: Random, dialect: str) -> list[Step]:
    """A stream with mistakes in its events, in its chunks, or in how it ends."""
    data = random.choice(STREAMS[dialect]).read_bytes()
    start = head(200, {"content-type": "text/event-stream"}, chunked=True)
    if random.random() < 0.8:
        data = mutated(random, data)
    steps: list[Step] = [start, *(chunk(piece) for piece in pieces(random, data, 20)), LAST_CHUNK]
    match random.randrange(6):
        case 0:
            steps = [mutated(random, b"".join(steps)), FIN]  # type: ignore[arg-type]
        case 1:
            steps = [*steps[: random.randint(1, len(steps))], random.choice((FIN, RESET))]
        case 2:
            steps = [head(200, {"content-type": "text/event-stream"}), *pieces(random, data, 20), FIN]
    return steps


def answered(random: Random, dialect: str) -> list[Step]:
    """A whole answer with mistakes."""
    data = json.dumps(ANSWERS[dialect], ensure_ascii=False).encode()
    if random.random() < 0.8:
        data = mutated(random, data)
    status = random.choice((200, 200, 200, 400, 429, 500, 302))
    response = whole(status, data, {"content-type": random.choice(("application/json", "text/html", ""))})
    if random.random() < 0.3:
        response = mutated(random, response)
    return [*pieces(random, response), FIN]


async def ask(client: Client, dialect: str, provider: str, *, stream: bool) -> tuple[int, bytes, bool]:
    """Status, body, and whether the body is whole."""
    await client.request("POST", PATHS[dialect], json.dumps({**ASKED, "model": provider, "stream": stream}).encode())
    response = await client.head()
    parts = []
    try:
        while piece := await client.piece():
            parts.append(piece)
    except (EOFError, trio.BrokenResourceError):
        return response.status, b"".join(parts), False
    return response.status, b"".join(parts), True


def check_stream(dialect: str, body: bytes, *, passed: bool, is_whole: bool) -> None:
    """It ends as the dialect says, in an error, or the connection was cut, which no client takes for a success."""
    if not passed:
        assert is_whole
        assert FAULTS[dialect](body) == []
        return
    if not is_whole:
        return
    # What isn't a line of SSE is passed over by clients, as its specification says.
    events = [line for line in re.split(rb"\r\n|\n|\r", body) if line.startswith(b"data:")]
    assert events, "nothing at all"
    last = events[-1].removeprefix(b"data:").decode("utf-8", "replace")
    ends = last.strip() == "[DONE]" or '"message_stop"' in last or "error" in last
    assert ends, f"the last event is {last!r}"


def check_error(dialect: str, status: int, body: bytes) -> None:
    told = json.loads(body)
    assert status >= 400
    assert told["error"]["message"]
    if dialect == "anthropic":
        assert told["type"] == "error"


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("stream", [True, False])
async def test_mutated_answers(dialect, provider, stream):
    todo = list(cases(PER_GATEWAY))
    for first in range(0, len(todo), PER_GATEWAY):
        async with serve_upstream() as upstream, serve_gateway(config(upstream)) as gateway:
            for name, random in todo[first : first + PER_GATEWAY]:
                steps = (streamed if stream else answered)(random, provider)
                upstream.script(*steps)
                client = await gateway.connect()
                try:
                    with trio.fail_after(5):
                        status, body, is_whole = await ask(client, dialect, provider, stream=stream)
                    if status != 200:
                        check_error(dialect, status, body)
                    elif stream:
                        check_stream(dialect, body, passed=dialect == provider, is_whole=is_whole)
                    else:
                        assert is_whole
                        if dialect != provider:
                            assert isinstance(json.loads(body), dict)
                except (AssertionError, KeyError, ValueError, trio.TooSlowError, EOFError) as error:
                    raise AssertionError(f"{name}: {steps!r}: {error!r}") from error
                finally:
                    client.close()


async def test_what_is_right_arrives():
    """That the cases above are near enough to what is right."""
    anthropic = "".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in anthropic_events("a", "b")
    )
    said = {
        "openai": openai_stream("a", "b"),
        "anthropic": [head(200, {"content-type": "text/event-stream"}, chunked=True), chunk(anthropic), LAST_CHUNK],
    }
    async with serve_upstream() as upstream, serve_gateway(config(upstream)) as gateway:
        for provider, steps in said.items():
            for dialect in PATHS:
                upstream.script(*steps)
                client = await gateway.connect()
                status, body, is_whole = await ask(client, dialect, provider, stream=True)
                assert (status, is_whole) == (200, True)
                assert FAULTS[dialect](body, passed=dialect == provider) == []
