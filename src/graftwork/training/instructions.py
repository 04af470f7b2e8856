"""Instruction tuning: LoRA on a causal language model, from prompts and the responses that are wanted."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graftwork.adaptation.causal import for_causal, for_decoder
from graftwork.adaptation.lora import Lora
from graftwork.errors import Problem, SettingsInvalid
from graftwork.evaluation.replies import RepliesEvaluation, evaluate_replies
from graftwork.registry.artifact import DELTA_CONFIG, Artifact
from graftwork.registry.manifest import DatasetRecord, Manifest
from graftwork.registry.other_servers import commands
from graftwork.training.chatrows import PreparedChats, Side, prepare_chats
from graftwork.training.config import TrainingConfig
from graftwork.training.identity import identity_of
from graftwork.training.loop import FineTuned, fine_tune
from graftwork.training.package import entries_of, facts_of, versions_that_decide
from graftwork.training.preparation import few_bits, prepare_process
from graftwork.training.processes import launched
from graftwork.training.progress import Progress, Silent
from graftwork.training.responses import ResponseActivations, TokenObjective, measure_responses
from graftwork.training.runs import Run
from graftwork.training.start import Rows, Start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graftwork.adaptation.strategy import Delta
    from graftwork.backbones.causal import CausalModel
    from graftwork.backbones.chat import Chat
    from graftwork.data.conversations import Conversations
    from graftwork.data.findings import Finding

LEARNING_RATE = 5e-4
MICRO_BATCH = 8


@dataclass(frozen=True)
class TrainedReplies:
    """The outcome of a run.

    Attributes:
        artifact: what can be published.
        findings: what was cut or left out, and what went wrong on the way.
        evaluation: how well it expects the test rows' responses; None when there are none.
        record: facts of this run that are no part of the adapter's identity.
    """

    artifact: Artifact
    findings: tuple[Finding, ...]
    evaluation: RepliesEvaluation | None
    record: dict[str, Any]


def check_settings(config: TrainingConfig) -> TrainingConfig:
    """The settings as they are used: LoRA.

    Raises:
        SettingsInvalid: with every setting that generation has no use for.
    """
    tuning = config.fine_tuning
    told = "has no effect on a model that generates"
    problems = [
        Problem(name, why)
        for name, wrong, why in (
            (
                "strategy",
                config.strategy not in ("auto", Lora.name),
                f"is {config.strategy}; only lora learns texts",
            ),
            ("fine_tuning.learning_rate", tuning.learning_rate == "auto", "is auto; give a number"),
            ("fine_tuning.class_weights", tuning.class_weights is not None, told),
            ("fine_tuning.label_smoothing", tuning.label_smoothing > 0, told),
            ("fine_tuning.sharding", tuning.sharding != "none", "is fsdp; one process trains"),
            ("lora.init", config.lora.init == "pissa", "is pissa; take gaussian"),
        )
        if wrong
    ]
    if launched().count > 1:
        problems.append(Problem("torchrun", f"has started {launched().count} processes; one process trains"))
    if problems:
        raise SettingsInvalid(
            "these settings do not go with conversations", problems=problems, remedy="Leave them out."
        )
    settings: dict[str, Any] = {"learning_rate": tuning.learning_rate or LEARNING_RATE}
    if tuning.micro_batch_size is None:
        settings["micro_batch_size"] = min(MICRO_BATCH, tuning.batch_size)
    return config.model_copy(update={"strategy": Lora.name, "fine_tuning": tuning.model_copy(update=settings)})


def train_replies(
    model: CausalModel,
    chat: Chat,
    chats: Conversations,
    *,
    test: Conversations | None = None,
    config: TrainingConfig | None = None,
    progress: Progress | None = None,
    run: Run | None = None,
) -> TrainedReplies:
    """Train LoRA on conversations, package it, and judge the package against the unadapted base.

    The loss is the mean cross-entropy over the tokens of all responses of a batch; prompts are only read. The same
    rows, settings, seed, package versions and hardware give an artifact with the same digest.

    Args:
        model: the base; it is the same afterwards.
        chat: writes conversations for it.
        chats: conversations to learn from.
        test: conversations to judge on; without them a share of `chats` is held out.
        config: the settings.
        progress: told of stages and steps.
        run: where checkpoints and measurements go.

    Raises:
        DataRejected: if the conversations cannot be written for the base, or are too few.
        SettingsInvalid: if the settings do not fit, or the run to resume is another one.
        TrainingInterrupted: if the run was asked to stop.
    """
    config, progress, run = check_settings(config or TrainingConfig()), progress or Silent(), run or Run()
    backbone = model.backbone
    prepare_process(backbone, config, resume=run.resume)
    seconds: dict[str, float] = {}
    begun = time.perf_counter()
    progress.stage("reading conversations", None)
    max_length = min(config.max_length or backbone.max_length, backbone.max_length)
    prepared = prepare_chats(chats, test, config, chat, max_length=max_length)
    identity = identity_of(backbone, chats, test, config)
    run.begin({**identity, "task": "generation", "template": str(chat.digest)}, progress.note)
    seconds["check"] = round(time.perf_counter() - begun, 3)
    begun = time.perf_counter()
    delta, tuned = _tune(model, prepared, config, progress, run)
    seconds["strategy"] = round(time.perf_counter() - begun, 3)
    begun = time.perf_counter()
    files = for_causal(delta, model.prefix, layers=backbone.layer_names)
    evaluation = None
    if len(prepared.test):
        run.stop_if_asked()
        progress.stage("judging on the test rows", None)
        evaluation = judge(model, files.files, prepared.test, seed=config.seed)
    findings = (*prepared.findings, *tuned.warnings, *few_bits(backbone, progress))
    record = DatasetRecord(
        digest=chats.digest,
        rows=len(chats),
        train_rows=len(prepared.train),
        validation_rows=len(prepared.validation),
        test_rows=len(prepared.test),
        test_digest=prepared.test.digest if len(prepared.test) else None,
        test_source="held-out" if prepared.test_held_out else "given",
    )
    artifact = _packaged(model, chat, files, config, record, findings, evaluation, tuned, max_length)
    artifact.check()
    seconds["judge"] = round(time.perf_counter() - begun, 3)
    return TrainedReplies(artifact, findings, evaluation, {"seconds": seconds})


def judge(model: CausalModel, files: dict[str, bytes], rows: Side, *, seed: int = 0) -> RepliesEvaluation:
    """What published files say of conversations, against the base without them.

    Args:
        model: the base.
        files: `adapter_config.json` and `adapter_model.safetensors`.
        rows: conversations, encoded.
        seed: of the bootstrap.
    """
    base = measure_responses(model, rows.rendered)
    with Lora().restore(model.backbone, for_decoder(files, model.prefix)):
        own = measure_responses(model, rows.rendered)
    return evaluate_replies(own, base, rows.tokens, dataset_digest=rows.digest, seed=seed)


def _tune(
    model: CausalModel, prepared: PreparedChats, config: TrainingConfig, progress: Progress, run: Run
) -> tuple[Delta, FineTuned]:
    backbone = model.backbone
    memory = config.fine_tuning.cache_gb * 1e9
    with Lora().attach(backbone, config.lora, seed=config.seed) as attachment:

        def rows(side: Side) -> Rows:
            kept = ResponseActivations(
                model, side.rendered, split=attachment.split, memory=memory, folder=run.temporary_folder
            )
            return Rows.of(kept, side.tokens, backbone.device)

        start = Start(
            backbone=backbone,
            attachment=attachment,
            weight=None,
            bias=None,
            train=rows(prepared.train),
            validation=rows(prepared.validation),
            settings=config.fine_tuning,
            seed=config.seed,
            own_objective=TokenObjective(backbone.device),
        )
        rate = config.fine_tuning.learning_rate
        assert isinstance(rate, float)
        tuned = fine_tune(start, learning_rate=rate, progress=progress, run=run, stage=Lora.name)
        return attachment.delta(), tuned


def _packaged(
    model: CausalModel,
    chat: Chat,
    delta: Delta,
    config: TrainingConfig,
    record: DatasetRecord,
    findings: Sequence[Finding],
    evaluation: RepliesEvaluation | None,
    tuned: FineTuned,
    max_length: int,
) -> Artifact:
    backbone = model.backbone
    settings = config.model_dump(mode="json")
    step = f"step {tuned.best_step} of {tuned.steps}" if tuned.best_step else "the start: no step was better"
    manifest = Manifest(
        **facts_of(backbone),
        strategy=Lora.name,
        strategy_settings=settings["lora"],
        purpose="generation",
        template=chat.digest,
        serve_with=commands(
            delta.files[DELTA_CONFIG], [spec.shape[0] for spec in delta.tensors if ".lora_A." in spec.name]
        ),
        labels=(),
        max_length=max_length,
        split=delta.split,
        tensors=delta.tensors,
        files=entries_of(delta.files),
        temperature=1.0,
        dataset=record,
        warnings=tuple(findings),
        metrics=None if evaluation is None else evaluation.model_dump(mode="json"),
        decision=f"LoRA on {record.train_rows:,} conversations; kept is {step}, with a validation loss of "
        f"{tuned.validation_loss:.3f} nats a token",
        settings=settings,
        seed=config.seed,
        packages=versions_that_decide(peft=True),
    )
    return Artifact(manifest, delta.files)
