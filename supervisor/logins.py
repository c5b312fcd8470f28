"""How often somebody may try to log in to the dashboard: over the whole service, as guesses come to any worker."""

import math
from ipaddress import IPv4Address, IPv6Address, ip_address

from shared.config import RateLimit
from supervisor.ratelimit import Bucket

FAILED_LOGINS = RateLimit(requests_per_minute=10, burst_size=10)
MAX_SOURCES = 1000
"""More than fail at once; the ones that were there first are forgotten."""


class LoginGuard:
    """Counts the logins that failed, of each source by itself: nobody can keep others out with wrong keys.

    Pure; `now` is any clock that never goes back, in seconds.
    """

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}

    def attempt(self, address: str, now: float, *, failed: bool) -> int | None:
        """Seconds to wait, if this attempt is one too many and counts for nothing; None if it may stand."""
        source = _source(address)
        bucket = self._buckets.get(source) or Bucket("logins", FAILED_LOGINS, now)
        if not bucket.has_room(now):
            return math.ceil(bucket.state(ahead=0).retry_after)
        if failed:
            bucket.take()
            self._buckets[source] = bucket
            if len(self._buckets) > MAX_SOURCES:
                del self._buckets[next(iter(self._buckets))]
        return None


def _source(address: str) -> str:
    """Whom an address stands for: in IPv6 one has a whole network of them."""
    try:
        ip: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:  # a UNIX socket
        return address
    if isinstance(ip, IPv6Address):
        return str(ip.ipv4_mapped or int(ip) >> 64)
    return address
