"""`shared.config.parse`: what a text means, and what is said about a bad one."""

import re

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.config import Config, RateLimit, RateLimiting, default_config, parse_config
from shared.config.presets import PRESETS
from shared.errors import ConfigError

OPERATORS = """
[proxy]
stream_timeout = 120.0
max_retries = 2
retry_delay = 1.0
[proxy.timeouts]
gemini = 180.0
kimi = 110.0
nvidia = 150.0
groq = 60.0
[proxy.retry]
max_retries = 3
backoff_base = 0.5
max_backoff = 4.0
[proxy.streaming]
buffer_size = 8192
chunk_timeout = 31.0
keep_alive_timeout = 61.0
[rate_limiting]
enabled = true
requests_per_minute = 60
burst_size = 10
"""

COMPLETE = """
[server]
bind = ["127.0.0.1:8000"]
workers = 2
graceful_timeout = 30.0
[providers.fake]
dialect = "openai"
base_url = "http://127.0.0.1:9200/v1/"
api_key_env = "FAKE_API_KEY"
[models."claude-*"]
provider = "fake"
model = "text"
fallbacks = ["fake/slow", "default"]
price = {input = 1, output = 2.5}
[models.default]
provider = "fake"
"""

DOCUMENTED = """
[server]
bind = ["127.0.0.1:8000"]          # also "unix:/path", "fd://3", "[::1]:8000"
workers = 2
graceful_timeout = 30.0
[providers.fake]                    # any name; presets fill in the rest for known names
dialect = "openai"                  # or "anthropic"
base_url = "http://127.0.0.1:9200/v1"
api_key_env = "FAKE_API_KEY"        # or api_key_file; neither: no key is sent
[models."claude-*"]                 # public name or glob
provider = "fake"
model = "text"
fallbacks = ["fake/slow"]
[models.default]                    # any name that nothing else matches
provider = "fake"
"""


def refused(text: str, env: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "config.toml", env)
    message = str(caught.value)
    assert "\n" not in message
    return message


def provider_of(text: str, name: str = "kimi"):
    return parse_config(text, "config.toml").config.providers[name]


def test_a_complete_file():
    config = parse_config(COMPLETE, "/etc/x/config.toml").config
    assert config.source == "/etc/x/config.toml"
    assert config.server.bind == ("127.0.0.1:8000",)
    assert config.providers["fake"].base_url == "http://127.0.0.1:9200/v1"
    assert config.providers["fake"].api_key_env == "FAKE_API_KEY"
    assert not config.providers["fake"].api_key_optional
    assert [model.name for model in config.models] == ["claude-*", "default"]
    assert config.models[0].fallbacks == ("fake/slow", "default")
    assert config.models[0].price is not None
    assert config.models[0].price.output == 2.5
    assert "echo" not in config.providers


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_the_design_s_file_works_as_it_stands(dialect: str):
    parsed = parse_config(DOCUMENTED.replace('"openai"', f'"{dialect}"'), "config.toml", {"FAKE_API_KEY": "k"})
    assert parsed.warnings == ()
    assert parsed.config.providers["fake"].dialect == dialect
    assert [(model.name, model.model) for model in parsed.config.models] == [("claude-*", "text"), ("default", None)]
    assert parsed.config.models[0].fallbacks == ("fake/slow",)


def test_the_operators_keys_are_accepted_as_they_are():
    parsed = parse_config(OPERATORS + "[providers.kimi]\n[providers.mistral]\n", "config.toml")
    config = parsed.config
    kimi, mistral = config.providers["kimi"], config.providers["mistral"]
    assert (kimi.first_byte_timeout, mistral.first_byte_timeout) == (110.0, 120.0)
    assert (kimi.chunk_timeout, kimi.max_retries, kimi.backoff_base, kimi.max_backoff) == (31.0, 3, 0.5, 4.0)
    assert kimi.rate_limit == RateLimit(requests_per_minute=60, burst_size=10)
    assert config.streaming.buffer_size == 8192
    assert config.server.keep_alive_timeout == 61.0
    assert parsed.warnings == ()


def test_a_file_without_providers_has_those_whose_keys_are_in_the_environment():
    config = parse_config(OPERATORS, "config.toml", {"GROQ_API_KEY": "k"}).config
    assert list(config.providers) == ["groq", "echo"]
    assert config.providers["groq"].first_byte_timeout == 60.0
    assert config.models[-1].name == "default"
    assert config.models[-1].provider == "groq"


