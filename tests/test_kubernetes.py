"""The namer of pods: every form of path, every source of names, an API that refuses, forgets and lies."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped, unused-ignore]

from standin.certificates import Authority
from standin.kubernetes import NODE, TOKEN, KubernetesApi, Pod, uid_of
from standin.web import Recorder
from wattgram.clock import ManualClock, SystemClock
from wattgram.model import Named, Subject, Workload
from wattgram.ports import Clock, ReadFailed, Unavailable
from wattgram.workloads import kubernetes
from wattgram.workloads.kubernetes import pods as memory
from wattgram.workloads.kubernetes.namer import KubernetesNamer, Logs
from wattgram.workloads.kubernetes.paths import deepest_pod, pod_of
from wattgram.workloads.kubernetes.replies import parse_change, parse_list
from wattgram.workloads.kubernetes.watch import Pace, Place, Watch

ROOT = Path(__file__).resolve().parent.parent
UID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
OTHER = "11111111-2222-3333-4444-555555555555"
UNDERSCORED = UID.replace("-", "_")
STATIC = "0123456789abcdef0123456789abcdef"
ID = "ab" * 32
ID2 = "cd" * 32
KUBELET = "/kubelet.slice/kubelet-kubepods.slice"
TRAIN = Pod("train-0", "ml", owner=("Job", "train-7b"))
QUICK = Pace(first=0.01, most=0.05, refused=900.0, watch=60.0, idle=30.0, grace=1.0, steady=30.0)

# --- paths ----------------------------------------------------------------------------------------

# The path up to where the name ends, what follows, and whose it is.
PATHS = [
    (f"/kubepods/burstable/pod{UID}/{ID}", "", UID),
    (f"/kubepods/besteffort/pod{UID}/{ID}", "", UID),
    (f"/kubepods/pod{UID}/{ID}", "", UID),
    (f"/kubepods/guaranteed/pod{UID}/{ID}", "", UID),
    (f"/kubepods/burstable/pod{UID}", "", UID),
    (f"/kubepods/burstable/pod{UID}", "/init", UID),
    (f"/kubepods/burstable/pod{STATIC}/{ID}", "", STATIC),
    (f"/kubepods/burstable/pod{UID}/crio-{ID}", "", UID),
    (f"/kubepods/burstable/pod{UID}/kata_{ID}", "", UID),
    (
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope",
        "",
        UID,
    ),
    (f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UNDERSCORED}.slice/crio-{ID}.scope", "", UID),
    (
        f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UNDERSCORED}.slice/crio-{ID}.scope",
        "/container",
        UID,
    ),
    (f"/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/docker-{ID}.scope", "", UID),
    (f"/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/crio-conmon-{ID}.scope", "", UID),
    (f"/kubepods.slice/kubepods-pod{UNDERSCORED}.slice", "", UID),
    (
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{STATIC}.slice/cri-containerd-{ID}.scope",
        "",
        STATIC,
    ),
    (
        f"{KUBELET}/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{UNDERSCORED}.slice/crio-{ID}.scope",
        "",
        UID,
    ),
    (f"/system.slice/containerd.service/kubepods-burstable-pod{UNDERSCORED}.slice:cri-containerd:{ID}", "", UID),
    (f"/kubepods-pod{UNDERSCORED}.slice:cri-containerd:{ID}", "", UID),
    (f"/../../kubepods/burstable/pod{UID}/{ID}", "", UID),
    # kind: nodes are Docker containers, and pods are in them
    (f"/docker/{ID2}/kubelet/kubepods/burstable/pod{UID}/{ID}", "", UID),
    (
        f"/system.slice/docker-{ID2}.scope{KUBELET}/kubelet-kubepods-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope",
        "",
        UID,
    ),
    # kind in a pod: the inner pod
    (f"/kubepods/burstable/pod{OTHER}/{ID2}/docker/{ID}/kubelet/kubepods/besteffort/pod{UID}/{ID}", "", UID),
    # Docker in a pod: the pod ends at its own container, and who names Docker's is deeper
    (f"/kubepods/burstable/pod{UID}/{ID}", f"/docker/{ID2}", UID),
    (
        f"/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope",
        f"/system.slice/docker-{ID2}.scope",
        UID,
    ),
]
NO_PODS = [
    "/",
    "",
    "/kubepods",
    "/kubepods.slice/kubepods-burstable.slice",
    f"/docker/{ID}",
    f"/system.slice/docker-{ID}.scope",
    "/system.slice/kubelet.service",
    f"/kubepods/burstable/pod{UID[:-1]}",
    f"/kubepods/burstable/pod{UID}0",
    f"/kubepods/burstable/pod{UID.upper()}",
    f"/pod{UID}/{ID}",
    f"/notkubepods/pod{UID}",
    f"/kubepods-pod{UNDERSCORED}",
    "/kubepods/burstable/pod../../etc",
    # a user's own groups are called what the user likes
    f"/user.slice/user-1000.slice/user@1000.service/app.slice/kubepods/pod{UID}/{ID}",
    f"/user.slice/user-1000.slice/user@1000.service/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope",
]


@pytest.mark.parametrize(("path", "rest", "uid"), PATHS)
def test_a_pod_is_found_in_every_form_of_path(path: str, rest: str, uid: str) -> None:
    """It ends with its own container, so that nobody who names that one is deeper; what is nested further is."""
    assert (uid, len(path)) == pod_of(path + rest)


@pytest.mark.parametrize("path", NO_PODS)
def test_what_is_no_pod_is_none(path: str) -> None:
    assert pod_of(path) is None


def test_the_deepest_of_several_hierarchies_counts() -> None:
    shallow, deep = f"/kubepods/pod{OTHER}", f"/kubepods/burstable/pod{UID}/{ID}"

    assert (UID, len(deep)) == deepest_pod(("/", shallow, deep, "/system.slice/containerd.service"))
    assert deepest_pod(()) is None


# --- what is remembered ---------------------------------------------------------------------------


def known(uid: str = UID, name: str = "a") -> memory.Pod:
    pod = memory.sound_pod(uid, "default", name)
    assert pod
    return pod


def test_a_pod_that_ended_is_known_for_ten_minutes_more_and_while_it_is_asked_for() -> None:
    clock = ManualClock()
    pods = memory.Pods(clock)
    pods.put(known())
    pods.end(known())
    clock.advance(599.0)
    assert pods.find(UID)
    clock.advance(599.0)
    assert pods.find(UID)
    clock.advance(601.0)

    assert pods.find(UID) is None


def test_pods_that_a_list_does_not_mention_have_ended_and_one_that_it_does_has_not() -> None:
    clock = ManualClock()
    pods = memory.Pods(clock)
    pods.put(known(UID))
    pods.put(known(OTHER))
    pods.end(known(OTHER))
    pods.replace([known(OTHER)])
    clock.advance(601.0)

    assert (None, True) == (pods.find(UID), pods.find(OTHER) is not None)


def test_of_too_many_pods_those_go_that_nobody_asks_for() -> None:
    pods = memory.Pods(ManualClock(), most=100)
    pods.put(known(UID))
    for number in range(500):
        pods.put(known(uid_of(str(number))))
        pods.find(UID)

    assert (100, True) == (len(pods), pods.find(UID) is not None)


@pytest.mark.parametrize(
    ("uid", "namespace", "name"),
    [
        ("", "a", "b"),
        ("x" * 36, "a", "b"),
        (UID, "", "b"),
        (UID, "a", ""),
        (UID, "A", "b"),
        (UID, "a.b", "b"),
        (UID, "a" * 64, "b"),
        (UID, "a", "b" * 254),
        (UID, "a", "b/c"),
        (UID, "a", "b\n"),
        (
            UID,
            "a",
            "..",
        ),
    ],
)
def test_what_no_cluster_allows_is_no_pod(uid: str, namespace: str, name: str) -> None:
    assert memory.sound_pod(uid, namespace, name) is None


# --- what the API says ----------------------------------------------------------------------------


def told(pod: Pod) -> memory.Pod | None:
    change = parse_change(json.dumps({"type": "ADDED", "object": {**pod.whole()}}).encode())
    return change.pod if change else None


@pytest.mark.parametrize(
    ("owner", "labels", "controller"),
    [
        (None, {}, ""),
        (("Job", "train-7b"), {}, "job/train-7b"),
        (("StatefulSet", "db"), {}, "statefulset/db"),
        (("ReplicaSet", "api-7d4b9c5f6"), {"pod-template-hash": "7d4b9c5f6"}, "deployment/api"),
        (("ReplicaSet", "api-7d4b9c5f6"), {}, "replicaset/api-7d4b9c5f6"),
        (("ReplicaSet", "api-old"), {"pod-template-hash": "7d4b9c5f6"}, "replicaset/api-old"),
        (("PyTorchJob", "llm"), {}, "pytorchjob/llm"),
        (("Job", "b\nad"), {}, ""),
        (("Job", "b" * 300), {}, ""),
        (("../x", "b"), {}, ""),
    ],
)
def test_a_controller_is_who_keeps_the_pod(
    owner: tuple[str, str] | None, labels: dict[str, str], controller: str
) -> None:
    """A deployment makes sets of its own; nobody knows those by name."""
    pod = told(Pod("a", owner=owner, labels=labels, version=1))

    assert pod
    assert controller == pod.controller


def test_a_static_pod_has_the_uid_that_kubelet_gave_it() -> None:
    """The API's own is of its mirror, and stands in no control group."""
    pod = Pod("kube-proxy-node-1", "kube-system", annotations={"kubernetes.io/config.mirror": STATIC}, version=1)

    found = told(pod)

    assert found
    assert (STATIC, "kube-proxy-node-1") == (found.uid, found.name)


