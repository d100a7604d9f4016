"""A Kubernetes API for one resource, the pods, as its real shapes are: lists, watches, bookmarks, expiry, refusals."""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from standin.certificates import Authority
from standin.web import Handler, Request, Server

TOKEN = "eyJhbGciOiJSUzI1NiJ9.stand-in-token.never-tell"
NODE = "node-1"
PODS = "/api/v1/pods"


def uid_of(text: str) -> str:
    """A UID that is always the same for a text."""
    digits = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


@dataclass
class Pod:
    """A pod as a test asks for it; `owner` is its controller's kind and name."""

    name: str
    namespace: str = "default"
    node: str = NODE
    owner: tuple[str, str] | None = None
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    uid: str = ""
    version: int = 0
    _written: tuple[int, bool, bytes] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        self.uid = self.uid or uid_of(f"{self.namespace}/{self.name}")

    def metadata(self) -> dict[str, Any]:
        """What the API tells of every object, padded as real ones are."""
        kind, name = self.owner or ("", "")
        reference = {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid_of(name), "controller": True}
        told: dict[str, Any] = {
            "name": self.name,
            "namespace": self.namespace,
            "uid": self.uid,
            "resourceVersion": str(self.version),
            "creationTimestamp": "2026-11-21T10:00:00Z",
            "labels": {"app": self.name, **self.labels},
            "annotations": {"prometheus.io/scrape": "true", **self.annotations},
            "managedFields": [
                {
                    "manager": manager,
                    "operation": "Update",
                    "apiVersion": "v1",
                    "time": "2026-11-21T10:00:00Z",
                    "fieldsType": "FieldsV1",
                    "fieldsV1": {"f:spec": {f"f:field-{number}": {} for number in range(40)}},
                }
                for manager in ("kube-controller-manager", "kubelet")
            ],
        }
        return {**told, "ownerReferences": [reference]} if self.owner else told

    def written(self, *, partial: bool) -> bytes:
        """The object as it is sent, written once for each version."""
        if self._written is None or self._written[:2] != (self.version, partial):
            told = {"kind": "Pod", "apiVersion": "v1", **self.whole()}
            if partial:
                told = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": self.metadata()}
            self._written = self.version, partial, json.dumps(told).encode()
        return self._written[2]

    def whole(self) -> dict[str, Any]:
        """The object with a specification that nobody here needs."""
        container = {
            "name": "main",
            "image": "registry.example/train:1",
            "env": [{"name": f"VARIABLE_{number}", "value": "x" * 40} for number in range(40)],
        }
        spec = {"nodeName": self.node, "containers": [container]}
        return {"metadata": self.metadata(), "spec": spec, "status": {"phase": "Running"}}


