r"""On whose behalf: every form that a control group's path takes, told to all namers, of which the deepest is meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattgram import registry
from wattgram.clock import ManualClock
from wattgram.model import KINDS, Named, Process, Subject
from wattgram.ports import Namer
from wattgram.tools.labels import LONGEST
from wattgram.tools.users import Users
from wattgram.workloads._jobs import JobFolder
from wattgram.workloads.containers import ContainerNamer
from wattgram.workloads.slurm import SlurmNamer
from wattgram.workloads.units import UnitNamer
from wattgram.workloads.users import UserNamer

A, B = "a1" * 32, "b2" * 32
POD = "0a1b2c3d-1111-2222-3333-444455556666"
POD_ = POD.replace("-", "_")
STATIC = "0123456789abcdef" * 2
NAMES = {0: "root", 1000: "alice", 1001: "bob", 33: "www-data"}
ALICES = "/user.slice/user-1000.slice/user@1000.service"


def namers() -> tuple[Namer, ...]:
    """All of these namers, in the registry's order, on a host with four users and no prolog."""
    clock = ManualClock()
    users = Users(clock, NAMES.get)
    slurm = SlurmNamer(users, JobFolder(Path("/nonexistent")), Path("/nonexistent"), clock)
    return slurm, ContainerNamer(users), UnitNamer(users), UserNamer(users)


def meant(*paths: str, uid: int | None = None, among: tuple[Namer, ...] = ()) -> Named | None:
    """What the core makes of it: the deepest, of several the first."""
    subject = Subject(paths, Process(4711, 1), uid)
    answers = [named for namer in among or namers() if (named := namer.name_of(subject))]
    return max(answers, key=lambda named: named.depth, default=None)