def test_who_claims_another_pods_uid_does_not_get_it() -> None:
    """Anybody may write the annotation of a mirror."""
    claimed = told(Pod("mine", "evil", annotations={"kubernetes.io/config.mirror": UID}, version=1))

    assert claimed
    assert UID != claimed.uid


def test_a_static_pod_that_is_known_is_not_called_otherwise_by_another() -> None:
    pods = memory.Pods(ManualClock())
    pods.put(memory.Pod(STATIC, "kube-system", "kube-proxy"))
    claim = memory.Pod(STATIC, "evil", "mine")
    pods.put(claim)
    pods.end(claim)
    pods.replace([claim])

    assert memory.Pod(STATIC, "kube-system", "kube-proxy") == pods.find(STATIC)


MALFORMED = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"\xff\xfe",
    b'{"type": "ADDED"}',
    b'{"type": "ADDED", "object": null}',
    b'{"type": "ADDED", "object": {"metadata": {"uid": 7, "resourceVersion": "5"}}}',
    b'{"type": "ADDED", "object": {"metadata": {"uid": "x", "namespace": "a", "name": "b", "resourceVersion": "5"}}}',
    b'{"type": "SURPRISE", "object": {"metadata": {"resourceVersion": "5"}}}',
    b'{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": ""}}}',
    b'{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "' + b"5" * 200 + b'"}}}',
    b'{"type": "ERROR", "object": "x"}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("line", MALFORMED)
