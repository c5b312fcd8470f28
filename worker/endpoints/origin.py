"""Pages of elsewhere: kept from what a browser would let them ask for, answer unread."""

from worker import cors
from worker.asgi import HttpError, Request
from worker.gateway import Gateway


def check_origin(gateway: Gateway, request: Request) -> None:
    """`HttpError` 403 for a page that [cors] does not name.

    For what does something on this machine, and for WebSockets: a page may post a body as `text/plain`, and open a
    WebSocket, wherever it likes.  Its browser only keeps it from reading the answer of the former.
    """
    origin, host = request.header(b"origin"), request.header(b"host")
    if not cors.is_welcome(gateway.config.cors, origin, host):
        raise HttpError(
            403, f"pages of {origin} may not connect to {host}: add the origin to [cors] origins", code="bad_origin"
        )
