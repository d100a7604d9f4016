"""Who holds a GPU in Kubernetes while nobody computes on it: kubelet's own memory of it, and what is left of pods."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from standin.cgroups import Machine
from standin.daemon import Daemon, Metrics
from standin.nvml import CompilerMissing, Constant, Gpu, NvmlStandin
from wattgram.clock import ManualClock
from wattgram.model import Named, Subject, Workload
from wattgram.names import Names
from wattgram.ports import ReadFailed
from wattgram.workloads import kubernetes
from wattgram.workloads.kubernetes.allotment import LOOK_SECONDS, Allotment, Living, parse_checkpoint
from wattgram.workloads.kubernetes.namer import KubernetesNamer

UID, OTHER = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0", "11111111-2222-3333-4444-555555555555"
UNDERSCORED, UNDERSCORED_OTHER = UID.replace("-", "_"), OTHER.replace("-", "_")
GPU, SECOND = (f"GPU-5ca1ab1e-0000-4000-8000-00000000000{number}" for number in range(2))
BURSTABLE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORED}.slice"
IDLE = 60.0


def entry(uid: str, devices: object, resource: str = "nvidia.com/gpu") -> dict[str, Any]:
    """A pod's devices as kubelet writes them, with the answer of the plugin, which nobody here reads."""
    answer = "CkIKFk5WSURJQV9WSVNJQkxFX0RFVklDRVM="
    return {
        "PodUID": uid,
        "ContainerName": "main",
        "ResourceName": resource,
        "DeviceIDs": devices,
        "AllocResp": answer,
    }


def checkpoint(*entries: dict[str, Any]) -> bytes:
    """The whole file."""
    data = {"PodDeviceEntries": list(entries) or None, "RegisteredDevices": {"nvidia.com/gpu": [GPU, SECOND]}}
    return json.dumps({"Data": data, "Checksum": 3364951114}).encode()


# --- what the file says -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "held"),
    [
        ([], {}),
        ([entry(UID, {"-1": [GPU]})], {GPU: (UID,)}),
        ([entry(UID, {"0": [GPU], "1": [SECOND]})], {GPU: (UID,), SECOND: (UID,)}),
        # before 1.20: no memory nodes
        ([entry(UID, [GPU, SECOND])], {GPU: (UID,), SECOND: (UID,)}),
        ([entry(UID, None)], {}),
        ([entry(UID, {"0": None})], {}),
        # time-slicing and MPS: several pods, or one several times
        (
            [entry(UID, {"0": [f"{GPU}::0", f"{GPU}::3"]}), entry(OTHER, {"0": [f"{GPU}::1"]})],
            {GPU: (UID, OTHER)},
        ),
        ([entry(UID, {"0": [f"{GPU}::0"]}, "nvidia.com/gpu.shared")], {GPU: (UID,)}),
        # two containers of a pod
        ([entry(UID, {"0": [GPU]}), entry(UID, {"0": [SECOND]})], {GPU: (UID,), SECOND: (UID,)}),
        # a part of a GPU is not the GPU
        ([entry(UID, {"0": ["MIG-8f1d6b4e-1e30-5b5b-a5a6-6d1cb2b7d5f4"]}, "nvidia.com/mig-1g.5gb")], {}),
        # others' devices, others' names
        ([entry(UID, {"0": [GPU]}, "example.com/gpu")], {}),
        ([entry(UID, {"0": ["0"]})], {}),
        ([entry("../../etc", {"0": [GPU]})], {}),
    ],
)
def test_gpus_are_held_by_whom_kubelet_gave_them(
    entries: list[dict[str, Any]], held: dict[str, tuple[str, ...]]
) -> None:
    assert held == parse_checkpoint(checkpoint(*entries))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"Data": null}',
        b'{"Data": {"PodDeviceEntries": 0}}',
        b'{"Data": {"PodDeviceEntries": [3]}}',
        b'{"Data": {"PodDeviceEntries": [{"PodUID": "a"}]}}',
        checkpoint(entry(UID, 7)),
        checkpoint(entry(UID, GPU)),
        checkpoint(entry(UID, {"0": {"Devices": [GPU]}})),
        checkpoint(entry(UID, {"0": [7]})),
        checkpoint({**entry(UID, []), "ResourceName": 7}),
        checkpoint({**entry(UID, [GPU]), "PodUID": 7}),
        b"[" * 100_000,
    ],
)
def test_what_kubelet_would_not_write_is_refused(text: bytes) -> None:
    with pytest.raises(ReadFailed) as caught:
        parse_checkpoint(text)

    assert "shape" == caught.value.reason


# --- who is alive -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v2", "v1"])
@pytest.mark.parametrize(
    "group",
    [
        f"/kubepods/pod{UID}",
        f"/kubepods/burstable/pod{UID}",
        f"/kubepods.slice/kubepods-pod{UNDERSCORED}.slice",
        BURSTABLE,
        f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UNDERSCORED}.slice",
        f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{UNDERSCORED}.slice",
    ],
)
def test_a_pod_lives_while_it_has_a_control_group(tmp_path: Path, version: str, group: str) -> None:
    machine = Machine(tmp_path, version)
    living = Living(machine.tree)
    course = [UID in living]
    machine.group(group)
    course += [UID in living, OTHER in living, UID in living]
    machine.remove(group)

    assert [False, True, False, True, False] == [*course, UID in living]


