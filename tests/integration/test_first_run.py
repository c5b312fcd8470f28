"""Nothing configured, no key: the built-in `echo` answers."""

import openai
import pytest
import trio
from fakes.load import Client, chat, events, said
from fakes.service import config_text, run_service

pytestmark = pytest.mark.integration


async def test_without_any_configuration_echo_streams_on_the_default_port(tmp_path):
    # The one test that takes the default port, since without a configuration there is no other.
    async with run_service(tmp_path) as service:
        status = await service.status()
        assert status.bind == ["http://127.0.0.1:8000"]
        assert status.config_source is None
        async with Client(8000) as client:
            response = await client.post(chat("echo", "hello over there"))
            body = await response.read()
        assert response.status == 200
        assert response.headers["content-type"] == "text/event-stream"
        assert said(body) == "hello over there"
        assert list(events(body))[-1] == "[DONE]"
        [record] = await service.wait_records(1)
        assert record["status"] == "completed"
        assert record["provider"] == "echo"
        assert record["completion_tokens"] == 3
        assert record["completion_source"] == "counted"


async def test_echo_answers_the_openai_sdk(tmp_path, port):
    def ask() -> tuple[str, str, list[str]]:
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0) as client:
            messages = [{"role": "user", "content": "one two three"}]
            with client.chat.completions.create(model="echo", messages=messages, stream=True) as stream:
                streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            whole = client.chat.completions.create(model="echo", messages=messages)
            return streamed, whole.choices[0].message.content, [model.id for model in client.models.list()]

    async with run_service(tmp_path, config_text(port)) as service:
        streamed, whole, models = await trio.to_thread.run_sync(ask)
        assert streamed == whole == "one two three"
        assert "echo" in models
        streaming, not_streaming = await service.wait_records(2)
        assert streaming["streaming"] == 1
        assert not_streaming["streaming"] == 0