def test_the_order_of_precedence():
    assert provider_of("[providers.nvidia]", "nvidia").first_byte_timeout == 150.0
    proxy = "[proxy]\nstream_timeout = 50\nmax_retries = 4\nretry_delay = 9\n"
    own = provider_of(proxy + "[providers.nvidia]", "nvidia")
    assert (own.first_byte_timeout, own.max_retries, own.backoff_base, own.max_backoff) == (50.0, 4, 9.0, 9.0)
    timeouts = proxy + "[proxy.timeouts]\nnvidia = 40\n"
    assert provider_of(timeouts + "[providers.nvidia]", "nvidia").first_byte_timeout == 40.0
    last = provider_of(timeouts + "[providers.nvidia]\nfirst_byte_timeout = 30\nmax_retries = 0", "nvidia")
    assert (last.first_byte_timeout, last.max_retries) == (30.0, 0)
    assert provider_of("[providers.mistral]", "mistral").ask_usage is False
    assert provider_of("[providers.mistral]\nask_usage = true", "mistral").ask_usage is True


def test_server_wins_over_proxy_streaming():
    text = "[server]\nkeep_alive_timeout = 5\n[proxy.streaming]\nkeep_alive_timeout = 7\n"
    assert parse_config(text).config.server.keep_alive_timeout == 5.0


def test_nothing_configured_and_no_key_is_echo():
    config = default_config({"KIMI_API_KEY": "  "})
    assert list(config.providers) == ["echo"]
    assert config.providers["echo"].kind == "echo"
    assert [(model.name, model.provider) for model in config.models] == [("echo", "echo"), ("default", "echo")]


def test_keys_in_the_environment_make_providers():
    config = default_config({"GROQ_API_KEY": "k", "MOONSHOT_API_KEY": "k"})
    assert list(config.providers) == ["kimi", "moonshot", "groq", "echo"]
    assert config.providers["kimi"].api_key_env == "MOONSHOT_API_KEY"
    default = {model.name: model for model in config.models}["default"]
    assert (default.provider, default.model) == ("kimi", PRESETS["kimi"].default_model)


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "echo"])
def test_every_preset_works_by_its_name_alone(name: str):
    provider = provider_of(f"[providers.{name}]", name)
    assert provider.base_url.startswith("https://")
    assert provider.dialect == ("anthropic" if name == "anthropic" else "openai")
    assert provider.api_key_env == PRESETS[name].key_envs[0]
    assert not provider.api_key_optional
    assert default_config({PRESETS[name].key_envs[0]: "k"}).providers[name] == provider


def test_a_preset_at_another_address_needs_no_key():
    kimi = provider_of('[providers.kimi]\nbase_url = "http://127.0.0.1:1/v1"')
    assert kimi.api_key_env == "KIMI_API_KEY"
    assert kimi.api_key_optional


def test_a_stand_in_named_echo_is_an_http_provider():
    assert provider_of('[providers.echo]\nbase_url = "http://127.0.0.1:1"', "echo").kind == "http"


def test_models_of_a_file_that_has_providers_only():
    text = '[providers.fake]\nbase_url = "http://127.0.0.1:1"\n'
    assert parse_config(text).config.models == ()
    assert [model.name for model in parse_config(text + "[providers.echo]").config.models] == ["echo"]


def test_files_are_relative_to_the_configuration():
    text = '[providers.kimi]\napi_key_file = "keys/kimi"\n[auth]\nkeys_file = "/abs/clients"\n'
    parsed = parse_config(text, "/etc/kimi-proxy/config.toml")
    assert parsed.config.providers["kimi"].api_key_file == "/etc/kimi-proxy/keys/kimi"
    assert parsed.config.providers["kimi"].api_key_env is None
    assert parsed.auth_keys_file == "/abs/clients"


