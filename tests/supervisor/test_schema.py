import sqlite3

import pytest
from fakes.streams import make_record, make_start

from shared.records import Tokens
from supervisor import schema
from supervisor.unwritten import Kept


@pytest.fixture
def connection():
    with_schema = sqlite3.connect(":memory:")
    for step in schema.MIGRATIONS:
        for statement in step:
            with_schema.execute(statement)
    with_schema.row_factory = sqlite3.Row
    yield with_schema
    with_schema.close()


def test_the_columns_are_those_of_the_table(connection):
    assert tuple(column["name"] for column in connection.execute("PRAGMA table_info(streams)")) == schema.COLUMNS


def test_a_full_record_as_a_row(connection):
    record = make_record(
        start=make_start(
            "a",
            session="s",
            worker=3,
            provider="kimi",
            model="claude-x",
            streaming=False,
            client="1a2b3c4d",
            groups_only=True,
            context_size=131_072,
        ),
        provider="groq",
        upstream_model="llama",
        status="cancelled",
        duration=2.5,
        first_byte=0.25,
        prompt=Tokens(11, "provider"),
        completion=Tokens(22, "partial"),
        counted_completion=21,
        error_type="client_disconnect",
        http_status=200,
        retries=1,
        cancel_latency=0.002,
        cache_read=5,
        cache_write=2,
        cost=0.0125,
    )
    connection.execute(schema.INSERT, schema.row(record))
    assert dict(connection.execute("SELECT * FROM streams").fetchone()) == {
        "id": "a",
        "trace": "trace-a",
        "session": "s",
        "worker": 3,
        "provider": "groq",
        "upstream_model": "llama",
        "model": "claude-x",
        "asked_provider": "kimi",
        "dialect": "openai",
        "streaming": 0,
        "started": 1_000.0,
        "first_byte": 0.25,
        "duration": 2.5,
        "prompt_tokens": 11,
        "prompt_source": "provider",
        "completion_tokens": 22,
        "completion_source": "partial",
        "counted_completion": 21,
        "status": "cancelled",
        "error_type": "client_disconnect",
        "http_status": 200,
        "retries": 1,
        "cancel_latency": 0.002,
        "cache_read": 5,
        "cache_write": 2,
        "cost": 0.0125,
        "client": "1a2b3c4d",
        "groups_only": 1,
        "context_size": 131_072,
    }


def test_what_is_unknown_is_null(connection):
    connection.execute(schema.INSERT, schema.row(make_record(prompt=None, completion=None)))
    stored = connection.execute("SELECT * FROM streams").fetchone()
    for column in ("prompt_tokens", "completion_source", "session", "cost", "cache_read", "client", "context_size"):
        assert stored[column] is None


def test_the_first_record_of_an_id_stays(connection):
    for status in ("failed", "completed"):
        connection.execute(schema.INSERT, schema.row(make_record("a", status=status)))
    assert [stored["status"] for stored in connection.execute("SELECT status FROM streams")] == ["failed"]


def test_a_row_without_an_id_is_refused_not_ignored(connection):
    broken = (None, *schema.row(make_record())[1:])
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(schema.INSERT, broken)


def test_deletion_goes_by_age_in_steps(connection):
    for number in range(5):
        connection.execute(schema.INSERT, schema.row(make_record(start=make_start(f"s{number}", started=number))))
    assert connection.execute(schema.DELETE_BEFORE, (4, 3)).rowcount == 3
    assert connection.execute(schema.DELETE_BEFORE, (4, 3)).rowcount == 1
    assert [stored["id"] for stored in connection.execute("SELECT id FROM streams")] == ["s4"]


def keep(connection, session, updated, size=2, client=""):
    connection.execute(schema.KEEP_CONVERSATION, schema.conversation_row(Kept(session, client, updated, b"x" * size)))


def sessions(connection):
    return {row["session"] for row in connection.execute("SELECT session FROM conversations")}


def test_the_columns_of_conversations(connection):
    said = tuple(column["name"] for column in connection.execute("PRAGMA table_info(conversations)"))
    assert said == schema.CONVERSATION_COLUMNS


def test_a_conversation_takes_the_place_of_the_older_one(connection):
    keep(connection, "s", 1.0, 5)
    keep(connection, "s", 2.0, 7)
    keep(connection, "s", 3.0, 9, client="1a2b")
    rows = [tuple(row) for row in connection.execute("SELECT * FROM conversations ORDER BY updated")]
    assert rows == [("s", "", 2.0, 7, b"x" * 7), ("s", "1a2b", 3.0, 9, b"x" * 9)]
    found = connection.execute(schema.FIND_CONVERSATION, ("s", "", 2.0)).fetchall()
    assert [row["data"] for row in found] == [b"x" * 7]
    assert connection.execute(schema.FIND_CONVERSATION, ("s", "", 2.1)).fetchall() == []
    connection.execute(schema.FORGET_CONVERSATION, ("s", ""))
    assert connection.execute(schema.FIND_CONVERSATION, ("s", "", 0.0)).fetchall() == []


@pytest.mark.parametrize(
    ("bounds", "left"),
    [
        ((0.0, 9, 999, 9), "abcde"),
        ((3.0, 9, 999, 9), "cde"),
        ((0.0, 2, 999, 9), "de"),
        ((0.0, 9, 30, 9), "cde"),
        ((0.0, 9, 29, 9), "de"),
        ((0.0, 9, 9, 9), ""),
        ((9.0, 0, 0, 9), ""),
    ],
)
def test_the_oldest_conversations_go_first(connection, bounds, left):
    for place, session in enumerate("abcde"):
        keep(connection, session, place + 1.0, 10)
    deleted = connection.execute(schema.BOUND_CONVERSATIONS, bounds).rowcount
    assert sessions(connection) == set(left)
    assert deleted == 5 - len(left)


def test_conversations_go_in_steps(connection):
    for place in range(5):
        keep(connection, str(place), 1.0)
    counts = [connection.execute(schema.BOUND_CONVERSATIONS, (2.0, 9, 999, 3)).rowcount for _ in range(3)]
    assert counts == [3, 2, 0]


def test_bounding_conversations_does_not_read_them(connection):
    plan = [
        row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {schema.BOUND_CONVERSATIONS}", (0, 0, 0, 0))
    ]
    assert any("COVERING INDEX conversations_updated" in step for step in plan)
