"""What a soak asks and what it breaks: sequences that come from a seed alone.  Pure.

    for ask in asks(seed, "stream", 3): ...         # the requests of one lane, for ever
    for injection in injections(seed, ...): ...     # what is done to the service, for ever

A lane sends one request after the other.  When each is sent depends on how long those before it took; what they are
does not, nor what is broken, and in which order.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

Dialect = Literal["openai", "anthropic"]


def _words(text: str) -> list[str]:
    return text.split()


GOOD = _words("""
    text-5 text-20+slow-20 text-40+slow-20 text-60+slow-30 text-90+slow-30 reasoning+text-8 reasoning+slow-20 tools
    tools-parallel tools-whole tools-interleaved tools-noid length+text-6 content-filter stop-sequence crlf comments
    no-space no-role no-done split-utf8 pack+text-30 usage-none+text-12 usage-inline+text-9 cached+text-7 big-4+text-20
    ttfb-300+text-4 text-200+slow-200 reasoning-tools flaky-1+text-6
""")
"""Answers that can be completed."""
BAD = _words("""
    hang-before-headers hang-before-first hang-after-3 hang-after-6+slow-20 reset-after-3 reset-after-7+slow-20
    cut-after-3 cut-after-8+slow-20 eof-after-3 eof-after-6 inline-error-0 inline-error-3 inline-error-6 malformed
    status-400 status-401 status-403 status-404 status-413 status-429 status-500 status-503 status-529 status-302
    html-502 flaky-9+text-5
""")
"""What upstreams do wrong."""
UNREACHABLE = ("refused", "nodns", "notls")
"""Providers that nobody can reach."""
TIMES_OUT = ("hang-before-headers", "hang-before-first", "hang-after-3")
"""Of BAD, what a short request would wait for until the upstream's time is over."""
SESSIONS = 4

