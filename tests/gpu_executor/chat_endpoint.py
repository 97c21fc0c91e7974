"""An endpoint of OpenAI's chat completions on a real socket, which answers or fails as a test says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """``body`` goes out as it is; ``None`` closes the connection without a word."""

    status: int = 200
    body: str | None = ""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0


def completion(text: str | None, prompt_tokens: int = 7, cached: int | None = 3, **more: Any) -> Reply:
    finish = more.pop("finish_reason", "stop")
    usage: dict[str, Any] = {"prompt_tokens": prompt_tokens, "completion_tokens": 2, "total_tokens": prompt_tokens + 2}
    if cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    message = {"role": "assistant", "content": text, **more}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return Reply(body=json.dumps(body))


def error(status: int, message: str, code: str = "", **headers: str) -> Reply:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, json.dumps({"error": {"message": message, "code": code or None}}), names)


def echo(request: dict[str, Any]) -> Reply:
    """The last message in brackets, or what the constraint asks for: the first choice."""
    structured = request.get("structured_outputs") or {}
    if "choice" in structured:
        return completion(structured["choice"][0])
    if "response_format" in request:
        properties = request["response_format"]["json_schema"]["schema"]["properties"]
        return completion(json.dumps({name: value.get("enum", ["x"])[0] for name, value in properties.items()}))
    return completion(f"<{request['messages'][-1]['content']}>")


class Endpoint:
    """``requests``: bodies that came; ``keys``: their bearer tokens; ``most_open``: requests that were open at once."""

    def __init__(self, answer: Callable[[dict[str, Any]], Reply]) -> None:
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.times: list[float] = []
        self.most_open = 0
        self._open = 0
        self._lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with endpoint._lock:
                    endpoint.requests.append(body)
                    endpoint.keys.append(self.headers.get("Authorization", "").removeprefix("Bearer "))
                    endpoint.times.append(time.monotonic())
                    endpoint._open += 1
                    endpoint.most_open = max(endpoint.most_open, endpoint._open)
                try:
                    reply = endpoint.answer(body)
                    time.sleep(reply.delay)
                finally:
                    with endpoint._lock:
                        endpoint._open -= 1
                if reply.body is None:
                    self.close_connection = True
                    return
                data = reply.body.encode()
                try:
                    self.send_response(reply.status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    for name, value in reply.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # the client gave up

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def endpoint(answer: Callable[[dict[str, Any]], Reply] = echo) -> Iterator[Endpoint]:
    serving = Endpoint(answer)
    try:
        yield serving
    finally:
        serving.close()
