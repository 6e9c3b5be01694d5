"""A stand-in for the hub: answers on this machine, for one small repository."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from safetensors.numpy import save

from tests.lora import LAYER, WIDTH

COMMIT = "a" * 40
TOKEN = "hf_" + "t" * 30
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": save({f"{LAYER}.weight": np.zeros((WIDTH, WIDTH), np.float32)}),
    "pytorch_model.bin": b"a pickle",
    "README.md": b"---\nlicense: llama3.1\n---\n# Tiny Llama\n",
}


WANTED = FILES.keys() - {"pytorch_model.bin"}


class Hub(ThreadingHTTPServer):
    """Answers like the hub for one repository; `refusal` is a status and its X-Error-Code."""

    daemon_threads = True
    refusal: tuple[int, str] | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.tokens: set[str | None] = set()
        self.served: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.server.refusal:
            status, code = self.server.refusal
            self._send(status, b"", {"X-Error-Code": code})
        elif self.path.startswith("/api/models/"):
            siblings = [{"rfilename": name} for name in FILES]
            body = {"id": "finlora/tiny-llama", "sha": COMMIT, "siblings": siblings}
            self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})
        else:
            name = self.path.rsplit("/", 1)[1]
            self.server.served.add(name)
            self._send(200, FILES[name], {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""
