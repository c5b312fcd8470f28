"""Bad input of every kind, reproducibly: what is made of a seed is made of it again.

    for number, random in cases(40):         # 40 in the suite, KIMI_PROXY_FUZZ of them if that is more
        answer = ask(port, mutated(random, request))

A failure names its case: `KIMI_PROXY_FUZZ_SEED=<seed> KIMI_PROXY_FUZZ_ONLY=<number>` runs that one alone.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

SEED = os.environ.get("KIMI_PROXY_FUZZ_SEED", "1")
COUNT = int(os.environ.get("KIMI_PROXY_FUZZ", "0"))
ONLY = os.environ.get("KIMI_PROXY_FUZZ_ONLY")
BOUND = 15.0
"""Seconds within which every answer is there."""


def cases(count: int) -> Iterator[tuple[str, Random]]:
    """So many cases, or as many as the environment asks for."""
    numbers = [int(ONLY)] if ONLY else range(max(count, COUNT))
    for number in numbers:
        yield f"case {number} of seed {SEED}", Random(f"{SEED} {number}")


def examples(count: int) -> int:
    """The same for hypothesis."""
    return max(count, COUNT)


# --- bytes


def mutated(random: Random, data: bytes, most: int = 4) -> bytes:
    """`data` with a few mistakes in it: bits turned, parts lost, doubled, moved, made of anything."""
    for _ in range(random.randint(1, most)):
        data = random.choice(_MUTATIONS)(random, data)
    return data


def pieces(random: Random, data: bytes, most: int = 6) -> list[bytes]:
    """`data` in parts, cut anywhere."""
    borders = sorted(random.choices(range(len(data) + 1), k=random.randint(0, most)))
    ends = [*borders, len(data)]
    return [part for start, end in zip([0, *borders], ends, strict=True) if (part := data[start:end])]


def _flip(random: Random, data: bytes) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _span(random: Random, data: bytes) -> tuple[int, int]:
    start = random.randint(0, len(data))
    return start, min(len(data), start + random.choice((1, 2, 8, 64, 1000)))


def _lose(random: Random, data: bytes) -> bytes:
    start, end = _span(random, data)
    return data[:start] + data[end:]


def _double(random: Random, data: bytes) -> bytes:
    start, end = _span(random, data)
    return data[:end] + data[start:end] * random.randint(1, 5) + data[end:]


def _move(random: Random, data: bytes) -> bytes:
    start, end = _span(random, data)
    at = random.randint(0, len(data))
    return data[:at] + data[start:end] + data[at:]


def _cut(random: Random, data: bytes) -> bytes:
    return data[: random.randint(0, len(data))]


def _insert(random: Random, data: bytes) -> bytes:
    at = random.randint(0, len(data))
    return data[:at] + random.choice((random.randbytes(random.randint(1, 30)), *MARKS)) + data[at:]


MARKS = (b"\r\n", b"\n\n", b"\0", b"\xff", b'"', b"{", b"}", b"[", b",", b"\xed\xa0\x80", b"\xf0\x9f",
         b"99999999999999999999", b"\\ud83d", b"data: ", b"null", b":", b"\r\n\r\n", b"-1", b"1e999", b"[[[[[[[[",
         b"\xe2\x80\xa8")  # fmt: skip
_MUTATIONS: tuple[Callable[[Random, bytes], bytes], ...] = (_flip, _flip, _lose, _double, _move, _cut, _insert, _insert)


# --- JSON


@dataclass(frozen=True)
class Written:
    """JSON text to the letter, where no value of Python's becomes it."""

    text: str


WORDS = (
    "a",
    "hello",
    "LS",
    "auto",
    "user",
    "text",
    "naïve 日本 🎉",
    "https://a.example/x.png",
    "data:image/png;base64,AAAA",
)
WEIRD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**64, 10**40, -(10**40), 0.5, 1e308),
    *(
        "",
        " ",
        "\0",
        "a\0b",
        "\ud800",
        "\udc00x",
        "\u202eabc\u202c",
        "\ufeff",
        "\u2028",
        "x" * 5000,
        "null",
        "1",
        "true",
    ),
    *([], {}, [[]], [None], [{}], {"": ""}, {"a": {}}, [0] * 300, {"__proto__": 1}, {"type": "text"}, {"type": 5}),
    *map(Written, ("NaN", "Infinity", "-0", "1e999", "1E-999", "0123", '{"a":1,"a":2}', "[1,]", "'a'", '"\\x"')),
    *map(Written, ("[" * 60 + "]" * 60, '{"a":' * 60 + "1" + "}" * 60)),
)


def written(value: Any) -> str:
    """JSON of `value`, `Written` parts as they are."""
    match value:
        case Written(text=text):
            return text
        case dict():
            return "{" + ",".join(f"{json.dumps(name)}:{written(item)}" for name, item in value.items()) + "}"
        case list():
            return "[" + ",".join(map(written, value)) + "]"
        case _:
            return json.dumps(value)


