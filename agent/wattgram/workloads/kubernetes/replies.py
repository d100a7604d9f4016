"""What the API says of pods: of each only who it is; whatever is no such thing is counted and left out."""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from wattgram.ports import ReadFailed
from wattgram.workloads.kubernetes.pods import STATIC_UID, Pod, sound_pod

# Metadata alone, in a form that every server has known since 1.15; older ones take the last.
LIST_FORMS = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
WATCH_FORMS = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
LONGEST_WORD = 253
LONGEST_VERSION = 100
LONGEST_CONTINUE = 4096
GONE = 410
ERRORS = range(400, 600)

_KIND = re.compile(r"[A-Za-z][A-Za-z0-9]{0,62}")
_WORD = re.compile(r"[A-Za-z0-9]([-.:A-Za-z0-9]*[A-Za-z0-9])?")


class _Owner(msgspec.Struct):
    kind: str = ""
    name: str = ""
    controller: bool | None = None


class _Labels(msgspec.Struct):
    template: str = msgspec.field(name="pod-template-hash", default="")


class _Annotations(msgspec.Struct):
    mirror: str = msgspec.field(name="kubernetes.io/config.mirror", default="")


class _Metadata(msgspec.Struct):
    uid: str = ""
    namespace: str = ""
    name: str = ""
    version: str = msgspec.field(name="resourceVersion", default="")
    labels: _Labels | None = None
    annotations: _Annotations | None = None
    owners: list[_Owner] | None = msgspec.field(name="ownerReferences", default=None)


class _Item(msgspec.Struct):
    metadata: _Metadata


class _ListMetadata(msgspec.Struct):
    version: str = msgspec.field(name="resourceVersion", default="")
    more: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct):
    metadata: _ListMetadata
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    code: int = 0


_decode_item = msgspec.json.Decoder(_Item).decode
_decode_list = msgspec.json.Decoder(_List).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_status = msgspec.json.Decoder(_Status).decode


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list. `more`: how to ask for the next, empty: it is the last. `malformed`: items left out."""

    pods: tuple[Pod, ...]
    version: str
    more: str
    malformed: int


@dataclass(frozen=True, slots=True)
class Change:
    """One line of a watch. `pod` None: a bookmark. `status`, an HTTP status: the server ends the watch; else 0."""

    version: str = ""
    pod: Pod | None = None
    is_gone: bool = False
    status: int = 0


def parse_list(body: bytes) -> Page:
    """Return a page of pods; raise ReadFailed(shape) when it is none."""
    try:
        whole = _decode_list(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ReadFailed("the list of pods is none", "shape") from error
    if len(whole.metadata.version) > LONGEST_VERSION or len(whole.metadata.more) > LONGEST_CONTINUE:
        raise ReadFailed("the list of pods has no version", "shape")
    pods, malformed = [], 0
    for raw in whole.items or ():
        try:
            pods.append(_pod(_decode_item(raw).metadata))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            malformed += 1
    return Page(tuple(pods), whole.metadata.version, whole.metadata.more, malformed)


def parse_change(line: bytes) -> Change | None:
    """Return what a line of a watch says; None: it is malformed, or of a kind that is not known."""
    try:
        event = _decode_event(line)
        if event.type == "ERROR":
            code = _decode_status(event.object).code
            return Change(status=code if code in ERRORS else 500)
        if event.type not in {"ADDED", "MODIFIED", "DELETED", "BOOKMARK"}:
            return None
        metadata = _decode_item(event.object).metadata
        if not 0 < len(metadata.version) <= LONGEST_VERSION:
            return None
        pod = None if event.type == "BOOKMARK" else _pod(metadata)
        return Change(metadata.version, pod, is_gone=event.type == "DELETED")
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _pod(metadata: _Metadata) -> Pod:
    """The pod as its control group knows it: a static pod's has the UID that kubelet gave it, not the API's.

    That is an MD5 sum. Anybody may write the annotation; the API's own UIDs, of another form, cannot be taken by it.
    Raise ValueError where it is none.
    """
    static = metadata.annotations.mirror if metadata.annotations else ""
    uid = static if STATIC_UID.fullmatch(static) else metadata.uid
    pod = sound_pod(uid, metadata.namespace, metadata.name, _controller(metadata))
    if pod is None:
        raise ValueError(metadata.uid)
    return pod


def _controller(metadata: _Metadata) -> str:
    """Who keeps the pod, such as job/train-7b; a deployment's pods are kept by a set of its own making."""
    for owner in metadata.owners or ():
        if owner.controller and _KIND.fullmatch(owner.kind) and _is_word(owner.name):
            kind, name = owner.kind.lower(), owner.name
            suffix = f"-{metadata.labels.template}" if metadata.labels and metadata.labels.template else ""
            if kind == "replicaset" and suffix and name.endswith(suffix) and name != suffix:
                kind, name = "deployment", name.removesuffix(suffix)
            return f"{kind}/{name}"
    return ""


def _is_word(text: str) -> bool:
    return len(text) <= LONGEST_WORD and _WORD.fullmatch(text) is not None
