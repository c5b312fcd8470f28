"""The size of an image in base64, from its first bytes: PNG, JPEG, GIF and WebP, as both dialects take them."""

import binascii
import struct
from struct import unpack_from

# A JPEG's size stands behind its colour profile and thumbnail, which are up to 64 KiB apiece.
_HEAD_CHARS = 64
_JPEG_CHARS = 512 * 1024

_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xDA)})
"""Markers without a length."""


def image_size(data: str) -> tuple[int, int] | None:
    """Width and height in pixels; None if it can't be told."""
    try:
        head = binascii.a2b_base64(data[:_HEAD_CHARS])
        if head.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = unpack_from(">II", head, 16)
        elif head.startswith((b"GIF87a", b"GIF89a")):
            width, height = unpack_from("<HH", head, 6)
        elif head.startswith(b"RIFF") and head[8:12] == b"WEBP":
            width, height = _webp_size(head)
        elif head.startswith(b"\xff\xd8"):
            width, height = _jpeg_size(binascii.a2b_base64(data[:_JPEG_CHARS]))
        else:
            return None
    except (ValueError, struct.error):  # no base64, or cut off
        return None
    return (width, height) if width > 0 and height > 0 else None


def _webp_size(head: bytes) -> tuple[int, int]:
    """https://developers.google.com/speed/webp/docs/riff_container"""
    match head[12:16]:
        case b"VP8 ":
            width, height = unpack_from("<HH", head, 26)
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L":
            (bits,) = unpack_from("<I", head, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X":
            return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
        case _:
            return 0, 0


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """The first frame header (ITU T.81, B.2.2), past all segments before it."""
    at = 2
    while True:
        marker, kind = unpack_from(">BB", data, at)
        if marker != 0xFF:
            return 0, 0
        if kind == 0xFF:  # fill
            at += 1
        elif kind in _JPEG_BARE:
            at += 2
        elif kind in _JPEG_FRAMES:
            height, width = unpack_from(">HH", data, at + 5)
            return width, height
        else:
            (length,) = unpack_from(">H", data, at + 2)
            at += 2 + length
