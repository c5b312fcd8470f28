"""The far end of the admin socket, for tests of the command line: answers what it is told to."""

import socket
import threading
from collections.abc import Callable
from pathlib import Path

from shared.framing import FrameDecoder, frame
from supervisor.control import (
    ProviderStatus,
    Reply,
    Request,
    SessionsReply,
    StatusReply,
    StorageStatus,
    Totals,
    WorkerStatus,
    decode_request,
    encode,
)

Answer = Callable[[Request], Reply | bytes | None]


class AdminServer:
    """Answers each request with `answer(request)`: a reply, raw bytes, or None for silence until `close`."""

    def __init__(self, path: Path, answer: Answer) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._answer = answer
        self._silent: list[socket.socket] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        self.requests: list[Request] = []

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for sock in (self._socket, *self._silent):
            sock.close()

    def __enter__(self) -> "AdminServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            decoder = FrameDecoder()
            payloads: list[bytes] = []
            while not payloads and (data := client.recv(65536)):
                payloads = decoder.receive(data)
            if not payloads:
                client.close()
                continue
            request = decode_request(payloads[0])
            self.requests.append(request)
            answer = self._answer(request)
            if answer is None:
                self._silent.append(client)
                continue
            data = answer if isinstance(answer, bytes) else frame(encode(answer))
            for at in range(0, len(data), 7):  # in small pieces, as a stream may come
                client.sendall(data[at : at + 7])
            client.close()


def status_reply(**changes: object) -> StatusReply:
    """A service in good health, changed as told."""
    fields: dict[str, object] = {
        "version": "0.1.0",
        "pid": 4242,
        "state": "running",
        "uptime": 7800.0,
        "bind": ["127.0.0.1:8000"],
        "config_source": "/etc/kimi-proxy/config.toml",
        "config_loaded": 1_700_000_000.0,
        "config_error": None,
        "crash_loop": None,
        "workers_wanted": 2,
        "workers": [
            WorkerStatus(worker=1, pid=4243, generation=0, state="serving", streams=3, uptime=60.0,
                         rss_bytes=26_319_258),
            WorkerStatus(worker=2, pid=4244, generation=0, state="starting", restarts=2, lag=0.0123),
        ],
        "providers": [
            ProviderStatus(
                name="kimi", dialect="openai", base_url="https://kimi.example/v1", has_key=True, completed=10, failed=1,
                last_error="ReadError",
            )
        ],
        "totals": Totals(started=14, active=3, completed=10, failed=1, prompt_tokens=1000, completion_tokens=500),
        "storage": StorageStatus(path="/var/lib/kimi-proxy/sessions.db"),
    }  # fmt: skip
    return StatusReply(**{**fields, **changes})  # type: ignore[arg-type]


def session(id: str, **changes: object) -> dict[str, object]:
    """A live stream as `supervisor.answers` tells of it."""
    fields: dict[str, object] = {
        "id": id,
        "trace": f"req_{id}",
        "session": None,
        "client": None,
        "worker": 1,
        "provider": "kimi",
        "model": "kimi-k2.6",
        "dialect": "openai",
        "streaming": True,
        "context_size": None,
        "prompt_estimate": None,
        "started": 1_700_000_000.0,
        "age": 12.0,
        "idle": 0.1,
        "tokens": 100,
        "received_bytes": 4000,
        "tokens_per_second": 25.0,
    }
    return {**fields, **changes}


def sessions_reply(*sessions: dict[str, object]) -> SessionsReply:
    """The live streams."""
    return SessionsReply({"sessions": list(sessions), "active": len(sessions), "token_accuracy": 0.99})
