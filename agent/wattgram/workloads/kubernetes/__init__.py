"""Kubernetes: which pod a control group belongs to, and its namespace, name and controller.

Names come from the API, of this node's pods only, else from the folders that kubelet keeps logs in; see
deploy/kubernetes/rbac.yaml for the rights.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from wattgram.ports import Clock, NamerOptions, Unavailable
from wattgram.workloads.kubernetes.allotment import Allotment
from wattgram.workloads.kubernetes.namer import KubernetesNamer, Logs
from wattgram.workloads.kubernetes.pods import Pods
from wattgram.workloads.kubernetes.watch import MOST_LIST_BYTES, Pace, Place, Watch

if TYPE_CHECKING:
    from wattgram.tools.fetch import Fetcher

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
REQUEST_SECONDS = 15.0
# How long opening may take, so that the first tick has names already.
OPENING_SECONDS = 2.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class Options(NamerOptions):
    """Empty: `api` the cluster's own where this is a pod, `token_file` and `ca_file` the service account's, `node`
    $NODE_NAME, else the host's name; `pods_log`: names are not looked for there; `checkpoint`: who holds a GPU without
    using it is not asked. `cgroup` is where control groups are mounted.
    """

    api: str = ""
    token_file: str = ""
    ca_file: str = ""
    node: str = ""
    pods_log: str = "/var/log/pods"
    checkpoint: str = "/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint"
    cgroup: str = "/sys/fs/cgroup"


def open_namer(
    options: Options,
    clock: Clock,
    environ: Mapping[str, str] = os.environ,
    account: Path = Path(ACCOUNT),
    pace: Pace | None = None,
) -> KubernetesNamer:
    """Return the namer, within two seconds; raise Unavailable where there are neither an API nor logs of pods."""
    api = options.api or _own_api(environ, account)
    logs = Logs(Path(options.pods_log), clock) if options.pods_log and _is_there(Path(options.pods_log)) else None
    if not api and logs is None:
        raise Unavailable("no Kubernetes here", "set workloads.kubernetes.api, or mount /var/log/pods")
    pods, watch = Pods(clock), None
    if api:
        watch = Watch(_place(options, api, environ, account), pods, _fetcher(options, account, clock), clock, pace)
        watch.start(OPENING_SECONDS)
    file = options.checkpoint
    allotment = Allotment(Path(file), Path(options.cgroup), clock) if file else None
    return KubernetesNamer(pods, watch, logs, clock, allotment)


def _own_api(environ: Mapping[str, str], account: Path) -> str:
    """The API that every pod is told of; empty: this is no pod."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "") or "443"
    if host:
        return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    return "https://kubernetes.default.svc" if _is_there(account) else ""


def _place(options: Options, api: str, environ: Mapping[str, str], account: Path) -> Place:
    """Raise Unavailable where a token would go over the network for everybody to read."""
    token = Path(options.token_file) if options.token_file else account / "token"
    file = token if options.token_file or _is_there(token) else None
    try:
        url = urlsplit(api)
        is_private = url.scheme == "https" or (url.scheme == "http" and (file is None or url.hostname in LOOPBACK))
    except ValueError:
        is_private = False
    if not is_private or "@" in api or "?" in api:
        raise Unavailable("workloads.kubernetes.api is no https://HOST:PORT", "a token is sent over TLS only")
    node = options.node or environ.get("NODE_NAME", "") or socket.gethostname().lower()
    return Place(api, node, file)


def _fetcher(options: Options, account: Path, clock: Clock) -> Fetcher:
    # Imported here: who asks no API does not carry an HTTP client.
    from wattgram.tools.fetch import Fetcher  # noqa: PLC0415

    own = account / "ca.crt"
    authority = options.ca_file or (str(own) if _is_there(own) else "")
    return Fetcher(REQUEST_SECONDS, MOST_LIST_BYTES, wall=lambda: clock.now().wall, ca_file=authority)


def _is_there(path: Path) -> bool:
    """Whether it is, as far as we may know."""
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True
