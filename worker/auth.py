"""Who may ask for what: client keys, and the `Host` rule that keeps browser pages from rebinding to an open port."""

import hmac
import secrets
from fnmatch import fnmatchcase
from hashlib import blake2b, sha256

from msgspec import Struct

from shared import config
from shared.clientkeys import FINGERPRINT_DIGITS, HASHED, hashed
from shared.config import Auth, Client


class Known(Struct, frozen=True):
    """A key that is in the configuration."""

    fingerprint: str
    digest: bytes
    """SHA-256 of the key."""
    client: Client | None
    """Whose it is; None: one without a name, which may do everything."""


class Authenticator:
    """Checks credentials against the configured keys, in a time that tells nothing about them.

    A digest is not compared with each that is known: with a thousand clients that takes 110 µs, this 4.  It is looked
    up by a second digest, keyed with a secret of this process, so how far two of those agree, in the table or in a
    comparison that stops early, depends on nothing that anybody outside could know or choose.  The digest that is found
    there is then compared in constant time; so is one that stands in where there is none.
    """

    def __init__(self, auth: Auth) -> None:
        self._secret = secrets.token_bytes(32)
        known = [
            *(_known(key, None) for key in auth.keys),
            *(_known(client.key, client) for client in auth.clients),
        ]
        self._by_index = {self._index(one.digest): one for one in known}
        self._by_fingerprint = {one.fingerprint: one for one in known}
        self._nobody = Known("", secrets.token_bytes(32), None)
        self.limited = frozenset(
            client.fingerprint for client in auth.clients if client.rate_limit or client.max_concurrent
        )
        """The fingerprints of those that have limits of their own."""

    @property
    def required(self) -> bool:
        """Whether a key is needed at all."""
        return bool(self._by_index)

    def identify(self, authorization: str | None, x_api_key: str | None) -> str | None:
        """Whose known key either header carries, as the first digits of its SHA-256; None: there is none.

        Clients send one or the other, or both.
        """
        fingerprint = self.identify_key(x_api_key) if x_api_key else None
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            fingerprint = self.identify_key(token.strip()) or fingerprint
        return fingerprint

    def identify_key(self, key: str) -> str | None:
        """The fingerprint of a key that is known, else None."""
        digest = sha256(key.encode("utf-8", "replace")).digest()
        found = self._by_index.get(self._index(digest), self._nobody)
        return found.fingerprint if hmac.compare_digest(digest, found.digest) else None

    def known(self, fingerprint: str | None) -> Known | None:
        """What is known of a caller; None where nothing is, as his key has been revoked."""
        return None if fingerprint is None else self._by_fingerprint.get(fingerprint)

    def client(self, fingerprint: str | None) -> Client | None:
        """The client that has this key; None for one without a name, which may do everything."""
        known = self.known(fingerprint)
        return None if known is None else known.client

    def is_revoked(self, fingerprint: str | None) -> bool:
        """Whether this was somebody's key, and is no longer; never so for a caller who needed none."""
        return fingerprint is not None and fingerprint not in self._by_fingerprint

    def _index(self, digest: bytes) -> bytes:
        return blake2b(digest, key=self._secret, digest_size=16).digest()


def may_ask(client: Client | None, model: str) -> bool:
    """Whether a client may ask for a model by this name."""
    return client is None or not client.models or any(fnmatchcase(model, pattern) for pattern in client.models)


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


def _known(key: str, client: Client | None) -> Known:
    digits = hashed(key).removeprefix(HASHED)
    return Known(digits[:FINGERPRINT_DIGITS], bytes.fromhex(digits), client)
