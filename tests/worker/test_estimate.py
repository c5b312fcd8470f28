import base64
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from worker.dialects.estimate import (
    MAX_DOCUMENT_TOKENS,
    MAX_IMAGE_TOKENS,
    MIN_DOCUMENT_TOKENS,
    TOKENS_PER_MESSAGE,
    TOKENS_PER_TOOL,
    document_tokens,
    estimate_tokens,
    frame_tokens,
    image_tokens,
    media_tokens,
    texts_of,
)
from worker.dialects.image_size import image_size
from worker.dialects.neutral import (
    Document,
    Image,
    Message,
    OutputFormat,
    RedactedThinking,
    Request,
    ServerTool,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)


def b64(data):
    return base64.b64encode(data).decode()


def png(width, height):
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + bytes(30)


def gif(width, height):
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(30)


def jpeg(width, height, *, profile=60_000, frame=0xC2):
    app = b"\xff\xe2" + struct.pack(">H", profile + 2) + b"\xff" * profile
    huffman = b"\xff\xc4" + struct.pack(">H", 4) + b"\x00\x00"
    size = b"\xff" + bytes([0xFF, frame]) + struct.pack(">HBHH", 17, 8, height, width)
    return b"\xff\xd8" + app + huffman + b"\xff\x01" + size + bytes(20)


def webp(kind, width, height):
    if kind == b"VP8 ":
        head = bytes(4) + b"\x00\x00\x00\x9d\x01\x2a" + struct.pack("<HH", width | 0x4000, height)
    elif kind == b"VP8L":
        head = bytes(4) + b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14)
    else:
        head = bytes(8) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + bytes(4) + b"WEBP" + kind + head + bytes(30)


MAKERS = [
    png,
    gif,
    jpeg,
    lambda width, height: jpeg(width, height, profile=10, frame=0xC0),
    *(lambda width, height, kind=kind: webp(kind, width, height) for kind in (b"VP8 ", b"VP8L", b"VP8X")),
]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("size", [(1, 1), (640, 480), (5000, 3)])
def test_sizes_of_images(make, size):
    assert image_size(b64(make(*size))) == size


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"BM" + bytes(60),
        b"\xff\xd8",
        b"\xff\xd8\x00\x00" + bytes(20),
        jpeg(9, 9)[:-30],
        png(9, 9)[:18],
        png(0, 9),
        webp(b"ALPH", 9, 9),
        b"\xff\xd8" + b"\xff\xe0\x00\x00" * 20,
    ],
)
def test_sizes_that_can_t_be_told(data):
    assert image_size(b64(data)) is None


@pytest.mark.parametrize("text", ["", "A", "ü" * 80, "!", "iVBO", "=" * 64])
def test_what_is_no_base64_has_no_size(text):
    assert image_size(text) is None


@given(
    st.sampled_from([make(640, 480) for make in MAKERS]), st.integers(0, 80), st.binary(max_size=8), st.integers(0, 200)
)
def test_broken_images_do_no_harm(data, at, patch, length):
    image_size(b64((data[:at] + patch + data[at + len(patch) :])[:length]))


@pytest.mark.parametrize(
    ("size", "tokens"),
    [
        ((1, 1), 1),
        ((200, 200), 53),
        ((1000, 1000), 1333),
        ((1092, 1092), 1590),
        ((4000, 4000), MAX_IMAGE_TOKENS),
        ((3136, 200), 209),
        ((60_000, 1), 2),
    ],
)
def test_images_by_their_size(size, tokens):
    assert image_tokens(Image("image/png", b64(png(*size)))) == tokens


def test_images_of_unknown_size_cost_the_most():
    assert image_tokens(Image(url="https://x/a.png")) == MAX_IMAGE_TOKENS
    assert image_tokens(Image("image/png", "QUJD")) == MAX_IMAGE_TOKENS


@pytest.mark.parametrize(
    ("document", "tokens"),
    [
        (Document("application/pdf", url="https://x"), MIN_DOCUMENT_TOKENS),
        (Document("application/pdf", data="A" * 400), MIN_DOCUMENT_TOKENS),
        (Document("application/pdf", data="A" * 400_000), 9375),
        (Document("application/pdf", data="A" * 40_000_000), MAX_DOCUMENT_TOKENS),
        (Document("text/markdown", data="A" * 400), 75),
    ],
)
def test_documents_by_their_size(document, tokens):
    assert document_tokens(document) == tokens


WHOLE = Request(
    system=(Text("system"),),
    messages=(
        Message(
            "user",
            (
                ToolResult("id", (Text("result"), Image(url="u"), Document(text="d1", title="t1"))),
                Text("hi"),
                Image(url="u"),
                Document(text="d2", context="c2"),
                Document("application/pdf", url="u", title="t3"),
            ),
        ),
        Message(
            "assistant", (Thinking("thought", "sig"), RedactedThinking("x" * 40), Text("ho"), ToolCall("i", "LS", "{}"))
        ),
    ),
    tools=(
        Tool("LS", Raw(b'{"type":"object"}'), "lists"),
        Tool("X", Raw(b"{}")),
        ServerTool("web", "web_1", Raw(b'{"type":"web_1"}')),
    ),
    output_format=OutputFormat(Raw(b'{"a":1}')),
)


def test_all_that_a_model_reads():
    assert list(filter(None, texts_of(WHOLE))) == [
        "system",
        *("result", "t1", "d1"),
        "hi",
        *("c2", "d2"),
        "t3",
        "thought",
        "ho",
        *("LS", "{}"),
        *("LS", "lists", '{"type":"object"}'),
        *("X", "{}"),
        *("web", '{"type":"web_1"}'),
        '{"a":1}',
    ]


def test_an_estimate_is_the_sum():
    media = 2 * MAX_IMAGE_TOKENS + MIN_DOCUMENT_TOKENS + 10
    frames = 3 * TOKENS_PER_MESSAGE + 3 * TOKENS_PER_TOOL
    assert (media_tokens(WHOLE), frame_tokens(WHOLE)) == (media, frames)
    assert estimate_tokens(WHOLE) == len("".join(texts_of(WHOLE))) // 4 + media + frames


@pytest.mark.parametrize(
    ("request_", "tokens"),
    [
        (Request(), 0),
        (Request(system=(Text("a"),)), TOKENS_PER_MESSAGE),
        (Request(messages=(Message("user", (Text("a"),)),)), TOKENS_PER_MESSAGE),
        (Request(messages=(Message("user", ()),)), TOKENS_PER_MESSAGE),
        (Request(tools=(Tool("a", Raw(b"")),)), TOKENS_PER_TOOL),
    ],
)
def test_only_nothing_costs_nothing(request_, tokens):
    assert estimate_tokens(request_) == tokens