@pytest.mark.parametrize(
    ("limits", "own", "expected"),
    [
        ("", "", None),
        ("enabled = false\nrequests_per_minute = 5", "", None),
        ("requests_per_minute = 5", "", (5, 10)),
        ("enabled = true", "", (60, 10)),
        ("enabled = true\nburst_size = 3", "requests_per_minute = 7", (7, 3)),
        ("", "requests_per_minute = 7\nburst_size = 2", (7, 2)),
    ],
)
def test_rate_limits(limits: str, own: str, expected: tuple[int, int] | None):
    limit = provider_of(f"[rate_limiting]\n{limits}\n[providers.kimi]\n{own}\n").rate_limit
    assert (limit and (limit.requests_per_minute, limit.burst_size)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", RateLimiting()),
        ("max_wait = 2", RateLimiting(max_wait=2.0)),
        (
            "max_wait = 2\n[rate_limiting.per_key]\nrequests_per_minute = 5\nburst_size = 3\nmax_concurrent = 4",
            RateLimiting(
                max_wait=2.0, per_key=RateLimit(requests_per_minute=5, burst_size=3), max_concurrent_per_key=4
            ),
        ),
        (
            "[rate_limiting.per_key]\nrequests_per_minute = 5",
            RateLimiting(per_key=RateLimit(requests_per_minute=5, burst_size=10)),
        ),
        ("[rate_limiting.per_key]\nmax_concurrent = 4", RateLimiting(max_concurrent_per_key=4)),
        (
            "enabled = false\nmax_wait = 1\n[rate_limiting.per_key]\nrequests_per_minute = 5\nmax_concurrent = 4",
            RateLimiting(max_wait=1.0),
        ),
    ],
)
def test_limits_of_keys(text: str, expected: RateLimiting):
    parsed = parse_config(f"[auth]\nkeys = ['k']\n[rate_limiting]\n{text}\n")
    assert parsed.config.rate_limiting == expected
    assert parsed.config.providers["echo"].rate_limit is None
    assert parsed.warnings == ()


def test_limits_of_keys_need_keys():
    text = "[rate_limiting.per_key]\nmax_concurrent = 4\n"
    assert parse_config(text, "c.toml").warnings == (
        "c.toml:1: [rate_limiting.per_key] has no effect: without [auth] keys clients are all alike",
    )
    for keys in ("keys = ['k']", "keys_file = 'f'", "keys_env = 'K'"):
        assert parse_config(f"{text}[auth]\n{keys}", "c.toml", {"K": "key"}).warnings == ()


def test_a_burst_needs_a_rate():
    for at in ("providers.kimi", "rate_limiting.per_key"):
        assert refused(f"[{at}]\nburst_size = 3") == (
            f"config.toml:2: [{at}] burst_size means nothing by itself: add requests_per_minute"
        )


def test_streams_at_once():
    assert provider_of("[providers.kimi]\nmax_concurrent = 3").max_concurrent == 3
    assert provider_of("[providers.kimi]").max_concurrent is None


def test_client_keys():
    digest = "sha256:" + "0a" * 32
    text = f'[auth]\nkeys = ["one", "{digest}"]\nkeys_env = "CLIENTS"\n[server]\nbind = "0.0.0.0:80"\n'
    config = parse_config(text, env={"CLIENTS": "two, one\nthree"}).config
    assert config.auth.keys == ("one", digest, "two", "three")
    assert config.server.bind == ("0.0.0.0:80",)


def test_a_keys_file_guards_a_public_address():
    text = '[auth]\nkeys_file = "clients"\n[server]\nbind = "0.0.0.0:80"\n'
    assert parse_config(text).config.server.bind == ("0.0.0.0:80",)


def test_a_misspelt_timeout_is_warned_about_and_an_unused_one_is_not():
    parsed = parse_config("[proxy.timeouts]\nkimmi = 1\ngroq = 2\n[providers.kimi]", "c.toml")
    assert parsed.warnings == ('c.toml:2: [proxy.timeouts] kimmi has no effect: did you mean "kimi"?',)


def test_a_config_survives_the_pipe_to_a_worker():
    config = parse_config(OPERATORS + COMPLETE, "config.toml").config
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=Config) == config


