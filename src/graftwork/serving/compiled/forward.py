"""A backbone's network run by compiled code where there is some, and by PyTorch's own modules until there is."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graftwork.backbones.batch import TokenBatch
from graftwork.serving.compiled.checks import Case, all_agree, make_cases, make_tables, widths
from graftwork.serving.compiled.graph import embedding_names
from graftwork.serving.compiled.native import NativeError, NativeNetwork
from graftwork.serving.compiled.process import CompileFailed, CompileGivenUp
from graftwork.serving.compiled.shares import Inputs, Shares
from graftwork.serving.compiled.store import LOWEST_PRIORITY, NetworkStore, Source, Stored
from graftwork.serving.compiled.variant import Part, Site, Variant, union
from graftwork.serving.compiled.worker import case_inputs
from graftwork.serving.delta import Place
from graftwork.serving.forward import Forward
from graftwork.serving.stats import Meter
from graftwork.serving.teams import apart
from graftwork.serving.updates import Application, Plan

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone, Batch

logger = logging.getLogger("graftwork.serving")

# Each network holds a copy of the layers' weights, so there are only so many of a base model. From the third set of
# sites on, the next network has room for all sets seen, so that mixtures soon find one that covers them. When there are
# as many as there may be, those that another covers make room.
_MOST_NETWORKS = 8
_SETS_APART = 3
# A trunk or tail is compiled when batches keep asking for it, not at once: there are as many as there are layers.
_ASKED_OFTEN = 8


class Compiler:
    """Compiles networks in the background, one after the other, for all base models of an engine.

    Args:
        folder: where compiled networks are kept between runs.
        niceness: of the process that compiles; by default it gives way to everything else.
    """

    def __init__(self, folder: Path, niceness: int = LOWEST_PRIORITY) -> None:
        self.shares = Shares()
        self._store = NetworkStore(folder, niceness, self.shares.most)
        self._thread = ThreadPoolExecutor(1, "graftwork-compiler")
        self._waiting = 0
        self._lock = threading.Lock()

    def start(self, source: Source, variant: Variant, forward: CompiledForward) -> None:
        """Have a network compiled or fetched from disk, and handed to `forward` when it has passed its checks."""
        with self._lock:
            self._waiting += 1
        self._thread.submit(self._build, source, variant, forward)

    def settle(self, timeout: float | None = None) -> None:
        """Wait until everything that was asked for so far is there or has failed.

        Raises:
            TimeoutError: it takes longer than `timeout` seconds.
        """
        self._thread.submit(lambda: None).result(timeout)

    def close(self) -> None:
        """Stop; what is being compiled is given up."""
        self._store.close()
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._store.rest()
        self.shares.close()

    def _build(self, source: Source, variant: Variant, forward: CompiledForward) -> None:
        try:
            stored = self._store.get(source, variant, forward.references)
            # Not in a thread of its own altogether: the compiler's process ends with the thread that started it.
            apart(partial(forward.take, variant, stored))
        except CompileGivenUp:
            logger.debug("%s of base %s is not compiled any more", variant.part, source.fingerprint[:12])
        except CompileFailed as error:
            logger.warning("base %s runs uncompiled (%s): %s", source.fingerprint[:12], variant.part, error)
        except Exception:
            logger.exception("base %s runs uncompiled (%s)", source.fingerprint[:12], variant.part)
        with self._lock:
            self._waiting -= 1
            idle = not self._waiting
        if idle:
            self._store.rest()


class CompiledForward(Forward):
    """Runs each batch on the smallest compiled network that has room for its updates, or else eagerly.

    Compiled networks take any number of rows and tokens. They are asked for as batches need them; nothing waits.

    Args:
        backbone: the backbone, on the CPU.
        places: its modules that can be adapted, from `adaptable`.
        folder: the base model's files.
        compiler: makes the networks.
        meter: counts batches by how they ran.
    """

    def __init__(
        self, backbone: Backbone, places: Mapping[str, Place], folder: Path, compiler: Compiler, meter: Meter
    ) -> None:
        super().__init__(backbone, places)
        self._vocabulary = len(backbone.model.get_input_embeddings().weight)  # type: ignore[operator]
        self._embeddings = [backbone.model.get_parameter(name).data for name in embedding_names(backbone.model)]
        self._source = Source(folder, backbone.fingerprint, backbone.dtype_name, self._vocabulary, backbone.max_length)
        self._cases = make_cases(self._vocabulary, backbone.max_length)
        with torch.no_grad():
            self.references = tuple(self._eager(case) for case in self._cases)
        self._compiler = compiler
        self._meter = meter
        self._networks: dict[Variant, NativeNetwork] = {}
        self._asked: set[Variant] = set()
        self._misses: dict[Variant, int] = {}
        self._fillers: dict[Site, tuple[Tensor, Tensor]] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._ask(Variant("whole"))

    def __len__(self) -> int:
        return len(self._networks)

    def whole(self, batch: Batch, plan: Plan) -> Tensor:
        """As `Forward.whole`."""
        found = self._compiled("whole", 0, batch, None, plan)
        return super().whole(batch, plan) if found is None else found

    def trunk(self, batch: Batch, split: int) -> Tensor:
        """As `Forward.trunk`."""
        if split == self._backbone.num_layers:
            return self.whole(batch, {})
        found = self._compiled("trunk", split, batch, None, {})
        return super().trunk(batch, split) if found is None else found

    def tail(self, activations: Tensor, batch: Batch, split: int, plan: Plan) -> Tensor:
        """As `Forward.tail`."""
        if split == self._backbone.num_layers:
            return activations
        found = self._compiled("tail", split, batch, activations.contiguous(), plan)
        return super().tail(activations, batch, split, plan) if found is None else found

    def take(self, variant: Variant, stored: Stored) -> None:
        """Use a network from now on, if it computes what it must; called from the compiler's thread.

        Raises:
            CompileFailed: it does not.
        """
        network = stored.network
        try:
            self._check(variant, stored)
        except (CompileFailed, NativeError):
            network.close()
            raise
        with self._lock:
            if self._closed:
                network.close()
            else:
                self._networks[variant] = network

    def close(self) -> None:
        """Leave the backbone's modules as they were found, and free the compiled networks."""
        super().close()
        with self._lock:
            self._closed = True
            networks, self._networks = list(self._networks.values()), {}
        for network in networks:
            network.close()

    def _compiled(self, part: Part, split: int, batch: Batch, activations: Tensor | None, plan: Plan) -> Tensor | None:
        """What a compiled network gives; None when there is none for this batch."""
        assert isinstance(batch, TokenBatch)  # other models are run eagerly (see `wiring`)
        updates = {(name, update.a.shape[2]): update for name, given in plan.items() for update in given}
        sites = frozenset(updates)
        fitting = [variant for variant in tuple(self._networks) if variant.covers(part, split, sites)]
        # Token ids outside the embedding table would end the process; run eagerly they are an error of one row.
        if not fitting or not 0 <= int(batch.input_ids.min()) <= int(batch.input_ids.max()) < self._vocabulary:
            self._miss(part, split, sites)
            return None
        variant = min(fitting, key=lambda variant: len(variant.sites))
        slots, tables = self._tables(variant, updates, len(batch.input_ids))
        inputs = Inputs(batch.input_ids, batch.attention_mask, self._embeddings, activations, slots, tables)
        try:
            hidden = self._run(self._networks[variant], inputs)
        except NativeError as error:
            logger.error("a compiled network is given up: %s", error)
            self._networks.pop(variant, None)
            return None
        self._meter.add(compiled_batches=1)
        return hidden

    def _tables(
        self, variant: Variant, updates: Mapping[Site, Application], rows: int
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Slots and tables for every site of a network; at sites without updates, all rows get slot 0 of zeros."""
        if not variant.sites:
            return None, []
        none = torch.zeros(rows, dtype=torch.int64)
        filled = {site: (none, *self._filler(site)) for site in variant.sites if site not in updates}
        given = filled | {site: (update.slots, update.a, update.b) for site, update in updates.items()}
        slots, a, b = zip(*(given[site] for site in variant.sites), strict=True)
        return torch.stack(slots), [*a, *b]

    def _filler(self, site: Site) -> tuple[Tensor, Tensor]:
        if site not in self._fillers:
            name, rank = site
            inputs, outputs = widths(self._backbone.model.get_submodule(name))
            dtype = self._backbone.dtype
            self._fillers[site] = torch.zeros(1, inputs, rank, dtype=dtype), torch.zeros(1, rank, outputs, dtype=dtype)
        return self._fillers[site]

    def _miss(self, part: Part, split: int, sites: frozenset[Site]) -> None:
        self._meter.add(eager_batches=1)
        kin = [variant for variant in self._asked if (variant.part, variant.split) == (part, split) and variant.sites]
        if any(variant.covers(part, split, sites) for variant in self._asked):
            return
        wanted = Variant(part, split, union(sites, kin if len(kin) >= _SETS_APART else []))
        self._misses[wanted] = self._misses.get(wanted, 0) + 1
        if part == "whole" or self._misses[wanted] >= _ASKED_OFTEN:
            del self._misses[wanted]
            self._ask(wanted)

    def _ask(self, variant: Variant) -> None:
        if len(self._asked) >= _MOST_NETWORKS:
            self._retire()
        if len(self._asked) < _MOST_NETWORKS:
            self._asked.add(variant)
            self._compiler.start(self._source, variant, self)

    def _retire(self) -> None:
        """Free the networks whose batches another can run, which has room for more; for the thread that runs them."""
        with self._lock:
            for variant in [variant for variant in self._networks if variant.sites]:
                needed = variant.part, variant.split, frozenset(variant.sites)
                if any(other != variant and other.covers(*needed) for other in self._networks):
                    self._networks.pop(variant).close()
                    self._asked.discard(variant)

    def _eager(self, case: Case) -> Tensor:
        model = self._backbone.model
        hidden = model(input_ids=case.input_ids, attention_mask=case.attention_mask).last_hidden_state
        assert isinstance(hidden, Tensor)
        return hidden

    def _check(self, variant: Variant, stored: Stored) -> None:
        tables = make_tables(self._backbone.model, variant.sites, self._backbone.dtype)
        activations = iter(stored.activations)

        def run(case: Case) -> Tensor:
            inputs = case_inputs(variant, case, self._embeddings, next(activations, None), tables)
            return self._run(stored.network, inputs)

        def run_bare(case: Case) -> Tensor:
            given = self._tables(variant, {}, len(case.input_ids))
            inputs = Inputs(case.input_ids, case.attention_mask, self._embeddings, None, *given)
            return self._run(stored.network, inputs)

        if not all_agree(self._cases, run, stored.expected):
            raise CompileFailed("it does not compute what it computed when it was made")
        if variant.part == "whole" and not all_agree(self._cases, run_bare, self.references):
            raise CompileFailed("it does not compute what the network that serves does")

    def _run(self, network: NativeNetwork, inputs: Inputs) -> Tensor:
        return self._compiler.shares.run(network, inputs, self._backbone.width, self._backbone.dtype)
