"""What somebody wanted who asks for a path that isn't here.  Pure.

Base URLs go wrong in few ways: a `/v1` too many or none, a slash too many, a prefix of another gateway's.
"""

import difflib
import re
from collections.abc import Collection

MAX_PATH_CHARS = 200
ENTRANCES = "/v1/chat/completions, /v1/messages or /v1/models"

_NOT_OFFERED = {
    "responses": "the Responses API is not offered here: use /v1/chat/completions",
    "completions": "the old completions are not offered here: use /v1/chat/completions",
    "complete": "the old text completions are not offered here: use /v1/messages",
    "embeddings": "embeddings are not offered here: ask their provider itself",
    "images": "images are not made here: ask their provider itself",
    "audio": "speech is not offered here: ask its provider itself",
    "moderations": "moderation is not offered here: ask its provider itself",
    "files": "files are not kept here: send their content in the messages",
    "batches": "batches are not offered here: send each request to /v1/chat/completions or /v1/messages",
    "messages/batches": "batches are not offered here: send each request to /v1/messages",
    "assistants": "assistants are not offered here: use /v1/chat/completions",
    "threads": "assistants are not offered here: use /v1/chat/completions",
    "realtime": "realtime sessions are not offered here: use /v1/chat/completions with `stream`",
    "fine_tuning": "fine-tuning is not offered here: ask its provider itself",
}


def advice(path: str, routes: Collection[str]) -> str:
    """The sentence for a 404; `routes` are the paths that there are, a `/` at the end standing for all below it."""
    shown = path if len(path) <= MAX_PATH_CHARS else f"{path[:MAX_PATH_CHARS]}…"
    known = {route for route in routes if not route.endswith("/")}
    return f"there is no {shown} here; {_reason(path, known) or f'try {ENTRANCES}'}"


def _reason(path: str, known: set[str]) -> str | None:
    single = re.sub("/{2,}", "/", path)
    if single != path and (single in known or single.rstrip("/") in known):
        return f"one slash is enough: {single.rstrip('/')}. Does the base URL end with a slash?"
    if single.startswith("/v1/v1/"):
        once = single.removeprefix("/v1").rstrip("/")
        return f"/v1 is there twice: the base URL has one and the client adds one. {_offer(once, known) or ENTRANCES}"
    bare = single.rstrip("/")
    if bare in known:
        return f"leave out the slash at the end: {bare}"
    if offer := _NOT_OFFERED.get(_api(bare)) or _NOT_OFFERED.get(_api(bare).partition("/")[0]):
        return offer
    if bare.lower() in known:
        return f"paths are written small: {bare.lower()}"
    if inner := next((found for at in re.finditer("/", bare) if (found := bare[at.start() :]) in known), None):
        return f"{bare.removesuffix(inner)} is too much: the path is {inner}. Check the base URL"
    near = difflib.get_close_matches(bare[:MAX_PATH_CHARS], known, 1, 0.8)
    return f"did you mean {near[0]}?" if near else None


def _offer(path: str, known: set[str]) -> str | None:
    return f"The path is {path}" if path in known else _NOT_OFFERED.get(_api(path))


def _api(path: str) -> str:
    """What follows the version, by which an API is known."""
    return path.removeprefix("/v1").removeprefix("/")