CONTAINERS = {
    "docker, cgroupfs": (f"/docker/{A}", A),
    "docker, systemd": (f"/system.slice/docker-{A}.scope", A),
    "docker, mismatched drivers": (f"/system.slice/docker.service/system.slice:docker:{A}", A),
    "docker, a parent of the user's": (f"/batch/night/{A}", A),
    "docker, below it": (f"/docker/{A}/workers/7", A),
    "docker in docker": (f"/docker/{A}/docker/{B}", B),
    "docker, systemd in a container": (f"/docker/{A}/system.slice/nginx.service", A),
    "docker, a user of a systemd in a container": (f"/docker/{A}/user.slice/user-1000.slice/session-1.scope", A),
    "docker, seen from another namespace": (f"/../../system.slice/docker-{A}.scope", A),
    "docker, removed": (f"/system.slice/docker-{A}.scope (deleted)", A),
    "containerd, cgroupfs": (f"/default/{A}", A),
    "nerdctl, systemd": (f"/system.slice/nerdctl-{A}.scope", A),
    "containerd, cgroupfs, burstable": (f"/kubepods/burstable/pod{POD}/{A}", A),
    "containerd, cgroupfs, guaranteed": (f"/kubepods/pod{POD}/{A}", A),
    "containerd, systemd, burstable": (
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{POD_}.slice/cri-containerd-{A}.scope",
        A,
    ),
    "containerd, systemd, guaranteed": (f"/kubepods.slice/kubepods-pod{POD_}.slice/cri-containerd-{A}.scope", A),
    "containerd, mismatched drivers": (
        f"/system.slice/containerd.service/kubepods-burstable-pod{POD_}.slice:cri-containerd:{A}",
        A,
    ),
    "containerd, static pod": (f"/kubepods/besteffort/pod{STATIC}/{A}", A),
    "containerd, kubelet.slice": (
        f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{POD_}.slice/cri-containerd-{A}.scope",
        A,
    ),
    "containerd, kind": (f"/docker/{A}/kubelet/kubepods/burstable/pod{POD}/{B}", B),
    "containerd, kind, systemd": (
        f"/system.slice/docker-{A}.scope/kubelet.slice/kubelet-kubepods-pod{POD_}.slice/cri-containerd-{B}.scope",
        B,
    ),
    "cri-o, systemd": (f"/kubepods.slice/kubepods-pod{POD_}.slice/crio-{A}.scope", A),
    "cri-o, below it": (f"/kubepods.slice/kubepods-pod{POD_}.slice/crio-{A}.scope/container", A),
    "cri-o, cgroupfs": (f"/kubepods/besteffort/pod{POD}/crio-{A}", A),
    "cri-o, bare": (f"/system.slice/crio-{A}.scope", A),
    "podman, rootful": (f"/machine.slice/libpod-{A}.scope", A),
    "podman, rootful, below it": (f"/machine.slice/libpod-{A}.scope/container", A),
    "podman, in a podman pod": (f"/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope/container", A),
    "podman, cgroupfs": (f"/libpod_parent/libpod-{A}", A),
    "podman, payload of a unit": (f"/system.slice/web.service/libpod-payload-{A}", A),
    "lxc": ("/lxc/web-1", "web-1"),
    "lxc, proxmox": ("/lxc/101/ns/system.slice/cron.service", "101"),
    "lxc, payload": ("/lxc.payload.web", "web"),
    "lxc, payload, systemd in it": ("/lxc.payload.web/system.slice/nginx.service", "web"),
    "lxc, payload, older": ("/lxc.payload/web/init.scope", "web"),
    "lxc in lxc": ("/lxc.payload.outer/lxc.payload.inner", "inner"),
    "docker in lxc": (f"/lxc.payload.web/docker/{A}", A),
    "libvirt, lxc": (r"/machine.slice/machine-lxc\x2d4711\x2dweb.scope", "web"),
    "libvirt, lxc, without systemd": ("/machine/lxc-4711-web.libvirt-lxc", "web"),
    "nspawn": ("/machine.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service", "web"),
    "nspawn, from a shell": (r"/machine.slice/machine-web\x2d1.scope/payload", "web-1"),
}
VMS = {
    "libvirt": (r"/machine.slice/machine-qemu\x2d3\x2dweb\x2d01.scope/libvirt/emulator", "web-01"),
    "libvirt, a vcpu": (r"/machine.slice/machine-qemu\x2d12\x2ddb.scope/libvirt/vcpu0", "db"),
    "libvirt, cloud hypervisor": (r"/machine.slice/machine-ch\x2d3\x2dweb.scope", "web"),
    "libvirt, without systemd": ("/machine/qemu-3-web.libvirt-qemu/emulator", "web"),
    "libvirt, older": ("/machine/web.libvirt-qemu", "web"),
    "vmspawn": ("/machine.slice/systemd-vmspawn@web.service", "web"),
}
JOBS = {
    "v1": ("/slurm/uid_1000/job_4711/step_0/task_0", "4711"),
    "v1, extern step": ("/slurm/uid_1000/job_4711/step_extern", "4711"),
    "v1, several slurmd": ("/slurm_node-7/uid_1000/job_4711/step_batch/task_0", "4711"),
    "v1, the job alone": ("/slurm/uid_1000/job_4711", "4711"),
    "v2": ("/system.slice/slurmstepd.scope/job_4711/step_0/user/task_0", "4711"),
    "v2, batch": ("/system.slice/slurmstepd.scope/job_4711/step_batch/user/task_special", "4711"),
    "v2, interactive": ("/system.slice/slurmstepd.scope/job_4711/step_interactive/user", "4711"),
    "v2, several slurmd": ("/system.slice/node-7_slurmstepd.scope/job_4711/step_extern/user", "4711"),
    "v2, removed": ("/system.slice/slurmstepd.scope/job_4711/step_0 (deleted)", "4711"),
    "slurmd in docker": (f"/docker/{A}/slurm/uid_1000/job_4711/step_0", "4711"),
    "slurmd in docker, v2": (
        f"/system.slice/docker-{A}.scope/system.slice/slurmstepd.scope/job_4711/step_0/user/task_0",
        "4711",
    ),
}
UNITS = {
    "a service": ("/system.slice/nginx.service", "nginx.service"),
    "below it": ("/system.slice/nginx.service/workers/3", "nginx.service"),
    "a service that delegates": ("/system.slice/docker.service/build.service", "docker.service"),
    "slices in slices": ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
    "a slice of one's own": ("/training.slice/training-a.slice/llm.service", "llm.service"),
    "escaped": (r"/system.slice/a@b\x2dc.service", r"a@b\x2dc.service"),
    "seen from another namespace": ("/../../system.slice/nginx.service", "nginx.service"),
    "init": ("/init.scope", "init.scope"),
    "a lasting scope": ("/system.slice/train.scope", "train.scope"),
    "slurmd": ("/system.slice/slurmd.service", "slurmd.service"),
    "slurmstepd itself": ("/system.slice/slurmstepd.scope/system", "slurmstepd.scope"),
    "slurmstepd itself, of several": ("/system.slice/n-1_slurmstepd.scope/system", "n-1_slurmstepd.scope"),
    "no job": ("/system.slice/slurmstepd.scope/job_x/step_0", "slurmstepd.scope"),
    "kubelet": ("/kubelet.slice/kubelet.service", "kubelet.service"),
    "nspawn's monitor": ("/machine.slice/systemd-nspawn@web.service/supervisor", "systemd-nspawn@web.service"),
    "podman's monitor in a unit": (f"/system.slice/web.service/libpod-conmon-{A}", "web.service"),
    "docker, too short an id": (f"/system.slice/docker.service/docker-{A[:63]}.scope", "docker.service"),
}
USERS = {
    "a session": ("/user.slice/user-1000.slice/session-3.scope", "alice"),
    "a session, sudo": ("/user.slice/user-1001.slice/session-c3.scope", "bob"),
    "the user's manager": (f"{ALICES}/init.scope", "alice"),
    "a user's service": (f"{ALICES}/app.slice/jupyter.service", "alice"),
    "a user's transient unit": (f"{ALICES}/app.slice/run-r0123.scope", "alice"),
    "the runtime directory's": ("/user.slice/user-1000.slice/user-runtime-dir@1000.service", "alice"),
    "the slice alone": ("/user.slice/user-1000.slice", "alice"),
    "seen from another namespace": ("/../../user-1000.slice/session-3.scope", "alice"),
    "apptainer with a group": (f"{ALICES}/user.slice/apptainer-4711.scope", "alice"),
    "podman's monitor, rootless": (f"{ALICES}/user.slice/libpod-conmon-{A}.scope", "alice"),
    "a forged job": (f"{ALICES}/slurmstepd.scope/job_4711/step_0", "alice"),
    "a forged job of v1": (f"{ALICES}/slurm/uid_1001/job_4711", "alice"),
    "nobody's number": ("/user.slice/user-4242.slice/session-3.scope", "4242"),
}
# What is in no group that says whose it is: the user of the process.
LOOSE = {
    "the root": "/",
    "the root of another namespace": "/../..",
    "nothing": "",
    "a slice alone": "/system.slice",
    "a pod's slice alone": f"/kubepods.slice/kubepods-pod{POD_}.slice",
    "cri-o's monitor": f"/system.slice/crio-conmon-{A}.scope",
    "cri-o's monitor, in a pod": f"/kubepods.slice/kubepods-pod{POD_}.slice/crio-conmon-{A}.scope",
    "podman's monitor": f"/machine.slice/libpod-conmon-{A}.scope",
    "podman's monitor, cgroupfs": f"/libpod_parent/libpod-conmon-{A}",
    "lxc's monitor": "/lxc.monitor.web",
    "lxc's monitor, older": "/lxc.monitor/web",
    "a transient service": "/system.slice/run-u12.service",
    "a transient service, named by a process": "/system.slice/run-p4711-i4712.service",
    "a transient scope": "/system.slice/run-r0123456789abcdef0123456789abcdef.scope",
    "apptainer's, named by a process": "/system.slice/apptainer-4711.scope",
    "a longer number": f"/docker/{A}0",
    "a shorter number": f"/docker/{A[:63]}",
    "capitals": f"/docker/{A.upper()}",
    "an unknown runtime": f"/foo-{A}.scope",
    "a service inside what we do not know": "/sandbox/system.slice/nginx.service",
    "no number": "/slurm/uid_1000/job_x",
    "a job's number, padded": "/slurm/uid_1000/job_007",
    "digits of another script": "/slurm/uid_1000/job_٤٧",
    "a job that only begins so": "/slurm/uid_1000/job_4711x",
    "a slice that only begins so": "/user.slice/user-1000x.slice",
    "no such user": "/user.slice/user-4294967295.slice",
    "slashes": "////",
    "no slash": "system.slice",
}


