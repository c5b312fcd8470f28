"""SIGHUP: the new configuration is in force, and no client has noticed."""

import signal

import pytest
from fakes.load import Client, chat, is_refused, said, steady_load
from fakes.openai_upstream import marker, serve_openai, text_of
from fakes.service import Service, config_text, free_port, wait_until

pytestmark = pytest.mark.integration

BROKEN = {
    "syntax": "[server\n",
    "unknown key": '[server]\nbindd = ["127.0.0.1:1"]\n',
    "bad type": "[server]\nworkers = true\n",
    "missing key": '[providers.kimi]\napi_key_env = "NOT_SET_ANYWHERE"\n',
    "half a file": "[server]\nbind = [",
}


async def ask(port: int, model: str) -> tuple[int, str]:
    async with Client(port) as client:
        response = await client.post(chat(model))
        body = await response.read()
        return response.status, said(body) if response.status == 200 else body.decode()


async def test_a_storm_of_reloads_and_fleet_sizes_under_load(service: Service, port, upstream):
    def good(workers: int, chunk_timeout: float = 30.0) -> str:
        return config_text(
            port,
            upstream.base_url,
            server={"workers": workers, "graceful_timeout": 30.0},
            provider={"backoff_base": 0.0, "chunk_timeout": chunk_timeout},
        )

    async with steady_load(port, streams=20, rate=40) as load:
        await wait_until(lambda: load.streams_done >= 10, "the load")
        for workers in (4, 1, 2):
            for number, text in enumerate([*BROKEN.values(), good(workers, 20.0), good(workers, 21.0), good(workers)]):
                service.write_config(text)
                if number % 2:
                    service.send_signal(signal.SIGHUP)  # not waited for: the next one comes while it is served
                else:
                    await service.reload()
            await service.reload()
            await service.wait_serving(workers, timeout=30)
            done = load.streams_done
            await wait_until(lambda done=done: load.streams_done >= done + 20, "streams with the new fleet")
    assert load.mishaps == []
    assert (await service.status()).config_error is None
    assert "reload_failed" in service.reloads()
    # Whoever asked has been answered.
    assert load.streams_done + load.requests_done == len(load.traces)
    records = await service.wait_records(len(load.traces))
    assert {record["status"] for record in records} == {"completed"}


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_broken_configuration_changes_nothing_and_says_where(service: Service, port, upstream, fault):
    before = await service.wait_serving(2)
    service.write_config(BROKEN[fault])
    await service.reload()
    status = await service.status()
    assert status.config_error is not None
    if fault != "missing key":
        assert f"{service.config_file}:" in status.config_error
    assert await service.worker_pids() == before
    assert (await ask(port, "fake/text-3")) == (200, "".join(text_of(3)))
    assert any(status.config_error in line for line in service.heard("STATUS"))
    [failed] = service.events("reload_failed")
    assert failed["error"] == status.config_error

    service.write_config(config_text(port, upstream.base_url))
    await service.reload()
    assert (await service.status()).config_error is None


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


async def test_a_new_address_is_served_and_the_old_one_let_go(service: Service, port, upstream):
    pids = await service.wait_serving(2)
    new = free_port()
    async with Client(port) as client:
        running = await client.post(chat("fake/slow-20+text-40", marker("old")))
        await running.receive()
        service.write_config(config_text(new, upstream.base_url))
        await service.reload()
        await wait_until(lambda: is_refused(port), "the old address refused")
        assert (await ask(new, "fake/text-3")) == (200, "".join(text_of(3)))
        assert b"data: [DONE]" in await running.read()
    replaced = await service.wait_serving(2)
    assert not set(replaced) & set(pids)
    assert (await service.status()).bind == [f"http://127.0.0.1:{new}"]


async def test_an_address_in_use_is_refused_and_the_old_one_stays(service: Service, port, upstream):
    service.write_config(config_text(upstream.server.port, upstream.base_url))
    await service.reload()
    error = (await service.status()).config_error
    assert error is not None
    assert f"port {upstream.server.port}" in error
    assert (await ask(port, "fake/text-3"))[0] == 200


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
