from __future__ import annotations

import logging
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graftwork.backbones.backbone import TokenBatch
from graftwork.serving.compiled.checks import differs, make_slots, make_tables
from graftwork.serving.compiled.forward import CompiledForward, Compiler
from graftwork.serving.compiled.native import NativeNetwork
from graftwork.serving.compiled.process import CompileFailed, CompilerProcess
from graftwork.serving.compiled.shares import Inputs, Shares
from graftwork.serving.compiled.store import NetworkStore, Source
from graftwork.serving.compiled.variant import Variant, variant_key
from graftwork.serving.compiled.worker import LIBRARY, compile_job
from graftwork.serving.delta import Delta, LowRank, adaptable
from graftwork.serving.forward import Forward
from graftwork.serving.keys import AdapterKey
from graftwork.serving.stacked import StackedAdapters
from graftwork.serving.stats import Meter
from graftwork.serving.updates import Plan
from tests.backbones.tiny import save_model
from tests.serving.builders import TEXTS, Made, Spec
from tests.serving.compiling import LAYERS, NICENESS, Compiled, compiled_networks, open_compiled, source_of

# The compiler gives way to everything else on the machine: beside other work it takes minutes.
pytestmark = pytest.mark.timeout(1200)

PROPERTY = settings(max_examples=40, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def bert_compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compiled]:
    with compiled_networks(tmp_path_factory.mktemp("compiled")) as compiled:
        yield compiled


def slots_of(compiled: Compiled, adapters: Sequence[Sequence[tuple[str, int]]]) -> tuple[StackedAdapters, list[Delta]]:
    deltas = []
    for number, sites in enumerate(adapters):
        generator = torch.Generator().manual_seed(number)
        buckets: dict[int, dict[str, LowRank]] = {}
        for name, rank in sites:
            place = adaptable(compiled.backbone)[name]
            a = torch.randn(place.inputs, rank, generator=generator) * 0.2
            b = torch.randn(rank, place.outputs, generator=generator) * 0.2
            buckets.setdefault(rank, {})[name] = LowRank(a, b)
        deltas.append(Delta(0, buckets))
    stack = StackedAdapters(device=compiled.backbone.device, slots=8, nbytes=1 << 24, meter=Meter())
    return stack, deltas


def plan_for(stack: StackedAdapters, deltas: Sequence[Delta], rows: Sequence[int | None]) -> Plan:
    leases = {
        number: stack.pin(AdapterKey(str(number), "base"), deltas[number]) for number in rows if number is not None
    }
    return stack.plan([None if number is None else leases[number] for number in rows])


@PROPERTY
@given(data=st.data())
def test_compiled_gives_what_pytorchs_modules_give(data: st.DataObject, bert_compiled: Compiled) -> None:
    sites = st.lists(st.sampled_from(bert_compiled.sites), min_size=1, max_size=6, unique_by=lambda site: site[0])
    adapters = data.draw(st.lists(sites, min_size=1, max_size=3))
    stack, deltas = slots_of(bert_compiled, adapters)
    rows = data.draw(st.lists(st.sampled_from([None, *range(len(adapters))]), min_size=1, max_size=9))
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=len(rows), max_size=len(rows)))
    batch, plan = bert_compiled.batch(lengths), plan_for(stack, deltas, rows)
    found = bert_compiled.ran_compiled(lambda: bert_compiled.forward.whole(batch, plan))
    with torch.inference_mode():
        bert_compiled.agree(found, bert_compiled.eager.whole(batch, plan), batch)
        plain = [row for row, number in enumerate(rows) if number is None]
        bare = bert_compiled.eager.whole(batch, {})
    bert_compiled.agree(found[plain], bare[plain], TokenBatch(batch.input_ids[plain], batch.attention_mask[plain]))


SPECS = st.builds(
    Spec,
    seed=st.integers(0, 1),
    rank=st.sampled_from([1, 4, 8, 11, 16]),
    alpha=st.sampled_from([1.0, 16.0]),
    targets=st.sampled_from([("query",), ("query", "value"), ("intermediate.dense", "value")]),
    layers=st.sampled_from([None, (0,), (LAYERS - 1,)]),
    rslora=st.booleans(),
)


