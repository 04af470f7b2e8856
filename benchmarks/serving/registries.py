"""Registries of many tenants, made once and kept from run to run."""

from __future__ import annotations

from pathlib import Path

from benchmarks.serving.made import head_only, lora
from benchmarks.serving.setting import Setting
from graftwork.backbones.backbone import Backbone
from graftwork.backbones.inspect import inspect_model
from graftwork.backbones.load import load_backbone
from graftwork.settings import load_settings
from graftwork.wiring import Services, open_services


def open_backbone(setting: Setting, dtype: str | None = None) -> Backbone:
    """The base model, in the dtype of the setting or another."""
    found = inspect_model(setting.model)
    return load_backbone(
        setting.model,
        fingerprint=found.fingerprint,
        tokenizer=found.tokenizer,
        metadata=found.metadata,
        dtype=dtype or setting.dtype,
    )


def open_registry(setting: Setting, home: Path) -> Services:
    """The services over a registry that `registry_of` made."""
    return open_services(load_settings(home=home, dtype=setting.dtype))


def registry_of(setting: Setting, tenants: int, backbone: Backbone) -> Path:
    """The home folder of a registry with `t00000/lora`, `t00001/lora`, ... and as many heads as there are residents.

    Adapters that an interrupted run left out are added.
    """
    home = setting.store / f"registry-{backbone.fingerprint[:12]}-{tenants}-{setting.resident}"
    complete = home / "complete"
    if complete.exists():
        return home
    with open_registry(setting, home) as services:
        if not services.bases.list():
            found = inspect_model(setting.model)
            services.bases.add(
                setting.model,
                fingerprint=found.fingerprint,
                tokenizer=found.tokenizer,
                metadata=found.metadata,
                name="bench",
            )
        there = {(version.tenant, version.name) for version in services.catalog.list()}
        for number in range(tenants):
            if (tenant(number), "lora") not in there:
                services.catalog.publish(f"{tenant(number)}/lora", lora(backbone, number))
            if number < setting.resident and (tenant(number), "head") not in there:
                services.catalog.publish(f"{tenant(number)}/head", head_only(backbone, number))
    complete.touch()
    return home


def tenant(number: int) -> str:
    """The name of a tenant."""
    return f"t{number:05}"
