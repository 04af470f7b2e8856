"""One training run for several tasks: a shared delta, a head each, every task judged by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.feature_extraction import FeatureExtraction
from graftwork.adaptation.inference import features_on_top, head_logits, probabilities
from graftwork.registry.artifact import Artifact
from graftwork.registry.manifest import TaskRecord
from graftwork.registry.tasks import FORMAT, TaskColumns
from graftwork.training.config import TrainingConfig
from graftwork.training.identity import identity_of
from graftwork.training.interference import AgainstAlone, against_alone, interference_warning
from graftwork.training.job import Clock, Trained
from graftwork.training.joint import JointTask, choose_joint, fit_probes, side_by_side
from graftwork.training.judging import judge, record_of
from graftwork.training.package import package
from graftwork.training.preparation import few_bits, prepare_process
from graftwork.training.processes import processes
from graftwork.training.progress import Progress, Silent
from graftwork.training.runs import Run
from graftwork.training.task_logits import of_task
from graftwork.training.task_rows import check_names, check_tasks, join_tasks, prepare_tasks
from graftwork.training.transfer import below_probe
from graftwork.training.tuned import tuned_candidate

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.data.dataset import Dataset
    from graftwork.data.findings import Finding
    from graftwork.data.report import DataReport
    from graftwork.training.candidate import Candidate
    from graftwork.training.rows import PreparedRows


def train_tasks(
    backbone: Backbone,
    tasks: Mapping[str, Dataset],
    *,
    test: Mapping[str, Dataset] | None = None,
    config: TrainingConfig | None = None,
    progress: Progress | None = None,
    run: Run | None = None,
) -> Trained:
    """Train one adapter for several tasks, and judge each of them.

    As in `job.train`, the same rows, settings, seed, versions and hardware give the same digest, also after a run was
    killed and resumed. An epoch has as many rows as all tasks together, drawn as `sampling` says.

    Args:
        backbone: the frozen backbone; it is the same afterwards.
        tasks: labelled rows by the name of the task; a text may stand in several.
        test: rows to judge on, of each task; without them a share is held out.
        config: the settings.
        progress: told of stages and steps.
        run: where checkpoints and measurements go; by default nothing is kept of a run that does not end.

    Raises:
        DataRejected: if the check finds errors; every one of every task is listed.
        SettingsInvalid: if names or settings do not fit, or the run to resume is another one.
        TrainingInterrupted: if the run was asked to stop.
    """
    config, run, progress = config or TrainingConfig(), run or Run(), progress or Silent()
    check_names(list(tasks))
    prepare_process(backbone, config, resume=run.resume)
    max_length = min(config.max_length or backbone.max_length, backbone.max_length)
    clock = Clock()
    with clock.stage("check"):
        progress.stage("checking rows", None)
        report = check_tasks(tasks, test, tokenizer=backbone.tokenizer, max_length=max_length)
        prepared = prepare_tasks(tasks, test, config)
        together = None if test is None else join_tasks(test)
        run.begin(identity_of(backbone, join_tasks(tasks), together, config), progress.note)
    with clock.stage("features"):
        features = _features(backbone, prepared, max_length, progress, run)
    with clock.stage("probe"):
        task = _with_probes(backbone, prepared, features, config, max_length, progress, run)
    with clock.stage("strategy"):
        candidate = choose_joint(task, progress=progress, run=run)
    artifact = _packaged(task, candidate, tasks, report, clock, progress, run)
    return Trained(artifact, report, None, {"seconds": clock.seconds})


def _features(
    backbone: Backbone, prepared: PreparedRows, max_length: int, progress: Progress, run: Run
) -> NDArray[np.floating]:
    """Pooled vectors `[rows, width]`; a text that has labels of several tasks is read once."""

    def advance(steps: int) -> None:
        run.stop_if_asked()
        progress.advance(steps)

    unique, place = np.unique(np.array(prepared.rows.texts, dtype=object), return_inverse=True)
    progress.stage("reading texts through the backbone", len(unique))
    return backbone.embed(unique.tolist(), max_length=max_length, progress=advance)[place].numpy()


def _with_probes(
    backbone: Backbone,
    prepared: PreparedRows,
    features: NDArray[np.floating],
    config: TrainingConfig,
    max_length: int,
    progress: Progress,
    run: Run,
) -> JointTask:
    """The rows with a probe fitted for each task, the same in every process."""
    progress.stage("fitting the probes", None)
    probes = fit_probes(features, prepared, config, run.stop_if_asked)
    # Every process has computed them; unlike processors must still decide alike.
    features, probes = processes().of_first((features, probes))
    return JointTask(backbone, prepared, features, side_by_side(probes, prepared), config, max_length, probes)


def _packaged(
    task: JointTask,
    candidate: Candidate,
    tasks: Mapping[str, Dataset],
    report: DataReport,
    clock: Clock,
    progress: Progress,
    run: Run,
) -> Artifact:
    """What is published, judged on the test rows and, if asked for, beside each task alone."""
    with clock.stage("judge"):
        run.stop_if_asked()
        warnings = (*report.warnings, *few_bits(task.backbone, progress))
        draft = _draft(task, candidate, tasks, warnings)
        answers = _Answers.of(draft, task, progress)
    alone = {}
    if task.config.tasks.compare_single and len(task.prepared.test):
        with clock.stage("each task alone"):
            alone = _compare_alone(task, candidate, draft, answers, progress, run)
    artifact = _judged(draft, task, answers, alone, progress)
    artifact.check()
    return artifact


class _Answers:
    """What is said of the test rows: by what would be published, and by the probes on the frozen base.

    Attributes:
        own: logits `[test rows, classes]` by the draft.
        probes: the same by the probes; None when the draft is these.
    """

    def __init__(self, own: NDArray[np.float64], probes: NDArray[np.float64] | None) -> None:
        self.own = own
        self.probes = probes

    @classmethod
    def of(cls, draft: Artifact, task: JointTask, progress: Progress) -> _Answers:
        """Ask about each text once; what was packaged is read back from its bytes."""
        texts, trained = task.prepared.test.texts, bool(draft.manifest.tensors)
        if not texts:
            return cls(np.zeros((0, len(draft.manifest.labels))), None)
        unique, place = np.unique(np.array(texts, dtype=object), return_inverse=True)
        progress.stage("judging on the test rows", len(unique) * (2 if trained else 1))

        asked = unique.tolist()
        bare = task.backbone.embed(asked, max_length=task.max_length, progress=progress.advance)[place]
        if not trained:
            return cls(head_logits(draft, bare), None)
        features = features_on_top(task.backbone, draft, asked, progress=progress.advance)[place]
        return cls(head_logits(draft, features), task.probe.logits(bare.numpy()))


def _draft(
    task: JointTask, candidate: Candidate, tasks: Mapping[str, Dataset], warnings: Sequence[Finding]
) -> Artifact:
    """The artifact of all tasks, not judged yet."""
    together = join_tasks(tasks)
    temperatures = task.temperatures(candidate)
    draft = package(
        task.backbone,
        candidate,
        labels=task.prepared.label_names,
        dataset=record_of(together, task.prepared, candidate),
        warnings=warnings,
        max_length=task.max_length,
        config=task.config,
    )
    records = tuple(
        TaskRecord(
            name=each.name,
            labels=each.labels,
            temperature=temperature,
            dataset=record_of(tasks[each.name], task.alone(each).prepared, candidate),
        )
        for each, temperature in zip(task.tasks, temperatures, strict=True)
    )
    settings = {**draft.manifest.settings, "tasks": task.config.tasks.model_dump(mode="json")}
    changes = {"format": FORMAT, "tasks": records, "settings": settings}
    return Artifact(draft.manifest.model_copy(update=changes), draft.files)


def _compare_alone(
    task: JointTask, candidate: Candidate, draft: Artifact, answers: _Answers, progress: Progress, run: Run
) -> dict[str, AgainstAlone]:
    """Each task against a run of its own, by the same strategy; heads alone cannot disturb each other."""
    if candidate.strategy == FeatureExtraction.name:
        progress.note("the tasks share nothing but the frozen base, so none can suffer from another")
        return {}
    compared = {}
    for each, record in zip(task.tasks, draft.manifest.tasks, strict=True):
        progress.note(f"training {each.name} alone, to compare")
        single = task.alone(each)
        prepared = single.prepared
        # Nothing of it is kept: a resumed run trains it again, to the same bits.
        tuned = tuned_candidate(candidate.strategy, single, progress=progress, run=Run(interruption=run.interruption))
        artifact = package(
            task.backbone,
            tuned,
            labels=each.labels,
            dataset=record.dataset,
            warnings=(),
            max_length=task.max_length,
            config=task.config,
        )
        progress.stage(f"judging {each.name} alone", len(prepared.test))
        features = features_on_top(task.backbone, artifact, prepared.test.texts, progress=progress.advance)
        alone = probabilities(head_logits(artifact, features), artifact.manifest.temperature)
        together = _of_task(answers.own, each, task, record.temperature)
        compared[each.name] = against_alone(
            each.name, together, alone, prepared.test_labels, digest=artifact.digest, seed=task.config.seed
        )
    return compared


def _of_task(
    logits: NDArray[np.float64], each: TaskColumns, task: JointTask, temperature: float
) -> NDArray[np.float64]:
    """Probabilities `[the task's test rows, its classes]`."""
    return probabilities(logits[of_task(each, task.prepared.test_labels), each.columns], temperature)


def _judged(
    draft: Artifact,
    task: JointTask,
    answers: _Answers,
    alone: Mapping[str, AgainstAlone],
    progress: Progress,
) -> Artifact:
    """The artifact with the metrics of each task, and what is to be warned of."""
    manifest, records, found = draft.manifest, [], []
    for each, record in zip(task.tasks, draft.manifest.tasks, strict=True):
        changes: dict[str, Any] = {}
        if record.dataset.test_rows:
            changes["metrics"], worse = _evaluation(task, each, record, answers, manifest.strategy)
            found += [worse] if worse else []
        if each.name in alone:
            changes["alone"] = alone[each.name].model_dump(mode="json")
            progress.note(alone[each.name].verdict)
            worse = interference_warning(each.name, alone[each.name])
            found += [worse] if worse else []
        records.append(record.model_copy(update=changes))
    for warning in found:
        progress.note(f"warning: {warning.message}. {warning.remedy}")
    changes = {"tasks": tuple(records), "warnings": (*manifest.warnings, *found)}
    return Artifact(manifest.model_copy(update=changes), draft.files)


def _evaluation(
    task: JointTask, each: TaskColumns, record: TaskRecord, answers: _Answers, strategy: str
) -> tuple[dict[str, Any], Finding | None]:
    """The metrics of a task, and the warning that its probe alone does better."""
    single = task.alone(each)
    prepared = single.prepared
    own = _of_task(answers.own, each, task, record.temperature)
    beside = None
    if answers.probes is not None:
        beside = _of_task(answers.probes, each, task, single.probe.temperature(prepared.labels))
    evaluation = judge(own, prepared, each.labels, seed=task.config.seed, beside=beside)
    worse = None
    if beside is not None:
        title = f"{STRATEGIES[strategy].title} ({each.name})"
        worse = below_probe(own, beside, prepared.test_labels, title=title)
    return evaluation.model_dump(mode="json"), worse
