"""The clients of a soak: they ask as the plan says, well or badly, and remember what they have seen."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import trio
from fakes import ws
from fakes.load import MESSAGES, PATH, BrokenOff, Client, Response, chat, message
from fakes.soak.plan import Ask
from fakes.soak.seen import Seen, judge_body, judge_stream

PATIENCE = 45.0
"""What takes longer has hung: no deadline of the service is as long."""
REFUSED_PAUSE = 0.5
AGENT = "/api/stream/message"
HUGE_BYTES = 3 * 1024 * 1024
"""More than `max_body_bytes`."""
SMALL_BUFFERS = ("never reads", "reads late", "is deaf")
GARBAGE = {
    "bytes": bytes(range(256)) * 8,
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
    "line": b"GET  /\t/ HTTP/9.9\r\n\r\n",
    "chunks": b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n\r\n",
    "length": b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: minus one\r\n\r\n",
}


class Stopped(Exception):
    """The service has closed the connection of a client that asked for it."""


class Clients:
    """All of them; `tell` gets what each has seen, when it has ended."""

    def __init__(self, port: int, tell: Callable[[Seen], None]) -> None:
        self._port = port
        self._tell = tell
        self.stopping = False
        self.under_way = 0
        self.cancelled: list[tuple[float, float]] = []
        """From when to when an administrator asked for a cancel."""

    async def lane(self, plan: Iterator[Ask]) -> None:
        """One request after the other until `stopping`."""
        client: Client | None = None
        try:
            for ask in plan:
                await trio.sleep(ask.pause)
                if self.stopping:
                    break
                if client is not None and ask.fresh:
                    client.close()
                    client = None
                client = await self._one(ask, client)
                if ask.fresh and client is not None:
                    client.close()
                    client = None
        finally:
            if client is not None:
                client.close()

    async def _one(self, ask: Ask, client: Client | None) -> Client | None:
        """Ask once; the connection, if it can be used again."""
        seen = Seen(ask, time.time())
        self.under_way += 1
        reused = client is not None
        try:
            with trio.move_on_after(PATIENCE):
                if client is None:
                    client = Client(self._port, receive_buffer=4096 if ask.client in SMALL_BUFFERS else None)
                    await client.__aenter__()
                    client.since = time.time()  # type: ignore[attr-defined]
                seen.port, seen.connected = client.port, client.since  # type: ignore[attr-defined]
                await self._act(ask, client, seen)
        except OSError as error:
            seen.kind, seen.what = "refused", str(error)
            await trio.sleep(REFUSED_PAUSE)
        except (BrokenOff, ws.RefusedError, EOFError, trio.BrokenResourceError) as error:
            self._broken(seen, error, reused)
        except AssertionError as error:
            seen.fault(f"not as it should be: {error!r}")
        finally:
            self.under_way -= 1
            seen.ended = time.time()
        self._tell(seen)
        if client is not None and (seen.kind not in ("completed", "JSON error", "error event") or not client.reuse()):
            with suppress(AttributeError):  # it never was connected
                client.close()
            return None
        return client

    def _broken(self, seen: Seen, error: Exception, reused: bool) -> None:
        seen.what = f"{type(error).__name__} {error}"
        if reused and seen.status is None:
            seen.kind = "closed idle"
        else:
            seen.kind = "cut"

    async def _act(self, ask: Ask, client: Client, seen: Seen) -> None:
        match ask.client:
            case "reads":
                await self._ask(ask, client)
                await self._read(await client.response(), seen)
            case "leaves" | "half closes":
                await self._leave(ask, client, seen)
            case "never reads":
                await self._ask(ask, client)
                await trio.sleep(ask.after)
                seen.kind = "left"
                client.reset() if ask.abrupt else client.close()
            case "reads late":
                await self._ask(ask, client)
                await trio.sleep(ask.after)
                await self._read(await client.response(), seen)
            case "sends slowly":
                await self._send_slowly(_bytes(ask, self._port), client, ask.after)
                client._h11.send(_head(ask, self._port))
                await self._read(await _late_response(client), seen)
            case "never finishes" | "garbage":
                await self._bad(ask, client, seen)
            case "odd":
                await self._odd(ask, client, seen)
            case "pipelines":
                await self._pipeline(ask, client, seen)
            case "agent" | "agent leaves":
                await self._agent(ask, client, seen)
            case "looks":
                await self._look(ask, client, seen)
            case "listens" | "is deaf":
                await self._listen(ask, client, seen)
            case "cancels":
                await self._cancel(ask, client, seen)

    async def _ask(self, ask: Ask, client: Client) -> None:
        await client.send_request(_body(ask), _path(ask), _headers(ask))

    async def _read(self, response: Response, seen: Seen) -> None:
        """The whole answer, judged."""
        seen.status = response.status
        seen.trace = response.headers.get("x-request-id")
        streamed = response.headers.get("content-type", "").startswith("text/event-stream")
        body = b""
        try:
            while data := await response.receive():
                body += data
        except BrokenOff:
            if streamed:
                judge_stream(seen, body, whole=False)
            raise
        if streamed != (seen.ask.stream and response.status == 200):
            seen.fault(f"status {response.status} as {response.headers.get('content-type')}")
        elif streamed:
            judge_stream(seen, body, whole=True)
        else:
            judge_body(seen, body)

    async def _leave(self, ask: Ask, client: Client, seen: Seen) -> None:
        data = _bytes(ask, self._port)
        head = data.index(b"\r\n\r\n") + 4
        match ask.phase:
            case "in the head":
                await client._send(data[: head // 2])
                await trio.sleep(ask.after / 10)
            case "in the body":
                await client._send(data[: (head + len(data)) // 2])
                await trio.sleep(ask.after / 10)
            case "at once":
                await client._send(data)
            case _:
                await self._ask(ask, client)
                with trio.move_on_after(ask.after):
                    response = await client.response()
                    seen.status = response.status
                    body = b""
                    while data := await response.receive():
                        body += data
                        if ask.stream and response.status == 200:
                            judge_stream(seen, body, whole=False)
        seen.kind = "left"
        if ask.client == "half closes":
            client.socket.shutdown(socket.SHUT_WR)
            with trio.move_on_after(5.0), suppress(OSError):
                while await client.socket.recv(65536):
                    pass
            client.close()
        elif ask.abrupt:
            client.reset()
        else:
            client.close()

    async def _send_slowly(self, data: bytes, client: Client, seconds: float) -> None:
        """In ten pieces, which end anywhere."""
        size = -(-len(data) // 10)
        for at in range(0, len(data), size):
            await client._send(data[at : at + size])
            await trio.sleep(seconds / 10)

    async def _bad(self, ask: Ask, client: Client, seen: Seen) -> None:
        """What can't become a request: the service answers with an error, or hangs up."""
        data = _bytes(ask, self._port)
        data = GARBAGE.get(ask.phase) or (data[:40] if ask.phase == "head" else data[:-20])
        told = b""
        with suppress(OSError, BrokenOff):
            await client._send(data)
            while part := await client.socket.recv(65536):
                told += part
        seen.kind = "stopped"
        if told:
            seen.status = int(told[9:12]) if told[9:12].isdigit() else 0
            if not 400 <= seen.status < 500 and seen.status != 501 and seen.status != 505:
                seen.fault(f"{told[:120]!r} for {ask.client} {ask.phase}")

    async def _odd(self, ask: Ask, client: Client, seen: Seen) -> None:
        body: dict[str, Any] = _body(ask)
        path = _path(ask)
        wanted = {"unknown model": 404, "huge": 413, "path": 404, "method": 405}.get(ask.phase, 400)
        match ask.phase:
            case "no model":
                del body["model"]
            case "no messages":
                del body["messages"]
            case "unknown model":
                body["model"] = "nobody-knows"
            case "path":
                path += "/nothing"
            case "huge":
                body["messages"][0]["content"] = "x" * HUGE_BYTES
        if ask.phase in ("not json", "half json"):
            text = b"hello" if ask.phase == "not json" else json.dumps(body).encode()[:-5]
            await client._send(_request_bytes(text, path, _headers(ask), self._port))
            client._h11.send(_head(ask, self._port))
            response = await _late_response(client)
        elif ask.phase == "method":
            response = await client.post(None, path, _headers(ask))
        elif ask.phase == "huge":
            with suppress(BrokenOff):  # it may hang up before it has all
                await client.send_request(body, path, _headers(ask))
            try:
                response = await client.response()
            except BrokenOff:
                seen.kind = "stopped"
                return
        else:
            response = await client.post(body, path, _headers(ask))
        await self._read(response, seen)
        if seen.status != wanted and seen.status != 503:
            seen.fault(f"status {seen.status}, expected {wanted}")

    async def _pipeline(self, ask: Ask, client: Client, seen: Seen) -> None:
        """Two in one write; both are answered, in their order."""
        behind = replace(ask, trace=f"{ask.trace}-b")
        await client._send(_bytes(ask, self._port) + _bytes(behind, self._port))
        client._h11.send(_head(ask, self._port))
        await self._read(await _late_response(client), seen)
        if not seen.faults and client.reuse():
            client._h11.send(_head(ask, self._port))
            response = await _late_response(client)
            await response.read()
            if response.status != 200 or seen.status != 200:
                seen.what += f" then {response.status}"
        seen.kind = "completed" if seen.status == 200 else seen.kind

    async def _agent(self, ask: Ask, client: Client, seen: Seen) -> None:
        command = f"{ask.phase} # {ask.trace}"
        call = f"[[tool:Bash {json.dumps({'command': command})}]]"
        body = {"message": f"{call} {ask.trace}", "model": ask.model}
        if ask.session:
            body["session_id"] = ask.session
        response = await client.post(body, AGENT, _headers(ask))
        seen.status, seen.trace = response.status, response.headers.get("x-request-id")
        told = b""
        with trio.CancelScope() as scope:
            while data := await response.receive():
                told += data
                if ask.client == "agent leaves" and b'"executing"' in told and scope.deadline > 1e300:
                    scope.deadline = trio.current_time() + ask.after
        events = [
            json.loads(line[6:]) for line in told.decode(errors="replace").split("\n") if line.startswith("data: {")
        ]
        if scope.cancelled_caught:
            seen.kind = "left"
            client.reset() if ask.abrupt else client.close()
        elif response.status != 200:
            judge_body(seen, told)
        elif not events or events[-1]["type"] != "done" or sum(event["type"] == "done" for event in events) != 1:
            seen.fault(f"a run without its one done: {told[-200:]!r}")
        elif "error" in events[-1]:
            seen.kind, seen.what = "error event", events[-1]["error"]
        else:
            seen.kind = "completed"
            said = "".join(event["content"] for event in events if event["type"] == "delta")
            if not said.strip().endswith("final answer after tool"):
                seen.fault(f"it says {said!r}")

    async def _look(self, ask: Ask, client: Client, seen: Seen) -> None:
        path, body = ask.how, None
        headers = _headers(ask)
        if path.endswith("count_tokens"):
            body = message("fake/text-3", ask.trace)
        response = await client.post(body, path, headers)
        seen.status = response.status
        told = await response.read()
        seen.kind = "completed" if response.status == 200 else "JSON error"
        if response.status == 200 and path.endswith("count_tokens") and json.loads(told)["input_tokens"] < 1:
            seen.fault(f"counted {told!r}")
        if response.status not in (200, 503):
            seen.fault(f"{path}: status {response.status} {told[:200]!r}")

    async def _listen(self, ask: Ask, client: Client, seen: Seen) -> None:
        listener = ws.WebSocketClient(trio.SocketStream(client.socket))
        await listener.open()
        seen.status = 101
        with trio.move_on_after(ask.after), suppress(EOFError, trio.BrokenResourceError, AssertionError):
            if ask.client == "is deaf":
                await trio.sleep(ask.after)
            hello = await listener.event()
            if hello["type"] != "hello":
                seen.fault(f"it begins with {hello}")
            while True:
                await listener.event()
        seen.kind = "left"
        client.reset() if ask.abrupt else client.close()

    async def _cancel(self, ask: Ask, client: Client, seen: Seen) -> None:
        """All that is stale, or one of those that are open: which one, only the running service knows."""
        began = time.time()
        if ask.phase == "stale":
            path = "/api/sessions/stale?idle=1.5"
        else:
            response = await client.post(None, "/api/sessions/active", _headers(ask))
            told = json.loads(await response.read())
            seen.status = response.status
            if response.status != 200:
                seen.kind = "JSON error"
                return
            open = sorted(session["id"] for session in told["sessions"])
            seen.kind = "completed"
            if not open or not client.reuse():
                return
            path = f"/api/sessions/{open[int(ask.after * len(open))]}"
        await client._send(_request_bytes(b"", path, _headers(ask), self._port, "DELETE"))
        client._h11.send(_head(ask, self._port, "DELETE"))
        response = await _late_response(client)
        await response.read()
        self.cancelled.append((began, time.time()))
        seen.status = response.status
        seen.kind = "completed" if response.status == 200 else "JSON error"
        if response.status not in (200, 404, 503):
            seen.fault(f"status {response.status} for {path}")


def _body(ask: Ask) -> dict[str, Any]:
    if ask.dialect == "anthropic":
        return message(ask.model, ask.trace, stream=ask.stream)
    return chat(ask.model, ask.trace, stream=ask.stream)


def _path(ask: Ask) -> str:
    return MESSAGES if ask.dialect == "anthropic" else PATH


def _headers(ask: Ask) -> dict[str, str]:
    headers = {"x-request-id": ask.trace}
    if ask.session and ask.client == "reads":
        headers["x-session-id"] = ask.session
    return headers


def _request_bytes(body: bytes, path: str, headers: dict[str, str], port: int, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"host: 127.0.0.1:{port}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _bytes(ask: Ask, port: int) -> bytes:
    return _request_bytes(json.dumps(_body(ask)).encode(), _path(ask), _headers(ask), port)


def _head(ask: Ask, port: int, method: str = "POST") -> Any:
    """For h11, which must believe that it has sent what was sent past it."""
    import h11

    return h11.Request(method=method, target=_path(ask), headers=[("host", f"127.0.0.1:{port}")])


async def _late_response(client: Client) -> Response:
    import h11

    client._h11.send(h11.EndOfMessage())
    return await client.response()
