"""The upstream clients of a worker, one a provider, and how they follow the configuration."""

import ssl
from collections.abc import Mapping

from shared.config import Config
from worker.upstream.client import UpstreamClient


class Clients:
    """Provider name → client.  A reload keeps the clients, and so the warm connections, of unchanged providers."""

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._ssl_context = ssl_context
        self._clients: dict[str, tuple[object, UpstreamClient]] = {}
        self._retired: list[UpstreamClient] = []

    def reconfigure(self, config: Config, keys: Mapping[str, str]) -> None:
        """Follow `config` and `keys` (provider name → key).

        A client that is changed or gone loses its idle connections now; its streams go on, and their connections
        close as they end.
        """
        before, self._clients = self._clients, {}
        read_size = config.streaming.buffer_size
        for name, provider in config.providers.items():
            key = keys.get(name)
            made_of = (provider, key, read_size)
            if name in before and before[name][0] == made_of:
                self._clients[name] = before.pop(name)
            else:
                client = UpstreamClient(provider, key, read_size=read_size, ssl_context=self._ssl_context)
                self._clients[name] = (made_of, client)
        self._retired = [client for client in self._retired if client.open_connections]
        for _, client in before.values():
            client.retire()
            self._retired.append(client)

    def get(self, name: str) -> UpstreamClient:
        """The client of a configured provider; `KeyError` for any other name."""
        return self._clients[name][1]

    @property
    def open_connections(self) -> int:
        """Connections to all upstreams, those of retired clients included."""
        return sum(client.open_connections for client in self._all())

    async def aclose(self) -> None:
        """Close every connection, also those of streams in flight."""
        for client in self._all():
            await client.aclose()

    def _all(self) -> list[UpstreamClient]:
        return [client for _, client in self._clients.values()] + self._retired
