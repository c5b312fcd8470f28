"""A provider that takes one key and knows one model, in a thread: for commands that ask it once.

with KeyChecker("sk-right", "m") as provider:
    … --base-url {provider.base_url} …
    assert provider.asked == [("sk-right", "m")]
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class KeyChecker:
    """See the module.  `key` None: it wants none."""

    def __init__(self, key: str | None, model: str) -> None:
        self.asked: list[tuple[str | None, str]] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                given = self.headers.get("authorization", "").removeprefix("Bearer ") or self.headers.get("x-api-key")
                asked.append((given, body["model"]))
                if given != key:
                    self._answer(401, {"error": {"message": f"Incorrect API key provided: {given}"}})
                elif body["model"] != model:
                    self._answer(404, {"error": {"message": f"The model {body['model']} does not exist"}})
                else:
                    message = {"role": "assistant", "content": "Hi"}
                    choice = {"index": 0, "message": message, "finish_reason": "length"}
                    self._answer(200, {"object": "chat.completion", "choices": [choice]})

            def _answer(self, status: int, value: object) -> None:
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> "KeyChecker":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
