"""OpenAI chat completions, as served at `/v1/chat/completions`."""
