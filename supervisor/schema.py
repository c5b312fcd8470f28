"""The database: one row a stream, one row a conversation of the agent's, and the numbered steps that lead from an empty
file to the newest shape.

`PRAGMA user_version` is the number of steps a file has behind it.  Steps are only ever appended, and none may break
what the version before writes (a new column is NULL or has a default): while a newer supervisor takes the service over,
the older one writes the records of its last streams into the file that the newer one has upgraded.
"""

from typing import Any

from shared.history.columns import COLUMNS as COLUMNS
from shared.records import StreamRecord
from supervisor.unwritten import Kept

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE streams (
            id                 TEXT NOT NULL PRIMARY KEY,
            trace              TEXT NOT NULL,
            session            TEXT,
            worker             INTEGER NOT NULL,
            provider           TEXT NOT NULL,  -- the one that answered last
            upstream_model     TEXT NOT NULL,
            model              TEXT NOT NULL,  -- as the client asked
            asked_provider     TEXT NOT NULL,
            dialect            TEXT NOT NULL,
            streaming          INTEGER NOT NULL,
            started            REAL NOT NULL,  -- epoch seconds
            first_byte         REAL,           -- seconds, as duration and cancel_latency
            duration           REAL NOT NULL,
            prompt_tokens      INTEGER,
            prompt_source      TEXT,
            completion_tokens  INTEGER,
            completion_source  TEXT,
            counted_completion INTEGER,
            status             TEXT NOT NULL,
            error_type         TEXT,
            http_status        INTEGER,
            retries            INTEGER NOT NULL,
            cancel_latency     REAL
        )
        """,
        "CREATE INDEX streams_started ON streams (started)",
        "CREATE INDEX streams_provider ON streams (provider, started)",
    ),
    (
        "ALTER TABLE streams ADD COLUMN cache_read INTEGER",  # of the prompt's tokens
        "ALTER TABLE streams ADD COLUMN cache_write INTEGER",
        "ALTER TABLE streams ADD COLUMN cost REAL",  # US dollars
        "ALTER TABLE streams ADD COLUMN client TEXT",
        "ALTER TABLE streams ADD COLUMN groups_only INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE streams ADD COLUMN context_size INTEGER",
        "CREATE INDEX streams_session ON streams (session, started) WHERE session IS NOT NULL",
    ),
    (
        """
        CREATE TABLE conversations (
            session TEXT NOT NULL,
            client  TEXT NOT NULL,  -- a fingerprint of the client's key; '' where none is asked for
            updated REAL NOT NULL,  -- epoch seconds
            size    INTEGER NOT NULL,  -- bytes of data
            data    BLOB NOT NULL,  -- JSON
            PRIMARY KEY (client, session)
        )
        """,
        "CREATE INDEX conversations_updated ON conversations (updated, size)",  # all that bounding them has to look at
    ),
)
VERSION = len(MIGRATIONS)

# A batch whose commit was lost on the way back is written again, and a stream still has one row.
INSERT = (
    f"INSERT INTO streams ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT (id) DO NOTHING"
)

# By rowid, as SQLite is seldom built with DELETE … LIMIT.  Parameters: the epoch second before which rows go; how many.
DELETE_BEFORE = "DELETE FROM streams WHERE rowid IN (SELECT rowid FROM streams WHERE started < ? LIMIT ?)"

CONVERSATION_COLUMNS = ("session", "client", "updated", "size", "data")
KEEP_CONVERSATION = f"INSERT OR REPLACE INTO conversations ({', '.join(CONVERSATION_COLUMNS)}) VALUES (?, ?, ?, ?, ?)"
# Parameters: session, client…
FORGET_CONVERSATION = "DELETE FROM conversations WHERE session = ? AND client = ?"
# …and the epoch second before which it has expired.
FIND_CONVERSATION = "SELECT data FROM conversations WHERE session = ? AND client = ? AND updated >= ?"
# Parameters: the epoch second before which they go; how many stay, of how many bytes together; how many go at once.
BOUND_CONVERSATIONS = """
DELETE FROM conversations WHERE rowid IN (
    SELECT rowid FROM (
        SELECT rowid, updated, row_number() OVER newest AS place, sum(size) OVER newest AS bytes
        FROM conversations WINDOW newest AS (ORDER BY updated DESC, rowid DESC)
    ) WHERE updated < ? OR place > ? OR bytes > ? LIMIT ?
)
"""


def conversation_row(kept: Kept) -> tuple[Any, ...]:
    """`kept` in the order of `CONVERSATION_COLUMNS`."""
    return kept.session, kept.client, kept.updated, len(kept.data), kept.data


def row(record: StreamRecord) -> tuple[Any, ...]:
    """`record` in the order of `COLUMNS`."""
    start, prompt, completion = record.start, record.prompt, record.completion
    return (
        start.id,
        start.trace,
        start.session,
        start.worker,
        record.provider,
        record.upstream_model,
        start.model,
        start.provider,
        start.dialect,
        start.streaming,
        start.started,
        record.first_byte,
        record.duration,
        prompt.count if prompt else None,
        prompt.source if prompt else None,
        completion.count if completion else None,
        completion.source if completion else None,
        record.counted_completion,
        record.status,
        record.error_type,
        record.http_status,
        record.retries,
        record.cancel_latency,
        record.cache_read,
        record.cache_write,
        record.cost,
        start.client,
        start.groups_only,
        start.context_size,
    )
