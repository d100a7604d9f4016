"""Who holds a GPU in Kubernetes while nobody computes on it: kubelet's own memory of it, and what is left of pods."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from standin.cgroups import Machine
from standin.daemon import Daemon, Metrics
from standin.nvml import CompilerMissing, Constant, Gpu, NvmlStandin
from wattgram.clock import ManualClock
from wattgram.model import Subject, Workload
from wattgram.ports import ReadFailed
from wattgram.workloads import kubernetes
from wattgram.workloads.kubernetes.allotment import LOOK_SECONDS, Allotment, living_pods, parse_checkpoint

UID, OTHER = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0", "11111111-2222-3333-4444-555555555555"
UNDERSCORED = UID.replace("-", "_")
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
        b'{"Data": {"PodDeviceEntries": [3]}}',
        b'{"Data": {"PodDeviceEntries": [{"PodUID": "a"}]}}',
        checkpoint(entry(UID, 7)),
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
    machine.group("/user.slice/user-1000.slice")
    machine.group(group)
    before = living_pods(machine.tree)
    machine.remove(group)

    assert (frozenset({UID}), frozenset()) == (before, living_pods(machine.tree))


def test_without_control_groups_nobody_is_known_to_live(tmp_path: Path) -> None:
    assert frozenset() == living_pods(tmp_path / "none")


# --- both -------------------------------------------------------------------------------------------


class Node:
    """A machine with control groups, a clock turned by hand, and kubelet's file."""

    def __init__(self, tmp_path: Path) -> None:
        self.machine = Machine(tmp_path)
        self.clock = ManualClock()
        self.file = tmp_path / "kubelet_internal_checkpoint"
        self.allotment = Allotment(self.file, self.machine.tree, self.clock)

    def later(self) -> dict[str, tuple[str, ...]]:
        """Who holds what at the next look."""
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


def test_the_file_is_read_every_ten_seconds(node: Node) -> None:
    node.machine.group(BURSTABLE)
    node.file.write_bytes(checkpoint())
    node.allotment.held()
    node.file.write_bytes(checkpoint(entry(UID, {"0": [GPU]})))
    node.clock.advance(LOOK_SECONDS - 0.1)
    early = dict(node.allotment.held())
    node.clock.advance(0.1)

    assert ({}, {GPU: (UID,)}) == (early, dict(node.allotment.held()))


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
    assert "Is a directory" in lines[1]
    assert "can be read again" in lines[2]


def test_a_pod_holds_a_gpu_by_the_name_that_its_processes_have(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.machine.group(BURSTABLE)
    node.file.write_bytes(checkpoint(entry(UID, {"0": [GPU]})))
    logs = tmp_path / "pods"
    (logs / f"ml_train-0_{UID}").mkdir(parents=True)
    options = kubernetes.Options(pods_log=str(logs), checkpoint=str(node.file), cgroup=str(node.machine.tree))
    namer = kubernetes.open_namer(options, node.clock, {}, tmp_path / "no")

    pod = Workload("pod", UID, "ml")
    named = namer.name_of(Subject((BURSTABLE,), None))
    assert named
    assert ({GPU: (pod,)}, pod) == (namer.holders(), named.workload)


def test_it_can_be_left_unasked(tmp_path: Path) -> None:
    options = kubernetes.Options(pods_log=str(tmp_path), checkpoint="")

    assert {} == kubernetes.open_namer(options, ManualClock(), {}, tmp_path / "no").holders()


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
        # Looked at every ten seconds; then all of both cards is nobody's.
        daemon.until(lambda m: idle_of(m, "idle") - idle_of(metrics, "idle") > 16 * IDLE)
        end = daemon.metrics()

    assert {(UID, nvml.gpus[0].uuid, "idle")} == {
        (sample.labels["workload"], sample.labels["device"], sample.labels["activity"]) for sample in shown
    }
    assert 0.8 <= idle_of(metrics, "ml") / (idle_of(metrics, "idle")) <= 1.25
    assert idle_of(end, "ml") < idle_of(metrics, "ml") + 14 * IDLE