def test_a_malformed_line_says_nothing(line: bytes) -> None:
    assert parse_change(line) is None


@pytest.mark.parametrize("code", ["99999999999999999999999999", "-1", "0", "200"])
def test_an_error_of_no_known_kind_is_the_servers(code: str) -> None:
    change = parse_change(b'{"type": "ERROR", "object": {"code": %s}}' % code.encode())

    assert change
    assert 500 == change.status


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"metadata": {"resourceVersion": 5}}', b'{"metadata": {}, "items": 3}']
)
def test_a_list_that_is_none_fails_as_a_reading_does(body: bytes) -> None:
    with pytest.raises(ReadFailed) as caught:
        parse_list(body)

    assert "shape" == caught.value.reason


def test_one_bad_item_does_not_spoil_a_list() -> None:
    items = [TRAIN.whole(), {"metadata": {"name": 3}}, None, Pod("b").whole()]

    page = parse_list(json.dumps({"metadata": {"resourceVersion": "7"}, "items": items}).encode())

    assert (["train-0", "b"], 2) == ([pod.name for pod in page.pods], page.malformed)
    assert () == parse_list(b'{"metadata": {"resourceVersion": "7"}, "items": null}').pods


# --- names without an API ---------------------------------------------------------------------------


def inside(uid: str) -> Subject:
    return Subject(("/", f"/kubepods/burstable/pod{uid}/{ID}"))


