"""The admin endpoint: is the daemon alive, is it ready, and its figures. A thread of its own.

``GET /livez``: 200, or 503 if the loop has not turned for five seconds. ``GET /readyz``: 200, or
503 and the reason in one line. ``GET /metrics``: Prometheus' text format. ``GET /peers``: who is
connected on the inside links, as JSON.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

from propius.shell.exit_codes import CANNOT_BIND, StartError
from propius.shell.health import Health, Metrics

REQUEST_TIMEOUT_S: Final = 5.0
REQUESTS_AT_ONCE_MAX: Final = 16


class AdminServer:
    """Serves from ``start`` to ``stop``; ``address`` is host:port. Raises StartError if in use."""

    def __init__(self, host: str, port: int, health: Health, metrics: Metrics, key: str) -> None:
        server_class = _Server6 if ":" in host else _Server
        try:
            self._server = server_class((host, port), _Handler)
        except OSError as error:
            text = (
                f"cannot bind http://{_in_url(host)}:{port} ({key}): {error.strerror};"
                " stop what uses it or choose another port"
            )
            raise StartError(text, CANNOT_BIND) from None
        self.address = f"{_in_url(host)}:{self._server.server_port}"
        self._server.set_app(_app(health, metrics))
        self._thread = threading.Thread(target=self._serve, name="admin", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()

    def _serve(self) -> None:
        self._server.serve_forever(poll_interval=0.2)


StartResponse = Callable[[str, list[tuple[str, str]]], Any]


def _app(health: Health, metrics: Metrics) -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
    """The WSGI application."""
    figures = make_wsgi_app(metrics.registry)

    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            body: Iterable[bytes] = figures(environ, start_response)
            return body
        if path == "/livez":
            hung_s = health.hung_s(time.monotonic_ns())
            why = f"the loop has not turned for {hung_s:.0f} s" if hung_s else ""
            return _plain(start_response, why, "alive")
        if path == "/readyz":
            return _plain(start_response, health.not_ready, "ready")
        if path == "/peers":
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(health.peers).encode()]
        start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"/livez, /readyz, /metrics or /peers\n"]

    return app


def _plain(start_response: StartResponse, why_not: str, good: str) -> Iterable[bytes]:
    status = "503 Service Unavailable" if why_not else "200 OK"
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{why_not or good}\n".encode()]


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its base's name
        """Requests are not logged."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, *args: Any) -> None:
        self._free = threading.BoundedSemaphore(REQUESTS_AT_ONCE_MAX)
        super().__init__(*args)

    def server_bind(self) -> None:
        # Not WSGIServer's: it asks the name service for our own name.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is no news."""


class _Server6(_Server):
    address_family = socket.AF_INET6


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
