"""What a recommendation says, as values that survive JSON."""

from __future__ import annotations

from typing import Literal

from graftwork.evaluation.results import Frozen, Interval

Level = Literal["good", "low", "none"]
Source = Literal["rules", "probe", "trial"]


class Compatibility(Frozen):
    """How well a base suits the rows, judged without running it.

    Attributes:
        level: `none` when it cannot read them, `low` when what it reads of them is likely to be little.
        reasons: what speaks against it, a sentence each; none when nothing does.
        languages: of the rows, most frequent first, as far as they are known (ISO 639 codes, or scripts).
        unknown_share: share of the tokens that its tokenizer does not know; None when it has none.
        truncated_share: share of the rows that are longer than it reads.
        tokens_a_word: tokens that its tokenizer takes for a word; None where words are not spaced.
    """

    level: Level
    reasons: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    unknown_share: float | None = None
    truncated_share: float | None = None
    tokens_a_word: float | None = None


class Evidence(Frozen):
    """What a base's frozen features say about the task.

    Attributes:
        rows: that were read.
        accuracy: of the probe, by cross-validation over these rows.
        log_me: LogME of layer-averaged features.
        h_score: H-score of the same.
        neighbours: share of rows that their nearest neighbours get right, by the same.
        seconds: that all of it took.
    """

    rows: int
    accuracy: Interval
    log_me: float
    h_score: float
    neighbours: float
    seconds: float


class Trial(Frozen):
    """A candidate, trained for a while.

    Attributes:
        epochs: that it was trained.
        rows: that it was trained on.
        share: of a whole run's work.
        accuracy: on the validation rows.
        start: accuracy of the head it started from, on the same rows.
        mended: share of that head's errors that it mended, beyond those it made.
        spread: standard error of that share.
        seconds: that it took.
    """

    epochs: int
    rows: int
    share: float
    accuracy: float
    start: float
    mended: float
    spread: float
    seconds: float


class Candidate(Frozen):
    """A base with a strategy and its settings, and what is expected of it.

    Attributes:
        base: name of the base.
        strategy: what is trained.
        settings: those that differ from the defaults, as `--set` takes them.
        accuracy: expected on rows like these, with its 95 % limits; None when nothing was measured on the base.
        known_from: the strongest source of that: rules alone, a probe, or a trial.
        seen: published versions of this strategy in the registry that the expectation rests on too.
        seconds: that training is expected to take here.
        memory_bytes: peak that training is planned to take, beside libraries; None when it was not planned.
        stored_bytes: that an adapter is expected to take; None when nothing was loaded.
        latency_ms: of one request of median length, measured on the bare base; None when nothing was loaded.
        price: of training, in the currency of the prices; None without prices.
        trials: in the order they were made.
        refused: why it is not within the limits or not possible; none when it is.
        front: nobody who is within the limits is expected to be both more accurate and faster to train.
    """

    base: str
    strategy: str
    settings: tuple[str, ...] = ()
    accuracy: Interval | None = None
    known_from: Source = "rules"
    seen: int = 0
    seconds: float | None = None
    memory_bytes: int | None = None
    stored_bytes: int | None = None
    latency_ms: float | None = None
    price: float | None = None
    trials: tuple[Trial, ...] = ()
    refused: tuple[str, ...] = ()
    front: bool = False


class JudgedBase(Frozen):
    """A base and what is known of it.

    Attributes:
        name: what it is called.
        parameters: number of weights.
        compatibility: judged from the rows.
        evidence: measured on its features; None when it was not read for want of time, or cannot be.
        missing: why it could not be loaded; empty when it could, or was not tried.
    """

    name: str
    parameters: int
    compatibility: Compatibility
    evidence: Evidence | None = None
    missing: str = ""


class Recommendation(Frozen):
    """Which base and strategy, and why.

    Attributes:
        source: the file of the rows.
        rows: that it was made from, test rows not among them.
        classes: number of classes.
        budget: seconds that were allowed.
        spent: seconds that it took.
        known_from: the strongest source that the choice rests on.
        bases: every base, the most suitable first.
        candidates: every candidate, the best first; those that are refused come last.
        chosen: the first of them; None when all are refused.
        reasons: for the choice, a sentence each.
        notes: what was left out, and why.
    """

    source: str
    rows: int
    classes: int
    budget: float
    spent: float
    known_from: Source
    bases: tuple[JudgedBase, ...]
    candidates: tuple[Candidate, ...]
    chosen: Candidate | None
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()