Client = Literal[
    "reads", "leaves", "half closes", "never reads", "reads late", "sends slowly", "never finishes", "garbage", "odd",
    "pipelines", "agent", "agent leaves", "looks", "listens", "is deaf", "cancels",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One request.  `trace` is its x-request-id, and the text of its message."""

    trace: str
    client: Client
    dialect: Dialect = "openai"
    provider: str = ""
    how: str = ""
    """What the upstream does; for `looks` the path."""
    stream: bool = True
    session: str | None = None
    phase: str = ""
    """Where a client leaves, or what is wrong with an odd request."""
    abrupt: bool = False
    """…with RST."""
    after: float = 0.0
    """How long a client stays, or waits, in seconds."""
    pause: float = 0.0
    """Before it."""
    fresh: bool = False
    """On a connection of its own."""

    @property
    def model(self) -> str:
        """As it is asked for."""
        return "spare" if self.provider == "spare" else f"{self.provider}/{self.how}"


def asks(seed: int, lane: str, number: int, pause: float = 0.0) -> Iterator[Ask]:
    """The requests of lane `number` of a kind; before each there are about `pause` seconds."""
    chance = random.Random(f"{seed}/{lane}/{number}")
    make = {
        "stream": _streamed,
        "short": _short,
        "leaving": _leaving,
        "odd": _odd,
        "agent": _agent,
        "looking": _looking,
        "listening": _listening,
        "admin": _admin,
    }[lane]
    for count in itertools.count(1):
        ask = make(chance, f"soak-{lane}{number}-{count}")
        yield replace(ask, pause=chance.expovariate(1 / pause) if pause else 0.0)


def _streamed(chance: random.Random, trace: str) -> Ask:
    sort = chance.random()
    dialect = _dialect(chance)
    ask = Ask(trace=trace, client="reads", dialect=dialect, fresh=chance.random() < 0.25)
    if sort < 0.62:
        how = chance.choice(GOOD)
        provider = chance.choice(("fake", "claude", "fake", "claude", "drain", "spare"))
        if provider == "spare":
            how = "text-9"
        session = f"session-{chance.randrange(SESSIONS)}" if chance.random() < 0.15 else None
        return replace(ask, provider=provider, how=how, session=session)
    if sort < 0.90:
        return replace(ask, provider=chance.choice(("fake", "claude")), how=chance.choice(BAD))
    if sort < 0.94:
        return replace(ask, provider=chance.choice(UNREACHABLE), how="text-3")
    return replace(ask, provider="narrow", how="text-10+slow-10")


def _short(chance: random.Random, trace: str) -> Ask:
    dialect, provider = _dialect(chance), chance.choice(("fake", "claude"))
    ask = Ask(trace=trace, client="reads", dialect=dialect, provider=provider, stream=chance.random() < 0.4)
    sort = chance.random()
    if sort < 0.85:
        how = chance.choice(("text-3", "text-6", "tools", "reasoning+text-2", "usage-none+text-5", "tools-parallel"))
    else:
        how = chance.choice([bad for bad in BAD if bad not in TIMES_OUT])
    return replace(ask, how=how, fresh=chance.random() < 0.1)


def _leaving(chance: random.Random, trace: str) -> Ask:
    phase = chance.choice(
        ("in the head", "in the body", "at once", "before the answer", "in the answer", "in the answer", "whole")
    )
    how = {
        "before the answer": chance.choice(("hang-before-headers", "hang-before-first", "ttfb-2000+text-3")),
        "in the answer": chance.choice(
            ("text-200+slow-30", "hang-after-4", "reasoning+text-60+slow-20", "tools+slow-5")
        ),
        "whole": "ttfb-1500+text-3",
    }.get(phase, "text-30+slow-30")
    return Ask(
        trace=trace,
        client="half closes" if chance.random() < 0.15 and phase not in ("in the head", "in the body") else "leaves",
        dialect=_dialect(chance),
        provider=chance.choice(("fake", "claude", "drain")),
        how=how,
        stream=phase != "whole",
        phase="before the answer" if phase == "whole" else phase,
        abrupt=chance.random() < 0.5,
        after=chance.uniform(0.02, 0.8),
        fresh=True,
    )


def _odd(chance: random.Random, trace: str) -> Ask:
    dialect = _dialect(chance)
    ask = Ask(trace=trace, client="odd", dialect=dialect, provider=chance.choice(("fake", "claude")), fresh=True)
    ask = replace(ask, stream=chance.random() < 0.5, how="text-6", after=chance.uniform(0.3, 1.5))
    match chance.choice(("slow", "never", "garbage", "odd", "odd", "pipeline", "deaf", "late")):
        case "slow":
            return replace(ask, client="sends slowly")
        case "never":
            return replace(ask, client="never finishes", phase=chance.choice(("head", "body")))
        case "garbage":
            return replace(ask, client="garbage", phase=chance.choice(("bytes", "tls", "line", "chunks", "length")))
        case "pipeline":
            return replace(ask, client="pipelines", stream=False, dialect="openai")
        case "deaf":
            left = chance.uniform(0.5, 2.0) if chance.random() < 0.6 else 8.0
            return replace(ask, client="never reads", how="big-16+text-250", stream=True, after=left)
        case "late":
            return replace(ask, client="reads late", how="big-16+text-250", stream=True, after=chance.uniform(0.2, 1.0))
    phase = chance.choice(
        ("not json", "half json", "no model", "no messages", "unknown model", "huge", "method", "path")
    )
    return replace(ask, phase=phase)


def _agent(chance: random.Random, trace: str) -> Ask:
    leaves = chance.random() < 0.4
    return Ask(
        trace=trace,
        client="agent leaves" if leaves else "agent",
        provider=chance.choice(("fake", "claude")),
        how="tools-whole",
        session=f"agent-{leaves:d}{chance.randrange(3)}" if chance.random() < 0.3 else None,
        phase=chance.choice(("sleep 30", "(sleep 30 &) ; sleep 30", "trap '' TERM; sleep 30"))
        if leaves
        else "echo done",
        abrupt=chance.random() < 0.5,
        after=chance.uniform(0.1, 0.8),
        fresh=True,
    )


LOOKS = _words("""
    /health /health/live /v1/models /metrics /api/sessions/active /api/streams?limit=5 /api/stats?since=1h
    /api/providers / /v1/messages/count_tokens /api/export?format=csv&since=5s
""")


def _looking(chance: random.Random, trace: str) -> Ask:
    path = chance.choice(LOOKS)
    return Ask(trace=trace, client="looks", how=path, dialect=_dialect(chance), fresh=chance.random() < 0.2)


def _listening(chance: random.Random, trace: str) -> Ask:
    return Ask(
        trace=trace,
        client="is deaf" if chance.random() < 0.5 else "listens",
        abrupt=chance.random() < 0.5,
        after=chance.uniform(1.0, 8.0),
        fresh=True,
    )


def _admin(chance: random.Random, trace: str) -> Ask:
    phase = "stale" if chance.random() < 0.2 else "one"
    return Ask(trace=trace, client="cancels", phase=phase, after=chance.random(), fresh=True)


def _dialect(chance: random.Random) -> Dialect:
    return chance.choice(("openai", "anthropic"))


Fault = Literal[
    "kill worker", "kill fork server", "pause worker", "stop worker", "reload", "bad config", "half config", "storm",
    "dump stacks", "lock database", "drop upstreams", "pause upstream", "hand over", "restart", "kill supervisor",
]  # fmt: skip
WEIGHTS: dict[Fault, float] = {
    "kill worker": 5,
    "kill fork server": 2,
    "pause worker": 3,
    "stop worker": 1,
    "reload": 4,
    "bad config": 2,
    "half config": 1,
    "storm": 1,
    "dump stacks": 2,
    "lock database": 2,
    "drop upstreams": 2,
    "pause upstream": 2,
    "hand over": 2,
    "restart": 0.7,
    "kill supervisor": 0.7,
}
"""How often each is chosen, in relation to the others."""


@dataclass(frozen=True, kw_only=True)
class Injection:
    """One thing that is done to the service."""

    fault: Fault
    pause: float
    """Seconds before it."""
    choice: float
    """Which of those that it may hit, from 0 to 1."""
    seconds: float = 0.0
    """How long it lasts."""
    workers: int = 2
    """How many a new configuration has."""


def injections(seed: int, faults: tuple[Fault, ...], pause: float, workers: int) -> Iterator[Injection]:
    """Every fault once in an order of their own, then at random; about `pause` seconds before each."""
    chance = random.Random(f"{seed}/faults")
    first = list(faults)
    chance.shuffle(first)
    for number in itertools.count():
        fault = first[number] if number < len(first) else chance.choices(faults, [WEIGHTS[one] for one in faults])[0]
        seconds = {"pause worker": (0.3, 2.0), "lock database": (0.5, 3.0), "pause upstream": (0.3, 1.5)}.get(fault)
        yield Injection(
            fault=fault,
            pause=chance.uniform(0.5, 1.5) * pause,
            choice=chance.random(),
            seconds=chance.uniform(*seconds) if seconds else 0.0,
            workers=workers + chance.choice((0, 1, 2)) if fault == "reload" else workers,
        )
