"""`graft serve`: the HTTP server."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from graftwork.cli.options import Json, examples
from graftwork.cli.session import services

if TYPE_CHECKING:
    from graftwork.wiring import Services

_MEGABYTE = 2**20
_PYTHONS_OWN = (700, 10, 10)  # thresholds of the garbage collector; `graft` raises them for short runs


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(
        epilog=examples(
            "graft serve",
            "graft serve --host 0.0.0.0 --port 80 --preload minilm",
            "graft serve --max-inputs 256 --max-text 20000 --host-mb 4000",
        )
    )(serve)


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8080,
    preload: Annotated[
        list[str] | None,
        typer.Option(
            help="Base model to load before the server is ready; may be repeated. By default every base "
            "model that has adapters; 'none' loads each when it is first asked for."
        ),
    ] = None,
    max_body_mb: Annotated[float, typer.Option(help="Largest body of a request, in megabytes.")] = 8.0,
    max_inputs: Annotated[int, typer.Option(min=1, help="Most texts in one request.")] = 2048,
    max_text: Annotated[int, typer.Option(min=1, help="Most characters of a text.")] = 100_000,
    request_seconds: Annotated[float, typer.Option(help="A request that waited longer is dropped with 504.")] = 60.0,
    drain_seconds: Annotated[float, typer.Option(help="Time to finish what was accepted when stopping.")] = 30.0,
    queue_texts: Annotated[int, typer.Option(min=1, help="Most texts a tenant may have waiting; then 429.")] = 4096,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Most padded tokens in one batch.")] = 1024,
    slots: Annotated[int, typer.Option(min=1, help="Most adapters of one rank in the stacked tensors.")] = 1024,
    slot_mb: Annotated[float, typer.Option(help="Most megabytes of stacked tensors for a base model.")] = 1024.0,
    host_mb: Annotated[float, typer.Option(help="Most megabytes of adapters kept in host memory.")] = 1024.0,
    log: Annotated[bool, typer.Option("--log/--no-log", help="Write JSON log lines to standard error.")] = True,
    as_json: Json = False,
) -> None:
    """Serve every published adapter over HTTP, all tenants mixed in one batch, until SIGTERM or Ctrl-C."""
    from graftwork.api.limits import ServerLimits
    from graftwork.api.logs import log_to
    from graftwork.api.server import run_server
    from graftwork.serving.engine import EngineLimits

    gc.set_threshold(*_PYTHONS_OWN)
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
                text_characters=max_text,
                request_seconds=request_seconds,
                drain_seconds=drain_seconds,
            ),
            engine_limits=EngineLimits(
                batch_tokens=batch_tokens,
                queue_texts=queue_texts,
                slots=slots,
                slot_bytes=int(slot_mb * _MEGABYTE),
                host_bytes=int(host_mb * _MEGABYTE),
            ),
            preload=_to_preload(opened, preload),
            on_ready=lambda url: _tell_ready(opened, url, as_json=as_json),
        )


def _to_preload(opened: Services, wanted: list[str] | None) -> list[str]:
    if wanted == ["none"]:
        return []
    if wanted is not None:
        return wanted
    return [base.reference for base in opened.bases.list(domain="nlp") if base.children]


def _tell_ready(opened: Services, url: str, *, as_json: bool) -> None:
    from graftwork.cli.console import print_json, say

    found = opened.catalog.list()
    if as_json:
        print_json({"url": url, "adapters": len(found)})
    else:
        say(f"Serving {len(found)} adapters on ", (url, "bold"), f"; its API is described at {url}/docs. Ctrl-C stops.")
        if found:
            model = f"{found[0].tenant}/{found[0].name}"
            say(
                f"""Try: curl {url}/v1/classify -H 'Content-Type: application/json' """
                f"""-d '{{"model": "{model}", "inputs": ["some text"]}}'"""
            )
    sys.stdout.flush()
