"""Cross-origin rules for browser pages (Fetch standard, "CORS protocol"): nothing is allowed unless configured."""

from shared.config import Cors

Header = tuple[bytes, bytes]

_METHODS = b"GET, POST, DELETE, OPTIONS"
_EXPOSED = b"x-request-id, request-id, retry-after, retry-after-ms, x-should-retry"


def is_allowed(cors: Cors, origin: str | None) -> bool:
    """Whether a page of this origin may read our responses."""
    return origin is not None and ("*" in cors.origins or origin in cors.origins)


def is_same_origin(origin: str, host: str | None) -> bool:
    """Whether a page of this origin comes from the `Host` that it asks.

    The scheme is passed over: a proxy before us may speak TLS for us.
    """
    scheme, _, authority = origin.lower().partition("://")
    port = {"http": ":80", "https": ":443"}.get(scheme, "")
    return bool(authority) and host is not None and authority.removesuffix(port) == host.lower().removesuffix(port)


def is_welcome(cors: Cors, origin: str | None, host: str | None) -> bool:
    """Whether whoever asks may have us do something: no page at all, one of ours, or one of a configured origin."""
    return origin is None or is_same_origin(origin, host) or is_allowed(cors, origin)


def response_headers(cors: Cors, origin: str | None) -> list[Header]:
    """What a response to this origin carries, preflight or not."""
    if not cors.origins:
        return []
    headers: list[Header] = [(b"vary", b"origin")]
    if origin is not None and is_allowed(cors, origin):
        headers.append((b"access-control-allow-origin", origin.encode("latin-1", "replace")))
        headers.append((b"access-control-expose-headers", _EXPOSED))
    return headers


def preflight_headers(cors: Cors, origin: str | None, requested: str | None) -> list[Header]:
    """The answer to `OPTIONS` with `access-control-request-method`; `requested` is the list of headers asked for."""
    if not is_allowed(cors, origin):
        return []
    return [
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", (requested or "authorization, content-type").encode("latin-1", "replace")),
        (b"access-control-max-age", b"%d" % int(cors.max_age)),
    ]
