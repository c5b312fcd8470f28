"""What can be wrong with a new user's machine: exit codes and sentences are those of docs/claude-code.md."""

import os
import re
import shutil
import socket
import subprocess
import tomllib

import pytest
from fakes.claude_code import install_claude_code
from fakes.documents import section
from fakes.key_checker import KeyChecker
from fakes.newcomer import Newcomer
from fakes.node import NoNode
from fakes.openai_upstream import serve_openai, text_of
from fakes.service import free_port

pytestmark = pytest.mark.integration
KEY, WRONG = "sk-right-0123456789", "sk-wrong-9876543210"
BY_FLAGS = ("--provider", "kimi", "--key", "-", "--no-alias")
# A home that can't be written although root asks: a read-only mount that nobody else sees.
READ_ONLY_HOME = ("unshare", "-rm", "sh", "-c")
_MOUNTED = 'mount --bind "$HOME" "$HOME" && mount -o remount,bind,ro "$HOME" && cd "$HOME" && exec "$@"'
NO_NETWORK = ("unshare", "-rn")


def said_for(what: str, command: str) -> tuple[str, str]:
    """Exit code, and the sentence as a pattern, of a row of the document."""
    for line in section("claude-code.md", "When it does not work").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if cells[:2] == [what, f"`{command}`"]:
            return cells[2], re.escape(cells[3].strip("`")).replace("…", ".*")
    raise AssertionError(f"{what}, {command}: not in the document")


def check(what: str, command: str, ended: tuple[int, str, str], code: int | None = None) -> None:
    """It ended as the document says; `code` is Claude Code's, where that is what it says."""
    documented, sentence = said_for(what, command)
    assert ended[0] == (code if documented == "Claude Code's" else int(documented)), ended
    assert re.search(sentence, ended[1] + ended[2]), ended
    assert "Traceback" not in ended[1] + ended[2]


def need(*command: str) -> None:
    """Skips where a namespace of one's own is not to be had."""
    if shutil.which(command[0]) is None or subprocess.run([*command, "true"], capture_output=True).returncode != 0:
        pytest.skip(f"{' '.join(command)} is not permitted here")


@pytest.fixture(scope="session")
def claude():
    try:
        return install_claude_code()
    except NoNode as missing:
        pytest.skip(str(missing))


@pytest.fixture
def newcomer(tmp_path):
    """Who has no Claude Code yet."""
    newcomer = Newcomer(tmp_path)
    yield newcomer
    newcomer.kill_everything()


@pytest.fixture
def with_claude(newcomer, claude):
    newcomer.install(claude)
    return newcomer


def configure(newcomer: Newcomer, base_url: str, port: int | None = None) -> int:
    """What `setup` would have written, at a port that is free; that port."""
    port = port or free_port()
    newcomer.config.parent.mkdir(parents=True)
    newcomer.config.write_text(
        f'[server]\nbind = ["127.0.0.1:{port}"]\nworkers = 1\n'
        f'[providers.fake]\nbase_url = "{base_url}"\n'
        '[models."claude-*"]\nprovider = "fake"\nmodel = "text-12"\n'
    )
    return port


def test_wrong_key(newcomer):
    with KeyChecker(KEY, "m1") as provider:
        flags = (*BY_FLAGS, "--base-url", provider.base_url, "--model", "m1")
        check("wrong key", "setup", newcomer.run("kimi-proxy", "setup", *flags, stdin=f"{WRONG}\n"))
        assert not newcomer.config.parent.exists()
        assert newcomer.run("kimi-proxy", "setup", *flags, "--no-check", stdin=f"{WRONG}\n")[0] == 0
        ended = newcomer.run("kimi-proxy", "check")
        check("wrong key", "check", ended)
        assert WRONG not in ended[1] + ended[2]
        # What the arrow says mends it.
        assert "kimi-proxy set-key kimi" in ended[1]
        assert newcomer.run("kimi-proxy", "set-key", "kimi", "-", stdin=f"{KEY}\n")[0] == 0
        assert "✓ provider     kimi answers for m1" in newcomer.run("kimi-proxy", "check")[1]
    assert newcomer.left() == []


def test_wrong_key_for_claude_code(with_claude):
    with KeyChecker(KEY, "text-12") as provider:
        configure(with_claude, provider.base_url)
        ended = with_claude.run("kimi-proxy", "launch", "-p", "Hello")
    check("wrong key", "launch", ended, 1)
    assert "401" in ended[1]
    assert with_claude.left() == []


