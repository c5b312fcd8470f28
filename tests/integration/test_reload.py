"""SIGHUP: the new configuration is in force, and no client has noticed."""

import signal

import pytest
from fakes.load import Client, chat, said
from fakes.openai_upstream import marker, serve_openai
from fakes.service import Service, config_text, wait_until

pytestmark = pytest.mark.integration


async def ask(port: int, model: str) -> tuple[int, str]:
    async with Client(port) as client:
        response = await client.post(chat(model))
        body = await response.read()
        return response.status, said(body) if response.status == 200 else body.decode()


async def test_providers_come_and_go_in_place(service: Service, port, upstream):
    pids = await service.wait_serving(2)
    async with serve_openai() as other, Client(port) as client:
        running = await client.post(chat("fake/slow-40+text-40", marker("old")))
        await running.receive()
        assert (await ask(port, "other/text-3"))[0] == 404
        service.write_config(
            config_text(port, more=f'[providers.other]\nbase_url = "{other.base_url}"\ndialect = "openai"')
        )
        await service.reload()

        async def known() -> bool:
            return (await ask(port, "other/text-3"))[0] == 200

        await wait_until(known, "the new provider")
        assert other.log

        async def forgotten() -> bool:
            return (await ask(port, "fake/text-3"))[0] == 404

        await wait_until(forgotten, "the end of the old provider")
        # The stream that began before still has its provider.
        assert b"data: [DONE]" in await running.read()
        assert await service.worker_pids() == pids
        assert [provider.name for provider in (await service.status()).providers] == ["other"]


async def test_the_log_level_changes_everywhere(service: Service, port, upstream):
    service.write_config(config_text(port, upstream.base_url, more='[logging]\nlevel = "error"'))
    service.send_signal(signal.SIGHUP)

    async def silent() -> bool:
        before = len(service.events("stream_start"))
        for _ in range(6):
            await ask(port, "fake/text-3")
        return len(service.events("stream_start")) == before

    await wait_until(silent, "workers that log errors alone")

    service.write_config(config_text(port, upstream.base_url, more='[logging]\nformat = "json"'))
    service.send_signal(signal.SIGHUP)
    await wait_until(lambda: '"event":"reload_done"' in service.log(), "a line of JSON")


async def test_keys_change_in_place(service: Service, port, upstream):
    pids = await service.wait_serving(2)
    key_file = service.folder / "key"
    key_file.write_text("first-key\n")
    key_file.chmod(0o600)
    config = config_text(port, upstream.base_url, provider={"api_key_file": key_file})

    async def sent() -> str | None:
        mark = marker("key")
        async with Client(port) as client:
            await (await client.post(chat("fake/text-1", mark))).read()
        [row] = upstream.rows(mark)
        return row.headers.get("authorization")

    assert await sent() is None
    for key in ("first-key", "second-key"):
        key_file.write_text(key)
        service.write_config(config)
        await service.reload()

        async def used(key: str = key) -> bool:
            return await sent() == f"Bearer {key}"

        await wait_until(used, f"the {key}")
    assert await service.worker_pids() == pids
    assert "first-key" not in service.log()
    assert "second-key" not in service.log()
