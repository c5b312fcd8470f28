"""Logins of the dashboard: a cookie that stands for a key, and holds none.

    <fingerprint>.<expiry>.<HMAC-SHA-256 of both and of the key's digest, under a secret of the service>

No worker remembers logins: any of them can tell whether a cookie is good, before and after a restart.  One that was
made for a key is worth nothing once the key is revoked.
"""

import hmac
import secrets
from collections.abc import Iterable
from hashlib import sha256

from worker.auth import Authenticator, Known

MAX_AGE = 7 * 86_400
"""Seconds."""
_PURPOSE = b"kimi-proxy login 1"
_MAX_DIGITS = 12


class Logins:
    """Makes and checks cookies.  `now` is in epoch seconds.  Without a `secret` they are good in this worker only."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret = secret or secrets.token_bytes(32)
        # Cookies of one host are one for all its ports: services side by side must not take each other's.
        self.name = f"kimi_proxy_{sha256(_PURPOSE + secret).hexdigest()[:8]}"

    def cookie(self, known: Known, now: float) -> str:
        """The value of a cookie for somebody whose key has just been seen."""
        expiry = int(now) + MAX_AGE
        return f"{known.fingerprint}.{expiry}.{self._seal(known, expiry)}"

    def identify(self, headers: Iterable[str], authenticator: Authenticator, now: float) -> str | None:
        """The fingerprint of whoever is logged in by one of the `Cookie` headers, else None."""
        for header in headers:
            for pair in header.split(";"):
                name, _, value = pair.strip().partition("=")
                if name == self.name and (fingerprint := self._check(value, authenticator, now)):
                    return fingerprint
        return None

    def _check(self, value: str, authenticator: Authenticator, now: float) -> str | None:
        parts = value.split(".")
        if len(parts) != 3:
            return None
        fingerprint, expiry, seal = parts
        if not (expiry.isascii() and expiry.isdigit() and len(expiry) <= _MAX_DIGITS):
            return None
        known = authenticator.known(fingerprint)
        if known is None or int(expiry) <= now:
            return None
        good = hmac.compare_digest(seal.encode("utf-8", "replace"), self._seal(known, int(expiry)).encode())
        return fingerprint if good else None

    def _seal(self, known: Known, expiry: int) -> str:
        return hmac.digest(self._secret, b"%s %d " % (_PURPOSE, expiry) + known.digest, "sha256").hex()
