"""The stack: its file against the specification's schema, and every path, port and name in it against what is there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from standin import debian, prometheus
from wattgram import config

CHECKOUT = Path(__file__).resolve().parents[1]
FOLDER = CHECKOUT / "deploy" / "compose"
FILE = FOLDER / "compose.yaml"
STACK: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
AGENTS = ("agent", "agent-gpu", "agent-demo")
SCRAPERS = {"prometheus.yml": "prometheus", "prometheus-demo.yml": "prometheus-demo"}
each_service = pytest.mark.parametrize("name", SERVICES)


def binds(service: dict[str, Any]) -> list[tuple[str, str]]:
    """What of the host is seen where."""
    return [(v["source"], v["target"]) for v in service.get("volumes", ()) if v["type"] == "bind"]


def published(service: dict[str, Any]) -> list[list[str]]:
    return [port.split(":") for port in service.get("ports", ())]


def test_the_file_keeps_the_schema_of_the_compose_specification() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert 0 == done.returncode, done.stdout


@each_service
def test_nobody_is_root_can_become_it_or_writes_outside_a_volume(name: str) -> None:
    service = SERVICES[name]

    assert re.fullmatch(r"[1-9]\d*:\d+", service["user"])
    assert (True, ["ALL"]) == (service["read_only"], service["cap_drop"])
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "cap_add", "devices", "env_file"} & set(service)
    assert [] == [v for v in service.get("volumes", ()) if v["type"] == "bind" and not v["read_only"]]


@each_service
def test_every_image_has_a_version_and_every_volume_a_name(name: str) -> None:
    service = SERVICES[name]
    image, _, tag = service["image"].rpartition(":")

    assert image
    assert re.fullmatch(r"v?\d+\.\d+\.\d+|local", tag)
    assert ("build" in service) == (tag == "local")
    volumes = {v["source"] for v in service.get("volumes", ()) if v["type"] == "volume"}
    assert volumes <= set(STACK["volumes"])


@each_service
def test_every_path_that_is_mounted_is_in_the_checkout_or_the_kernels(name: str) -> None:
    """An engine makes an empty folder of what is not there, and the service finds nothing in it."""
    sources = [source for source, _ in binds(SERVICES[name])]

    assert [] == [s for s in sources if s != "/sys" and not s.startswith(("../", "./"))]
    assert [] == [s for s in sources if s != "/sys" and not (FOLDER / s).exists()]


@each_service
def test_every_service_tells_whether_it_is_healthy(name: str) -> None:
    """The agents' check is in their image."""
    assert (name in AGENTS) != ("healthcheck" in SERVICES[name])


@each_service
def test_ports_are_this_machines_alone(name: str) -> None:
    assert {"127.0.0.1"} >= {address for address, _, _ in published(SERVICES[name])}


def test_the_build_finds_the_image_and_its_checkout() -> None:
    for name in AGENTS:
        build = SERVICES[name]["build"]
        assert (FOLDER / build["context"]).resolve() == CHECKOUT
        assert (CHECKOUT / build["dockerfile"]).is_file()


def test_each_profile_has_one_agent_and_one_prometheus() -> None:
    """Two agents would meter one server twice; nothing depends on what another profile leaves out."""
    profiles = {name: set(service.get("profiles", ())) for name, service in SERVICES.items()}
    for profile in ("demo", "cpu", "gpu"):
        up = [name for name in SERVICES if not profiles[name] or profile in profiles[name]]
        assert 1 == len([name for name in up if name in AGENTS])
        assert 1 == len([name for name in up if name in SCRAPERS.values()])
        assert {"alertmanager", "grafana"} <= set(up)
        needed = [SERVICES[name].get("network_mode", "").removeprefix("service:") for name in up]
        assert {name for name in needed if name} <= set(up)
        ports = [port for name in up for _, port, _ in published(SERVICES[name])]
        assert len(ports) == len(set(ports))


def test_no_secret_stands_in_any_file_of_the_stack() -> None:
    words = re.compile(r"(password|token|secret|api_?key)\w*['\"]?\s*[:=]\s*\S", re.IGNORECASE)

    assert [] == [line for file in FOLDER.iterdir() for line in file.read_text().splitlines() if words.search(line)]
    assert "true" == SERVICES["grafana"]["environment"]["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"]


@pytest.mark.parametrize("name", ["agent", "agent-gpu"])
def test_the_agents_environment_is_a_configuration(name: str) -> None:
    """Each variable is a key that exists, and each tree is where the host's is mounted."""
    told = {k: re.sub(r"\$\{\w+:-(\w*)\}", r"\1", v) for k, v in SERVICES[name]["environment"].items()}
    settings = config.load(None, told, {})
    mounts = [target for _, target in binds(SERVICES[name])]

    assert "WORLD" == settings.carbon.zone
    trees = {str(settings.sources[source].path) for source in ("nvml", "rapl", "hwmon", "cgroups")}  # type: ignore[attr-defined]
    assert all(any(f"{tree}/".startswith(f"{mount}/") for mount in mounts) for tree in trees)
    assert ("host", "host") == (SERVICES[name]["pid"], SERVICES[name]["cgroup"])


