"""What no process of ours would say to another, and files that nobody would write: refused, never a crash."""

import contextlib
import re
import socket
import tomllib
from pathlib import Path
from random import Random

import msgspec
import pytest
import trio
from fakes.fuzz import BOUND, cases, mutated, pieces
from fakes.service import Service, config_text, free_port, run_service

from shared.config import Config, parse_config
from shared.config.locate import load_config
from shared.errors import ConfigError, FrameError
from shared.framing import FrameDecoder, frame
from shared.messages import (
    Ask,
    CancelStream,
    Happened,
    Leave,
    Ready,
    StreamStarted,
    Told,
    decode_down,
    decode_up,
)
from shared.messages import Metrics as MetricsQuestion
from shared.messages import encode as encode_message
from shared.records import StreamStart
from supervisor import control

ROOT = Path(__file__).parents[2]
START = StreamStart(
    id="a" * 32,
    trace="req_é",
    session="s",
    worker=1,
    provider="fake",
    model="m",
    dialect="openai",
    streaming=True,
    started=1.5,
)
UP = (Ready(pid=7, generation=2), StreamStarted(START), Ask(3, MetricsQuestion()), Leave("a" * 32, "fake"))
DOWN = (CancelStream("a" * 32, "admin"), Told(3, 200, b'{"a":1}'), Happened([b'{"type":"progress"}']))
REQUESTS = (control.Status(), control.Sessions(), control.CancelSession("naïve"), control.CancelStale(5.0))
NOT_UTF8 = control.encode(control.CancelSession("abcd")).replace(b"abcd", b"\xff\xfe\xfd\xfc")
TOO_DEEP = control.encode(control.CancelSession("abcd")).replace(b"\xa4abcd", b"\x91" * 100_000 + b"\xc0")


@pytest.mark.parametrize(
    ("decode", "payloads"),
    [
        (decode_up, [encode_message(message) for message in UP]),
        (decode_down, [encode_message(message) for message in DOWN]),
        (control.decode_request, [control.encode(message) for message in REQUESTS]),
    ],
)
def test_mutated_messages_are_a_decode_error_or_messages(decode, payloads):
    for payload in payloads:
        decode(payload)
    for name, random in cases(300):
        payload = mutated(random, random.choice(payloads))
        try:
            decode(payload)
        except msgspec.DecodeError:
            pass
        except Exception as error:
            raise AssertionError(f"{name}: {payload!r}: {error!r}") from error


@pytest.mark.parametrize("decode", [decode_up, decode_down, control.decode_request, control.decode_reply])
@pytest.mark.parametrize("payload", [NOT_UTF8, TOO_DEEP], ids=["no UTF-8", "too deep"])
def test_what_msgspec_has_other_errors_for(decode, payload):
    with pytest.raises(msgspec.DecodeError):
        decode(payload)


def test_mutated_frames_are_a_frame_error_or_payloads():
    for name, random in cases(300):
        data = b"".join(frame(random.randbytes(random.randint(0, 40))) for _ in range(random.randint(1, 5)))
        decoder = FrameDecoder(1000)
        given = 0
        try:
            for piece in pieces(random, mutated(random, data)):
                given += len(piece)
                assert sum(map(len, decoder.receive(piece))) + decoder.pending_bytes <= given
        except FrameError:
            continue
        except Exception as error:
            raise AssertionError(f"{name}: {error!r}") from error


def tell(service: Service, data: list[bytes]) -> bytes:
    """What the admin socket answers to these bytes, and nothing after them."""
    said = b""
    with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(ConnectionResetError):
        sock.settimeout(BOUND)
        sock.connect(str(service.paths.admin_socket))
        with contextlib.suppress(BrokenPipeError):  # it may know by the first part that it wants no second
            for part in data:
                sock.sendall(part)
            sock.shutdown(socket.SHUT_WR)
        while more := sock.recv(65536):
            said += more
    return said


@pytest.mark.integration
async def test_mutated_requests_on_the_admin_socket(tmp_path):
    async with run_service(tmp_path, config_text(free_port())) as service:
        pids = await service.worker_pids()

        def run() -> None:
            for payload in (NOT_UTF8, TOO_DEEP, b"", b"\xc1", b"x" * 100):
                [reply] = FrameDecoder().receive(tell(service, [frame(payload)]))
                assert isinstance(control.decode_reply(reply), control.Refused)
            [reply] = FrameDecoder().receive(tell(service, [b"\xff\xff\xff\xff", b"x"]))
            assert isinstance(control.decode_reply(reply), control.Refused)
            for name, random in cases(60):
                data = frame(control.encode(random.choice(REQUESTS)))
                parts = pieces(random, mutated(random, data) if random.random() < 0.8 else random.randbytes(50))
                said = tell(service, parts)
                try:
                    for reply in FrameDecoder().receive(said):
                        control.decode_reply(reply)
                except Exception as error:
                    raise AssertionError(f"{name}: {parts!r}: {said!r}: {error!r}") from error

        await trio.to_thread.run_sync(run)
        assert await service.worker_pids() == pids


# --- the configuration

ENV = {"KIMI_PROXY_KEYS": "a-key", "KIMI_API_KEY": "k"}
EXAMPLES = [
    block
    for document in (ROOT / "docs/configuration.md", ROOT / "docs/agent.md", ROOT / "README.md")
    for block in re.findall(r"(?ms)^```toml\n(.*?)^```", document.read_text())
]
VALUES = (
    "-1",
    "0",
    "1e400",
    "nan",
    "inf",
    '""',
    '"\\u0000"',
    "true",
    "[]",
    "{}",
    "[[]]",
    "1979-05-27",
    "9" * 30,
    '["a", 1]',
    "'''x'''",
)


def mutated_text(random: Random, text: str) -> str:
    """With another value somewhere, or with mistakes of any kind."""
    if random.random() < 0.5:
        lines = text.splitlines()
        pairs = [number for number, line in enumerate(lines) if re.match(r"\s*[\w\"-]+ *=", line)]
        for number in random.sample(pairs, min(len(pairs), random.randint(1, 3))):
            lines[number] = f"{lines[number].partition('=')[0]}= {random.choice(VALUES)}"
        return "\n".join(lines)
    return mutated(random, text.encode()).decode("utf-8", "replace")


def test_mutated_configurations():
    understood = 0
    for name, random in cases(400):
        text = mutated_text(random, random.choice(EXAMPLES))
        said, config = "", None
        try:
            config = parse_config(text, "config.toml", ENV).config
        except ConfigError as error:
            said = str(error)
        except Exception as error:
            raise AssertionError(f"{name}: {text!r}: {error!r}") from error
        if config is None:
            assert re.fullmatch(r"config\.toml:(\d+:)? \S[^\n]*", said), f"{name}: {text!r}: {said}"
        else:
            understood += 1
            assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=Config) == config
            assert tomllib.loads(text) is not None
    assert understood


def test_files_that_are_none(tmp_path):
    path = tmp_path / "config.toml"
    for name, random in cases(30):
        data = mutated(random, random.choice(EXAMPLES).encode("utf-16" if random.random() < 0.2 else "utf-8"), 8)
        path.write_bytes(data)
        said = str(path)
        try:
            load_config(str(path), ENV)
        except ConfigError as error:
            said = str(error)
        except Exception as error:
            raise AssertionError(f"{name}: {data!r}: {error!r}") from error
        assert re.fullmatch(r"\S[^\n]*", said), f"{name}: {said!r}"
