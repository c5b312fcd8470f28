import re

import msgspec
import pytest

from shared import events


def test_types_are_the_operators_vocabulary():
    assert set(events.TYPES) == {
        "hello",
        "stream_start",
        "progress",
        "stream_end",
        "streaming_error",
        "provider_degraded",
        "provider_recovered",
        "worker_restarted",
        "config_reloaded",
        "dropped",
    }
    assert len(events.TYPES) == len(events.ALL)
    assert set(events.ALWAYS) < set(events.TYPES)


@pytest.mark.parametrize("kind", events.ALL)
def test_the_class_is_named_after_the_type(kind):
    assert events.type_of(kind) == re.sub(r"(?<=.)(?=[A-Z])", "_", kind.__name__).lower()
    assert "timestamp" in kind.__struct_fields__


def test_encoding():
    event = events.ProviderDegraded(timestamp=1.5, provider="\n“one”", errors=6, types={"ReadError": 6})
    data = events.encode(event)
    assert b"\n" not in data
    assert events.read_type(data) == "provider_degraded"
    assert msgspec.json.decode(data) == {
        "type": "provider_degraded",
        "timestamp": 1.5,
        "provider": "\n“one”",
        "errors": 6,
        "types": {"ReadError": 6},
    }


def test_hello_holds_the_snapshot_as_it_came():
    hello = events.Hello(timestamp=1.0, version="1", worker=2, sessions=msgspec.Raw(b'{"sessions": []}'))
    assert msgspec.json.decode(events.encode(hello))["sessions"] == {"sessions": []}