FAKE = '[providers.fake]\nbase_url = "http://h/v1"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[server\n", r":1: this is not valid TOML: "),
        ("[server]\na = 1\na = 2", r":3: this is not valid TOML: "),
        ("x = " + "9" * 5000, r": this is not usable TOML: a number"),
        ("x = " + "[" * 5000, r": this is not usable TOML: its values are nested"),
        ("[servr]", r":1: there is no section \[servr\]: did you mean \[server\]\?"),
        ("[zzzzzz]", r":1: .*the sections are server, "),
        ("\nworkers = 2", r':2: "workers" stands outside of every section: put it below \[server\]'),
        ("[server]\nwokers = 2", r':2: \[server\] has no key "wokers": did you mean "workers"\?'),
        ("[server]\nworkers = 0", r":2: \[server\] workers = 0 must be a whole number from 1 to 512"),
        ("[server]\nworkers = 513", r":2: .* = 513 must be"),
        ("[server]\nworkers = true", r":2: .* = true must be a whole number"),
        ("[server]\nworkers = 1e1", r":2: .* = 10.0 must be a whole number"),
        ("[proxy]\nretry_delay = 1" + "0" * 400, r":2: \[proxy\] retry_delay must be a number"),
        (f"[server]\nworkers = 1{'0' * 400}", r":2: \[server\] workers must be a whole number"),
        ("[proxy]\nretry_delay = nan", r":2: \[proxy\] retry_delay = nan must be a number from 0"),
        ("[proxy]\nstream_timeout = -1", r":2: \[proxy\] stream_timeout = -1 must be a number over 0"),
        ("[proxy.timeouts]\nkimi = inf", r":2: \[proxy.timeouts\] kimi = inf must be"),
        ('[logging]\nlevel = "INFO"', r':2: \[logging\] level must be .*: did you mean "info"\?'),
        ("[logging]\nlevel = 2024-01-01", r":2: \[logging\] level must be"),
        ("server = 3", r":1: .*server"),
        ("[providers]\nkimi = 'x'", r":2: \[providers\] kimi must be a table"),
        ("[server]\nbind = 8000", r":2: \[server\] bind = 8000 must be a string or a list of strings"),
        ("[server]\nbind = ['127.0.0.1:1',\n 3]", r":3: \[server\] bind \(entry 2\) = 3 must be a string"),
        ("[server]\nbind = []", r":2: \[server\] bind is empty"),
        ("[server]\nbind = ['fd://3',\n'fd://03']", r":3: .*stands there twice"),
        ("[server]\nbind = ':80'", r':2: \[server\] bind = ":80" names no host'),
        ("[server]\nbind = ['unix:/a',\n '0.0.0.0:80']", r":3: .* \"0.0.0.0:80\" can be reached .* add \[auth\]"),
        ("[auth]\nkeys = ['']", r":2: \[auth\] keys \(entry 1\) must be"),
        ("[auth]\nkeys = ['sha256:12']", r":2: .*64 hexadecimal"),
        ("[auth]\nkeys_env = 'NOT_SET'", r":2: .*NOT_SET, which is not set"),
        ("[cors]\norigins = ['*', 'https://a.example/']", r":2: \[cors\] origins \(entry 2\) must be"),
        ("[cors]\norigins = ['https://[']", r":2: \[cors\] origins"),
        ("[providers.foo]", r":1: \[providers.foo\] has no base_url"),
        ("[providers.grok]", r":1: .*did you mean \"groq\"\?"),
        ("[providers.'a/b']\nbase_url = 'http://h'", r':1: \[providers."a/b"\] is not a usable name'),
        ("[providers.x]\nbase_url = 'ftp://h'", r":2: \[providers.x\] base_url must be an address"),
        ("[providers.x]\nbase_url = 'http://h:99999'", r":2: .*must be an address"),
        ("[providers.x]\nbase_url = 'http://[::1/'", r":2: .*must be an address"),
        ("[providers.x]\nbase_url = 'http://u:p@h/'", r":2: .*user name or password"),
        ("[providers.x]\nbase_url = 'http://h/?k=1'", r":2: .*leave out"),
        ("[providers.x]\nbase_url = 'http://h/v1/chat/completions/'", r":2: .*must not end with /chat/completions"),
        ("[providers.kimi]\ndialect = 'anthropic'", r":2: .*add its other base_url"),
        (FAKE + "api_key_env = 'A'\napi_key_file = 'b'", r":4: .*both api_key_env and api_key_file"),
        (FAKE + "api_key_env = 'sk-secret-value'", r":3: .*must be the name of an environment variable"),
        (FAKE + "api_key_file = ''", r":3: .*must be the path of a file"),
        (FAKE + "burst_size = 0", r":3: .*burst_size = 0 must be a whole number from 1"),
        (FAKE + "burst_size = 3", r":3: .*means nothing by itself"),
        (FAKE + "on_disconnect = 'drian'", r":3: .*did you mean \"drain\"\?"),
        (FAKE + 'headers = {"a\\nb" = "c"}', r":3: .*not the name of an HTTP header"),
        (FAKE + '[providers.fake.headers]\nx-a = "b\\n"', r":4: .*no HTTP header may hold"),
        (FAKE + "headers.Host = 'x'", r":3: .*set by the proxy itself"),
        (FAKE + "[models.a]\nmodel = 'x'", r":3: \[models.a\] has no provider: add provider"),
        (FAKE + "[models.a]\nprovider = 'fak'", r":4: \[models.a\] .*not configured: did you mean \"fake\"\?"),
        (FAKE + "[models.a]\nprovider = 'kimi'", r":4: .*add a section \[providers.kimi\] and set KIMI_API_KEY"),
        (FAKE + "[models.a]\nprovider = 'fake'\nfallbacks = ['fake/x',\n'nope/y']", r":6: .*\(entry 2\) leads to no"),
        (FAKE + "[models.'a*']\nprovider = 'fake'\nfallbacks = ['a*']", r":5: .*leads to no"),
        (FAKE + "[models.a]\nprovider = 'fake'\nfallbacks = ['fake/']", r":5: .*leads to no"),
        (
            FAKE + "[models.'a*']\nprovider = 'fake'\n[models.'a**']\nprovider = 'fake'",
            r":5: .*what \"a\*\" does",
        ),
        (FAKE + "[models.'']\nprovider = 'fake'", r":3: .*no usable name"),
        (FAKE + "[models.a]\nprovider = 'fake'\nmodel = ''", r":5: .*no usable name"),
        (FAKE + "[models.a]\nprovider = 'fake'\nprice = {input = -1}", r":5: \[models.a.price\] input = -1 must be"),
    ],
)
def test_refuses_with_file_line_key_and_fix(text: str, expected: str):
    message = refused(text)
    assert re.match("config.toml" + expected, message), message


