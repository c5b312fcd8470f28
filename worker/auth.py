"""Who may ask: client keys, and the `Host` rule that keeps browser pages from rebinding to an open loopback port."""

import hashlib
import hmac

from shared import config
from shared.config import Auth

HASHED = "sha256:"
FINGERPRINT_DIGITS = 12


class Authenticator:
    """Checks credentials against the configured keys in constant time."""

    def __init__(self, auth: Auth) -> None:
        self._digests = [
            bytes.fromhex(key.removeprefix(HASHED)) if key.startswith(HASHED) else _digest(key) for key in auth.keys
        ]

    @property
    def required(self) -> bool:
        """Whether a key is needed at all."""
        return bool(self._digests)

    def identify(self, authorization: str | None, x_api_key: str | None) -> str | None:
        """Whose known key either header carries, as the first digits of its SHA-256; None: there is none.

        Clients send one or the other, or both.
        """
        given = [x_api_key] if x_api_key else []
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            given.append(token.strip())
        fingerprint: str | None = None
        for key in given:
            digest = _digest(key)
            for known in self._digests:
                if hmac.compare_digest(digest, known):
                    fingerprint = known.hex()[:FINGERPRINT_DIGITS]
        return fingerprint


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def is_loopback_host(host: str | None) -> bool:
    """Whether a `Host` header names this machine's loopback.  A missing one (HTTP/1.0) can't come from a browser."""
    if host is None:
        return True
    name = host.strip()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") <= 1:
        name = name.partition(":")[0]
    # Browsers resolve *.localhost themselves (RFC 6761, 6.3): it can't be rebound.
    return name.rstrip(".").lower().endswith(".localhost") or config.is_loopback_host(name)
