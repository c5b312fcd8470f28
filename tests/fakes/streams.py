"""Streams to account for, with everything filled in that a test doesn't care about."""

from typing import Any

from shared.records import StreamRecord, StreamStart, Tokens


def make_start(id: str = "s1", **changes: Any) -> StreamStart:
    """An admitted stream."""
    fields: dict[str, Any] = {
        "id": id,
        "trace": f"trace-{id}",
        "session": None,
        "worker": 1,
        "provider": "kimi",
        "model": "kimi-k2",
        "dialect": "openai",
        "streaming": True,
        "started": 1_000.0,
    }
    return StreamStart(**{**fields, **changes})


def make_record(id: str = "s1", *, start: StreamStart | None = None, **changes: Any) -> StreamRecord:
    """Its terminal record: completed unless told otherwise."""
    fields: dict[str, Any] = {
        "start": start or make_start(id),
        "provider": "kimi",
        "upstream_model": "kimi-k2-0905",
        "status": "completed",
        "duration": 1.5,
        "prompt": Tokens(10, "provider"),
        "completion": Tokens(20, "counted"),
    }
    return StreamRecord(**{**fields, **changes})


class ListedStore:
    """A `supervisor.link.RecordStore` in memory: what is put is stored at once, or when a test says so."""

    def __init__(self, *, holding: bool = False) -> None:
        self.records: list[StreamRecord] = []
        self._holding = holding
        self._stored = 0

    @property
    def taken(self) -> int:
        return len(self.records)

    @property
    def stored(self) -> int:
        return self._stored if self._holding else self.taken

    def put_nowait(self, record: StreamRecord) -> None:
        self.records.append(record)

    def store(self, count: int) -> None:
        """So many more are on the disk."""
        self._stored += count
