"""What the routes lead to: each endpoint is `async (gateway, request) -> None` and raises `HttpError` to refuse."""