DEPTH = len(inside(UID).paths[1])


def named(uid: str, owner: str, name: str = "", account: str = "") -> Named:
    return Named(Workload("pod", uid, owner), DEPTH, name, account)


def local(folder: Path | None, clock: Clock) -> KubernetesNamer:
    return KubernetesNamer(memory.Pods(clock), None, Logs(folder, clock) if folder else None, clock)


def test_folders_of_logs_tell_namespace_and_name(tmp_path: Path) -> None:
    for name in (f"ml_train-0_{UID}", "ml_broken", "a_b_c_d", f"Ml_x_{OTHER}", f"kube-system_etcd_{STATIC}"):
        (tmp_path / name).mkdir()
    namer = local(tmp_path, ManualClock())

    assert named(UID, "ml", "ml/train-0") == namer.name_of(inside(UID))
    static = Subject((f"/kubepods/burstable/pod{STATIC}",))
    assert "kube-system/etcd" == (namer.name_of(static) or Named(None)).name


def test_a_pod_newer_than_the_last_look_at_the_logs_is_waited_for(tmp_path: Path) -> None:
    clock = ManualClock()
    namer = local(tmp_path, clock)
    namer.name_of(inside(OTHER))
    clock.advance(9.0)
    (tmp_path / f"ml_train-0_{UID}").mkdir()
    early = namer.name_of(inside(UID))
    clock.advance(1.0)

    assert (Named(None, DEPTH), named(UID, "ml", "ml/train-0")) == (early, namer.name_of(inside(UID)))


def test_without_any_source_of_names_a_pod_has_its_uid_and_no_owner() -> None:
    assert named(UID, "") == local(None, ManualClock()).name_of(inside(UID))


def test_who_is_in_no_pod_is_nobodys_here(tmp_path: Path) -> None:
    assert local(tmp_path, ManualClock()).name_of(Subject(("/user.slice/user-1000.slice/session-1.scope",))) is None


def test_logs_that_cannot_be_read_are_said_once(tmp_path: Path, lines: list[str]) -> None:
    clock, folder = ManualClock(), tmp_path / "pods"
    namer = local(folder, clock)
    for _ in range(3):
        namer.name_of(inside(UID))
        clock.advance(11.0)
    folder.mkdir()
    namer.name_of(inside(OTHER))

    assert ["WARNING", "INFO"] == [line.split()[0] for line in lines]
    assert str(folder) in lines[0]


# --- the API ----------------------------------------------------------------------------------------


@dataclass
class Stage:
    """A namer over a stand-in's API; whatever it opened is closed."""

    folder: Path
    api: KubernetesApi = field(default_factory=KubernetesApi)
    clock: Clock = field(default_factory=SystemClock)
    opened: list[KubernetesNamer] = field(default_factory=list)

    def open(
        self, pace: Pace = QUICK, options: kubernetes.Options | None = None, token: str = TOKEN
    ) -> KubernetesNamer:
        (self.folder / "token").write_text(f"{token}\n")
        options = options or kubernetes.Options(api=self.api.url, node=NODE, pods_log="")
        namer = kubernetes.open_namer(options, self.clock, {}, self.folder, pace)
        self.opened.append(namer)
        return namer

    def wait_for_name(self, pod: Pod) -> Named:
        """What it is called, once it is."""
        return until(lambda: answered(self.opened[-1], pod.uid))

    def knows(self, pod: Pod) -> bool:
        return answered(self.opened[-1], pod.uid) is not None


def answered(namer: KubernetesNamer, uid: str) -> Named | None:
    said = namer.name_of(inside(uid))
    return said if said and said.workload and said.workload.owner else None


def until(question: Callable[[], Named | bool | int | None], deadline: float = 20.0) -> Named:
    end = time.monotonic() + deadline
    while not (answer := question()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)
    return answer if isinstance(answer, Named) else Named(None)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    with stage.api:
        yield stage
        for namer in stage.opened:
            namer.close()
        stage.api.wait_for_watches(0)