@pytest.mark.parametrize(
    "group",
    [
        # within a container, and in one that is called so
        f"/kubepods.slice/kubepods-pod{UNDERSCORED_OTHER}.slice/crio-{'ab' * 32}.scope/kubepods-pod{UNDERSCORED}.slice",
        f"/kubepods/pod{OTHER}/pod{UID}",
        f"/lxc/kubepods/pod{UID}",
        f"/lxc.payload.x-kubepods/pod{UID}",
        f"/user.slice/user-1000.slice/user@1000.service/kubepods/pod{UID}",
    ],
)
def test_a_group_that_others_can_make_is_no_sign_of_life(tmp_path: Path, group: str) -> None:
    machine = Machine(tmp_path)
    machine.group(group)

    assert UID not in Living(machine.tree)


def test_without_control_groups_nobody_is_known_to_live(tmp_path: Path) -> None:
    assert UID not in Living(tmp_path / "none")


# --- both -------------------------------------------------------------------------------------------


class Node:
    """A machine with control groups, a clock turned by hand, and kubelet's file."""

    def __init__(self, tmp_path: Path) -> None:
        self.machine = Machine(tmp_path)
        self.clock = ManualClock()
        self.file = tmp_path / "kubelet_internal_checkpoint"
        self.allotment = Allotment(self.file, self.machine.tree, self.clock)

    def later(self) -> dict[str, tuple[str, ...]]:
        """Who holds what a second later."""
        self.clock.advance(LOOK_SECONDS)
        return dict(self.allotment.held())


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_a_pod_that_ended_holds_nothing_though_kubelet_has_not_forgotten_it(node: Node) -> None:
    node.machine.group(BURSTABLE)
    node.file.write_bytes(checkpoint(entry(UID, {"0": [GPU]}), entry(OTHER, {"0": [SECOND]})))
    first = dict(node.allotment.held())
    node.machine.remove(BURSTABLE)

    assert ({GPU: (UID,)}, {}) == (first, node.later())


def test_a_gpu_changes_hands_within_a_second(node: Node) -> None:
    node.machine.group(BURSTABLE)
    node.file.write_bytes(checkpoint(entry(UID, {"0": [GPU]})))
    course = [node.later()]
    node.machine.remove(BURSTABLE)
    node.machine.group(f"/kubepods/pod{OTHER}")
    node.file.write_bytes(checkpoint(entry(OTHER, {"0": [GPU]}), entry(OTHER, None)))
    node.clock.advance(LOOK_SECONDS - 0.1)
    course.append(dict(node.allotment.held()))
    node.clock.advance(0.1)

    assert [{GPU: (UID,)}, {GPU: (UID,)}, {GPU: (OTHER,)}] == [*course, dict(node.allotment.held())]


