"""Keys that `set-key` has kept: the service that runs takes them, and shows them to nobody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from fakes.load import Client, chat
from fakes.openai_upstream import marker
from fakes.secret_tool import install_secret_tool
from fakes.service import config_text, run_service, wait_until

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("option", [[], ["--keyring"]], ids=["file", "keyring"])
async def test_a_new_key_is_in_force_at_once(tmp_path: Path, port, upstream, option):
    env = install_secret_tool(tmp_path, {"PATH": os.environ["PATH"]})

    async def sent() -> str | None:
        mark = marker("key")
        async with Client(port) as client:
            await (await client.post(chat("fake/text-1", mark))).read()
        [row] = upstream.rows(mark)
        return row.headers.get("authorization")

    async with run_service(tmp_path, config_text(port, upstream.base_url), env=env) as service:
        pids = await service.wait_serving(2)
        for key in ("sk-canary-1d09", "sk-canary-2e18"):
            done = await trio.run_process(
                [sys.executable, "-m", "supervisor", "set-key", "fake", "-", *option],
                env=service.env,
                cwd=tmp_path,
                stdin=f"{key}\n".encode(),
                capture_stdout=True,
                stderr=subprocess.STDOUT,
            )
            assert b"the service was told" in done.stdout

            async def used(key: str = key) -> bool:
                return await sent() == f"Bearer {key}"

            await wait_until(used, "the new key")
            processes = " ".join(word for process in service.processes() for word in process.cmdline())
            assert key not in done.stdout.decode() + service.config_file.read_text() + service.log() + processes
        assert await service.worker_pids() == pids
        kept = tmp_path / ("keyring/fake" if option else "keys/fake")
        assert kept.read_text().strip() == key
        assert (tmp_path / "keys").exists() is not bool(option)
