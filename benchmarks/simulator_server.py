"""The simulator behind OpenAI's chat completions and vLLM's metrics, for benchmarks and tests without a model.

It renders and answers exactly as the simulator in spark_helium's daemon does: equal conversations have equal answers
wherever they are asked.
"""

from __future__ import annotations

import itertools
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from spark_helium.call_graph import Constraint, Sampling
from spark_helium.conf import Settings
from spark_helium.gpu_executor.engines.base import EngineRequest, EngineResult, RenderError
from spark_helium.gpu_executor.engines.simulator import SimulatorEngine


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


class SimulatorServer:
    """A context manager; ``address`` is where it listens."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._ids = itertools.count()
        self._waiting: dict[int, tuple[threading.Event, list[EngineResult]]] = {}
        self._totals = dict.fromkeys(("request_success", "prompt_tokens", "prefix_cache_hits", "generation_tokens"), 0)
        self._closed = False
        self._start_engine()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body are two writes; without it the second waits for the client's acknowledgement.
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                known = {"/health": "", "/metrics": server._metrics()}
                model = {"id": "simulator", "object": "model", "created": 0, "owned_by": "benchmarks"}
                known["/v1/models"] = json.dumps({"object": "list", "data": [model]})
                self._say(200 if self.path in known else 404, known.get(self.path, "{}"))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.path == "/reset_prefix_cache":
                    server._reset()
                    self._say(200, "{}")
                elif self.path == "/v1/chat/completions":
                    self._say(*server._complete(json.loads(body)))
                else:
                    self._say(404, "{}")

            def _say(self, status: int, text: str) -> None:
                data = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = _Quiet(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._http.shutdown()
        self._http.server_close()
        self._engine.close()

    def _start_engine(self) -> None:
        self._engine = SimulatorEngine("simulator", self._settings)

    def _reset(self) -> None:
        with self._lock:
            if not self._waiting:  # as vLLM: not while calls run
                self._engine.close()
                self._start_engine()

    def _complete(self, body: dict[str, Any]) -> tuple[int, str]:
        structured = body.get("structured_outputs") or {}
        constraint = Constraint(choices=tuple(structured["choice"])) if structured.get("choice") else None
        limit = int(body.get("max_completion_tokens") or body.get("max_tokens") or 256)
        sampling = Sampling(max_tokens=limit, temperature=float(body.get("temperature") or 0.0))
        messages = [(m["role"], ((_text(m["content"]), False),)) for m in body["messages"]]
        done: tuple[threading.Event, list[EngineResult]] = (threading.Event(), [])
        with self._lock:
            (tokens,) = self._engine.renderer.render([messages])
            if isinstance(tokens, RenderError):
                return 400, json.dumps({"error": {"message": tokens.reason}})
            number = next(self._ids)
            self._waiting[number] = done
            self._engine.submit([EngineRequest(number, tokens, sampling, constraint)])
        # Whoever waits polls for all: no thread of its own is needed.
        while not done[0].is_set() and not self._closed:
            with self._lock:
                for result in self._engine.poll(0):
                    event, results = self._waiting.pop(result.id)
                    results.append(result)
                    event.set()
            done[0].wait(0.002)
        result = done[1][0]
        if result.error is not None:
            return 400, json.dumps({"error": {"message": result.error}})
        with self._lock:
            self._totals["request_success"] += 1
            self._totals["prompt_tokens"] += result.prompt_tokens
            self._totals["prefix_cache_hits"] += result.cached_prompt_tokens
            self._totals["generation_tokens"] += result.output_tokens
        usage = {"prompt_tokens": result.prompt_tokens, "completion_tokens": result.output_tokens}
        usage["total_tokens"] = sum(usage.values())
        message = {"role": "assistant", "content": result.text}
        choice = {"index": 0, "message": message, "finish_reason": "length" if result.truncated else "stop"}
        said = {"id": f"simulated-{number}", "object": "chat.completion", "created": 0, "model": body.get("model", "")}
        return 200, json.dumps({**said, "choices": [choice], "usage": usage})

    def _metrics(self) -> str:
        with self._lock:
            return "".join(f"vllm:{name}_total {value}\n" for name, value in self._totals.items())


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
