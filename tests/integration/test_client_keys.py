"""Clients with keys of their own, before real processes: limits, `kimi-proxy key` under load, logins."""

import json
import sys
from collections import Counter

import pytest
import trio
from fakes.load import BrokenOff, Client, chat
from fakes.service import REPOSITORY, Service, config_text, run_service, wait_until

from shared.clientkeys import fingerprint

pytestmark = pytest.mark.integration

PLAIN = "the-operator-s-own-key"


def four_workers(port: int, upstream: str, more: str) -> str:
    provider = {"backoff_base": 0.0}
    return config_text(
        port, upstream, server={"workers": 4}, provider=provider, more=f'[auth]\nkeys = ["{PLAIN}"]\n{more}'
    )


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def command(service: Service, *arguments: str, code: int = 0) -> tuple[str, str]:
    """`kimi-proxy …` in the service's environment: stdout and stderr."""
    done = await trio.run_process(
        [sys.executable, "-m", "supervisor", *arguments],
        env=service.env,
        cwd=REPOSITORY,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert done.returncode == code, done.stderr.decode()
    return done.stdout.decode(), done.stderr.decode()


async def ask(port: int, key: str, model: str = "fake/text-2", **more: object) -> tuple[int, bytes]:
    """One request on a connection of its own."""
    async with Client(port) as client:
        response = await client.post(chat(model, stream=False, **more), headers=bearer(key))
        return response.status, await response.read()


async def test_limits_of_a_client_are_exact_and_change_in_place(tmp_path, port, upstream):
    def limited(burst: int) -> str:
        client = f'[auth.clients.ci]\nkey = "ci-key"\nrequests_per_minute = 1\nburst_size = {burst}\n'
        return four_workers(port, upstream.base_url, client + '[auth.clients.free]\nkey = "free-key"\n')

    answered: Counter[tuple[str, int]] = Counter()
    told: list[str] = []

    async def one(key: str) -> None:
        status, body = await ask(port, key)
        answered[key, status] += 1
        if status == 429:
            told.append(json.loads(body)["error"]["message"])

    async def many(key: str, count: int) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one, key)

    async with run_service(tmp_path, limited(20)) as service:
        pids = await service.wait_serving(4)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(many, "ci-key", 60)
            nursery.start_soon(many, "free-key", 40)
        assert 20 <= answered["ci-key", 200] <= 21
        assert answered["ci-key", 429] == 60 - answered["ci-key", 200]
        assert answered["free-key", 200] == 40
        assert all("for client ci is reached" in message for message in told)
        service.write_config(limited(50).replace("requests_per_minute = 1\n", "requests_per_minute = 6000\n"))
        await service.reload()
        await wait_until(lambda: _levelled(port), "the limit that is wider now")
        assert await service.wait_serving(4) == pids


async def _levelled(port: int) -> bool:
    return all([(await ask(port, "ci-key"))[0] == 200 for _ in range(5)])


async def test_revoked_under_load(tmp_path, port, upstream):
    """All streams of one key end, all of the other one go on; whoever comes later is refused by every worker."""
    ended: dict[str, list[bytes]] = {"ci": [], "night": []}

    async def stream(name: str, key: str) -> None:
        async with Client(port) as client:
            response = await client.post(chat("fake/slow-20+text-100", name), headers=bearer(key))
            body = b""
            try:
                while data := await response.receive():
                    body += data
            except BrokenOff:
                pass
            ended[name].append(body)

    async with run_service(tmp_path, four_workers(port, upstream.base_url, "")) as service:
        keys = {}
        for name in ended:
            out, err = await command(service, "key", "add", name)
            keys[name] = out.strip()
            assert "changed: auth" in err
        listed = json.loads((await command(service, "key", "list", "--json"))[0])["keys"]
        assert {(one["name"], one["fingerprint"]) for one in listed} == {
            (None, fingerprint(PLAIN)),
            *((name, fingerprint(key)) for name, key in keys.items()),
        }
        async with trio.open_nursery() as nursery:
            for _ in range(12):
                for name, key in keys.items():
                    nursery.start_soon(stream, name, key)
            await wait_until(lambda: _live(service, 24), "all streams")
            _, err = await command(service, "key", "revoke", "ci")
            assert "live streams that it had: 12, cancelled" in err
            for _ in range(12):
                assert (await ask(port, keys["ci"]))[0] == 401
            await wait_until(lambda: len(ended["ci"]) == 12, "the end of its streams")
            assert ended["night"] == []
        assert all(b"[DONE]" not in body and b"error" in body for body in ended["ci"])
        assert all(b"[DONE]" in body for body in ended["night"])
        records = await service.wait_records(24)
        outcomes = Counter((record["client"], record["status"], record["error_type"]) for record in records)
        assert outcomes == {
            (fingerprint(keys["ci"]), "cancelled", "admin"): 12,
            (fingerprint(keys["night"]), "completed", None): 12,
        }
        assert PLAIN in service.config_file.read_text()
        assert keys["night"] not in service.config_file.read_text()
        assert not any(key in service.log() for key in keys.values())


async def _live(service: Service, count: int) -> bool:
    return sum(worker.streams for worker in await service.serving()) == count


async def test_logins_hold_in_every_worker_and_guesses_are_counted_in_all(tmp_path, port, upstream):
    client = '[auth.clients.night]\nkey = "night-key"\n'

    async def log_in(key: str) -> tuple[int, dict[str, str]]:
        async with Client(port) as client:
            response = await client.post({"key": key}, "/api/login")
            await response.read()
            return response.status, response.headers

    async def status(cookie: str) -> int:
        async with Client(port) as client:
            response = await client.post(None, "/api/status", {"cookie": cookie})
            await response.read()
            return response.status

    async with run_service(tmp_path, four_workers(port, upstream.base_url, client)) as service:
        code, headers = await log_in("night-key")
        assert code == 200
        cookie = headers["set-cookie"].partition(";")[0]
        assert [await status(cookie) for _ in range(8)] == [200] * 8
        answers = [await log_in("wrong") for _ in range(14)]
        codes = Counter(code for code, _ in answers)
        assert codes == {401: 10, 429: 4} or codes == {401: 11, 429: 3}
        assert 1 <= int(answers[-1][1]["retry-after"]) <= 6
        assert (await log_in("night-key"))[0] == 429
        assert [await status(cookie) for _ in range(4)] == [200] * 4
        assert len(service.events("login_failed")) in (10, 11)
        await service.stop()
        service.launch()
        await service.wait_ready()
        assert await status(cookie) == 200
        await command(service, "key", "revoke", "night")
        assert [await status(cookie) for _ in range(8)] == [401] * 8
        assert "night-key" not in service.log()


async def test_a_reload_that_would_open_the_door_is_refused_before_anything_is_written(tmp_path, port, upstream):
    config = config_text(port, upstream.base_url, more='[auth.clients.ci]\nkey = "ci-key"\n')
    config = config.replace(f'"127.0.0.1:{port}"', f'"0.0.0.0:{port}"')
    async with run_service(tmp_path, config) as service:
        _, err = await command(service, "key", "revoke", "ci", code=1)
        assert "nothing was written" in err
        assert service.config_file.read_text() == config
        assert (await ask(port, "ci-key"))[0] == 200
