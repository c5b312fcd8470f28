"""WebSockets of the agent when their worker, or the whole service, leaves."""

import json
import signal

import pytest
from fakes import ws
from fakes.run import SOCKET
from fakes.service import config_text, run_service
from wsproto.events import TextMessage

pytestmark = pytest.mark.integration


def config(port, upstream, workspace, more=""):
    agent = f'[agent]\nenabled = true\nworkspace = "{workspace}"\nsandbox = "off"\nmodel = "fake/text-3"\n'
    return config_text(port, upstream.base_url, more=agent + more)


@pytest.fixture
def workspace(tmp_path):
    folder = (tmp_path / "workspace").resolve()
    folder.mkdir()
    return folder


async def run(client, text, **fields):
    await client.send(TextMessage(json.dumps({"message": text, **fields})))
    return await client.wait("done")


async def test_a_stop_waits_for_no_idle_socket_and_lets_a_run_end(tmp_path, port, upstream, workspace):
    async with run_service(tmp_path, config(port, upstream, workspace)) as service:
        async with ws.listen(port, SOCKET) as idle, ws.listen(port, SOCKET) as busy:
            assert await run(idle, "hi") == {"type": "done"}
            await busy.send(TextMessage(json.dumps({"message": "hi", "model": "fake/slow-10+text-15"})))
            await busy.wait("delta")
            service.send_signal(signal.SIGTERM)
            assert (await idle.wait_close()).code == 1001
            assert await busy.wait("done") == {"type": "done"}
            assert (await busy.wait_close()).code == 1001
        assert await service.wait_exit() == 0


async def test_who_has_no_key_any_more_is_sent_away(tmp_path, port, upstream, workspace):
    text = config(port, upstream, workspace)
    async with run_service(tmp_path, text) as service, ws.listen(port, SOCKET) as client:
        assert await run(client, "hi") == {"type": "done"}
        service.write_config(f'{text}\n[auth]\nkeys = ["a-long-and-secret-key"]\n')
        await service.reload()
        assert (await client.wait_close()).code == 1012


async def test_a_session_goes_on_over_either_way(tmp_path, port, upstream, workspace):
    async with run_service(tmp_path, config(port, upstream, workspace)):
        for number in range(3):  # of two workers
            async with ws.listen(port, SOCKET) as client:
                await run(client, f"message {number}", session_id="mine")
        assert len(upstream.rows_with("message 0")) == 3
        assert len(upstream.rows_with("message 1")) == 2