def test_the_first_answer_after_opening_has_names(stage: Stage) -> None:
    stage.api.add(TRAIN, Pod("elsewhere", node="node-2"))
    namer = stage.open()

    assert named(TRAIN.uid, "ml", "ml/train-0", "job/train-7b") == namer.name_of(inside(TRAIN.uid))
    assert Named(None, DEPTH) == namer.name_of(inside(uid_of("default/elsewhere")))


@pytest.mark.parametrize("metadata_only", [True, False])
def test_names_appear_while_watching(stage: Stage, metadata_only: bool) -> None:  # noqa: FBT001
    """From servers that send only what is asked for, and from those that send whole objects."""
    stage.api.metadata_only = metadata_only
    stage.open()
    stage.api.wait_for_watches()
    stage.api.add(TRAIN)

    assert named(TRAIN.uid, "ml", "ml/train-0", "job/train-7b") == stage.wait_for_name(TRAIN)
    assert (1, 1) == (stage.api.asked("list"), stage.api.asked("watch"))


def test_a_long_list_comes_in_pages(stage: Stage) -> None:
    stage.api.page = 40
    pods = [Pod(f"p{number}") for number in range(100)]
    stage.api.add(*pods)
    stage.open()

    assert all(stage.knows(pod) for pod in pods)
    assert [None, "40", "80"] == [request.query.get("continue") for request in stage.api.requests[:3]]
    assert ["0", None, None] == [request.query.get("resourceVersion") for request in stage.api.requests[:3]]


def test_a_watch_that_breaks_off_goes_on_where_it_was(stage: Stage) -> None:
    """Without another list: nothing was missed."""
    stage.open()
    for turn in (1, 2):
        stage.api.wait_for_watches()
        reached = stage.api.bookmark() + 1
        stage.api.add(pod := Pod(f"after-{reached}"))
        stage.wait_for_name(pod)
        stage.api.cut()
        request = stage.api.wait_for_requests(2 + turn)[-1]

        assert str(reached) == request.query["resourceVersion"]
    assert 1 == stage.api.asked("list")


def test_a_bookmark_alone_carries_a_watch_on(stage: Stage) -> None:
    """Changes on other nodes are not told, and would make an old place to begin from."""
    namer = stage.open()
    stage.api.wait_for_watches()
    reached = str(stage.api.bookmark())
    until(lambda: namer._watch is not None and namer._watch._version == reached)
    stage.api.cut()
    request = stage.api.wait_for_requests(3)[-1]

    assert reached == request.query["resourceVersion"]


def test_a_watch_that_ends_in_time_is_followed_by_another(stage: Stage) -> None:
    """And asked for no longer than it is waited for."""
    stage.open()
    for turn in (1, 2, 3):
        stage.api.wait_for_requests(1 + turn)
        stage.api.wait_for_watches()
        stage.api.cut(politely=True)
    stage.api.add(TRAIN)

    assert stage.wait_for_name(TRAIN).workload
    assert 1 == stage.api.asked("list")
    assert all(1 <= int(request.query["timeoutSeconds"]) <= QUICK.watch for request in stage.api.requests[1:])


def test_a_watch_that_says_nothing_for_too_long_is_opened_anew(stage: Stage, lines: list[str]) -> None:
    """A connection may be dead on one side only."""
    stage.api.silent = True
    stage.open(Pace(first=0.01, idle=0.1, steady=0.05))
    stage.api.add(TRAIN)
    until(lambda: stage.api.asked("watch") == 3)
    stage.api.silent = False

    assert stage.wait_for_name(TRAIN).workload
    assert 1 == stage.api.asked("list")
    assert [] == [line for line in lines if "WARNING" in line and "no pod" not in line]


@pytest.mark.parametrize("in_stream", [True, False])
def test_who_is_too_far_behind_lists_anew(stage: Stage, in_stream: bool) -> None:  # noqa: FBT001
    """And does not take the server's memory for it, which may be as old."""
    gone, stays, fresh = Pod("gone"), Pod("stays"), Pod("fresh")
    stage.clock = clock = ManualClock()
    stage.api.add(gone, stays)
    stage.api.history, stage.api.gone_in_stream = 2, in_stream
    stage.open()
    stage.api.wait_for_watches()
    stage.api.silent = True
    stage.api.delete(gone)
    stage.api.add(fresh, *(Pod(f"p{number}", node="node-2") for number in range(9)))
    stage.api.cut()
    stage.wait_for_name(fresh)
    stage.api.silent = False
    clock.advance(601.0)

    assert (False, True, True) == (stage.knows(gone), stage.knows(stays), stage.knows(fresh))
    lists = [request.query.get("resourceVersion") for request in stage.api.requests if "watch" not in request.query]
    assert ["0", None] == lists