def test_messages_never_hold_what_may_be_a_secret():
    for text in (
        FAKE + "api_key_env = 'sk-hush-hush'",
        "[auth]\nkeys = ['hush-hush ü']",
        "[auth]\nkeys = 'hush-hush'",
        "[providers.x]\nbase_url = 'http://u:hush-hush@h/'",
        FAKE + 'headers = {a = "hush-hush\\u0000"}',
        FAKE + "max_retries = 'hush-hush'",
    ):
        assert "hush" not in refused(text)
    assert "hush" not in refused("[auth]\nkeys_env = 'K'", {"K": "hush-hush\x01"})


def test_without_a_file_the_message_says_configuration():
    with pytest.raises(ConfigError, match=r"^configuration:1: there is no section"):
        parse_config("[servr]")


WORDS = """server bind workers auth keys proxy timeouts retry streaming providers kimi fake base_url headers models
provider fallbacks default price rate_limiting enabled api_key_env api_key_file burst_size requests_per_minute cors
origins dialect normalise translation replay_thinking display_name "x-y" ''"""
VALUES = """1 -1 0.5 nan true 1979-05-27 "" "kimi" "fake/x" "http://h" "0.0.0.0:1" "[::1]:2" ["a"] [] {} {a="b"} [[1]]
"\\u0000" ["127.0.0.1:1"] "openai" """
names = st.sampled_from(WORDS.split())
scalars = st.sampled_from([*VALUES.split(), "'''\n'''"])
headers = st.lists(names, min_size=1, max_size=3).map(lambda parts: f"[{'.'.join(parts)}]")
pairs = st.builds("{} = {}".format, names, scalars)
documents = st.lists(headers | pairs, max_size=8).map("\n".join)


@settings(deadline=None)
@given(st.text() | documents)
@example("[a]\n[a]")
@example("\ufeff")
@example("a = 1\r")
def test_any_text_gives_a_config_or_a_config_error(text: str):
    try:
        config = parse_config(text, "config.toml", {"KIMI_API_KEY": "k"}).config
    except ConfigError as error:
        message = str(error)
    else:
        message = ""
        assert config.providers
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=Config) == config
    assert re.fullmatch(r"(config\.toml:(\d+:)? \S.*)?", message)
