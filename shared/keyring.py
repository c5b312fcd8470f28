"""The keyring of the user's desktop (libsecret: GNOME Keyring, KWallet, KeePassXC), asked by its tool `secret-tool`.

A key travels through pipes, never as an argument.  A keyring that is locked may ask the user to open it; hence the
deadline.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping

from shared.errors import ConfigError

TOOL = "secret-tool"
TIMEOUT = 20.0
"""Seconds; less than a reload may take."""
INSTALL = f"install {TOOL} (Debian and Ubuntu: apt install libsecret-tools)"


def look_up(provider: str, env: Mapping[str, str], timeout: float = TIMEOUT) -> str | None:
    """The key that is kept for `provider`, None if there is none; `ConfigError` if the keyring can't be asked."""
    done = _run(["lookup", *_attributes(provider)], None, env, timeout)
    if done.returncode != 0 and done.stderr.strip():
        raise ConfigError(f"the keyring can't be asked: {_reason(done)}")
    return done.stdout or None


def store(provider: str, key: str, env: Mapping[str, str], timeout: float = TIMEOUT) -> None:
    """Keep `key` for `provider`, in the place of the one before; raises `ConfigError`."""
    label = f"--label=kimi-proxy: the key of {provider}"
    done = _run(["store", label, *_attributes(provider)], key, env, timeout)
    if done.returncode != 0:
        raise ConfigError(f"the keyring did not take the key: {_reason(done)}")


def clear(provider: str, env: Mapping[str, str], timeout: float = TIMEOUT) -> None:
    """Forget the key of `provider`, if there is one; raises `ConfigError`."""
    done = _run(["clear", *_attributes(provider)], None, env, timeout)
    if done.returncode != 0 and done.stderr.strip():
        raise ConfigError(f"the keyring did not give up the key: {_reason(done)}")


def _attributes(provider: str) -> list[str]:
    return ["service", "kimi-proxy", "provider", provider]


def _run(
    arguments: list[str], text: str | None, env: Mapping[str, str], timeout: float
) -> "subprocess.CompletedProcess[str]":
    tool = shutil.which(TOOL, path=env.get("PATH", os.defpath))
    if tool is None:
        raise ConfigError(f"the keyring can't be asked without {TOOL}: {INSTALL}")
    try:
        return subprocess.run(
            [tool, *arguments],
            input=text or "",
            env=dict(env),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"the keyring did not answer within {timeout:g} s: unlock it") from None
    except OSError as error:
        raise ConfigError(f"the keyring can't be asked: {tool}: {error.strerror}") from None


def _reason(done: "subprocess.CompletedProcess[str]") -> str:
    lines = done.stderr.strip().splitlines()
    return lines[-1].removeprefix(f"{TOOL}: ") if lines else f"{TOOL} ended with code {done.returncode}"
