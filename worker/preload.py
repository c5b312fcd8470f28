"""Imported once by the fork server: everything a worker needs is then in memory that all workers share.

`gc.freeze` keeps the collector from touching, and so copying, those pages.
"""

import gc

import worker.main  # noqa: F401
from shared.tokenizer import load_encoding
from worker.upstream.wire import default_ssl_context

default_ssl_context()
load_encoding().encode_ordinary("warm up")
gc.collect()
gc.freeze()
