"""`worker.agent.public_address`: the table of addresses."""

import pytest

from worker.agent.public_address import why_not_public

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.216.34",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2a00:1450:4001:81b::200e",
    "2001:4860:4860::8888",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
]
REFUSED = {
    "this machine": ["0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.255", "::", "::1"],
    "a private network": ["10.0.0.1", "10.255.0.0", "172.16.0.1", "172.31.255.255", "192.168.0.1", "fc00::", "fd12::1"],
    "a link-local network": ["169.254.169.254", "169.254.0.0", "fe80::1", "fe80::1%eth0", "febf::1", "fec0::1"],
    "a carrier's private network": ["100.64.0.0", "100.127.255.255"],
    "a multicast group": ["224.0.0.1", "239.255.255.255", "ff02::1"],
    "a reserved range": [
        "192.0.0.1",
        "192.0.2.1",
        "192.88.99.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "240.0.0.1",
        "255.255.255.255",
        "::2",
        "::127.0.0.1",  # the IPv4-compatible form
        "::8.8.8.8",
        "100::1",
        "64:ff9b:1::1",  # NAT64 of a network's own
        "2001::1",  # Teredo
        "2001:0:7f00:1::",
        "2001:2::1",
        "2001:db8::1",
        "3fff::1",
        "4000::1",
        "5f00::1",
    ],
}  # fmt: skip
EMBEDDED = ["::ffff:{}", "64:ff9b::{}", "0:0:0:0:0:ffff:{}"]


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address):
    assert why_not_public(address) is None


@pytest.mark.parametrize(("kind", "address"), [(kind, address) for kind, some in REFUSED.items() for address in some])
def test_not_public(kind, address):
    assert why_not_public(address) == kind


@pytest.mark.parametrize("form", EMBEDDED)
@pytest.mark.parametrize(
    ("kind", "address"), [(kind, address) for kind, some in REFUSED.items() for address in some if ":" not in address]
)
def test_an_address_in_another_is_judged_as_itself(form, kind, address):
    assert why_not_public(form.format(address)) == kind


@pytest.mark.parametrize("address", ["2002:7f00:1::1", "2002:a9fe:a9fe::", "2002:c0a8:1::", "2002:6440:1::"])
def test_6to4_of_what_is_not_public(address):
    assert why_not_public(address) is not None


@pytest.mark.parametrize("text", ["", "localhost", "0x7f.1", "127.1", "2130706433", "010.0.0.1", "1.2.3.4.5", "[::1]"])
def test_what_is_no_address_is_not_public(text):
    assert why_not_public(text) == "no address"