@final
class KubernetesApi(Server):
    """The API server. It keeps the newest `history` changes; who asks for older ones is told 410.

    Attributes may be set at any time. `verbs`: what the token may do. `metadata_only`: whether it knows that form.
    `gone_in_stream`: how 410 is told. `next_answers`: what the next requests get instead, (status, headers) each.
    """

    def __init__(self, tls: Authority | None = None, folder: Path | None = None) -> None:
        super().__init__()
        self.token = TOKEN
        self.verbs = {"list", "watch"}
        self.metadata_only = True
        self.gone_in_stream = True
        self.silent = False
        self.history = 1000
        self.page = 0
        self.next_answers: deque[tuple[int, dict[str, str]]] = deque()
        self._changed = threading.Condition()  # owns all below
        self._pods: dict[str, Pod] = {}
        self._events: deque[tuple[int, str, Pod | None, bytes]] = deque()
        self._version = 1000
        self._oldest = 0
        self._era = 0
        self._polite = False
        self._watching = 0
        self._context: ssl.SSLContext | None = None
        if tls and folder:
            tls.server(folder)
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(folder / "cert.pem", folder / "key.pem")

    @property
    def url(self) -> str:
        """Scheme, host and port, without a path."""
        return f"{'https' if self._context else 'http'}://127.0.0.1:{self.port}"

    @property
    def watching(self) -> int:
        """How many watches are open."""
        with self._changed:
            return self._watching

    def asked(self, verb: str) -> int:
        """How many requests of a verb there were."""
        return sum(verb == _verb(request) for request in self.requests)

    def start(self) -> None:
        """Listen, with TLS if so made."""
        super().start()
        if self._context and self._listener:
            self._listener.socket = self._context.wrap_socket(self._listener.socket, server_side=True)

    def stop(self) -> None:
        """Go away; watches break off."""
        self.cut()
        super().stop()

    # --- what happens in the cluster

    def add(self, *pods: Pod) -> None:
        """Let pods appear, or change."""
        for pod in pods:
            with self._changed:
                kind = "MODIFIED" if pod.uid in self._pods else "ADDED"
                self._pods[pod.uid] = pod
            self._happen(kind, pod)

    def delete(self, *pods: Pod) -> None:
        """Let pods go."""
        for pod in pods:
            with self._changed:
                del self._pods[pod.uid]
            self._happen("DELETED", pod)

    def bookmark(self) -> int:
        """Tell all watches how far they are, after changes on other nodes; return how far that is."""
        with self._changed:
            self._version += 100
        self._happen("BOOKMARK", None)
        return self._version

    def say(self, line: bytes) -> None:
        """Send a raw line to all watches."""
        self._happen("RAW", None, line)

    def expire(self, code: int = 410) -> None:
        """End all watches with an error in their stream; what happened before is forgotten."""
        with self._changed:
            self._events.clear()
            self._version += 1
            self._oldest = self._version
        self.say(json.dumps({"type": "ERROR", "object": _status(code, "Expired")}).encode())

    def cut(self, *, politely: bool = False) -> None:
        """Break all watches off, or end them as when their time is over."""
        with self._changed:
            self._era += 1
            self._polite = politely
            self._changed.notify_all()

    def wait_for_watches(self, count: int = 1, deadline: float = 30.0) -> None:
        """Return once so many watches are open."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._watching == count, deadline), f"{self._watching} watches"

    def _happen(self, kind: str, pod: Pod | None, line: bytes = b"") -> None:
        with self._changed:
            self._version += 1
            if pod is not None:
                pod.version = self._version
            self._events.append((self._version, kind, pod, line))
            while len(self._events) > self.history:
                self._oldest = self._events.popleft()[0]
            self._changed.notify_all()

    # --- what is answered

    def _answer(self, handler: Handler, request: Request) -> None:
        verb = _verb(request)
        if self.next_answers:
            code, headers = self.next_answers.popleft()
            handler.reply_json(code, _status(code, "Injected"), **headers)
        elif request.path != PODS:
            handler.reply_json(404, _status(404, "NotFound"))
        elif request.headers.get("authorization") != f"Bearer {self.token}":
            handler.reply_json(401, _status(401, "Unauthorized"))
        elif verb not in self.verbs:
            handler.reply_json(403, _status(403, "Forbidden"))
        elif verb == "watch":
            self._stream(handler, request)
        else:
            self._list(handler, request)

    def _list(self, handler: Handler, request: Request) -> None:
        with self._changed:
            there = [pod for pod in self._pods.values() if _selected(pod, request)]
            version = str(self._version)
        begin = int(request.query.get("continue", "0"))
        end = begin + self.page if self.page else len(there)
        more = {"continue": str(end), "remainingItemCount": len(there) - end} if end < len(there) else {}
        form: dict[str, Any] = {"kind": "PodList", "apiVersion": "v1"}
        if self._is_partial(request):
            form = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}
        head = json.dumps({**form, "metadata": {"resourceVersion": version, **more}}).encode()
        items = b",".join(pod.written(partial=self._is_partial(request)) for pod in there[begin:end])
        handler.reply(200, head[:-1] + b', "items": [' + items + b"]}\n")

    def _stream(self, handler: Handler, request: Request) -> None:
        with self._changed:
            at = int(request.query["resourceVersion"])
            is_gone, era = at < self._oldest, self._era
        if is_gone and not self.gone_in_stream:
            handler.reply_json(410, _status(410, "Expired"))
            return
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True
        with self._changed:
            self._watching += 1
            self._changed.notify_all()
        try:
            if is_gone:
                _chunk(handler, json.dumps({"type": "ERROR", "object": _status(410, "Expired")}).encode())
            elif not self._tell(handler, request, at, era):
                return  # broken off: no last chunk
            handler.wfile.write(b"0\r\n\r\n")
        finally:
            with self._changed:
                self._watching -= 1
                self._changed.notify_all()

    def _tell(self, handler: Handler, request: Request, at: int, era: int) -> bool:
        """Tell what happens until the time is over; whether it ended as watches do."""
        end = time.monotonic() + float(request.query.get("timeoutSeconds", "1800"))
        while True:
            with self._changed:
                fresh = [event for event in self._events if event[0] > at and not self.silent]
                if not fresh and self._era == era:
                    self._changed.wait(min(0.05, max(0.0, end - time.monotonic())))
                if self._era != era:
                    return self._polite
            for version, kind, pod, line in fresh:
                at = version
                if kind == "RAW":
                    _chunk(handler, line)
                    if b'"ERROR"' in line:
                        return True
                elif kind == "BOOKMARK" and request.query.get("allowWatchBookmarks") == "true":
                    mark = {"kind": "Pod", "metadata": {"resourceVersion": str(version), "creationTimestamp": None}}
                    _chunk(handler, json.dumps({"type": kind, "object": mark}).encode())
                elif pod is not None and _selected(pod, request):
                    told = pod.written(partial=self._is_partial(request))
                    _chunk(handler, b'{"type": "%s", "object": %s}' % (kind.encode(), told))
            if time.monotonic() >= end:
                return True
            if not fresh and handler.left_within(0.001):
                return False

    def _is_partial(self, request: Request) -> bool:
        return self.metadata_only and "as=PartialObjectMetadata" in request.headers.get("accept", "")


def _verb(request: Request) -> str:
    return "watch" if request.query.get("watch") in {"1", "true"} else "list"


def _selected(pod: Pod, request: Request) -> bool:
    field_name, _, value = request.query.get("fieldSelector", "").partition("=")
    return field_name != "spec.nodeName" or value == pod.node


def _status(code: int, reason: str) -> dict[str, Any]:
    message = f'pods is forbidden or worse: User "system:serviceaccount:wattgram:wattgram" sent {TOKEN}'
    told = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message}
    return {**told, "reason": reason, "code": code}


def _chunk(handler: Handler, line: bytes) -> None:
    """One line, in two chunks: nothing says that they come whole."""
    for part in (line[: len(line) // 2], line[len(line) // 2 :] + b"\n"):
        if part:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
    handler.wfile.flush()