@pytest.mark.parametrize(("path", "id_"), CONTAINERS.values(), ids=CONTAINERS)
def test_a_container_is_called_by_its_id_and_belongs_to_its_processs_user(path: str, id_: str) -> None:
    named = meant(path, uid=1001)

    assert named
    assert named.workload
    assert ("container", id_, "bob") == (named.workload.kind, named.workload.id, named.workload.owner)
    assert id_[:12] == named.name[:12]


@pytest.mark.parametrize(("path", "id_"), VMS.values(), ids=VMS)
def test_a_virtual_machine_is_called_as_its_owner_calls_it(path: str, id_: str) -> None:
    named = meant(path, uid=None)

    assert named
    assert named.workload
    assert ("vm", id_, "") == (named.workload.kind, named.workload.id, named.workload.owner)


@pytest.mark.parametrize(("path", "id_"), JOBS.values(), ids=JOBS)
def test_a_job_is_called_by_its_number(path: str, id_: str) -> None:
    named = meant(path, uid=1000)

    assert named
    assert named.workload
    assert ("slurm", id_, "alice") == (named.workload.kind, named.workload.id, named.workload.owner)


@pytest.mark.parametrize(("path", "id_"), UNITS.values(), ids=UNITS)
def test_a_unit_is_called_as_systemd_writes_it(path: str, id_: str) -> None:
    named = meant(path, uid=33)

    assert named
    assert named.workload
    assert ("unit", id_, "www-data") == (named.workload.kind, named.workload.id, named.workload.owner)


