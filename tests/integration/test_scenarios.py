"""Everything the scripted upstreams do, to clients of both dialects: the grammar holds, and the end is never a lie.

What the clients got makes the tables in docs/translation.md; `KIMI_PROXY_WRITE_DOCS=1` writes them anew.
"""

import itertools
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import trio
from fakes.anthropic_upstream import serve_anthropic
from fakes.gateway import RunningGateway, serve_gateway
from fakes.grammar import anthropic_faults, ends_in_error, openai_faults, parse_events
from fakes.openai_upstream import serve_openai
from fakes.script import THOUGHTS, text_of

from shared.config import Config, Provider

DOCUMENT = Path(__file__).parents[2] / "docs" / "translation.md"
BEGIN, END = "<!-- scenarios -->\n", "<!-- /scenarios -->"
Dialect = Literal["anthropic", "openai"]
DIALECTS: tuple[Dialect, ...] = ("anthropic", "openai")
NAMES = {"anthropic": "Anthropic", "openai": "OpenAI"}
TEXT = "".join(text_of(16))
KIMI_TEXT = "Let me see. "
STREAM = "text/event-stream"


@dataclass(frozen=True)
class Scenario:
    """What an upstream does, by its model's name and in words."""

    model: str
    does: str
    ends: Literal["well", "badly"] = "well"
    speaks: tuple[Dialect, ...] = DIALECTS
    """The upstreams that can do it."""
    provider: Literal["plain", "impatient", "normalising"] = "plain"
    careless: tuple[Dialect, ...] = ()
    """The upstreams whose own bytes break the grammar."""
    usage: bool = False
    """Whether the table tells that, instead of what was said."""


OPENAI_ONLY: Any = {"speaks": ("openai",)}
GROUPS = {
    "Answers": [
        Scenario("text", "says a text"),
        Scenario("length", "stops at the greatest length"),
        Scenario("content-filter", "refuses to go on"),
        Scenario("stop-sequence", "stops at a stop sequence"),
        Scenario("reasoning", "thinks, then says a text"),
        Scenario("think-tags", "thinks inside the text, in `<think>`", **OPENAI_ONLY),
        Scenario("think-tags", "the same, with `normalise`", provider="normalising", **OPENAI_ONLY),
        Scenario("tools", "calls a tool, its arguments in fragments"),
        Scenario("tools-whole", "calls a tool in one piece"),
        Scenario("tools-parallel", "calls two tools"),
        Scenario("tools-interleaved", "calls two tools, their fragments mixed", **OPENAI_ONLY),
        Scenario("tools-noid", "calls a tool without an id", careless=("openai",), **OPENAI_ONLY),
        Scenario("reasoning-tools", "thinks, then calls a tool"),
        Scenario("kimi-markers", "calls a tool inside the text, in Kimi's markers", **OPENAI_ONLY),
        Scenario("kimi-markers", "the same, with `normalise`", provider="normalising", **OPENAI_ONLY),
    ],
    "Usage": [
        Scenario("text", "tells usage as its dialect has it", usage=True),
        Scenario(
            "text+usage-inline", "tells it in the last chunk of the answer (Anthropic: all at the end)", usage=True
        ),
        Scenario("text+usage-none", "tells none", usage=True, careless=("anthropic",)),
        Scenario("text+cached", "tells of 6 tokens from a cache (Anthropic: and of 2 into it)", usage=True),
    ],
    "Ways to write": [
        Scenario("text+crlf", "ends lines with CRLF"),
        Scenario("text+comments", "sends comments between the events"),
        Scenario("text+no-space", "leaves out the space behind `data:`"),
        Scenario("text+split-utf8", "ends its writes inside characters"),
        Scenario("text+pack", "sends all at once"),
        Scenario("text-3+big-300", "says words of 300 KiB"),
        Scenario("text+no-role", "does not tell the role", careless=("openai",), **OPENAI_ONLY),
        Scenario("text+no-done", "forgets `[DONE]` or `message_stop`"),
        Scenario("text+flaky-2", "answers 500 twice, then well"),
    ],
    "Broken streams": [
        Scenario("hang-before-headers", "never answers", "badly", provider="impatient"),
        Scenario("hang-before-first", "sends headers, then nothing", "badly", provider="impatient"),
        Scenario("text+hang-after-6", "falls silent in the text", "badly", provider="impatient"),
        Scenario("text+reset-after-0", "resets the connection behind the headers", "badly"),
        Scenario("text+reset-after-6", "resets the connection in the text", "badly"),
        Scenario("text+cut-after-6", "closes the connection in the text", "badly"),
        Scenario("text+eof-after-0", "ends its stream before it began", "badly"),
        Scenario("text+eof-after-6", "ends its stream in the text, as if all were well", "badly"),
        Scenario("reasoning+eof-after-5", "the same in its thought", "badly"),
        Scenario("tools+eof-after-5", "the same in the arguments of a call", "badly"),
        Scenario("text+inline-error-0", "tells an error as its first event", "badly"),
        Scenario("text+inline-error-6", "tells an error in the text", "badly"),
        Scenario("tools+inline-error-5", "tells an error in the arguments of a call", "badly"),
        Scenario("text+malformed", "sends an event that is no JSON", "badly", careless=DIALECTS),
    ],
    "Refusals": [
        *(
            Scenario(f"status-{status}", f"answers {status}", "badly")
            for status in (400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529)
        ),
        Scenario("html-502", "answers 502 with a page of HTML", "badly"),
    ],
}
SCENARIOS = list(itertools.chain.from_iterable(GROUPS.values()))