def test_an_api_that_always_forgets_is_not_asked_without_end(stage: Stage) -> None:
    stage.open(Pace(first=0.2, most=60.0))
    for _ in range(2):
        stage.api.wait_for_watches()
        stage.api.expire()
        stage.api.wait_for_watches(0)
    began = time.monotonic()
    stage.api.wait_for_watches()

    assert time.monotonic() - began >= 0.1
    assert (3, 3) == (stage.api.asked("list"), stage.api.asked("watch"))


def test_an_api_that_was_away_is_listed_anew(stage: Stage, lines: list[str]) -> None:
    stage.api.add(TRAIN)
    stage.open()
    stage.api.wait_for_watches()
    stage.api.stop()
    until(lambda: any("failed" in line for line in lines))
    stage.api.add(pod := Pod("meanwhile"))
    assert stage.knows(TRAIN)
    stage.api.start()
    stage.wait_for_name(pod)
    until(lambda: any("recovered" in line for line in lines))

    assert ["INFO", "WARNING", "INFO"] == [line.split()[0] for line in lines]


@pytest.mark.parametrize("code", [429, 500, 503, 404])
def test_a_failure_is_said_once_and_tried_again(stage: Stage, lines: list[str], code: int) -> None:
    stage.api.add(TRAIN)
    stage.api.next_answers.extend([(code, {})] * 4)
    stage.open()
    stage.wait_for_name(TRAIN)
    stage.api.wait_for_watches()
    until(lambda: any("recovered" in line for line in lines))

    assert ["WARNING", "INFO"] == [line.split()[0] for line in lines]
    assert f"HTTP {code}" in lines[0]
    assert 5 == stage.api.asked("list")


def test_an_api_that_asks_for_a_pause_is_given_it(stage: Stage) -> None:
    stage.api.next_answers.append((429, {"Retry_After": "1"}))
    stage.open()
    first, second = stage.api.wait_for_requests(2)[:2]

    assert 1.0 <= second.at - first.at < 10.0


def test_a_refused_token_is_said_once_and_read_anew_later(stage: Stage, lines: list[str]) -> None:
    """Bound tokens are replaced every hour; a refusal is not knocked at."""
    stage.api.add(TRAIN)
    namer = stage.open(Pace(first=0.01, most=0.01, refused=0.3), token="old")
    assert named(TRAIN.uid, "") == namer.name_of(inside(TRAIN.uid))
    (stage.folder / "token").write_text(TOKEN)
    first, second = stage.api.wait_for_requests(2)[:2]
    stage.api.wait_for_watches()
    until(lambda: any("recovered" in line for line in lines))

    assert second.at - first.at >= 0.3
    assert ["WARNING", "INFO"] == [line.split()[0] for line in lines]
    assert "HTTP 401: the token is not accepted" in lines[0]
    assert TRAIN.name in (namer.name_of(inside(TRAIN.uid)) or Named(None)).name


def test_who_had_to_be_called_by_a_uid_keeps_no_owner(stage: Stage) -> None:
    """An owner that changed would be a second account for the same pod; its name is only for people."""
    stage.api.add(TRAIN)
    namer = stage.open(Pace(refused=0.05), token="old")
    namer.name_of(inside(TRAIN.uid))
    (stage.folder / "token").write_text(TOKEN)
    until(lambda: (namer.name_of(inside(TRAIN.uid)) or Named(None)).name != "")

    assert named(TRAIN.uid, "", "ml/train-0", "job/train-7b") == namer.name_of(inside(TRAIN.uid))


@pytest.mark.parametrize("verb", ["list", "watch"])
def test_a_right_that_is_missing_is_named(stage: Stage, lines: list[str], verb: str) -> None:
    """What the list told holds; of nobody else a name is waited for."""
    stage.api.add(TRAIN)
    stage.api.verbs.discard(verb)
    namer = stage.open()
    until(lambda: any("failed" in line for line in lines))

    assert (verb == "watch") == stage.knows(TRAIN)
    assert named(OTHER, "") == namer.name_of(inside(OTHER))
    assert 1 == len([line for line in lines if "list and watch on pods are needed" in line])
    assert len(stage.api.requests) == (2 if verb == "watch" else 1)


