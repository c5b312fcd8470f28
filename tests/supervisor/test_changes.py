"""What a new configuration changes."""

import msgspec
import pytest

from shared.config import Config, Logging, Provider, Server
from supervisor.changes import Changes, compare, describe

OLD = Config(source="/a/config.toml", providers={"fake": Provider(name="fake")})


def server(**settings):
    return msgspec.structs.replace(OLD, server=Server(**settings))


@pytest.mark.parametrize(
    ("new", "sections", "replaces_workers"),
    [
        (OLD, (), ()),
        (msgspec.structs.replace(OLD, source="/b/config.toml"), (), ()),
        (msgspec.structs.replace(OLD, providers={}), ("providers",), ()),
        (msgspec.structs.replace(OLD, logging=Logging(level="debug")), ("logging",), ()),
        (server(workers=9, graceful_timeout=1.0, worker_timeout=2.0, tcp_user_timeout=3.0), ("server",), ()),
        (server(bind=("127.0.0.1:9",)), ("server",), ("bind",)),
        (server(keep_alive_timeout=1.0, max_header_bytes=9), ("server",), ("keep_alive_timeout", "max_header_bytes")),
    ],
)
def test_compare(new, sections, replaces_workers):
    assert compare(OLD, new) == Changes(sections, replaces_workers)


def test_describe():
    assert "nothing has changed" in describe(Changes((), ()), keys_changed=False)
    assert "changed: keys" in describe(Changes((), ()), keys_changed=True)
    said = describe(Changes(("server", "logging"), ("bind",)), keys_changed=False)
    assert "changed: server, logging" in said
    assert "one by one for bind" in said
