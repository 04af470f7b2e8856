"""i. Resident memory of a server: with few and many adapters registered, with many active, and in a long run."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from benchmarks.serving.registries import open_backbone, registry_of, tenant
from benchmarks.serving.report import Bar, Figure, Table
from benchmarks.serving.servers import Server, graft_serve
from benchmarks.serving.setting import Setting
from benchmarks.serving.texts import Texts

_MEGABYTE = 2**20
_CLIENTS = 4
_LONG_RUN = 9  # times `setting.seconds`
_EVICTING = ("--slots", "256", "--slot-mb", "100", "--host-mb", "100", "--cache-mb", "4")


def run(setting: Setting) -> Iterator[Table]:
    """A table of what adapters add to the base's memory, and one of a long run under eviction."""
    backbone = open_backbone(setting)
    texts = Texts(setting.corpus, backbone.encode)
    homes = {count: registry_of(setting, count, backbone) for count in setting.registered[1:]}
    yield _active(setting, homes, texts)
    yield _long_run(setting, homes[setting.registered[-1]], texts)


def _active(setting: Setting, homes: dict[int, Path], texts: Texts) -> Table:
    columns = ["base alone, MiB", "head-only active", "LoRA active, too", "more than the base alone", "s to ready"]
    table = Table(f"resident memory of `graft serve`, {setting.resident:,} tenants active", columns)
    for compiled in (False, True):
        for registered, home in homes.items():
            how = "compiled" if compiled else "eager"
            figures = _growth(setting, home, texts, compiled=compiled)
            table.lines[f"{registered:,} registered, {how}"] = figures
            claim = f"bar 8: {registered:,} registered, {setting.resident:,} LoRA and as many head-only active, {how}"
            table.bars.append(Bar(f"{claim}, MiB over the base alone", float(figures[3] or 0), 1024.0))
    table.notes = [
        "The base alone is the same server once it has given vectors, from a compiled network where it says so.",
        f"LoRA of rank 8 on query and value; every one of the {setting.resident:,} tenants has both adapters.",
    ]
    return table


def _growth(setting: Setting, home: Path, texts: Texts, *, compiled: bool) -> Sequence[Figure]:
    start = time.perf_counter()
    with graft_serve(home, setting, compiled=compiled) as running, httpx.Client(timeout=60) as client:
        ready = time.perf_counter() - start
        embed = {"model": "bench", "input": texts.unique(32, setting.text_tokens)}
        for _ in range(20):
            client.post(f"{running.url}/v1/embeddings", json=embed).raise_for_status()
        if compiled:
            _wait_until_compiled(running, client)
        alone = running.resident()
        names = [tenant(number) for number in range(setting.resident)]
        _ask(running, [f"{name}/head" for name in names], texts.unique(len(names), setting.text_tokens))
        heads = running.resident()
        _ask(running, [f"{name}/lora" for name in names], texts.unique(len(names), setting.text_tokens))
        both = running.resident()
    in_megabytes = [value / _MEGABYTE for value in (alone, heads, both, both - alone)]
    return [*in_megabytes, ready]


def _wait_until_compiled(running: Server, client: httpx.Client) -> None:
    """Ask for vectors until the network is compiled; gives up after two minutes."""
    give_up = time.monotonic() + 120
    while not running.metric("compiled_batches_total") and time.monotonic() < give_up:
        body = {"model": "bench", "input": f"{time.monotonic()}"}
        client.post(f"{running.url}/v1/embeddings", json=body).raise_for_status()
        time.sleep(0.5)


def _ask(running: Server, models: Sequence[str], texts: Sequence[str]) -> None:
    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(_CLIENTS) as pool:

        def one(model: str, text: str) -> None:
            body = {"model": model, "inputs": [text]}
            client.post(f"{running.url}/v1/classify", json=body).raise_for_status()

        list(pool.map(one, models, texts))


def _long_run(setting: Setting, home: Path, texts: Texts) -> Table:
    """Mixed traffic over more adapters than there is room for, with its memory looked at once a second."""
    seconds = setting.seconds * _LONG_RUN
    draw = random.Random(0)
    names = [tenant(number) for number in range(setting.resident)]
    samples: list[float] = []
    asked = 0
    with graft_serve(home, setting, *_EVICTING, compiled=False) as running:
        # Every bound is reached before the first half begins: slots and host memory by one pass, the cache by texts.
        _ask(running, [f"{name}/lora" for name in names], texts.unique(len(names), setting.text_tokens))
        while not running.metric("cache_evictions_total"):
            _ask(running, [f"{draw.choice(names)}/head" for _ in range(64)], texts.unique(64, setting.text_tokens))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            models = [f"{draw.choice(names)}/{draw.choice(('lora', 'head'))}" for _ in range(64)]
            _ask(running, models, texts.unique(len(models), setting.text_tokens))
            samples.append(running.resident() / _MEGABYTE)
            asked += len(models)
        evictions = running.metric("slot_evictions_total"), running.metric("host_evictions_total")
    half = len(samples) // 2
    first, second = statistics.median(samples[:half]), statistics.median(samples[half:])
    table = Table(
        f"a run of {seconds:.0f} s over {2 * len(names):,} adapters with {' '.join(_EVICTING)}",
        ["first half, MiB", "second half", "most", "texts", "left slots", "left host memory"],
    )
    table.lines["resident memory"] = (first, second, max(samples), asked, int(evictions[0]), int(evictions[1]))
    table.bars = [Bar("memory of the second half of the run beside the first", second / first, 1.02)]
    return table
