"""`graft serve`: the HTTP server."""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graftwork.cli.options import Json, examples
from graftwork.cli.session import services
from graftwork.cli.weights import read_weights
from graftwork.errors import Problem, SettingsInvalid

if TYPE_CHECKING:
    from graftwork.wiring import Services

_MEGABYTE = 2**20
_HOUR = 3600
_BOUNDS: tuple[tuple[tuple[str, ...], str, Callable[[float], bool]], ...] = (
    (
        (
            *("max_inputs", "max_models", "max_text", "max_connections", "queue_texts"),
            *("batch_tokens", "batch_rows", "slots", "loader_threads"),
        ),
        "at least 1",
        lambda value: value >= 1,
    ),
    (
        (
            *("max_body_mb", "header_seconds", "body_seconds", "send_seconds", "idle_seconds", "request_seconds"),
            *("slot_mb", "host_mb", "idle_hours", "load_seconds"),
        ),
        "more than 0",
        lambda value: value > 0,
    ),
    (
        ("drain_seconds", "lookup_grace_seconds", "batch_ms", "cache_mb", "tenant_metrics"),
        "0 or more",
        lambda value: value >= 0,
    ),
)
# Thresholds of the garbage collector. `graft` raises them for short runs; the first two are Python's own. The last
# makes full collections rare: they stop every thread, the longer the more requests wait.
_COLLECTOR = (700, 10, 50)


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(
        epilog=examples(
            "graft serve",
            "graft serve --host 0.0.0.0 --port 80 --preload minilm",
            "graft serve --weight acme=2.5 --weight globex=0.5 --batch-ms 50",
            "graft serve --max-inputs 256 --max-text 20000 --host-mb 4000",
            "graft serve --pin acme/news:production --pin globex/mood --idle-hours 2",
        )
    )(serve)


