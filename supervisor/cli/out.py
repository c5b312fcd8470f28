"""Bytes and JSON on stdout."""

import sys

import msgspec

_BLOCK_BYTES = 65536


def show(data: bytes) -> None:
    """Write to stdout in pieces: one large write, cut short by a reader that leaves, goes by without an error."""
    for start in range(0, len(data), _BLOCK_BYTES):
        sys.stdout.buffer.write(data[start : start + _BLOCK_BYTES])
        sys.stdout.buffer.flush()


def show_json(value: object) -> None:
    """`value` in lines that people can read, too; UTF-8 in every locale, as JSON demands (RFC 8259, 8.1)."""
    show(msgspec.json.format(msgspec.json.encode(value)) + b"\n")
