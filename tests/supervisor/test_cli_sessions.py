"""`kimi-proxy sessions`, against a service that answers as told; `tests/integration` has it with the real one."""

import json
import os

import pytest
from fakes.admin import AdminServer, session, sessions_reply, status_reply

from shared.paths import resolve_paths
from supervisor import cli
from supervisor.control import Cancelled, CancelSession, CancelStale, Refused, Sessions, SessionsReply


@pytest.fixture
def paths(tmp_path, monkeypatch):
    for name in ("STATE", "RUNTIME", "LOGS"):
        (tmp_path / name.lower()).mkdir()
        monkeypatch.setenv(f"{name}_DIRECTORY", str(tmp_path / name.lower()))
    return resolve_paths(os.environ)


def test_the_live_streams_for_people(paths, capsys):
    reply = sessions_reply(
        session("c0ffee", age=3.0, session="mine", tokens_per_second=25.04),
        session("decade", age=125.0, worker=2, model="月之暗面", tokens=12),
    )
    with AdminServer(paths.admin_socket, lambda _: reply) as server:
        assert cli.main(["sessions"]) == 0
        assert server.requests == [Sessions()]
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "ID      SESSION  PROVIDER  MODEL      WORKER  AGE        TOKENS  TOKENS/S",
        "decade           kimi      月之暗面        2  2 min 5 s      12      25.0",
        "c0ffee  mine     kimi      kimi-k2.6       1  3 s           100      25.0",
    ]
    assert captured.err == ""


def test_the_live_streams_for_programs(paths, capsysbinary):
    """What `GET /api/sessions/active` says, untouched."""
    reply = sessions_reply(session("c0ffee", session="\x1b[2J月", something="of another version"))
    with AdminServer(paths.admin_socket, lambda _: reply):
        assert cli.main(["sessions", "--json"]) == 0
    assert json.loads(capsysbinary.readouterr().out.decode()) == reply.active


def test_none(paths, capsys):
    with AdminServer(paths.admin_socket, lambda _: sessions_reply()):
        assert cli.main(["sessions"]) == 0
    assert capsys.readouterr() == ("", "kimi-proxy: no live streams\n")


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["c0ffee"], CancelSession("c0ffee")),
        (["--stale"], CancelStale(60.0)),
        (["--stale", "--idle", "2.5"], CancelStale(2.5)),
    ],
)
def test_cancelling_shows_what_was_cancelled(paths, capsys, arguments, asked):
    with AdminServer(paths.admin_socket, lambda _: Cancelled(["c0ffee", "decade"])) as server:
        assert cli.main(["sessions", "cancel", *arguments]) == 0
        assert server.requests == [asked]
    assert capsys.readouterr() == ("c0ffee\ndecade\n", "")


def test_cancelling_what_is_not_there(paths, capsys):
    with AdminServer(paths.admin_socket, lambda _: Cancelled([])):
        assert cli.main(["sessions", "cancel", "c0ffee"]) == 1
        assert capsys.readouterr() == (
            "",
            "kimi-proxy: no live stream or session is called 'c0ffee'; `kimi-proxy sessions` shows those there are\n",
        )
        assert cli.main(["sessions", "cancel", "--stale"]) == 0
        assert capsys.readouterr() == ("", "kimi-proxy: no stream has been idle for 60 s\n")


@pytest.mark.parametrize(
    "arguments", [[], ["c0ffee", "--stale"], ["--stale", "--idle", "-1"], ["--stale", "--idle", "x"]]
)
def test_wrong_usage_of_cancel(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(["sessions", "cancel", *arguments])
    assert caught.value.code == 2
    assert "usage: kimi-proxy sessions cancel" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["sessions"], ["sessions", "--json"], ["sessions", "cancel", "x"], ["top"]])
def test_without_a_service(paths, capsys, arguments):
    assert cli.main(arguments) == 1
    assert capsys.readouterr() == ("", "kimi-proxy: not running; start it with: kimi-proxy start\n")


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (status_reply(), "another version"),
        (SessionsReply({"sessions": [{"id": 1}]}), "another version"),
    ],
)
def test_an_answer_of_another_kind(paths, capsys, reply, said):
    with AdminServer(paths.admin_socket, lambda _: reply):
        assert cli.main(["sessions"]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["sessions"], ["sessions", "--json"], ["sessions", "cancel", "x"], ["top"]])
def test_a_service_that_refuses_says_why(paths, capsys, arguments):
    with AdminServer(paths.admin_socket, lambda _: Refused("the answer is too long")):
        assert cli.main(arguments) == 1
    assert capsys.readouterr() == ("", "kimi-proxy: the answer is too long\n")
