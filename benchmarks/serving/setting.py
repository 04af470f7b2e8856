"""What a run of the benchmarks is made of: the model, the sizes, and how often each thing is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".cache" / "graftwork"


@dataclass(frozen=True)
class Setting:
    """The settings of a run; the defaults are those of the published tables.

    Attributes:
        model: a BERT-like base model in Hugging Face layout.
        corpus: a CSV file with a column `text`, from which words are taken.
        store: folder for registries and exported peers, kept from run to run.
        dtypes: of the comparisons of forwards; `auto` takes what the hardware is fast at.
        compiled: whether ours runs compiled networks, as a server does where it can.
        dtype: of the engine and of the server; `auto` takes what the hardware is fast at.
        threads: of every candidate.
        rounds: how often each candidate is measured, in turn with the others.
        rows: rows of a batch.
        tokens: tokens of a row, special tokens included.
        distinct: numbers of distinct adapters in a batch.
        registered: numbers of adapters in the registry.
        resident: adapters in slots, and tenants that are active.
        text_tokens: tokens of a text sent over HTTP, special tokens included.
        request_texts: texts of a large request.
        repeated_texts: how many texts the Zipf-distributed requests are drawn from.
        connections: of the load generator in closed loop, for single texts.
        seconds: of each load.
        loads: adapters whose loading is timed, at each number of residents.
        residents: numbers of resident adapters while adapters are loaded.
        merged: merged models kept side by side.
        wrk: the load generator of closed loops.
    """

    model: Path = CACHE / "models" / "minilm"
    corpus: Path = CACHE / "datasets" / "bbc" / "train.csv"
    store: Path = CACHE / "bench"
    dtypes: tuple[str, ...] = ("float32", "auto")
    dtype: str = "auto"
    compiled: bool = True
    threads: int = 2
    rounds: int = 30
    rows: int = 32
    tokens: int = 32
    distinct: tuple[int, ...] = (1, 8, 32)
    registered: tuple[int, ...] = (100, 1_000, 10_000)
    resident: int = 1_000
    text_tokens: int = 25
    request_texts: int = 32
    repeated_texts: int = 10_000
    connections: int = 64
    seconds: float = 10.0
    loads: int = 300
    residents: tuple[int, ...] = (10, 100, 1_000)
    merged: int = 32
    wrk: str = "wrk"

    @property
    def quick(self) -> Setting:
        """Everything once or thrice and small: to see that it works, not what it costs."""
        return replace(
            self,
            rounds=3,
            registered=(20, 100, 200),
            resident=100,
            repeated_texts=500,
            connections=16,
            seconds=2.0,
            loads=20,
            residents=(5, 20, 50),
            merged=4,
        )