def test_where_kubelet_gave_nothing_there_is_no_file_and_no_line(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    assert {} == node.later()
    assert [] == caplog.messages


def test_a_file_that_cannot_be_read_is_said_once_and_when_it_can_be_again(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody holds anything meanwhile: what an old file said may be wrong by now."""
    caplog.set_level(logging.INFO, "wattgram")
    node.machine.group(BURSTABLE)
    good = checkpoint(entry(UID, {"0": [GPU]}))
    node.file.write_bytes(good)
    held = [node.later()]
    for bad in (good[:-40], b"{}"):
        node.file.write_bytes(bad)
        held.append(node.later())
    node.file.unlink()
    node.file.mkdir()
    held += [node.later(), node.later()]
    node.file.rmdir()
    node.file.write_bytes(good)
    held.append(node.later())

    assert [{GPU: (UID,)}, {}, {}, {}, {}, {GPU: (UID,)}] == held
    lines = caplog.messages
    assert 3 == len(lines)
    assert "not what kubelet writes" in lines[0]
    assert "not a regular file" in lines[1] or "Is a directory" in lines[1]
    assert "can be read again" in lines[2]


def test_a_pipe_in_its_place_keeps_nobody_waiting(node: Node) -> None:
    os.mkfifo(node.file)

    assert {} == node.later()
    assert "not a regular file" in node.allotment.trouble


@pytest.fixture
def options(node: Node, tmp_path: Path) -> kubernetes.Options:
    """Of a node without an API, where one pod was given a GPU and has its group."""
    node.machine.group(BURSTABLE)
    node.file.write_bytes(checkpoint(entry(UID, {"0": [GPU]})))
    (tmp_path / "pods").mkdir()
    return kubernetes.Options(pods_log=str(tmp_path / "pods"), checkpoint=str(node.file), cgroup=str(node.machine.tree))


def opened(options: kubernetes.Options, node: Node) -> KubernetesNamer:
    return kubernetes.open_namer(options, node.clock, {}, Path("/nowhere"))


def test_a_pod_holds_a_gpu_by_the_name_that_its_processes_have(
    node: Node, options: kubernetes.Options, tmp_path: Path
) -> None:
    (tmp_path / "pods" / f"ml_train-0_{UID}").mkdir()
    namer = opened(options, node)

    named = Named(Workload("pod", UID, "ml"), 0, "ml/train-0")
    process = namer.name_of(Subject((BURSTABLE,), None))
    assert process
    assert ({GPU: (named,)}, named) == (namer.holders(), replace(process, depth=0))


def test_a_pod_that_holds_a_gpu_before_it_has_a_name_gets_it_when_it_has(
    node: Node, options: kubernetes.Options, tmp_path: Path
) -> None:
    """Its volumes are mounted first, then comes the folder of its logs, then a process."""
    namer = opened(options, node)
    early = dict(namer.holders())
    node.clock.advance(60.0)
    early |= namer.holders()
    (tmp_path / "pods" / f"ml_train-0_{UID}").mkdir()
    node.clock.advance(60.0)

    pod = Workload("pod", UID, "ml")
    named = namer.name_of(Subject((BURSTABLE,), None))
    assert ({GPU: ()}, pod) == (early, named and named.workload)
    assert [pod] == [holder.workload for holder in namer.holders()[GPU]]


def test_a_pod_that_had_to_be_called_by_its_uid_holds_by_its_uid(node: Node, options: kubernetes.Options) -> None:
    namer = opened(options, node)
    namer.name_of(Subject((BURSTABLE,), None))

    assert {GPU: (Named(Workload("pod", UID, "")),)} == namer.holders()


def test_it_can_be_left_unasked(node: Node, options: kubernetes.Options, caplog: pytest.LogCaptureFixture) -> None:
    namer = opened(replace(options, checkpoint=""), node)

    assert ({}, []) == (namer.holders(), caplog.messages)


def test_a_holder_is_described_to_people(node: Node, options: kubernetes.Options, tmp_path: Path) -> None:
    """Also one that nothing but kubelet's file has named."""
    (tmp_path / "pods" / f"ml_train-0_{UID}").mkdir()
    names = Names({"kubernetes": opened(options, node)}, node.clock, tmp_path / "proc")

    assert {GPU: (Workload("pod", UID, "ml"),)} == names.holders()
    assert ("ml/train-0", "") == names.describe(Workload("pod", UID, "ml"))


def test_the_doctor_is_told_what_it_goes_by(node: Node, options: kubernetes.Options) -> None:
    good = opened(options, node).told()
    node.file.write_bytes(b"{}")
    bad = opened(options, node).told()

    assert ("", "") == (good.lacks, good.remedy)
    assert "GPUs held by pods: 1" in good.goes_by
    assert "not what kubelet writes" in bad.lacks
    assert bad.remedy


# --- the daemon -------------------------------------------------------------------------------------


def idle_of(metrics: Metrics, owner: str) -> float:
    """Joules of idle that an owner was given."""
    return metrics.sum("wattgram_owner_energy_joules_total", owner=owner, component="gpu", activity="idle")


@pytest.mark.apart
def test_a_gpu_that_a_pod_keeps_for_itself_costs_the_pod_its_idle_power(tmp_path: Path) -> None:
    """It has no process on it; when the pod is gone the GPU is nobody's, whatever kubelet's file says."""
    try:
        nvml = NvmlStandin(tmp_path / "nvml", [Gpu(profile=Constant(IDLE)), Gpu(profile=Constant(IDLE))])
    except CompilerMissing as missing:
        pytest.skip(str(missing))
    machine, file, logs = Machine(tmp_path), tmp_path / "checkpoint", tmp_path / "pods"
    machine.group(BURSTABLE)
    (logs / f"ml_train-0_{UID}").mkdir(parents=True)
    file.write_bytes(checkpoint(entry(UID, {"0": [nvml.gpus[0].uuid]})))
    idle = "\n".join(f'"{gpu.uuid}" = {IDLE}' for gpu in nvml.gpus)
    config = f"""[sampling]
interval = "250ms"
[sources.nvml]
enabled = true
activity_every = "250ms"
[sources.rapl]
enabled = false
[sources.hwmon]
enabled = false
[sources.cgroups]
enabled = false
[attribution.idle_watts]
{idle}
[workloads.kubernetes]
enabled = true
pods_log = "{logs}"
checkpoint = "{file}"
cgroup = "{machine.tree}"
"""
    with Daemon(tmp_path, config, env=nvml.env) as daemon:
        metrics = daemon.until(lambda m: idle_of(m, "ml") > 2 * IDLE)
        shown = metrics.samples("wattgram_workload_energy_joules_total", kind="pod")
        machine.remove(BURSTABLE)
        # Looked at every second; then all of both cards is nobody's.
        end = daemon.until(lambda m: idle_of(m, "idle") - idle_of(metrics, "idle") > 8 * IDLE)

    assert {(UID, nvml.gpus[0].uuid, "idle")} == {
        (sample.labels["workload"], sample.labels["device"], sample.labels["activity"]) for sample in shown
    }
    assert 0.5 <= idle_of(metrics, "ml") / idle_of(metrics, "idle") <= 2.0
    assert idle_of(end, "ml") < idle_of(metrics, "ml") + 4 * IDLE