@settings(PROPERTY, max_examples=25)
@given(data=st.data())
def test_compiled_gives_each_row_what_peft_gives_it_alone(
    data: st.DataObject, bert_compiled: Compiled, made: Callable[..., Made]
) -> None:
    backbone, forward = bert_compiled.backbone, bert_compiled.forward
    adapters = [made(backbone, spec) for spec in data.draw(st.lists(SPECS, min_size=1, max_size=3, unique=True))]
    row = st.tuples(st.sampled_from([None, *adapters]), st.sampled_from(TEXTS))
    rows = data.draw(st.lists(row, min_size=1, max_size=8).flatmap(st.permutations))
    stack = StackedAdapters(device=backbone.device, slots=4, nbytes=1 << 24, meter=Meter())
    deltas = {adapter.key: adapter.loaded.delta for adapter, _ in rows if adapter}
    leases = {key: stack.pin(key, delta) for key, delta in deltas.items() if delta is not None}
    plan = stack.plan([leases[adapter.key] if adapter else None for adapter, _ in rows])
    batch = backbone.collate(backbone.encode([text for _, text in rows], Spec.max_length))
    hidden = bert_compiled.ran_compiled(lambda: forward.whole(batch, plan))
    found = backbone.pool(hidden, batch.attention_mask)
    for (adapter, text), vector in zip(rows, found, strict=True):
        alone = backbone.collate(backbone.encode([text], Spec.max_length))
        if adapter is None:
            with torch.inference_mode():
                meant = backbone.pool(bert_compiled.eager.whole(alone, {}), alone.attention_mask)[0]
        else:
            meant = adapter.vector(text)[0]
        torch.testing.assert_close(vector, meant, rtol=1e-4, atol=1e-5)


def test_a_trunk_and_a_tail_are_compiled_too(bert_compiled: Compiled) -> None:
    forward, eager = bert_compiled.forward, bert_compiled.eager
    stack, deltas = slots_of(bert_compiled, [[site for site in bert_compiled.above if site[1] == 8]])
    batch, plan = bert_compiled.batch([9, 4, 17]), plan_for(stack, deltas, [0, None, 0])
    hidden = bert_compiled.ran_compiled(lambda: forward.trunk(batch, 1))
    found = bert_compiled.ran_compiled(lambda: forward.tail(hidden, batch, 1, plan))
    with torch.inference_mode():
        bert_compiled.agree(hidden, eager.trunk(batch, 1), batch)
        bert_compiled.agree(found, eager.whole(batch, plan), batch)
        # The top of the network: the trunk is all of it, and the tail nothing.
        bert_compiled.agree(forward.trunk(batch, LAYERS), eager.whole(batch, {}), batch)
        assert torch.equal(forward.tail(hidden, batch, LAYERS, {}), hidden)


