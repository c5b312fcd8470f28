"""`kimi-proxy version`."""

import argparse

from shared import VERSION


def version(_arguments: argparse.Namespace) -> int:
    """Print the version alone, for scripts."""
    print(VERSION)
    return 0
