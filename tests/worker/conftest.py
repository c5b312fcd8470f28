"""What most tests here start from: a fake upstream, and a gateway of one worker before it, in the test's own trio."""

import pytest
from fakes.gateway import make_config, serve_gateway
from fakes.upstream import serve_upstream


@pytest.fixture
async def upstream():
    async with serve_upstream() as upstream:
        yield upstream


@pytest.fixture
async def gateway(upstream):
    async with serve_gateway(make_config(upstream)) as gateway:
        yield gateway