def test_a_malformed_line_is_left_out_and_said_once(stage: Stage, lines: list[str]) -> None:
    stage.open()
    stage.api.wait_for_watches()
    for line in (b"{", b'{"type": "SURPRISE", "object": {}}', b"\xff" * 100_000):
        stage.api.say(line)
    stage.api.add(TRAIN)

    assert stage.wait_for_name(TRAIN).workload
    assert 1 == len([line for line in lines if "says what is no pod" in line])
    assert 1 == stage.api.asked("watch")


def test_a_line_without_end_is_cut_off_and_not_met_again(stage: Stage, lines: list[str]) -> None:
    stage.open()
    stage.api.wait_for_watches()
    stage.api.say(b"x" * (5 << 20))
    stage.api.add(TRAIN)

    assert stage.wait_for_name(TRAIN).workload
    assert any("a line is longer than" in line for line in lines)
    assert 2 == stage.api.asked("list")


def test_a_node_without_pods_may_be_called_otherwise(stage: Stage, lines: list[str]) -> None:
    stage.open()

    assert [f"WARNING kubernetes: no pod is on node {NODE}: is workloads.kubernetes.node right?"] == lines[:1]


def test_a_name_that_does_not_come_is_waited_for_half_a_minute() -> None:
    """Meanwhile its joules are unattributed; a wrong name they never have."""
    clock = ManualClock()
    pods = memory.Pods(clock)
    with Recorder() as server:
        fetcher = kubernetes._fetcher(kubernetes.Options(), Path("/nowhere"), clock)
        watch = Watch(Place(server.url, NODE, None), pods, fetcher, clock)
        namer = KubernetesNamer(pods, watch, None, clock)
        namer.name_of(inside(UID))
        clock.advance(29.9)
        early = namer.name_of(inside(UID))
        clock.advance(0.1)
        late = namer.name_of(inside(UID))
        namer.close()
        fetcher.close()

    assert (Named(None, DEPTH), named(UID, "")) == (early, late)


def test_closing_ends_the_thread_and_its_connection(stage: Stage) -> None:
    namer = stage.open()
    stage.api.wait_for_watches()
    namer.close()
    stage.api.wait_for_watches(0)
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "kubernetes"])


def test_an_api_that_does_not_answer_holds_opening_no_longer_than_said() -> None:
    """Nothing is known by then, and nobody waits for more."""
    clock = SystemClock()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = Place(f"http://127.0.0.1:{silent.getsockname()[1]}", NODE, None)
        pods, fetcher = memory.Pods(clock), kubernetes._fetcher(kubernetes.Options(), Path("/nowhere"), clock)
        watch = Watch(place, pods, fetcher, clock)
        namer = KubernetesNamer(pods, watch, None, clock)
        began = time.monotonic()
        watch.start(0.2)
        seconds = time.monotonic() - began
        said = namer.name_of(inside(UID))
        namer.close()

    assert 0.2 <= seconds < 3.0
    assert Named(None, DEPTH) == said


def test_an_api_that_refuses_connections_does_not_hold_opening(stage: Stage) -> None:
    stage.api.stop()
    began = time.monotonic()
    namer = stage.open()
    seconds = time.monotonic() - began
    stage.api.start()

    assert seconds < kubernetes.OPENING_SECONDS
    assert Named(None, DEPTH) == namer.name_of(inside(UID))


# --- the token stays at home ------------------------------------------------------------------------


def test_no_line_and_no_object_tells_the_token(stage: Stage, lines: list[str]) -> None:
    """The stand-in tells it back in every refusal."""
    stage.api.next_answers.extend([(code, {}) for code in (500, 404, 429, 410)])
    namer = stage.open()
    stage.api.wait_for_watches()
    stage.api.expire(500)
    until(lambda: stage.api.asked("list") == 6)

    assert not any(TOKEN in line for line in lines)
    assert lines
    assert namer._watch
    assert TOKEN not in repr(vars(namer._watch))


