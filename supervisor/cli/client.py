"""The near end of the admin socket: one request, one reply (`supervisor.control`)."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from shared.errors import ControlError, FrameError
from shared.framing import FrameDecoder, frame
from shared.paths import Paths, resolve_paths
from supervisor.control import Reply, Request, decode_reply, encode
from supervisor.instance import running_pid

SYSTEM_RUNTIME = Path("/run/kimi-proxy")
"""`RuntimeDirectory=kimi-proxy` of the systemd unit."""

_READ_BYTES = 65536


class NotRunningError(ControlError):
    """There is no service to talk to."""


def control_paths(env: Mapping[str, str], system_runtime: Path = SYSTEM_RUNTIME) -> Paths:
    """The folders of the instance that a command means.

    They are those `env` names or the user's own; but when nothing runs there and nothing was named, the system's
    service, so that `sudo kimi-proxy status` finds it.
    """
    own = resolve_paths(env)
    if env.get("RUNTIME_DIRECTORY") or running_pid(own.instance_lock) is not None:
        return own
    system = Paths(state=own.state, runtime=system_runtime, logs=own.logs)
    try:
        return own if running_pid(system.instance_lock) is None else system
    except ControlError as error:
        raise ControlError(f"{error}; if you mean the system's service, use sudo") from error


def request(paths: Paths, message: Request, timeout: float) -> Reply:
    """Ask the running service; the whole exchange takes at most `timeout` seconds.

    Raises `NotRunningError`, or `ControlError` when the service is there but out of reach.
    """
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.settimeout(timeout)
            sock.connect(os.fspath(paths.admin_socket))
            sock.sendall(frame(encode(message)))
            return decode_reply(_read_frame(sock, deadline))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise _nobody_listens(paths) from error
        except TimeoutError as error:
            raise ControlError(
                f"the service did not answer within {timeout:g} s; `kimi-proxy dump-stacks` and `kimi-proxy logs` "
                "show what it does"
            ) from error
        except PermissionError as error:
            raise ControlError(
                f"not permitted to talk to {paths.admin_socket}; use the user the service runs as, or sudo"
            ) from error
        except (OSError, FrameError, msgspec.DecodeError) as error:
            raise ControlError(f"the service broke off its answer ({error}); see `kimi-proxy logs`") from error


def _read_frame(sock: socket.socket, deadline: float) -> bytes:
    decoder = FrameDecoder()
    while True:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        sock.settimeout(remaining)
        data = sock.recv(_READ_BYTES)
        if not data:
            raise FrameError("the connection ended before the reply")
        for payload in decoder.receive(data):
            return payload


def _nobody_listens(paths: Paths) -> ControlError:
    pid = running_pid(paths.instance_lock)
    if pid is not None:
        return ControlError(f"pid {pid} is starting or stopping and does not answer; try again in a moment")
    return NotRunningError("not running; start it with: kimi-proxy start")
