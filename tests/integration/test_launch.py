"""`kimi-proxy launch` with the real Claude Code and the real service, in front of the fake upstream.

Skipped only where node or npm is missing.
"""

import json
import os
import socket
import subprocess
import sys

import pytest
import trio
from fakes.claude_code import NoNode, install_claude_code
from fakes.openai_upstream import marker
from fakes.script import text_of
from fakes.service import Service, config_text, wait_until

pytestmark = pytest.mark.integration
TIMEOUT = 90.0
ANSWER = "".join(text_of(12)).strip()
MODELS = '[models."claude-*"]\nprovider = "fake"\nmodel = "text-12"\n'


@pytest.fixture(scope="module")
def executable():
    try:
        return install_claude_code()
    except NoNode as missing:
        pytest.skip(str(missing))


@pytest.fixture
def person(tmp_path, upstream, port, executable):
    """Folders and environment of somebody for whom no service runs; it is a service only in name."""
    service = Service(tmp_path, config_text(port, upstream.base_url, more=MODELS))
    service.env |= {
        "KIMI_PROXY_CLAUDE": os.fspath(executable),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_AUTOUPDATER": "1",
    }
    del service.env["NOTIFY_SOCKET"]
    yield service
    service.kill_everything()


async def launch(person: Service, prompt: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "supervisor", "launch", *arguments, "-p", prompt]
    with trio.fail_after(TIMEOUT):
        return await trio.run_process(
            command,
            env=person.env,
            cwd=person.folder,
            stdin=b"",
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )


async def test_it_prints_the_answer_and_leaves_nothing(person, port, upstream):
    # A service that wants keys: Claude Code gets one of its own.
    person.write_config(person.config_file.read_text() + '[auth.clients.other]\nkey = "some-other-clients-key"\n')
    mark = marker("launch")
    ended = await launch(person, mark)
    assert (ended.returncode, ended.stdout.decode().strip()) == (0, ANSWER), ended.stderr.decode()
    await wait_until(lambda: not person.processes(), "nothing left")
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", port)) != 0
    [row] = upstream.rows_with(mark)
    assert row.model == "text-12"
    [record] = person.records()
    assert (record["status"], record["model"]) == ("completed", "claude-text-12")
    key = person.folder / "s/launcher.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert "[auth.clients.launcher]" in person.config_file.read_text()
    assert key.read_text().strip() not in person.config_file.read_text()


async def test_two_at_once_share_a_service_on_another_port(person, port, upstream):
    marks = [marker("launch") for _ in range(2)]
    ended = {}

    async def one(mark: str) -> None:
        ended[mark] = await launch(person, mark)

    with socket.create_server(("127.0.0.1", port)):
        async with trio.open_nursery() as nursery:
            for mark in marks:
                nursery.start_soon(one, mark)
    complaints = [done.stderr.decode() for done in ended.values()]
    for done in ended.values():
        assert (done.returncode, done.stdout.decode().strip()) == (0, ANSWER), complaints
    told = f"port {port} is in use by {os.path.basename(os.readlink('/proc/self/exe'))[:6]}"
    assert sum(told in said and f"(pid {os.getpid()})" in said for said in complaints) == 1, complaints
    assert (person.folder / "l/kimi-proxy.log").read_text().count("event=service_start") == 1
    assert [len(upstream.rows_with(mark)) for mark in marks] == [1, 1]
    await wait_until(lambda: not person.processes(), "nothing left")


async def test_settings_that_lead_elsewhere_are_overruled(person, port, upstream):
    settings = person.folder / ".claude/settings.json"
    settings.parent.mkdir()
    elsewhere = {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9", "ANTHROPIC_MODEL": "theirs", "ANTHROPIC_API_KEY": "theirs"}
    settings.write_text(json.dumps({"env": elsewhere}))
    mark = marker("launch")
    ended = await launch(person, mark)
    assert (ended.returncode, ended.stdout.decode().strip()) == (0, ANSWER), ended.stderr.decode()
    assert (
        "this Claude Code gets another ANTHROPIC_BASE_URL, ANTHROPIC_MODEL, ANTHROPIC_API_KEY" in ended.stderr.decode()
    )
    assert len(upstream.rows_with(mark)) == 1
    assert json.loads(settings.read_text()) == {"env": elsewhere}
