"""What `kimi-proxy stats` and `kimi-proxy export` have in common: which streams are meant."""

import argparse
from typing import Any

from shared.errors import QueryError
from shared.history.parameters import FILTERS, Parameters


def parameters(arguments: argparse.Namespace, *more: str) -> Parameters:
    """The options as the parameters of a query: the filters, and `more`."""
    given: dict[str, Any] = {name: getattr(arguments, name) for name in (*FILTERS, *more)}
    return {name: value if isinstance(value, list) else [value] for name, value in given.items() if value is not None}


def as_option(error: QueryError) -> QueryError:
    """The error with its parameter called as it is on the command line."""
    _, name, rest = str(error).split("`", 2)
    return QueryError(f"--{name.replace('_', '-')}{rest}")
