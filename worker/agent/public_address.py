"""Which addresses lie in the public internet, by IANA's registries of special-purpose addresses.  No I/O.

The standard library's `is_global` is another list in every minor version of Python (3.11.10 changed it last); what a
page fetched for a model must not reach should not depend on that.
"""

import ipaddress
from collections.abc import Sequence

_V4 = {
    "this machine": ("0.0.0.0/8", "127.0.0.0/8"),
    "a private network": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
    "a link-local network": ("169.254.0.0/16",),
    "a carrier's private network": ("100.64.0.0/10",),
    "a multicast group": ("224.0.0.0/4",),
    "a reserved range": (
        "192.0.0.0/24",  # protocol assignments, RFC 6890
        "192.0.2.0/24",  # documentation, RFC 5737
        "192.88.99.0/24",  # relays of 6to4, RFC 7526
        "198.18.0.0/15",  # benchmarks, RFC 2544
        "198.51.100.0/24",
        "203.0.113.0/24",
        "240.0.0.0/4",  # the broadcast address in it
    ),
}
_V6 = {
    "this machine": ("::/127",),
    "a private network": ("fc00::/7",),
    "a link-local network": ("fe80::/10", "fec0::/10"),
    "a multicast group": ("ff00::/8",),
    "a reserved range": (
        "2001::/23",  # protocol assignments, RFC 2928: Teredo, benchmarks and ORCHID among them
        "2001:db8::/32",  # documentation, RFC 3849
        "3fff::/20",  # documentation, RFC 9637
    ),
}
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All that has ever been given out, RFC 4291; what lies outside and is none of the above is reserved."""

_Ranges = Sequence[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, str]]
_RANGES_4: _Ranges = [(ipaddress.IPv4Network(range), name) for name, ranges in _V4.items() for range in ranges]
_RANGES_6: _Ranges = [(ipaddress.IPv6Network(range), name) for name, ranges in _V6.items() for range in ranges]

# Addresses that stand for an IPv4 address, and how many bits stand behind it.
_EMBEDDING = (
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),  # IPv4-mapped, RFC 4291
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),  # NAT64, RFC 6052: how a network without IPv4 reaches the rest
    (ipaddress.IPv6Network("2002::/16"), 80),  # 6to4, RFC 3056
)


def why_not_public(address: str) -> str | None:
    """What `address`, in the text form that a resolver gives, is instead of public; None if it is public.

    An address that stands for an IPv4 address is judged as that.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "no address"
    if isinstance(parsed, ipaddress.IPv4Address):
        return next((name for network, name in _RANGES_4 if parsed in network), None)
    if parsed.scope_id is not None:
        return "a link-local network"
    for network, behind in _EMBEDDING:
        if parsed in network:
            return why_not_public(str(ipaddress.IPv4Address((int(parsed) >> behind) & 0xFFFFFFFF)))
    if (name := next((name for network, name in _RANGES_6 if parsed in network), None)) is not None:
        return name
    return None if parsed in _GLOBAL_UNICAST else "a reserved range"
