"""The o200k_base encoding, shipped with the package, so that counting tokens never needs a network.

The data file beside this module is tiktoken's own, under the name of its cache key.
"""

import hashlib
import os
from functools import cache
from pathlib import Path

import tiktoken

from shared.errors import StartError

NAME = "o200k_base"
DATA = Path(__file__).with_name("fb374d419588a4632f3f557e76b4b70aebbca790")
_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
_CACHE_VARIABLE = "TIKTOKEN_CACHE_DIR"


@cache
def load_encoding() -> tiktoken.Encoding:
    """The encoding, loaded once a process (about 0.2 s); `StartError` if its file is missing or damaged.

    The file is checked here first, as tiktoken would delete a damaged one and download another.
    """
    try:
        intact = hashlib.sha256(DATA.read_bytes()).hexdigest() == _SHA256
    except OSError as error:
        raise StartError(f"the token encoding {DATA} can't be read ({error.strerror}); install again") from error
    if not intact:
        raise StartError(f"the token encoding {DATA} is damaged; install again")
    before = os.environ.get(_CACHE_VARIABLE)
    os.environ[_CACHE_VARIABLE] = str(DATA.parent)
    try:
        return tiktoken.get_encoding(NAME)
    finally:
        if before is None:
            del os.environ[_CACHE_VARIABLE]
        else:
            os.environ[_CACHE_VARIABLE] = before