class Maker:
    """Values of JSON schemas, right ones and, with the probability `wrong` at each part, others."""

    def __init__(self, random: Random, schemas: Mapping[str, Any], wrong: float) -> None:
        self._random = random
        self._schemas = schemas
        self._wrong = wrong

    def value(self, schema: Mapping[str, Any], depth: int = 0, name: str = "") -> Any:
        """A value; `name` is the field it is for."""
        random = self._random
        if random.random() < self._wrong:
            return random.choice(WEIRD)
        if "$ref" in schema:
            return self.value(self._schemas[schema["$ref"].rpartition("/")[2]], depth, name)
        for word in ("anyOf", "oneOf"):
            if word in schema:
                return self.value(random.choice(schema[word]), depth, name)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return random.choice(schema["enum"])
        match schema.get("type"):
            case "object":
                return self._object(schema, depth)
            case "array":
                most = 0 if depth > 8 else 3
                return [
                    self.value(schema["items"], depth + 1) for _ in range(random.randint(0 if most == 0 else 1, most))
                ]
            case "string":
                return random.choice(WORDS)
            case "integer":
                return random.choice((schema.get("minimum", 0), schema.get("minimum", 0) + 1, 5, 100))
            case "number":
                return random.choice((schema.get("minimum", 0), 0.5, 1, 2))
            case "boolean":
                return random.random() < 0.5
            case "null":
                return None
            case _:
                return random.choice(({}, {"type": "object"}, "a", 1))

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        random = self._random
        required = set(schema.get("required", ()))
        made = {}
        for name, below in schema.get("properties", {}).items():
            if name in required:
                if random.random() >= self._wrong:
                    made[name] = self.value(below, depth + 1, name)
            elif random.random() < (0.2 if depth < 6 else 0.02):
                made[name] = self.value(below, depth + 1, name)
        if random.random() < self._wrong:
            made[random.choice(("", "unknown", "Model", "\0", "session-id", "x" * 300))] = random.choice(WEIRD)
        return made


# --- the wire


@dataclass(frozen=True)
class Answer:
    """What came until the connection ended; `status` 0: nothing that is a response."""

    data: bytes
    seconds: float

    @property
    def status(self) -> int:
        return int(self.data[9:12]) if self.data.startswith(b"HTTP/1.") and self.data[9:12].isdigit() else 0

    @property
    def head(self) -> dict[str, str]:
        lines = self.data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    @property
    def body(self) -> bytes:
        body = self.data.partition(b"\r\n\r\n")[2]
        if self.head.get("transfer-encoding") != "chunked":
            return body
        whole = b""
        while body:
            size, _, body = body.partition(b"\r\n")
            length = int(size, 16)
            whole, body = whole + body[:length], body[length + 2 :]
        return whole

    @property
    def statuses(self) -> list[int]:
        """Of all responses, where several were asked for."""
        return [int(part[:3]) for part in self.data.split(b"HTTP/1.1 ")[1:] if part[:3].isdigit()]


def request(method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
    """A request that has the connection closed behind its answer."""
    fields = {"host": "localhost", "connection": "close", "content-type": "application/json", **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items() if value]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    head = "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""])
    return head.encode("latin-1") + (body or b"")


def ask(port: int, *data: bytes, opened: bytes = b"", leave_after: float | None = None) -> Answer:
    """Send, and read to the end of the connection, which comes within `BOUND` or fails.

    `opened` is a WebSocket's handshake, which has to be answered before the rest is sent.  With `leave_after` the
    client has said all after so many seconds of silence (FIN).
    """
    began = time.monotonic()
    found = b""
    with socket.create_connection(("127.0.0.1", port), timeout=BOUND) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if opened:
            sock.sendall(opened)
            while b"\r\n\r\n" not in found:
                found += sock.recv(1 << 16)
            assert found.startswith(b"HTTP/1.1 101"), found
        try:
            for part in data:
                sock.sendall(part)
        except (ConnectionResetError, BrokenPipeError):
            pass  # it was refused before its end
        if leave_after is not None:
            sock.settimeout(leave_after)
        try:
            while more := sock.recv(1 << 20):
                found += more
        except ConnectionResetError:
            pass
        except TimeoutError:
            assert leave_after is not None, f"no end within {BOUND:g} s, but {found[-500:]!r}"
            sock.settimeout(BOUND)
            try:
                sock.shutdown(socket.SHUT_WR)
                while more := sock.recv(1 << 20):
                    found += more
            except TimeoutError:
                raise AssertionError(f"no end within {BOUND:g} s of the client's") from None
            except OSError:
                pass  # reset
    seconds = time.monotonic() - began
    assert seconds < BOUND + (leave_after or 0.0)
    return Answer(found, seconds)
