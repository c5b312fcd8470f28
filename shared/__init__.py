"""What the supervisor and the workers both know: configuration, messages, records, and small tools.

Nothing here imports `supervisor` or `worker`; those two meet as processes, through `shared.messages`.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("kimi-proxy")
except PackageNotFoundError:  # a source tree that was never installed
    VERSION = "0.0.0"
