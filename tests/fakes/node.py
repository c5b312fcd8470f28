"""What Node's package manager brings, as a lock file below tests/clients pins it.

    install_packages("vercel-ai-sdk")    # tests/clients/vercel-ai-sdk/node_modules is there

`NoNode` where there is no node or npm to install it with.
"""

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

CLIENTS = Path(__file__).parents[1] / "clients"


class NoNode(Exception):
    """Says what is missing."""


def install_packages(client: str, *then: str) -> Path:
    """The `node_modules` of tests/clients/`client`, installed on first use and whenever its lock has changed.

    Packages' scripts don't run by themselves; the command `then` is run behind them.  Blocks, for seconds at first.
    """
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            raise NoNode(f"{tool} is missing; on Debian and Ubuntu: apt install nodejs npm")
    folder = CLIENTS / client
    locked = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    stamp = folder / "node_modules" / ".kimi-proxy-stamp"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != locked:
            for command in (("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"), then):
                if command:
                    _run(folder, *command)
            stamp.write_text(locked)
    return folder / "node_modules"


def _run(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