def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8080,
    preload: Annotated[
        list[str] | None,
        typer.Option(
            help="Base model to load before the server is ready; may be repeated. By default every base "
            "model that has adapters; 'none' loads each when it is first asked for."
        ),
    ] = None,
    pin: Annotated[
        list[str] | None,
        typer.Option(
            help="Adapter to load before the server is ready and to keep in memory for good; may be repeated. What "
            "its reference means now is kept; a version published later is not pinned until the next start."
        ),
    ] = None,
    max_body_mb: Annotated[float, typer.Option(help="Largest body of a request, in megabytes.")] = 8.0,
    max_inputs: Annotated[int, typer.Option(help="Most texts in one request.")] = 2048,
    max_models: Annotated[int, typer.Option(help="Most models asked for the same texts in one request.")] = 64,
    max_text: Annotated[int, typer.Option(help="Most characters of a text.")] = 100_000,
    max_connections: Annotated[int, typer.Option(help="Most connections at once; one more gets 503.")] = 4096,
    header_seconds: Annotated[
        float, typer.Option(help="Time a client has to send its headers; then the connection is closed.")
    ] = 10.0,
    body_seconds: Annotated[float, typer.Option(help="Time a client has to send its body; then 408.")] = 30.0,
    send_seconds: Annotated[
        float, typer.Option(help="A client that does not read its answer for this time is disconnected.")
    ] = 30.0,
    idle_seconds: Annotated[float, typer.Option(help="Time a connection is kept open between two requests.")] = 30.0,
    request_seconds: Annotated[float, typer.Option(help="A request that waited longer is dropped with 504.")] = 60.0,
    drain_seconds: Annotated[float, typer.Option(help="Time to finish what was accepted when stopping.")] = 30.0,
    queue_texts: Annotated[int, typer.Option(help="Most texts a tenant may have waiting; then 429.")] = 4096,
    batch_tokens: Annotated[int, typer.Option(help="Most padded tokens in one batch.")] = 1024,
    batch_rows: Annotated[int, typer.Option(help="Most texts in one batch.")] = 64,
    batch_ms: Annotated[
        float,
        typer.Option(help="Milliseconds a batch is meant to take, by what others took: a target. 0 sets none."),
    ] = 250.0,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TENANT=WEIGHT",
            help="Share of a tenant while tenants compete, beside the 1 of those not named; may be repeated.",
        ),
    ] = None,
    slots: Annotated[int, typer.Option(help="Most adapters of one rank in the stacked tensors.")] = 1024,
    slot_mb: Annotated[float, typer.Option(help="Most megabytes of stacked tensors for a base model.")] = 1024.0,
    host_mb: Annotated[float, typer.Option(help="Most megabytes of adapters kept in host memory.")] = 1024.0,
    cache_mb: Annotated[
        float, typer.Option(help="Most megabytes of vectors and activations kept for texts that come back; 0: none.")
    ] = 256.0,
    idle_hours: Annotated[
        float,
        typer.Option(help="An adapter that nobody asked for in this time leaves memory; the next request loads it."),
    ] = 24.0,
    loader_threads: Annotated[int, typer.Option(help="Adapters loaded from the blob store at once.")] = 4,
    load_seconds: Annotated[
        float, typer.Option(help="An adapter that takes longer to load ends its requests with 503; others go on.")
    ] = 10.0,
    lookup_grace_seconds: Annotated[
        float, typer.Option(help="Time for which names are answered as last seen while the database does not answer.")
    ] = 300.0,
    tenant_metrics: Annotated[
        int, typer.Option(help="Most tenants that /metrics names, those that use most; the others are one.")
    ] = 20,
    log: Annotated[bool, typer.Option("--log/--no-log", help="Write JSON log lines to standard error.")] = True,
    as_json: Json = False,
) -> None:
    """Serve every published adapter over HTTP, all tenants mixed in one batch, until SIGTERM or Ctrl-C."""
    from graftwork.api.limits import ServerLimits
    from graftwork.api.logs import log_to
    from graftwork.api.server import run_server
    from graftwork.serving.engine import EngineLimits

    weights, unread = read_weights(weight or [])
    _refuse([*_beyond_bounds(context.params), *unread])
    gc.set_threshold(*_COLLECTOR)
    if log:
        log_to(sys.stderr)
    with services() as opened:
        run_server(
            opened,
            host,
            port,
            ServerLimits(
                body_bytes=int(max_body_mb * _MEGABYTE),
                inputs=max_inputs,
                models=max_models,
                text_characters=max_text,
                connections=max_connections,
                header_seconds=header_seconds,
                body_seconds=body_seconds,
                send_seconds=send_seconds,
                idle_seconds=idle_seconds,
                request_seconds=request_seconds,
                drain_seconds=drain_seconds,
                lookup_grace_seconds=lookup_grace_seconds,
            ),
            engine_limits=EngineLimits(
                batch_tokens=batch_tokens,
                batch_rows=batch_rows,
                batch_seconds=batch_ms / 1e3,
                weights=weights,
                queue_texts=queue_texts,
                slots=slots,
                slot_bytes=int(slot_mb * _MEGABYTE),
                host_bytes=int(host_mb * _MEGABYTE),
                cache_bytes=int(cache_mb * _MEGABYTE),
                idle_seconds=idle_hours * _HOUR,
                loader_threads=loader_threads,
                load_seconds=load_seconds,
                tenant_metrics=tenant_metrics,
            ),
            preload=_to_preload(opened, preload),
            pins=pin or (),
            on_ready=lambda url: _ready(opened, url, as_json=as_json),
        )


def _beyond_bounds(options: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with the numbers among the options."""
    for names, words, sound in _BOUNDS:
        for name in names:
            value = options[name]
            if not (math.isfinite(value) and sound(value)):
                yield Problem(f"--{name.replace('_', '-')}", f"is {value:g}; it must be {words}")


def _refuse(problems: Sequence[Problem]) -> None:
    if problems:
        raise SettingsInvalid(
            "the server cannot run with these options",
            problems=problems,
            remedy="graft serve --help tells what each of them bounds.",
        )


def _to_preload(opened: Services, wanted: list[str] | None) -> list[str]:
    if wanted == ["none"]:
        return []
    return opened.bases.in_use("nlp") if wanted is None else wanted


def _ready(opened: Services, url: str, *, as_json: bool) -> None:
    # What start-up made stays: a full collection would look through it again and again, and stop every thread meanwhile
    # (a quarter of a second with one small model).
    gc.collect()
    gc.freeze()
    _tell_ready(opened, url, as_json=as_json)


def _tell_ready(opened: Services, url: str, *, as_json: bool) -> None:
    from graftwork.cli.console import print_json, say

    model = opened.catalog.example()
    if as_json:
        print_json({"url": url, "example": model})
    else:
        say("Serving on ", (url, "bold"), f"; its API is described at {url}/docs. Ctrl-C stops.")
        if model is None:
            say("No adapter is published yet: graft train makes one, and it answers at once.")
        else:
            say(
                f"""Try: curl {url}/v1/classify -H 'Content-Type: application/json' """
                f"""-d '{{"model": "{model}", "inputs": ["some text"]}}'"""
            )
    sys.stdout.flush()
