"""Rows of the catalogue about clients: no load beside them, short timeouts, and others are served afterwards."""

from collections.abc import Awaitable, Callable

from fakes.answers import close_clients
from fakes.faults import Stage, fault
from fakes.scene import Scene, Setup

SETUP = Setup(
    server={"keep_alive_timeout": 1.0, "body_timeout": 0.5, "send_timeout": 0.5, "max_body_bytes": 4 * 1024 * 1024}
)


def client_row(
    name: str, *, saw: str, kept: str
) -> Callable[[Callable[[Scene], Awaitable[None]]], Callable[[Stage], None]]:
    """Make a row of a test; recovery is measured from its end."""

    def decorate(test: Callable[[Scene], Awaitable[None]]) -> Callable[[Stage], None]:
        async def inject(scene: Scene) -> None:
            try:
                await test(scene)
            finally:
                close_clients()
            scene.injected()
            await scene.recovered()

        inject.__name__, inject.__doc__, inject.__module__ = test.__name__, test.__doc__, test.__module__
        return fault(name, family="Clients", saw=saw, kept=kept, setup=SETUP, load=0, lasting=True)(inject)

    return decorate
