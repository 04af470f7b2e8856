"""docs/alerts.yml asks for metrics and labels that are there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from tests.api.conftest import Stage

RULES = yaml.safe_load((Path(__file__).parents[2] / "docs" / "alerts.yml").read_text(encoding="utf-8"))
METRIC = re.compile(r"graftwork_\w+")


def rules() -> list[dict[str, Any]]:
    return [rule for group in RULES["groups"] for rule in group["rules"]]


def test_every_metric_of_the_alerts_is_exported(stage: Stage) -> None:
    meter = stage.engine.meter
    meter.refused("queue-full")
    meter.loaded(0.1, "storage-timeout")
    meter.answered("acme", 1, 5)
    stage.post("/v1/classify", {"model": "acme/news", "inputs": "a"})
    stage.http.get("/healthz")
    exported = set(METRIC.findall(stage.http.get("/metrics").text))
    named = {
        name
        for rule in rules()
        for text in (rule["expr"], *rule["annotations"].values())
        for name in METRIC.findall(text)
    }
    assert len(named) > 10
    assert named - exported == set()


def test_every_alert_says_what_to_do_and_how_urgent_it_is() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    for rule in rules():
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"].endswith(".")


def test_tenants_that_use_most_are_named_in_the_metrics(stage: Stage) -> None:
    stage.engine.meter.answered("acme", 3, 50)
    text = stage.http.get("/metrics").text
    assert 'graftwork_engine_tenant_texts_total{tenant="acme"} 3.0' in text
    assert 'graftwork_engine_tenant_tokens_total{tenant="acme"} 50.0' in text
    assert 'graftwork_engine_tenant_tokens_total{tenant="(other)"} 0.0' in text
