"""The benchmark's own parts work: nothing here is about speed."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def test_direct_row_is_complete(tmp_path: Path) -> None:
    """Mock and load alone: every response of every scenario is whole, every figure of the row is there."""
    raw = tmp_path / "raw.json"
    command = [sys.executable, str(HERE / "run.py"), "--rows", "direct", "--quick", "--seconds", "0.2", "--rounds", "1"]
    done = subprocess.run([*command, "--json", str(raw)], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    measured = {one["scenario"]: one for one in json.loads(raw.read_text())["measurements"]}
    assert list(measured) == ["json-1", "json-32", "burst", "paced", "ticked"]
    assert all(one["errors"] == {} for one in measured.values())
    assert all(one["requests"] > 0 for one in measured.values())
    assert measured["json-32"]["chunks"] == measured["json-32"]["requests"]
    assert measured["burst"]["chunks"] == 1000 * measured["burst"]["requests"]
    for name in ("paced", "ticked"):
        assert measured[name]["requests"] == 100
        assert measured[name]["chunks"] == 24 * 100
        assert measured[name]["transit_ms"]["p50"] is not None
    assert "| direct |" in done.stdout


def test_a_crowd_is_complete() -> None:
    """Many streams at once: none is cut, and there is one line for them."""
    command = [sys.executable, str(HERE / "run.py"), "--rows", "direct", "--quick", "--scenario", "crowd"]
    done = subprocess.run([*command, "--seconds", "0.5"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("| direct")]
    assert [cell.strip() for cell in line.split("|")][2:4] == ["200", "0"]


def load(port: int, model: str, expected: int, *options: str) -> dict[str, Any]:
    """A short load's result."""
    command = [sys.executable, HERE / "load.py", f"--port={port}", f"--model={model}", f"--expected-marks={expected}"]
    command += ["--warmup=0", "--seconds=0.1", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_incomplete_streams_are_errors() -> None:
    """A load that expects more deltas than come reports so, and measures none of it as answered."""
    with subprocess.Popen(
        [sys.executable, HERE / "mock_upstream.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as mock:
        assert mock.stdin is not None
        assert mock.stdout is not None
        result = load(int(mock.stdout.readline()), "burst-3", 4)
        mock.stdin.close()
        assert mock.wait(10) == 0

    assert result["requests"] == 0
    assert sum(result["errors"].values()) > 0
    assert all("3 deltas of 4" in error for error in result["errors"])


class Messages(BaseHTTPRequestHandler):
    """Answers in Anthropic's dialect with three deltas a stream, of which `cut-3` lacks the end."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        usable = self.path == "/v1/messages" and "anthropic-version" in self.headers and asked["max_tokens"] > 0
        if not usable or asked["messages"][0]["role"] != "user" or not isinstance(asked["system"], str):
            self.send_error(400)
        elif asked["stream"]:
            self.stream(whole=asked["model"] != "cut-3")
        else:
            self.json({"type": "message", "content": [{"type": "text", "text": "@ Yes."}], "stop_reason": "end_turn"})

    def stream(self, *, whole: bool) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "@ word"}}
        start = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        events: list[dict[str, Any]] = [{"type": "message_start", "message": {}}, start, delta, delta, delta]
        events += [{"type": "content_block_stop", "index": 0}, {"type": "message_delta", "delta": {}}]
        for event in [*events, {"type": "message_stop"}] if whole else events:
            data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")

    def json(self, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def messages() -> Iterator[int]:
    """The port of a server that speaks Anthropic's dialect."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Messages) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("model", "deltas"), [("json", 1), ("burst-3", 3)])
def test_anthropic_answers_are_understood(messages: int, model: str, deltas: int) -> None:
    """The load speaks Anthropic's dialect, counts the same deltas and knows the end."""
    result = load(messages, model, deltas, "--dialect=anthropic")
    assert result["errors"] == {}
    assert result["requests"] > 0
    assert result["chunks"] == deltas * result["requests"]


def test_anthropic_streams_without_an_end_are_errors(messages: int) -> None:
    """Every delta alone is no answer."""
    result = load(messages, "cut-3", 3, "--dialect=anthropic")
    assert result["requests"] == 0
    assert set(result["errors"]) == {"no message_stop"}


def test_listeners_listen() -> None:
    """All are connected when the script says so; but for the deaf ones they read; the end of its input is its end."""
    command = [sys.executable, HERE / "listeners.py", "--count=5", "--deaf=2"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with subprocess.Popen(
            [*command, f"--port={port}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as listening:
            assert listening.stdin is not None
            assert listening.stdout is not None
            clients = []
            for _ in range(5):
                client = server.accept()[0]
                client.settimeout(10.0)
                assert b"upgrade: websocket" in client.recv(4096)
                client.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
                clients.append(client)
            assert listening.stdout.readline() == "listening\n"
            for client in clients[2:]:
                client.sendall(b"x" * (16 << 20))  # more than any buffer takes
            listening.stdin.close()
            assert listening.wait(10) == 0
            for client in clients:
                client.close()


def test_ratios_stand_beside_the_spikes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Translating is compared with passing on, that with nginx; what wasn't run is left out, what is over is said."""
    monkeypatch.syspath_prepend(HERE)
    from measure import Cost, Measurement
    from report import Results, ratio_table
    from scenarios import scenarios

    def measured(row: str, scenario: str, cpu_us: float) -> Measurement:
        cost = Cost(cpu_us=cpu_us, rss_bytes=0, pss_bytes=0)
        nothing: dict[str, Any] = {key: {"p50": None, "p99": None} for key in ("first_chunk_ms", "transit_ms")}
        counts: dict[str, Any] = dict.fromkeys(("round", "requests", "chunks", "reconnects", "rate", "core_share"), 0)
        return Measurement(row=row, scenario=scenario, errors={}, workers=cost, service=cost, **nothing, **counts)

    loads = {load.name: load for load in scenarios(1.0, quick=False)}
    ours = [measured("kimi-proxy", "burst", 3.0), measured("kimi-proxy", "ticked", 50.0)]
    theirs = [measured("kimi-proxy, translating", "burst", 6.0), measured("kimi-proxy, translating", "ticked", 100.0)]
    text = ratio_table(Results(loads, [*ours, *theirs]))
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "µs" in line]
    rows = "kimi-proxy, translating ÷ kimi-proxy"
    assert lines == [
        ["CPU per event (burst c=16)", rows, "6.00 ÷ 3.00 µs", "2.00", "1.97", "1.02×", "3.00", "within"],
        ["CPU per chunk (ticked c=400)", rows, "100 ÷ 50.0 µs", "2.00", "1.04", "1.93×", "1.50", "over"],
    ]
    assert text.endswith(f"Verdict: OVER THE LIMIT: CPU per chunk (ticked c=400), {rows}.")
    text = ratio_table(Results(loads, [*ours, measured("nginx", "ticked", 10.0)]))
    assert "kimi-proxy, whole service ÷ nginx" in text
    assert text.endswith("Verdict: within the limits.")
    assert ratio_table(Results(loads, ours)).startswith("No ratios")