@pytest.mark.parametrize(("path", "id_"), USERS.values(), ids=USERS)
def test_what_runs_in_a_users_slice_is_the_users(path: str, id_: str) -> None:
    """Whoever he became there, and however he called his services and groups."""
    named = meant(path, uid=0)

    assert named
    assert named.workload
    assert ("user", id_, id_) == (named.workload.kind, named.workload.id, named.workload.owner)


@pytest.mark.parametrize("path", LOOSE.values(), ids=LOOSE)
def test_whoever_is_in_no_group_is_his_user(path: str) -> None:
    named = meant(path, uid=1001)

    assert named
    assert named.workload
    assert ("user", "bob", "bob", 0) == (
        named.workload.kind,
        named.workload.id,
        named.workload.owner,
        named.depth,
    )


@pytest.mark.parametrize("path", LOOSE.values(), ids=LOOSE)
def test_whoever_is_in_no_group_and_has_no_user_is_nobody(path: str) -> None:
    assert None is meant(path, uid=None)


def test_the_names_of_namers_are_the_registrys() -> None:
    """In this order; others may stand between them. Each opens with its own defaults, wherever it is."""
    ours = [name for name in registry.WORKLOADS if name in {"slurm", "containers", "units", "users"}]
    clock = ManualClock()
    opened = [plug.open_namer(plug.Options(), clock) for plug in map(registry.namer, ours)]
    for namer in opened:
        namer.close()

    assert ["slurm", "containers", "units", "users"] == ours
    assert [type(namer) for namer in namers()] == [type(namer) for namer in opened]


@pytest.mark.parametrize(
    ("path", "uid", "owner"),
    [
        ("/slurm/uid_1001/job_1/step_0", 0, "bob"),
        ("/system.slice/slurmstepd.scope/job_1/step_0/user/task_0", 1000, "alice"),
        ("/system.slice/slurmstepd.scope/job_1/step_0/user/task_0", 0, "root"),
        ("/system.slice/slurmstepd.scope/job_1/step_0/slurm", 0, ""),
        ("/system.slice/slurmstepd.scope/job_1/step_0", None, ""),
    ],
)
def test_a_jobs_owner_is_its_paths_else_its_processs_but_not_slurmstepds(
    path: str, uid: int | None, owner: str
) -> None:
    named = meant(path, uid=uid)

    assert named
    assert named.workload
    assert owner == named.workload.owner


def test_a_rootless_container_is_its_users_whatever_uid_it_runs_as() -> None:
    """Inside it he has uids of a range of his own, which are nobody's."""
    named = meant(f"{ALICES}/user.slice/libpod-{A}.scope/container", uid=100_999)

    assert named
    assert named.workload
    assert ("container", f"1000/{A}", "alice") == (named.workload.kind, named.workload.id, named.workload.owner)


@pytest.mark.parametrize(
    "path", [f"/docker/{A}", "/system.slice/nginx.service", "/system.slice/slurmstepd.scope/job_7/step_0"]
)
def test_what_several_users_run_in_has_one_owner(path: str) -> None:
    """A second account for the same container would be a second container."""
    all_of_them = namers()

    owners = [
        named.workload.owner
        for uid in (None, 0, 33, None)
        if (named := meant(path, uid=uid, among=all_of_them)) and named.workload
    ]

    assert ["", "root", "root", "root"] == owners