def test_a_batch_without_updates_runs_the_network_without_room_for_any(
    bert_compiled: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    original = CompiledForward._run

    def note(self: CompiledForward, network: NativeNetwork, inputs: Inputs) -> torch.Tensor:
        ran.append(len(inputs.share(0, 1)))
        return original(self, network, inputs)

    monkeypatch.setattr(CompiledForward, "_run", note)
    bert_compiled.ran_compiled(lambda: bert_compiled.forward.whole(bert_compiled.batch([3, 5]), {}))
    embeddings = 3
    assert ran == [2 + embeddings]


def test_a_network_in_shares_gives_what_it_gives_at_once(
    bert_compiled: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = bert_compiled.forward
    variant = next(variant for variant in forward._networks if variant.part == "whole" and variant.sites)
    backbone, network = bert_compiled.backbone, forward._networks[variant]
    batch = bert_compiled.batch([9, 30, 4, 17, 25, 30, 1, 12])
    a, b = make_tables(backbone.model, variant.sites, backbone.dtype)
    slots = make_slots(len(variant.sites), 8)
    inputs = Inputs(batch.input_ids, batch.attention_mask, forward._embeddings, None, slots, [*a, *b])
    whole = torch.empty((*batch.input_ids.shape, backbone.width))
    network.run(inputs.share(0, 8), whole)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    shares = Shares()
    assert shares.most == 2
    shared = shares.run(network, inputs, backbone.width, backbone.dtype)
    shares.close()
    assert not torch.equal(whole[0], whole[5])
    torch.testing.assert_close(shared, whole, rtol=1e-5, atol=1e-5)


def test_token_ids_the_base_has_not_are_an_error_and_not_the_end_of_the_process(bert_compiled: Compiled) -> None:
    batch = bert_compiled.batch([4])
    with pytest.raises(IndexError), torch.inference_mode():
        bert_compiled.forward.whole(TokenBatch(batch.input_ids + 10_000, batch.attention_mask), {})


def test_other_threads_run_while_a_network_does(bert_compiled: Compiled) -> None:
    batch = bert_compiled.batch([60] * 1500)
    begun, done = threading.Event(), threading.Event()

    def run() -> None:
        begun.set()
        with torch.inference_mode():
            bert_compiled.forward.whole(batch, {})
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    begun.wait()
    turns = 0
    while not done.is_set():
        turns += 1
    thread.join()
    assert turns > 1000


def test_what_was_compiled_is_loaded_from_disk_the_next_time(
    bert_compiled: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a second compilation")

    monkeypatch.setattr(subprocess, "Popen", fail)
    compiler, meter = Compiler(bert_compiled.kept, NICENESS), Meter()
    places = adaptable(bert_compiled.backbone)
    again = CompiledForward(bert_compiled.backbone, places, bert_compiled.folder, compiler, meter)
    compiler.settle(60)
    batch = bert_compiled.batch([5, 8])
    with torch.inference_mode():
        bert_compiled.agree(again.whole(batch, {}), bert_compiled.eager.whole(batch, {}), batch)
    assert meter.snapshot().compiled_batches == 1
    again.close()
    compiler.close()


def kept_network(compiled: Compiled, tmp_path: Path) -> tuple[NetworkStore, Path]:
    """A copy of the compiled bare network, to be damaged."""
    source = source_of(compiled)
    name = variant_key(source.fingerprint, source.dtype, Variant("whole"))
    subprocess.run(["cp", "-r", str(compiled.kept / name), str(tmp_path)], check=True)
    return NetworkStore(tmp_path, NICENESS), tmp_path / name / LIBRARY


@pytest.mark.parametrize("fault", ["a flipped bit", "cut short", "others may write"])
def test_a_library_that_is_not_what_was_made_here_is_not_loaded(
    fault: str, bert_compiled: Compiled, tmp_path: Path
) -> None:
    store, library = kept_network(bert_compiled, tmp_path)
    content = bytearray(library.read_bytes())
    if fault == "a flipped bit":
        content[len(content) // 2] ^= 1
        library.write_bytes(content)
    elif fault == "cut short":
        library.write_bytes(content[:-1])
    else:
        library.chmod(0o666)
    with pytest.raises(CompileFailed, match=r"damaged|somebody else"):
        store.get(source_of(bert_compiled), Variant("whole"), bert_compiled.forward.references)
    assert not library.exists()


def compile_here(process: CompilerProcess, job_file: Path) -> None:
    """What the compiler's process does, in this one: importing PyTorch once more takes longer than finding out."""
    threads = torch.get_num_threads()
    try:
        compile_job(str(job_file))
    except RuntimeError as error:
        raise CompileFailed(str(error)) from error
    finally:
        torch.set_num_threads(threads)


def test_a_folder_with_other_weights_is_not_compiled(
    bert_compiled: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CompilerProcess, "run", compile_here)
    other = save_model(tmp_path / "other", "bert", seed=8)
    source = source_of(bert_compiled)
    changed = Source(other, source.fingerprint, source.dtype, source.vocabulary, source.max_length)
    with pytest.raises(CompileFailed, match="does not hold the weights that are being served"):
        NetworkStore(tmp_path / "kept", NICENESS).get(changed, Variant("whole"), bert_compiled.forward.references)
    assert list((tmp_path / "kept").iterdir()) == []


def test_without_a_compiler_the_eager_network_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    with caplog.at_level(logging.WARNING, "graftwork.serving"):
        compiled = open_compiled(tmp_path / "bert", tmp_path / "kept", "bert")
        compiled.compiler.settle(120)
    assert "runs uncompiled" in caplog.text
    batch = compiled.batch([3])
    with torch.inference_mode():
        assert torch.equal(compiled.forward.whole(batch, {}), compiled.eager.whole(batch, {}))
    assert compiled.meter.snapshot().eager_batches == 1
    compiled.compiler.close()


def test_closing_ends_a_compilation_that_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    started = threading.Event()
    children: list[subprocess.Popen[bytes]] = []
    original = subprocess.Popen

    def note(*arguments: object, **options: object) -> object:
        child = original(*arguments, **options)  # type: ignore[call-overload]
        if "graftwork.serving.compiled.worker" in child.args:
            children.append(child)
            started.set()
        return child

    monkeypatch.setattr(subprocess, "Popen", note)
    compiled = open_compiled(tmp_path / "bert", tmp_path / "kept", "bert")
    assert started.wait(60)
    compiled.compiler.close()
    assert children[0].wait(60) == -9
    assert list((tmp_path / "kept").iterdir()) == []
    assert caplog.text == ""  # nothing has failed


class Asked(Compiler):
    """Notes what is asked for, and compiles nothing."""

    def __init__(self) -> None:
        self.variants: list[Variant] = []
        self.shares = Shares()

    def start(self, source: Source, variant: Variant, forward: CompiledForward) -> None:
        self.variants.append(variant)


def test_networks_are_asked_for_as_batches_need_them_and_mixtures_meet_in_one(bert_compiled: Compiled) -> None:
    asked = Asked()
    places = adaptable(bert_compiled.backbone)
    forward = CompiledForward(bert_compiled.backbone, places, bert_compiled.folder, asked, Meter())
    assert asked.variants == [Variant("whole")]
    batch = bert_compiled.batch([3])
    sets = [(site,) for site in bert_compiled.sites[:9]]
    with torch.inference_mode():
        for sites in (*sets, sets[0]):
            stack, deltas = slots_of(bert_compiled, [sites])
            forward.whole(batch, plan_for(stack, deltas, [0]))
    # Three sets apart, then one with room for all before it; and never more than eight networks.
    assert [len(variant.sites) for variant in asked.variants] == [0, 1, 1, 1, 4, 5, 6, 7]
    for _ in range(7):
        Forward.trunk(forward, batch, 1)
        forward.trunk(batch, 1)
    assert len(asked.variants) == 8


class Closable:
    """Stands where a compiled network does."""

    closed = False

    def close(self) -> None:
        self.closed = True


def test_networks_that_another_covers_make_room_when_there_are_eight(bert_compiled: Compiled) -> None:
    asked = Asked()
    places = adaptable(bert_compiled.backbone)
    forward = CompiledForward(bert_compiled.backbone, places, bert_compiled.folder, asked, Meter())
    sites = bert_compiled.sites
    narrow = [Variant("whole", 0, sites[: count + 1]) for count in range(5)]
    other, tail = Variant("whole", 0, sites[-1:]), Variant("tail", 1, bert_compiled.above)
    networks = {variant: Closable() for variant in (Variant("whole"), *narrow, other, tail)}
    forward._asked = set(networks)
    forward._networks = dict(networks)  # type: ignore[arg-type]
    wanted = Variant("trunk", 1)
    forward._ask(wanted)
    assert asked.variants[-1] == wanted
    assert {variant for variant, network in networks.items() if network.closed} == set(narrow[:-1])
    assert forward._networks.keys() == {Variant("whole"), narrow[-1], other, tail}
    assert forward._asked == {*forward._networks, wanted}


def test_a_trunk_is_asked_for_when_batches_keep_needing_it(bert_compiled: Compiled) -> None:
    asked = Asked()
    places = adaptable(bert_compiled.backbone)
    forward = CompiledForward(bert_compiled.backbone, places, bert_compiled.folder, asked, Meter())
    counts = []
    with torch.inference_mode():
        for _ in range(10):
            forward.trunk(bert_compiled.batch([3]), 1)
            counts.append(len(asked.variants))
    assert counts == [1] * 7 + [2] * 3
    assert asked.variants[-1] == Variant("trunk", 1)


def test_rounding_is_no_difference_and_a_wrong_row_is() -> None:
    hidden, mask = torch.randn(3, 4, 8), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    assert not differs(hidden * (1 + 1e-6), hidden, mask)
    padded = hidden.clone()
    padded[2, 1:] = 100.0
    assert not differs(padded, hidden, mask)
    wrong = hidden.clone()
    wrong[2, 0] += 0.1
    assert differs(wrong, hidden, mask)
    assert differs(hidden * float("nan"), hidden, mask)
    assert np.isfinite(hidden.numpy()).all()
