"""Keys of clients: how they look, and what stands for one where the key itself has no business.

key           kp-…                 known to its client alone
hash          sha256:<64 digits>   in the configuration
fingerprint   the first 12 digits  in records, logs, `kimi-proxy key list`: names a key, and is no use to anybody
"""

import re
from hashlib import sha256

from shared.errors import ConfigError

HASHED = "sha256:"
FINGERPRINT_DIGITS = 12

_HASHED_KEY = re.compile(r"sha256:[0-9a-fA-F]{64}")
_PLAIN_KEY = re.compile(r"[\x21-\x7e]+")


def check_client_key(key: str) -> None:
    """That a client could send `key`; raises `ConfigError` with half a sentence, and without the key."""
    if key.startswith(HASHED):
        if not _HASHED_KEY.fullmatch(key):
            raise ConfigError("must have 64 hexadecimal digits after sha256:, as sha256sum prints them")
    elif not _PLAIN_KEY.fullmatch(key):
        raise ConfigError("must be one or more visible ASCII characters, without spaces")


def keys_in(text: str) -> list[tuple[int, str]]:
    """The keys of a `keys_file`, unchecked, with the numbers of their lines.

    One key a line; empty lines and lines that begin with # are for people.
    """
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), start=1))
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def hashed(key: str) -> str:
    """`sha256:<hex>` in lower case, of a checked key that may be one already."""
    if key.startswith(HASHED):
        return key.lower()
    return HASHED + sha256(key.encode()).hexdigest()


def fingerprint(key: str) -> str:
    """The fingerprint of a checked key, as it is or hashed."""
    return hashed(key)[len(HASHED) : len(HASHED) + FINGERPRINT_DIGITS]
