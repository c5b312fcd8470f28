"""`kimi-proxy run`: the service in the foreground, as systemd runs it."""

import argparse

from supervisor import main


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal ends it; the exit code is the supervisor's."""
    return main.run(arguments.config)