def test_no_network(newcomer):
    need(*NO_NETWORK)
    setup = (*NO_NETWORK, "kimi-proxy", "setup", *BY_FLAGS)
    check("no network", "setup", newcomer.run(*setup, stdin=f"{KEY}\n"))
    assert not newcomer.config.parent.exists()
    assert newcomer.run(*setup, "--no-check", stdin=f"{KEY}\n")[0] == 0
    assert tomllib.loads(newcomer.config.read_text())["models"]["claude-*"]["provider"] == "kimi"
    check("no network", "check", newcomer.run(*NO_NETWORK, "kimi-proxy", "check"))
    assert newcomer.left() == []


def test_a_provider_that_is_not_there(with_claude):
    configure(with_claude, f"http://127.0.0.1:{free_port()}/v1")
    ended = with_claude.run("kimi-proxy", "launch", "-p", "Hello")
    check("no network", "launch", ended, 1)
    assert "Connection refused" in ended[1]
    assert with_claude.left() == []


async def test_port_taken_by_a_foreign_program(with_claude):
    async with serve_openai() as upstream:
        with socket.create_server(("127.0.0.1", 0)) as foreign:
            port = configure(with_claude, upstream.base_url, foreign.getsockname()[1])
            check(
                "port taken by another program",
                "check",
                await with_claude.end(with_claude.start("kimi-proxy", "check")),
            )
            ended = await with_claude.end(with_claude.start("kimi-proxy", "launch", "-p", "Hello"))
    check("port taken by another program", "launch", ended, 0)
    assert f"port {port} is in use" in ended[2]
    assert f"(pid {os.getpid()})" in ended[2]
    assert "not every question" not in ended[2]
    assert ended[1].strip() == "".join(text_of(12)).strip()
    assert with_claude.left() == []


def test_no_claude_code(newcomer):
    with KeyChecker(KEY, "m1") as provider:
        flags = (*BY_FLAGS, "--base-url", provider.base_url, "--model", "m1")
        ended = newcomer.run("kimi-proxy", "setup", *flags, stdin=f"{KEY}\n")
    check("no Claude Code", "setup", ended)
    assert "npm install -g @anthropic-ai/claude-code  # Claude Code is not here yet" in ended[1]
    check("no Claude Code", "launch", newcomer.run("kimi-proxy", "launch", "-p", "Hello"))
    assert newcomer.left() == []


def test_home_that_can_t_be_written(newcomer, tmp_path):
    need("unshare", "-rm")
    (newcomer.programs / "claude").symlink_to("/bin/true")
    in_it = (*READ_ONLY_HOME, _MOUNTED, "-", "kimi-proxy")
    check("home can't be written", "setup", newcomer.run(*in_it, "setup", *BY_FLAGS, stdin=f"{KEY}\n"))
    check("home can't be written", "launch", newcomer.run(*in_it, "launch", "-p", "Hello"))
    for other in (("set-key", "kimi", "-"), ("alias", "--install", "--shell", "bash")):
        code, _, complained = newcomer.run(*in_it, *other, stdin=f"{KEY}\n")
        assert code == 1
        assert "can't be written" in complained
    assert list(newcomer.home.rglob("*")) == []
    # What the sentence says mends it.
    assert (
        newcomer.run(*in_it, "launch", "-p", "Hello", STATE_DIRECTORY=f"{tmp_path}/s", LOGS_DIRECTORY=f"{tmp_path}/l")[
            0
        ]
        == 0
    )
    assert newcomer.left() == []


async def test_two_launches_at_once(with_claude):
    async with serve_openai() as upstream:
        configure(with_claude, upstream.base_url)
        processes = [with_claude.start("kimi-proxy", "launch", "-p", f"Hello {number}") for number in range(2)]
        ended = [await with_claude.end(process) for process in processes]
        assert [len(upstream.rows_with(f"Hello {number}")) for number in range(2)] == [1, 1]
    said_for("two launches at once", "launch")
    assert [(code, said.strip()) for code, said, _ in ended] == [(0, "".join(text_of(12)).strip())] * 2
    log = (with_claude.home / ".local/state/kimi-proxy/log/kimi-proxy.log").read_text()
    assert log.count("event=service_start ") == 1
    assert with_claude.left() == []