def test_the_token_goes_to_nobody_else(stage: Stage) -> None:
    with Recorder() as other:
        stage.api.next_answers.extend([(302, {"Location": f"{other.url}/api/v1/pods"})] * 2)
        stage.open()
        stage.api.wait_for_watches()

        assert [] == other.requests


def test_an_authority_of_the_clusters_own_is_trusted_and_no_other(tmp_path: Path, lines: list[str]) -> None:
    """A server that another one signed for does not see our token."""
    right, wrong = Authority(), Authority()
    stage = Stage(tmp_path, KubernetesApi(right, tmp_path))
    stage.api.add(TRAIN)
    with stage.api:
        wrong.write(tmp_path / "ca.crt")
        stage.open().close()
        refused = list(stage.api.requests)
        right.write(tmp_path / "ca.crt")
        stage.open()
        stage.wait_for_name(TRAIN)
        stage.opened[-1].close()
        stage.api.wait_for_watches(0)

    assert [] == refused
    assert any("CERTIFICATE_VERIFY_FAILED" in line or "ertificate" in line for line in lines)


@pytest.mark.parametrize("token", ["", "two\nlines", "ümläut", None])
def test_a_token_that_is_none_is_not_sent(stage: Stage, lines: list[str], token: str | None) -> None:
    file = stage.folder / "other"
    if token is not None:
        file.write_text(token)
    stage.open(options=kubernetes.Options(api=stage.api.url, node=NODE, pods_log="", token_file=str(file)))
    until(lambda: any("failed" in line for line in lines))

    assert [] == stage.api.requests
    assert not token or token not in "".join(lines)


# --- opening ----------------------------------------------------------------------------------------


def test_where_there_is_nothing_of_kubernetes_it_is_unavailable(tmp_path: Path) -> None:
    options = kubernetes.Options(pods_log=str(tmp_path / "no"))
    with pytest.raises(Unavailable) as caught:
        kubernetes.open_namer(options, ManualClock(), {}, tmp_path / "neither")

    assert caught.value.remedy


def test_folders_of_logs_alone_are_enough(tmp_path: Path) -> None:
    (tmp_path / f"ml_train-0_{UID}").mkdir()

    namer = kubernetes.open_namer(kubernetes.Options(pods_log=str(tmp_path)), ManualClock(), {}, tmp_path / "no")

    assert named(UID, "ml", "ml/train-0") == namer.name_of(inside(UID))


@pytest.mark.parametrize(
    "api",
    [
        "http://10.0.0.1:6443",
        "ftp://10.0.0.1",
        "nonsense",
        "https://me:pass@10.0.0.1",
        "https://x/?token=a",
        "http://[::1",
    ],
)
def test_a_token_is_sent_over_tls_only(tmp_path: Path, api: str) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with pytest.raises(Unavailable) as caught:
        kubernetes.open_namer(kubernetes.Options(api=api), ManualClock(), {}, tmp_path)

    assert "pass" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "api"),
    [
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"}, "https://10.96.0.1:6443"),
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, "https://10.96.0.1:443"),
        ({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}, "https://[fd00::1]:443"),
        ({}, "https://kubernetes.default.svc"),
    ],
)
def test_a_pod_finds_its_clusters_api(tmp_path: Path, environ: dict[str, str], api: str) -> None:
    assert api == kubernetes._own_api(environ, tmp_path)


@pytest.mark.parametrize(("option", "environ", "node"), [("a", {"NODE_NAME": "b"}, "a"), ("", {"NODE_NAME": "b"}, "b")])
def test_the_node_is_as_set_or_as_the_pod_was_told(
    tmp_path: Path, option: str, environ: dict[str, str], node: str
) -> None:
    place = kubernetes._place(kubernetes.Options(node=option), "https://x", environ, tmp_path)

    assert Place("https://x", node, None) == place


def test_the_rights_in_the_manifest_are_those_that_are_used() -> None:
    documents = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "rbac.yaml").read_text()))
    (role,) = (document for document in documents if document["kind"] == "ClusterRole")

    assert [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}] == role["rules"]
    assert {"ServiceAccount", "ClusterRole", "ClusterRoleBinding"} == {document["kind"] for document in documents}
