"""The soak, for as long as KIMI_PROXY_SOAK_SECONDS says (30 by default, 120 in `.ci/run`).

Its seed is KIMI_PROXY_SOAK_SEED (7).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "soak.py"
SECONDS = float(os.environ.get("KIMI_PROXY_SOAK_SECONDS", "30"))
SEED = os.environ.get("KIMI_PROXY_SOAK_SEED", "7")
TIMEOUT = SECONDS + 240
pytestmark = [pytest.mark.integration, pytest.mark.soak, pytest.mark.bound(TIMEOUT + 30)]


def test_every_request_stream_and_token_is_accounted_for(tmp_path):
    picture = tmp_path / "soak.svg"
    command = [sys.executable, PROGRAM, f"--minutes={SECONDS / 60}", f"--seed={SEED}", f"--keep={tmp_path / 'files'}"]
    command += ["--streams=10", "--rate=8", f"--plot={picture}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    print(done.stderr)
    print(done.stdout)
    assert done.returncode == 0
    assert picture.read_text().startswith("<svg ")
