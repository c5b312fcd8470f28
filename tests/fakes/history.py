"""A database with rows in it, as the service would have written them, and any number of records to write."""

import random
from collections.abc import Iterable
from pathlib import Path

from fakes.streams import make_record, make_start

from shared.records import StreamRecord, Tokens
from supervisor import database

NOW = 1_763_712_000.0
"""A Friday, 08:00 UTC."""
PROVIDERS = ("kimi", "groq", "nvidia")
MODELS = ("claude-x", "gpt-y", "kimi-k2")
SESSIONS = (None, "one", "two", "=cmd", 'quo"te, comma', "line\nbreak", "naïve 日本")


def write_history(path: Path, records: Iterable[StreamRecord]) -> Path:
    """Create or open the database at `path` and write `records`."""
    opened = database.connect(path, NOW)
    try:
        assert opened.write(list(records)) == []
    finally:
        opened.close()
    return path


def many_records(count: int, seed: int = 1, days: float = 3.0) -> list[StreamRecord]:
    """Records of all kinds, spread over the `days` before `NOW`; some begin at the same moment."""
    rnd = random.Random(seed)
    return [_record(rnd, number, NOW - rnd.random() * days * 86_400) for number in range(count)]


def _record(rnd: random.Random, number: int, started: float) -> StreamRecord:
    status = rnd.choice(["completed", "completed", "completed", "cancelled", "failed"])
    reached = status != "failed" or rnd.random() < 0.5
    first_byte = rnd.random() if reached else None
    prompt = rnd.randrange(2000)
    cached = rnd.random() < 0.4
    start = make_start(
        f"{number:04x}{rnd.getrandbits(64):016x}",
        trace=f"Req_{number}",
        session=rnd.choice(SESSIONS),
        groups_only=rnd.random() < 0.2,
        provider=rnd.choice(PROVIDERS),
        model=rnd.choice(MODELS),
        dialect=rnd.choice(["openai", "anthropic"]),
        streaming=rnd.random() < 0.8,
        started=rnd.choice([started, float(int(started / 3600) * 3600)]),
        client=rnd.choice([None, "1a2b3c4d", "5e6f7a8b"]),
        context_size=rnd.choice([None, 131_072]),
    )
    return make_record(
        start=start,
        provider=rnd.choice(PROVIDERS),
        upstream_model=rnd.choice(["k2-0905", "llama", "-odd"]),
        status=status,
        duration=(first_byte or 0.0) + rnd.random() * 30,
        first_byte=first_byte,
        prompt=Tokens(prompt, "provider") if reached else None,
        completion=Tokens(rnd.randrange(500), rnd.choice(["provider", "counted", "partial"])) if reached else None,
        cache_read=prompt // 2 if cached else None,
        cache_write=prompt // 4 if cached else None,
        cost=rnd.choice([None, rnd.random() / 100]),
        error_type={
            "completed": None,
            "cancelled": rnd.choice(["client_disconnect", "shutdown"]),
            "failed": rnd.choice(["ReadError", "ConnectError", "worker_died"]),
        }[status],
        http_status=rnd.choice([None, 200, 502]),
        retries=rnd.randrange(3),
    )
