"""The text of generated units: paths, quoting, old versions of systemd, hidden folders, users."""

import re
from pathlib import Path

import pytest

from shared.errors import StartError
from supervisor.cli import units

TEMPLATES = Path(__file__).parents[2] / "systemd"
SERVICE = (TEMPLATES / "kimi-proxy.service").read_text()
SOCKET = (TEMPLATES / "kimi-proxy.socket").read_text()


def place(**changes):
    usual = {"kind": "system", "program": ("/opt/kimi-proxy/bin/kimi-proxy",), "config": "/etc/kimi-proxy/config.toml"}
    return units.Installation(**{**usual, "systemd": 255, **changes})


def settings(text: str, key: str) -> list[str]:
    return re.findall(rf"(?m)^{key}=(.*)$", text)


def body(text: str) -> str:
    return text[text.index("[Unit]") :]


def test_in_its_usual_place_the_template_is_the_unit():
    text = units.service(SERVICE, place())
    assert text.startswith(units.MARK)
    commented = re.compile(r"(?m)^#Environment=.*\n")
    without = SERVICE[: SERVICE.index("# An environment elsewhere")] + commented.split(SERVICE)[1]
    assert body(text) == body(without)
    assert body(units.socket(SOCKET, place(), ["127.0.0.1:8000"])) == body(
        re.sub(r"(?m)^#ListenStream.*\n", "", SOCKET)
    )


@pytest.mark.parametrize(
    ("path", "written"),
    [
        ("/opt/kimi-proxy", "/opt/kimi-proxy"),
        ("/opt/the proxy", '"/opt/the proxy"'),
        ("/opt/100%", "/opt/100%%"),
        ('/opt/"a"\\b', '"/opt/\\"a\\"\\\\b"'),
        ("/opt/ü", '"/opt/ü"'),
        ("/opt/a;b", '"/opt/a;b"'),
        ("/opt/a'b", '"/opt/a\'b"'),
    ],
)
def test_words_are_quoted(path, written):
    [command] = settings(units.service(SERVICE, place(program=(path,))), "ExecStart")
    assert command == f"{written} run --config /etc/kimi-proxy/config.toml"


def test_a_dollar_is_no_variable():
    [command] = settings(units.service(SERVICE, place(config="/etc/$HOME/c")), "ExecStart")
    assert command == ':/opt/kimi-proxy/bin/kimi-proxy run --config "/etc/$HOME/c"'


@pytest.mark.parametrize("path", ["/a\nExecStartPre=/bin/evil", "/a\x1b", "/a\udcff"])
def test_what_no_unit_can_say(path):
    with pytest.raises(StartError, match="no unit file may hold"):
        units.service(SERVICE, place(config=path))


def test_an_old_systemd_gets_what_it_knows():
    text = units.service(SERVICE, place(systemd=252))
    assert settings(text, "Type") == ["notify"]
    assert settings(text, "ExecReload") == ["/bin/kill -HUP $MAINPID"]
    assert settings(units.service(SERVICE, place(systemd=253)), "Type") == ["notify-reload"]


def test_hidden_folders_are_opened_one_by_one():
    needs = ("/home/me/kimi", "/home/me/kimi/.venv", "/home/me2", "/tmp/a:b c", "/opt/x", "/homes", "/root/.pyenv")
    text = units.service(SERVICE, place(needs=needs))
    assert settings(text, "ProtectHome") == ["tmpfs"]
    assert settings(text, "PrivateTmp") == ["yes"]
    bound = ["/home/me/kimi", "/home/me2", "/root/.pyenv", '"/tmp/a\\:b c"']
    assert settings(text, "BindReadOnlyPaths") == bound
    plain = units.service(SERVICE, place(needs=("/opt/x", "/usr")))
    assert settings(plain, "ProtectHome") == ["yes"]
    assert settings(plain, "BindReadOnlyPaths") == []


def test_a_user_s_unit_has_only_what_a_user_may():
    text = units.service(
        SERVICE,
        place(
            kind="user",
            program=("/home/me/the proxy/bin/kimi-proxy",),
            config="/home/me/.config/kimi-proxy/config.toml",
            needs=("/home/me/the proxy",),
            environment={"XDG_STATE_HOME": "/home/me/s"},
            home="/home/me",
        ),
    )
    assert settings(text, "ExecStart") == [
        '"%h/the proxy/bin/kimi-proxy" run --config %h/.config/kimi-proxy/config.toml'
    ]
    assert settings(text, "Environment") == ["XDG_STATE_HOME=/home/me/s"]
    assert settings(text, "WantedBy") == ["default.target"]
    for key in ("DynamicUser", "StateDirectory", "ProtectHome", "PrivateUsers", "CapabilityBoundingSet", "After"):
        assert settings(text, f"#?{key}") == []
    assert settings(text, "KillMode") == ["control-group"]
    assert settings(text, "SystemCallFilter") == settings(SERVICE, "SystemCallFilter")


def test_what_a_socket_unit_can_open():
    streams = units.listen_streams(["127.0.0.1:8000", "[::1]:80", "0.0.0.0:1", "localhost:2", "unix:/run/k.sock"])
    assert streams == ("127.0.0.1:8000", "[::1]:80", "0.0.0.0:1", "127.0.0.1:2", "/run/k.sock")
    text = units.socket(SOCKET, place(), streams)
    assert settings(text, "ListenStream") == list(streams)
    assert settings(text, "BindIPv6Only") == ["ipv6-only"]
    for bind in ("fd://3", "127.0.0.1:0", "proxy.example.com:8000"):
        assert units.listen_streams(["127.0.0.1:8000", bind]) is None


def test_examples_for_a_user_speak_of_the_user_s_manager():
    text = units.drop_in((TEMPLATES / "limits.conf").read_text(), place(kind="user"))
    assert "~/.config/systemd/user/kimi-proxy.service.d/limits.conf" in text
    assert "systemctl --user daemon-reload" in text
    assert settings(text, "#?LoadCredential") == []
    assert settings(text, "MemoryMax") == ["2G"]
