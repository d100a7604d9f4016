"""The HTTP endpoint that Prometheus scrapes and people look at."""

from __future__ import annotations

from collections.abc import Callable

from wattgram.ports import Snapshots
from wattgram.snapshot import Snapshot
from wattgram_exporters import encoding, page, status
from wattgram_exporters.families import families
from wattgram_exporters.guard import Guard
from wattgram_exporters.server import Request, Response, Server

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def open_exporter(listen: str, snapshots: Snapshots, config_file: str = "") -> PrometheusExporter:
    """Return the exporter, which listens when started; raise ConfigError when its web.config.yml cannot be used."""
    return PrometheusExporter(listen, snapshots, Guard(config_file))


def check_web_config(path: str) -> None:
    """Raise ConfigError when a web.config.yml, or a file that it names, cannot be used."""
    Guard(path).close()


def gauges(snapshot: Snapshot) -> bytes:
    """Return one measurement as text, without counters: one that lives a second is nonsense."""
    shown = (family for family in families(snapshot) if family.type != "counter")
    return encoding.encode(shown, encoding.TEXT)


RENDERERS: dict[str, Callable[[Snapshot], bytes]] = {"prometheus": gauges, "json": status.status}


class PrometheusExporter:
    """Routes requests to what shows a snapshot. Nothing here changes anything."""

    def __init__(self, listen: str, snapshots: Snapshots, guard: Guard | None = None) -> None:
        self._snapshots = snapshots
        self._encode = encoding.Encoder()
        self._guard = guard or Guard()
        self._server = Server(listen, self.answer, guard=self._guard)
        self._routes: dict[str, Callable[[Request], Response]] = {
            "/": self._page,
            "/metrics": self._metrics,
            "/-/healthy": self._healthy,
            "/-/ready": self._ready,
            "/api/v1/status": self._status,
            "/api/v1/intensity": self._intensity,
        }

    @property
    def scheme(self) -> str:
        """`https` or `http`; it does not change."""
        return "https" if self._guard.is_tls else "http"

    @property
    def is_open(self) -> bool:
        """Whether anybody may look, without a password or a certificate of the client."""
        return self._guard.is_open

    def start(self) -> None:
        """Listen; raise ConfigError when the address cannot be had."""
        self._server.start()

    def stop(self) -> None:
        """Stop listening."""
        self._server.stop()

    def answer(self, request: Request) -> Response:
        """Return the answer to one request."""
        route = self._routes.get(request.path)
        if route is None:
            return Response(404, b"not found; see /\n")
        return route(request)

    def _metrics(self, request: Request) -> Response:
        content_type = encoding.negotiate(request.headers.get("accept", ""))
        zipped = encoding.accepts_gzip(request.headers.get("accept-encoding", ""))
        names = frozenset(request.query.get("name[]", ()))
        body = self._encode(self._snapshots(), content_type, names, zipped=zipped)
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        return Response(200, body, {**headers, "Content-Encoding": "gzip"} if zipped else headers)

    def _healthy(self, request: Request) -> Response:
        del request
        return Response(200, b"wattgram is alive\n")

    def _ready(self, request: Request) -> Response:
        del request
        waiting = status.not_ready(self._snapshots())
        if waiting:
            return Response(503, f"not ready: {waiting}\n".encode())
        return Response(200, b"wattgram is ready\n")

    def _page(self, request: Request) -> Response:
        del request
        body = page.render(self._snapshots()).encode()
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": POLICY,
            "Cache-Control": "no-store",
        }
        return Response(200, body, headers)

    def _status(self, request: Request) -> Response:
        del request
        return _json(status.status(self._snapshots()))

    def _intensity(self, request: Request) -> Response:
        del request
        return _json(status.intensity(self._snapshots()))


def _json(body: bytes) -> Response:
    return Response(200, body, {"Content-Type": "application/json", "Cache-Control": "no-store"})
