"""`GET /` and `/static/…`: the dashboard, a page that asks the API for all it shows.

The page itself holds no data, so it needs no key.  Its files are read once, when this module is imported: by the fork
server, for all workers.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from worker.asgi import Header, HttpError, Request
from worker.gateway import Gateway

FOLDER = Path(__file__).parents[1] / "static"
PREFIX = "/static/"
PAGE = "index.html"
CONTENT_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
}
CSP = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # No text becomes HTML, whoever wrote it: the browser refuses `innerHTML` and its like.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: tuple[Header, ...] = (
    (b"content-security-policy", CSP.encode()),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    # Kept, and asked for each time whether it is still the same: a page never mixes the files of two versions for long.
    (b"cache-control", b"no-cache"),
)


class File(Struct, frozen=True):
    """A file as it is sent."""

    body: bytes
    content_type: bytes
    etag: str


async def page(gateway: Gateway, request: Request) -> None:
    """The page.  A `HEAD` tells Claude Code, which asks when it starts, that somebody is here."""
    await _respond(request, FILES[PAGE])


async def static(gateway: Gateway, request: Request) -> None:
    """What the page loads."""
    file = FILES.get(request.path.removeprefix(PREFIX))
    if file is None:
        raise HttpError(404, f"there is no {request.path} here")
    await _respond(request, file)


async def _respond(request: Request, file: File) -> None:
    headers = [*HEADERS, (b"etag", file.etag.encode())]
    if _is_known(request, file):
        await request.start(304, headers)
        await request.send(b"", more=False)
        return
    headers += [(b"content-type", file.content_type), (b"content-length", b"%d" % len(file.body))]
    await request.start(200, headers)
    await request.send(b"" if request.method == "HEAD" else file.body, more=False)


def _is_known(request: Request, file: File) -> bool:
    """The client has it (RFC 9110, 13.1.2: a weak comparison)."""
    given = request.header_list(b"if-none-match") or ""
    tags = {tag.strip().removeprefix("W/") for tag in given.split(",")}
    return file.etag in tags or "*" in tags


def _read(folder: Path) -> Iterator[tuple[str, File]]:
    for path in sorted(folder.iterdir()):
        body = path.read_bytes()
        etag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
        yield path.name, File(body, CONTENT_TYPES[path.suffix], etag)


FILES: Mapping[str, File] = dict(_read(FOLDER))
