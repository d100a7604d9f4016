"""One alert end to end: a daemon that is stopped, Prometheus with the rules we ship, Alertmanager, a webhook."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from standin import alertmanager, prometheus
from standin.alertmanager import Alertmanager, Webhook
from standin.daemon import Daemon, free_port
from standin.prometheus import Prometheus

Seconds = Callable[[float, float], float]
Report = Callable[[str], None]

SHIPPED = Path(__file__).resolve().parent.parent / "deploy" / "prometheus"
SYNTHETIC = """
[sources.synthetic]
enabled = true
[sources.nvml]
enabled = false
[sources.rapl]
enabled = false
[sources.hwmon]
enabled = false
[web]
listen = "127.0.0.1:{port}"
"""


def hastened(path: Path, name: str, hold: str) -> str:
    """A rule file as it is shipped, but evaluated every second, and one alert of it held for `hold` only."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    for group in document["groups"]:
        group["interval"] = "1s"
        for rule in group["rules"]:
            if rule["alert"] == name:
                rule["for"] = hold
    return json.dumps(document)


def is_down(status: str) -> Callable[[dict[str, Any]], bool]:
    """Whether a notification says so of the meter."""
    return lambda alert: alert["labels"]["alertname"] == "WattgramDown" and alert["status"] == status


def expected(instance: str) -> dict[str, str]:
    """The annotations of WattgramDown as they are shipped, filled in."""
    document = yaml.safe_load((SHIPPED / "wattgram.alerts.yml").read_text(encoding="utf-8"))
    found = {rule["alert"]: rule["annotations"] for group in document["groups"] for rule in group["rules"]}
    return {name: text.replace("{{ $labels.instance }}", instance) for name, text in found["WattgramDown"].items()}


@pytest.mark.accept("6.4", "the alert of a stopped daemon reaches a webhook through Alertmanager, and is resolved")
def test_the_alert_of_a_stopped_daemon_reaches_its_receiver(tmp_path: Path, seconds: Seconds, report: Report) -> None:
    """With the words that we ship, filled in, and nothing else beside it; when the daemon is back, so is the calm."""
    prometheus.tools_or_skip()
    alertmanager.tools_or_skip()
    hold = seconds(2, 60)
    alerts = hastened(SHIPPED / "wattgram.alerts.yml", "WattgramDown", f"{hold:g}s")
    port = free_port()
    with (
        Daemon(tmp_path / "daemon", SYNTHETIC.format(port=port), port=port) as daemon,
        Webhook() as webhook,
        Alertmanager(tmp_path / "alertmanager", webhook.url) as manager,
        Prometheus(tmp_path / "prometheus", [daemon.target], rules=alerts, alertmanagers=[manager.target]) as asked,
    ):
        asked.wait_for('up{job="wattgram"} == 1 and on (instance) wattgram_build_info')
        assert asked.query('ALERTS{alertname!="WattgramAbsent"}') == []  # pending until the first scrape

        daemon.stop()
        stopped = time.monotonic()
        alert = webhook.wait_for(is_down("firing"), 30.0 + hold)
        took = time.monotonic() - stopped
        daemon.start()
        webhook.wait_for(is_down("resolved"))

    assert alert["labels"] == {
        "alertname": "WattgramDown",
        "instance": daemon.target,
        "job": "wattgram",
        "severity": "warning",
    }
    assert alert["annotations"] == expected(daemon.target)
    assert {sent["labels"]["alertname"] for sent in webhook.alerts} == {"WattgramDown"}
    report(f"sent {took:.1f} s after the daemon was stopped, held for {hold:g} s: {alert['annotations']['summary']}")
