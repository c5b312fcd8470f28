"""What the mock upstream and the load generator agree on: the mark in every delta, the request, the stream's end.

Every piece of text the mock sends holds exactly one `MARK`, and nothing else on the wire does: so the load generator
counts deltas by counting a single byte, which no read boundary can split and no proxy's re-chunking can hide.  In a
paced stream the mark is followed by the time of sending, `STAMP_DIGITS` decimal digits of monotonic nanoseconds (one
machine, one clock), inside the delta's text, where a proxy that translates or rewrites the envelope leaves it alone.
"""

import json
from typing import Any, Literal

MARK = b"@"
STAMP_DIGITS = 16

Dialect = Literal["openai", "anthropic"]
"""What the load generator speaks; the mock upstream speaks OpenAI's."""
DIALECTS: tuple[Dialect, ...] = ("openai", "anthropic")
PATHS: dict[Dialect, str] = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
ENDS: dict[Dialect, bytes] = {"openai": b"[DONE]", "anthropic": b"message_stop"}
"""What the last event of a complete stream holds, and no other."""

SYSTEM = "You are a helpful assistant. Answer in two or three sentences."
QUESTION = "Why do trains on the same track keep a distance of several blocks?"


def is_paced(model: str) -> bool:
    """Whether the model's streams are paced, their deltas stamped."""
    return model.startswith(("paced-", "ticked-"))


def request_bytes(host: str, model: str, stream: bool, headers: dict[str, str], dialect: Dialect) -> bytes:
    """One request, head and body, as a client of `dialect` would send it on a keep-alive connection."""
    messages = [{"role": "user", "content": QUESTION}]
    fields: dict[str, Any] = {"model": model, "temperature": 0.6, "stream": stream}
    if dialect == "anthropic":
        fields |= {"system": SYSTEM, "messages": messages, "max_tokens": 8192}
        headers = {"anthropic-version": "2023-06-01", **headers}
    else:
        fields |= {"messages": [{"role": "system", "content": SYSTEM}, *messages]}
    body = json.dumps(fields).encode()
    lines = [
        f"POST {PATHS[dialect]} HTTP/1.1",
        f"Host: {host}",
        "Accept: application/json",
        "Accept-Encoding: identity",
        "Authorization: Bearer benchmark",
        "Content-Type: application/json",
        "User-Agent: benchmark",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