def test_the_gpu_profile_reserves_the_library_and_takes_a_missing_gpu_for_an_error() -> None:
    (device,) = SERVICES["agent-gpu"]["deploy"]["resources"]["reservations"]["devices"]

    assert {"driver": "nvidia", "count": "all", "capabilities": ["utility"]} == device
    assert "true" == SERVICES["agent-gpu"]["environment"]["WATTGRAM_SOURCES__NVML__ENABLED"]
    assert not [name for name in SERVICES if "deploy" in SERVICES[name] and name != "agent-gpu"]


def test_the_demonstration_is_on_loopback_and_apart_from_real_joules() -> None:
    demo, beside = SERVICES["agent-demo"], SERVICES["prometheus-demo"]

    assert (["demo"], "service:prometheus-demo") == (demo["command"], demo["network_mode"])
    assert not {"ports", "networks", "pid", "volumes"} & set(demo)
    real = {v["source"] for v in SERVICES["prometheus"]["volumes"] if v["type"] == "volume"}
    assert not real & {v["source"] for v in beside["volumes"] if v["type"] == "volume"}


# --- the programs' own files ----------------------------------------------------------------------


@pytest.mark.parametrize(("file", "service"), SCRAPERS.items())
def test_prometheus_scrapes_the_agent_that_is_beside_it(file: str, service: str) -> None:
    told = yaml.safe_load((FOLDER / file).read_text())
    (job,) = told["scrape_configs"]
    (target,) = [t for group in job["static_configs"] for t in group["targets"]]
    host, _, port = target.rpartition(":")
    agents = [SERVICES[name] for name in AGENTS if set(SERVICES[name]["profiles"]) & set(SERVICES[service]["profiles"])]

    assert "wattgram" == job["job_name"]
    assert config.load(None, {}, {}).web.listen.endswith(f":{port}")
    for agent in agents:
        shares = agent.get("network_mode") == f"service:{service}"
        assert host == ("127.0.0.1" if shares else agent["networks"]["meter"]["aliases"][0])
    assert (f"./{file}", "/etc/prometheus/prometheus.yml") in binds(SERVICES[service])
    assert "--config.file=/etc/prometheus/prometheus.yml" in SERVICES[service]["command"]


@pytest.mark.parametrize("file", SCRAPERS)
def test_prometheus_and_its_rules_are_good_as_promtool_sees_them(file: str, tmp_path: Path) -> None:
    """With the rules of the checkout where the mount puts them."""
    programs = prometheus.tools_or_skip()
    text = (FOLDER / file).read_text()
    rules = tmp_path / "wattgram"
    shutil.copytree(CHECKOUT / "deploy" / "prometheus", rules)
    (tmp_path / file).write_text(text.replace("/etc/prometheus/wattgram", str(rules)))

    done = subprocess.run(
        [programs.promtool, "check", "config", tmp_path / file], capture_output=True, text=True, timeout=60, check=False
    )

    assert 0 == done.returncode, done.stderr
    assert re.search(r"SUCCESS: [1-9]\d* rule", done.stdout), done.stdout


def test_alertmanager_takes_its_file_and_is_where_prometheus_looks() -> None:
    (program,) = debian.programs_or_skip("prometheus-alertmanager", ("amtool",))
    done = subprocess.run(
        [program, "check-config", FOLDER / "alertmanager.yml"], capture_output=True, text=True, timeout=60, check=False
    )

    assert 0 == done.returncode, done.stderr
    for file in SCRAPERS:
        (sent,) = yaml.safe_load((FOLDER / file).read_text())["alerting"]["alertmanagers"]
        assert [{"targets": ["alertmanager:9093"]}] == sent["static_configs"]
    assert "9093" == published(SERVICES["alertmanager"])[0][2]


def test_grafana_finds_its_source_its_dashboards_and_its_first_page() -> None:
    """The provisioning of deploy/grafana, read as this stack mounts it."""
    mounts = {target: FOLDER / source for source, target in binds(SERVICES["grafana"])}
    provisioning = mounts["/etc/grafana/provisioning"]
    sources = [yaml.safe_load(file.read_text()) for file in (provisioning / "datasources").iterdir()]
    providers = [yaml.safe_load(file.read_text()) for file in (provisioning / "dashboards").iterdir()]

    (url,) = {source["url"] for file in sources for source in file["datasources"]}
    paths = {provider["options"]["path"] for file in providers for provider in file["providers"]}
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    for service in SCRAPERS.values():
        aliases = SERVICES[service]["networks"]["meter"]["aliases"]
        assert url == f"http://{aliases[0]}:{published(SERVICES[service])[0][2]}"
    assert paths <= set(mounts)
    assert (mounts[str(home.parent)] / home.name).is_file()
