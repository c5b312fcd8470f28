"""The command line: `kimi-proxy COMMAND`.

Data goes to stdout, messages to stderr.  Exit codes: 0 done; 1 failed, with a sentence that says why; 2 wrong usage;
3 `status` of a service that isn't running (as systemctl has it); 130 interrupted.

A command is a function `(arguments) -> exit code` in a module of this package, imported only when it is called, so
that `--help` and `version` answer at once.
"""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence

from shared.errors import KimiProxyError, QueryError, UsageError
from supervisor.cli.arguments import make_parser, parse
from supervisor.cli.text import say

INTERRUPTED = 130
BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `SystemExit` only for `--help` and wrong usage."""
    parser = make_parser()
    arguments = parse(parser, sys.argv[1:] if argv is None else argv)
    if not sys.stdout:  # `>&-` closes it
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 -- for the life of the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # names are whatever clients sent, and the locale may not have it
    if arguments.handler is None:
        parser.print_help(sys.stderr)
        return 2
    module, _, name = arguments.handler.partition(":")
    try:
        handler: Callable[[argparse.Namespace], int] = getattr(
            importlib.import_module(f"supervisor.cli.{module}"), name
        )
        code = handler(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left (`| head`); at exit Python would flush, and complain, once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (QueryError, UsageError) as error:
        say(str(error))
        return 2
    except KimiProxyError as error:
        say(str(error), "error")
        return 1
    except OSError as error:
        problem = error.strerror or str(error)
        say(f"{error.filename}: {problem}" if error.filename else problem, "error")
        return 1
    return code