def test_of_several_hierarchies_the_deepest_name_is_meant() -> None:
    """A host with cgroup v1 has a line per controller, and slurmd leaves systemd's own as it was."""
    job = meant("/system.slice/slurmd.service", "/slurm/uid_1000/job_7", "/", uid=0)
    container = meant("/", "/system.slice/containerd.service", f"/docker/{A}", "/docker", uid=0)
    session = meant("/system.slice/ssh.service", "/user.slice/user-1000.slice/session-1.scope", uid=0)
    unit = meant("/system.slice", "/", "/system.slice/nginx.service", uid=33)

    assert [("slurm", "7"), ("container", A), ("user", "alice"), ("unit", "nginx.service")] == [
        (named.workload.kind, named.workload.id)
        for named in (job, container, session, unit)
        if named and named.workload
    ]


def test_docker_inside_a_job_is_the_container() -> None:
    named = meant(f"/system.slice/slurmstepd.scope/job_7/step_0/user/task_0/docker/{A}", uid=1000)

    assert named
    assert named.workload
    assert ("container", A, "alice") == (named.workload.kind, named.workload.id, named.workload.owner)


@pytest.mark.parametrize(
    "path", [path for form, (path, _) in CONTAINERS.items() if "pod" in path and "libpod" not in path]
)
def test_a_pods_container_is_no_deeper_than_its_pod(path: str) -> None:
    """Where pods are named, the pod is meant."""
    pod_ends = max(path.rfind(uid) + len(uid) for uid in (POD, POD_, STATIC) if uid in path)

    named = ContainerNamer(Users(ManualClock(), NAMES.get)).name_of(Subject((path,)))

    assert named
    assert pod_ends == named.depth


def test_a_name_for_people_is_unescaped_and_the_id_is_not() -> None:
    named = meant(r"/system.slice/a@b\x2dc\xc3\xa9\xff.service", uid=0)

    assert named
    assert named.workload
    assert (r"a@b\x2dc\xc3\xa9\xff.service", "a@b-cé\N{REPLACEMENT CHARACTER}.service") == (
        named.workload.id,
        named.name,
    )


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("we\x1b[2Jb\n", "we?[2Jb?"),
        (b"w\xe9b".decode("utf-8", "surrogateescape"), "w?b"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}bew", "?bew"),
        ("x" * 300, "x" * LONGEST),
    ],
)
def test_a_label_can_be_printed_and_is_bounded(name: str, shown: str) -> None:
    named = meant(f"/lxc.payload.{name}", uid=0)

    assert named
    assert named.workload
    assert shown.replace("?", "\N{REPLACEMENT CHARACTER}") == named.workload.id == named.name


PIECES = st.sampled_from(
    [
        *("docker", A, f"docker-{A}.scope", "user.slice", "user-1000.slice", "user@1000.service", "job_7", "uid_0"),
        *("slurm", "slurmstepd.scope", "lxc.payload.", r"machine-qemu\x2d1\x2da.scope", r"a\xff.service", ".."),
        *(f"pod{POD}", " (deleted)"),
    ]
)
PATHS = st.one_of(st.text(max_size=40), st.lists(st.one_of(PIECES, st.text(max_size=6)), max_size=8).map("/".join))


ANYBODY = namers()


@settings(max_examples=60, deadline=None)
@given(paths=st.lists(PATHS.map(lambda path: f"/{path}"), max_size=4), uid=st.none() | st.integers(0, 2**32 - 1))
def test_garbage_gets_a_bounded_name_or_none(paths: list[str], uid: int | None) -> None:
    named = meant(*paths, uid=uid, among=ANYBODY)

    if named is None:
        assert uid is None
        return
    assert named.workload
    assert named.workload.kind in KINDS
    assert named.workload.id
    assert 0 <= named.depth <= max(map(len, paths), default=0)
    for text in (named.workload.id, named.workload.owner, named.name, named.account):
        assert text.isprintable()
        assert len(text) <= LONGEST


@pytest.mark.parametrize(
    "path",
    [
        "/system.slice/my.service/slurmstepd.scope/job_77/step_0",
        "/lxc.payload.c1/system.slice/slurmstepd.scope/job_77",
        "/system.slice/my.service/slurm/uid_0/job_77",
    ],
)
def test_a_job_is_not_believed_below_a_group_of_somebody_elses(path: str) -> None:
    """Who was given a group may call those in it as he likes."""
    found = meant(path)

    assert found is None or found.workload is None or found.workload.kind != "slurm"
