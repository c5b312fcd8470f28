"""Anthropic's Messages API, as clients and as upstreams speak it."""
