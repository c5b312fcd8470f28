"""The fork server with the fake worker preloaded, once for a whole test run: it belongs to the process."""

import os
import sys
from functools import cache

from supervisor.forkserver import ForkServer

FAKE_WORKER = "fakes.fake_worker"


@cache
def _launch():
    # The server's own imports come before the paths of its children; only the environment reaches it.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        assert ForkServer(FAKE_WORKER, FAKE_WORKER).launch(), "the fake worker was not preloaded"
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def fake_fork_server():
    """A `ForkServer` whose workers are `fakes.fake_worker`; blocks for the first time."""
    _launch()
    return ForkServer(FAKE_WORKER, FAKE_WORKER)