@dataclass
class Got:
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes
    thought: str = ""
    text: str = ""
    calls: dict[int, str] = field(default_factory=dict)
    """Arguments by index."""
    stop: str | None = None
    error: str | None = None
    """Its type."""
    usage: dict[str, Any] = field(default_factory=dict)
    """All counts; later ones stand for earlier ones, as clients do it."""
    garbage: bool = False
    """There was an event that is no JSON."""
    record: str = ""
    """How the gateway recorded it."""

    @property
    def streamed(self) -> bool:
        return self.headers.get("content-type") == STREAM

    def in_words(self, scenario: Scenario, upstream: Dialect, client: Dialect) -> str:
        """A cell of a table."""
        is_upstream_s = upstream == client and "inline-error" in scenario.model
        if self.status != 200 and is_upstream_s:
            return f"{self.status}, the upstream's error"
        if self.status != 200:
            waits = f", `retry-after: {self.headers['retry-after']}`" if "retry-after" in self.headers else ""
            return f"{self.status} `{self.error}`{waits}"
        if scenario.usage:
            told = self._usage_of_anthropic() if client == "anthropic" else self._usage_of_openai()
            is_estimate = "usage-none" in scenario.model and told != "none"
            return f"{told} (estimates)" if is_estimate else told
        said = self._said()
        if self.garbage:
            said.append("that event as it came")
        if self.stop is not None:
            said.append(f"`{self.stop}`")
        if self.error is not None:
            error = "the upstream's error" if is_upstream_s else f"an error, `{self.error}`"
            said.append(f"then {error}" if said else error)
        return ", ".join(said)

    def _usage_of_anthropic(self) -> str:
        if not self.usage:
            return "none"
        read, written = self.usage.get("cache_read_input_tokens"), self.usage.get("cache_creation_input_tokens")
        told = f"{self.usage['input_tokens']} + {self.usage['output_tokens']}"
        return told + (f", {read} from the cache" if read else "") + (f", {written} into it" if written else "")

    def _usage_of_openai(self) -> str:
        if not self.usage:
            return "none"
        cached = (self.usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        told = f"{self.usage['prompt_tokens']} + {self.usage['completion_tokens']}"
        return told + (f", {cached} of the {self.usage['prompt_tokens']} from the cache" if cached else "")

    def _said(self) -> list[str]:
        said = []
        if self.thought:
            said.append("thought" if self.thought == "".join(THOUGHTS) else "part of the thought")
        if "<" in self.text:
            said.append("text with all of it inside")
        elif self.text:
            whole = self.text in (TEXT, KIMI_TEXT) or "x" in self.text[:1]
            said.append("text" if whole else "part of the text")
        whole_calls = sum(_is_json(arguments) for arguments in self.calls.values())
        if whole_calls:
            said.append("a call" if whole_calls == 1 else f"{whole_calls} calls")
        if whole_calls < len(self.calls):
            said.append("part of a call")
        return said


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def read_anthropic(got: Got) -> None:
    for event in _events(got):
        match event.get("type"):
            case "message_start":
                got.usage.update(event["message"].get("usage") or {})
            case "content_block_start" if event["content_block"]["type"] == "tool_use":
                got.calls[event["index"]] = ""
            case "content_block_delta":
                delta = event["delta"]
                got.text += delta.get("text", "")
                got.thought += delta.get("thinking", "")
                if "partial_json" in delta:
                    got.calls[event["index"]] += delta["partial_json"]
            case "message_delta":
                got.stop = event["delta"]["stop_reason"]
                got.usage.update(event.get("usage") or {})
            case "error":
                got.error = event["error"]["type"]


def read_openai(got: Got) -> None:
    for event in _events(got):
        if event.get("error"):
            got.error = event["error"]["type"]
            return
        got.usage.update(event.get("usage") or {})
        for choice in event["choices"]:
            delta = choice["delta"]
            got.text += delta.get("content") or ""
            got.thought += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls") or ():
                got.calls[call["index"]] = got.calls.get(call["index"], "") + call["function"]["arguments"]
            got.stop = choice["finish_reason"] or got.stop
            got.usage.update(choice.get("usage") or {})


def _events(got: Got) -> list[dict[str, Any]]:
    events = []
    for _, data in parse_events(got.body):
        if data != "[DONE]":
            if _is_json(data):
                events.append(json.loads(data))
            else:
                got.garbage = True
    return events


READERS = {"anthropic": read_anthropic, "openai": read_openai}
FAULTS = {"anthropic": anthropic_faults, "openai": openai_faults}

_numbers = itertools.count(1)
Results = dict[tuple[Scenario, Dialect, Dialect], Got]


async def ask(gateway: RunningGateway, scenario: Scenario, upstream: Dialect, client: Dialect) -> Got:
    """One stream."""
    trace = f"scenario-{next(_numbers)}"
    value: dict[str, Any] = {"model": f"{upstream}-{scenario.provider}/{scenario.model}"}
    if client == "anthropic":
        head, body = await gateway.message({**value, "stop_sequences": ["END"]}, x_request_id=trace)
    else:
        options = {"stop": ["END"], "stream_options": {"include_usage": True}}
        head, body = await gateway.chat({**value, **options}, x_request_id=trace)
    got = Got(head.status, head.headers, body)
    if got.streamed:
        READERS[client](got)
    else:
        got.error = json.loads(body)["error"]["type"]
    await gateway.wait(lambda: any(record.start.trace == trace for record in gateway.records))
    [got.record] = [record.status for record in gateway.records if record.start.trace == trace]
    return got


async def run_all() -> Results:
    """Every scenario with every client and upstream."""
    results: Results = {}
    async with serve_openai() as openai, serve_anthropic() as anthropic:
        settings: dict[str, dict[str, Any]] = {
            "plain": {},
            "impatient": {"first_byte_timeout": 2.0, "chunk_timeout": 1.0},
            "normalising": {"normalise": ("think", "tool_calls")},
        }
        upstreams = {"openai": openai, "anthropic": anthropic}
        providers = [
            Provider(
                name=f"{dialect}-{name}",
                dialect=dialect,
                base_url=upstreams[dialect].base_url,
                **{"backoff_base": 0.0, "max_backoff": 0.0, **more},
            )
            for dialect in DIALECTS
            for name, more in settings.items()
        ]
        config = Config(providers={provider.name: provider for provider in providers})
        async with serve_gateway(config, timeout=90.0) as gateway:  # some hundred streams

            async def one(scenario: Scenario, upstream: Dialect, client: Dialect) -> None:
                results[scenario, upstream, client] = await ask(gateway, scenario, upstream, client)

            # The impatient ones by themselves: they must not take a busy machine for a silent upstream.
            for alone in (False, True):
                async with trio.open_nursery() as nursery:
                    for scenario in SCENARIOS:
                        if (scenario.provider == "impatient") == alone:
                            for upstream, client in itertools.product(scenario.speaks, DIALECTS):
                                nursery.start_soon(one, scenario, upstream, client)
    return results


@pytest.fixture(scope="module")
def results() -> Results:
    return trio.run(run_all)


CASES = [
    pytest.param(scenario, upstream, client, id=f"{scenario.model}-{scenario.provider}-{upstream}-to-{client}")
    for scenario in dict.fromkeys(SCENARIOS)
    for upstream in scenario.speaks
    for client in DIALECTS
]


@pytest.mark.parametrize(("scenario", "upstream", "client"), CASES)
def test_a_scenario(results, scenario, upstream, client):
    got = results[scenario, upstream, client]
    passes = upstream == client and scenario.provider != "normalising"
    if got.streamed:
        faults = FAULTS[client](got.body, passed=passes)
        assert not faults or (passes and upstream in scenario.careless), faults
    if scenario.ends == "well":
        assert got.status == 200
        assert got.stop
        assert got.error is None
        assert got.record == "completed"
    elif not got.garbage:
        assert got.error
        assert got.status >= 400 or ends_in_error(got.body)
        assert got.stop is None
        assert got.record == "failed"


def test_the_tables_in_the_documentation(results):
    document = DOCUMENT.read_text()
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = before + BEGIN + tables(results) + END + after
    if document != wanted and os.environ.get("KIMI_PROXY_WRITE_DOCS"):
        DOCUMENT.write_text(wanted)
        return
    assert document == wanted, "write them anew: KIMI_PROXY_WRITE_DOCS=1 bin/test tests/integration/test_scenarios.py"


INTRODUCTION = """
Each row is a stream of a scripted upstream, asked for by clients of both dialects. A test plays them all, checks the
grammar of every stream that a client got and how it was recorded, and writes these tables.
"""


def tables(results: Results) -> str:
    """Markdown: a table a group, a row a scenario, or two where it matters what the upstream speaks."""
    lines = [INTRODUCTION]
    for title, scenarios in GROUPS.items():
        lines += [f"### {title}", ""]
        lines += _refusals(scenarios, results) if title == "Refusals" else _streams(scenarios, results)
        lines.append("")
    return "\n".join([*lines, ""])


def _streams(scenarios: list[Scenario], results: Results) -> list[str]:
    rows = [_row("the upstream …", "speaks", "an Anthropic client gets", "an OpenAI client gets"), _row(*["---"] * 4)]
    for scenario in scenarios:
        cells = {
            upstream: [results[scenario, upstream, client].in_words(scenario, upstream, client) for client in DIALECTS]
            for upstream in scenario.speaks
        }
        if len(cells) == 2 and cells["anthropic"] == cells["openai"]:
            cells = {"either": cells["openai"]}
        rows += [_row(scenario.does, NAMES.get(upstream, upstream), *told) for upstream, told in cells.items()]
    return rows


def _refusals(scenarios: list[Scenario], results: Results) -> list[str]:
    """A row a status, as nothing but the dialect of the client matters."""
    rows = [
        "Where both speak the same, an error's body passes as it is, with its status. The other dialect's becomes:",
        "",
        _row("the upstream …", "an Anthropic client gets", "an OpenAI client gets"),
        _row(*["---"] * 3),
    ]
    other: dict[Dialect, Dialect] = {"anthropic": "openai", "openai": "anthropic"}
    for scenario in scenarios:
        told = [
            results[scenario, other[client], client].in_words(scenario, other[client], client) for client in DIALECTS
        ]
        rows.append(_row(scenario.does, *told))
    return rows


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
