"""What the mock upstream and the load generator agree on: the mark in every delta, and the request.

Every piece of text the mock sends holds exactly one `MARK`, and nothing else on the wire does: so the load generator
counts deltas by counting a single byte, which no read boundary can split and no proxy's re-chunking can hide.  In a
paced stream the mark is followed by the time of sending, `STAMP_DIGITS` decimal digits of monotonic nanoseconds (one
machine, one clock), inside the delta's text, where a proxy that translates or rewrites the envelope leaves it alone.
"""

import json

MARK = b"@"
STAMP_DIGITS = 16
PATH = "/v1/chat/completions"


def is_paced(model: str) -> bool:
    """Whether the model's streams are paced, their deltas stamped."""
    return model.startswith(("paced-", "ticked-"))


def request_bytes(host: str, model: str, stream: bool, headers: dict[str, str]) -> bytes:
    """One chat completion request, head and body, as an OpenAI client would send it on a keep-alive connection."""
    messages = [
        {"role": "system", "content": "You are a helpful assistant. Answer in two or three sentences."},
        {"role": "user", "content": "Why do trains on the same track keep a distance of several blocks?"},
    ]
    body = json.dumps({"model": model, "messages": messages, "temperature": 0.6, "stream": stream}).encode()
    lines = [
        f"POST {PATH} HTTP/1.1",
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
