"""`kimi-proxy count-tokens`."""

import argparse
import sys

from shared.tokenizer import load_encoding


def count_tokens(arguments: argparse.Namespace) -> int:
    """Print the number of tokens; what looks like a special token counts as the plain text it is."""
    text = arguments.text if arguments.text != "-" else sys.stdin.buffer.read().decode("utf-8", "replace")
    print(len(load_encoding().encode_ordinary(text)))
    return 0
