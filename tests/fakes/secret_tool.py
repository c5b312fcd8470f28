"""A keyring for tests: `secret-tool` as a script that keeps what it is given in files of one folder.

env = install_secret_tool(tmp_path, env)        # PATH begins with it
(tmp_path / "keyring" / "kimi").read_text()     # what it keeps for a provider
"""

from collections.abc import Mapping
from pathlib import Path

_SCRIPT = """#!/bin/sh
# store --label=… service kimi-proxy provider NAME | lookup service kimi-proxy provider NAME | clear …
for last; do :; done
case $1 in
  store) cat > "{folder}/$last" ;;
  lookup) [ -f "{folder}/$last" ] && cat "{folder}/$last" ;;
  clear) rm -f "{folder}/$last" ;;
esac
"""


def install_secret_tool(folder: Path, env: Mapping[str, str], script: str | None = None) -> dict[str, str]:
    """`env` with the tool on its PATH; `script` in the place of the one that works."""
    kept, programs = folder / "keyring", folder / "keyring-bin"
    kept.mkdir()
    programs.mkdir()
    tool = programs / "secret-tool"
    tool.write_text(script or _SCRIPT.format(folder=kept))
    tool.chmod(0o755)
    return {**env, "PATH": f"{programs}:{env['PATH']}"}
