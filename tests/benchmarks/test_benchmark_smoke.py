"""The benchmark's own parts work: nothing here is about speed."""

import json
import subprocess
import sys
from pathlib import Path

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


def test_incomplete_streams_are_errors() -> None:
    """A load that expects more deltas than come reports so, and measures none of it as answered."""
    with subprocess.Popen(
        [sys.executable, HERE / "mock_upstream.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as mock:
        assert mock.stdin is not None
        assert mock.stdout is not None
        port = mock.stdout.readline().strip()
        command = [sys.executable, str(HERE / "load.py"), f"--port={port}", "--model=burst-3", "--expected-marks=4"]
        done = subprocess.run(
            [*command, "--warmup", "0", "--seconds", "0.1"], capture_output=True, text=True, timeout=60, check=True
        )
        mock.stdin.close()
        assert mock.wait(10) == 0

    result = json.loads(done.stdout.splitlines()[-1])
    assert result["requests"] == 0
    assert sum(result["errors"].values()) > 0
    assert all("3 deltas of 4" in error for error in result["errors"])
