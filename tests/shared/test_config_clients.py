"""`[auth.clients]` and `[server.tls]`: what a text means, and what is wrong with it."""

import re
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from shared.clientkeys import fingerprint, hashed
from shared.config import Client, Config, RateLimit, Tls, load_config, parse_config
from shared.errors import ConfigError

ONE = "sha256:" + sha256(b"one").hexdigest()


def client_of(text: str, more: str = "") -> Client:
    [client] = parse_config(f'[auth.clients.ci]\nkey = "one"\n{text}\n{more}').config.auth.clients
    return client


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "config.toml")
    return str(caught.value)


def test_a_client():
    auth = parse_config(
        f"""
        [auth]
        keys = ["zero"]
        [auth.clients.ci]
        key = "{ONE.upper().replace("SHA", "sha")}"
        models = ["claude-*", "kimi/k2"]
        requests_per_minute = 30
        max_concurrent = 4
        dashboard = false
        [auth.clients."night.shift"]
        key = "two"
        """
    ).config.auth
    assert auth.keys == ("zero",)
    assert auth.clients == (
        Client(
            name="ci",
            key=ONE,
            models=("claude-*", "kimi/k2"),
            rate_limit=RateLimit(requests_per_minute=30, burst_size=10),
            max_concurrent=4,
            dashboard=False,
        ),
        Client(name="night.shift", key=hashed("two")),
    )
    assert auth.required
    assert auth.clients[0].fingerprint == sha256(b"one").hexdigest()[:12] == fingerprint("one")


def test_it_survives_the_pipe_to_a_worker():
    config = parse_config('[auth.clients.ci]\nkey = "one"\n[server.tls]\ncert = "c"\nkey = "k"').config
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=Config) == config


def test_clients_guard_a_public_address():
    config = parse_config('[auth.clients.ci]\nkey = "one"\n[server]\nbind = "0.0.0.0:80"').config
    assert config.server.bind == ("0.0.0.0:80",)


PER_KEY = "[rate_limiting.per_key]\nrequests_per_minute = 20\nburst_size = 5"


@pytest.mark.parametrize(
    ("own", "everybody", "expected"),
    [
        ("", "", None),
        ("", PER_KEY, None),
        ("requests_per_minute = 30", "", (30, 10)),
        ("requests_per_minute = 30", PER_KEY, (30, 5)),
        ("requests_per_minute = 30\nburst_size = 2", PER_KEY, (30, 2)),
        ("burst_size = 2", PER_KEY, (20, 2)),
        ("requests_per_minute = 30", PER_KEY + "\n[rate_limiting]\nenabled = false", (30, 10)),
        ("", PER_KEY + "\n[rate_limiting]\nenabled = false", None),
    ],
)
def test_limits_of_its_own(own: str, everybody: str, expected: tuple[int, int] | None):
    limit = client_of(own, everybody).rate_limit
    assert limit == (expected and RateLimit(requests_per_minute=expected[0], burst_size=expected[1]))


def test_clients_make_limits_of_keys_mean_something():
    assert parse_config(f'{PER_KEY}\n[auth.clients.ci]\nkey = "one"').warnings == ()


def test_tls():
    config = parse_config('[server.tls]\ncert = "a/cert.pem"\nkey = "/etc/key.pem"\nhttp2 = false', "/etc/k/c.toml")
    assert config.config.server.tls == Tls(cert="/etc/k/a/cert.pem", key="/etc/key.pem", http2=False)
    assert parse_config('[server.tls]\ncert = "c"\nkey = "k"').config.server.tls == Tls(cert="c", key="k")
    assert parse_config("[server]").config.server.tls is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[auth.clients.ci]", r":1: \[auth.clients.ci\] has no key: add key"),
        ("[auth.clients]\nci = 'k'", r":2: \[auth.clients\] ci must be a table"),
        ("[auth.clients.ci]\nkey = ''", r":2: \[auth.clients.ci\] key must be"),
        ("[auth.clients.ci]\nkey = 'sha256:1'", r":2: .*64 hexadecimal"),
        ("[auth.clients.ci]\nkey = 'k'\nmodel = ['a']", r':3: \[auth.clients.ci\] has no key "model": .*"models"'),
        ("[auth.clients.ci]\nkey = 'k'\nmodels = []", r":3: .*models is empty"),
        ("[auth.clients.ci]\nkey = 'k'\nmodels = ['a',\n'']", r":4: .*models \(entry 2\) must be the name"),
        ("[auth.clients.ci]\nkey = 'k'\nmax_concurrent = 0", r":3: .*max_concurrent = 0 must be"),
        ("[auth.clients.ci]\nkey = 'k'\nburst_size = 3", r":3: .*means nothing by itself"),
        ("[auth.clients.ci]\nkey = 'k'\ndashboard = 'no'", r":3: .*dashboard must be true or false"),
        ("[auth.clients.'a b']\nkey = 'k'", r':1: \[auth.clients."a b"\] is not a usable name'),
        ("[auth.clint.ci]\nkey = 'k'", r':1: \[auth\] has no key "clint": did you mean "clients"\?'),
        (
            f"[auth.clients.ci]\nkey = 'one'\n[auth.clients.cd]\nkey = '{ONE}'",
            r":4: \[auth.clients.cd\] has the same key as \[auth.clients.ci\]",
        ),
        (
            f"[auth]\nkeys = ['{ONE}']\n[auth.clients.ci]\nkey = 'one'",
            r":4: \[auth.clients.ci\] has the same key as \[auth\] keys",
        ),
        ("[server.tls]\ncert = 'a'", r":1: \[server.tls\] has no key"),
        ("[server.tls]\nkey = 'a'", r":1: \[server.tls\] has no cert"),
        ("[server.tls]", r":1: \[server.tls\] has no cert"),
        ("[server.tls]\ncert = ''\nkey = 'a'", r":2: \[server.tls\] cert must be the path of a file"),
        ("[server.tls]\ncerts = 'a'", r':2: \[server.tls\] has no key "certs": did you mean "cert"\?'),
    ],
)
def test_refuses_with_file_line_key_and_fix(text: str, expected: str):
    message = refused(text)
    assert re.match("config.toml" + expected, message), message


def test_messages_never_hold_a_key():
    for text in (
        "[auth.clients.ci]\nkey = 'hush hush'",
        "[auth.clients.ci]\nkey = 'hush'\n[auth.clients.b]\nkey = 'hush'",
    ):
        assert "hush" not in refused(text)


def test_a_model_that_nobody_has_is_warned_about():
    fake = '[providers.fake]\nbase_url = "http://h/v1"\n[models.kimi-k2]\nprovider = "fake"\n'
    parsed = parse_config(fake + "[auth.clients.ci]\nkey = 'k'\nmodels = ['kimi-k3', 'fake/any', 'gpt-*']", "c.toml")
    assert parsed.warnings == ('c.toml:7: [auth.clients.ci] models (entry 1) has no effect: did you mean "kimi-k2"?',)


def test_a_keys_file_must_not_hold_a_client_s_key(tmp_path: Path):
    config = tmp_path / "config.toml"
    config.write_text(f'[auth]\nkeys_file = "keys"\n[auth.clients.ci]\nkey = "{ONE}"')
    (tmp_path / "keys").write_text("two\n")
    auth = load_config(str(config), {}).config.auth
    assert auth.keys == ("two",)
    assert [client.name for client in auth.clients] == ["ci"]
    (tmp_path / "keys").write_text("two\none\n")
    with pytest.raises(ConfigError, match=r"keys_file names holds the key of \[auth.clients.ci\]"):
        load_config(str(config), {})
