"""Instruction tuning: which tokens are learned, how they are weighed, and that others read what is published."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers
from torch.nn.functional import cross_entropy

from graftwork.adaptation.lora import Lora, LoraSettings
from graftwork.backbones.causal import CausalModel, open_causal
from graftwork.backbones.chat import Chat, Rendered, asked, load_chat
from graftwork.data.conversations import Conversations, Message
from graftwork.errors import BaseMismatch, DataRejected, ModelUnreadable, ModelUnsupported, SettingsInvalid
from graftwork.evaluation.replies import evaluate_replies, paired_token_loss
from graftwork.registry.artifact import MANIFEST, Artifact
from graftwork.registry.other_servers import commands
from graftwork.training.config import TrainingConfig
from graftwork.training.export_causal import export_causal
from graftwork.training.instructions import TrainedReplies, check_settings, train_replies
from graftwork.training.replying import judge_on, replies
from graftwork.training.responses import LOSS, RIGHT, ResponseActivations, TokenObjective, measure_responses
from graftwork.training.runs import Run
from tests.backbones.tiny import save_model
from tests.training.replies import CHATS, open_tiny, opened, save_causal

SETTINGS = [
    "max_length=64",
    "fine_tuning.epochs=20",
    "fine_tuning.batch_size=8",
    "fine_tuning.micro_batch_size=8",
    "fine_tuning.patience=6",
    "fine_tuning.learning_rate=0.02",
    "fine_tuning.evaluate_steps=15",
    "fine_tuning.schedule=linear",
    "lora.store=float32",
]
CONFIG = TrainingConfig.parse(assignments=SETTINGS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_causal(tmp_path_factory.mktemp("causal") / "llama")


@pytest.fixture(scope="module")
def model_and_chat(folder: Path) -> tuple[CausalModel, Chat]:
    return opened(folder)


@pytest.fixture(scope="module")
def trained(model_and_chat: tuple[CausalModel, Chat]) -> TrainedReplies:
    return train_replies(*model_and_chat, CHATS, config=CONFIG)


def text_of(chat: Chat, row: Rendered, *, wanted: bool) -> str:
    return chat._tokenizer.decode([token for token, mark in zip(*row, strict=True) if mark is wanted])  # type: ignore[no-any-return]


def test_responses_and_their_ends_are_learned_and_nothing_else(model_and_chat: tuple[CausalModel, Chat]) -> None:
    chat = model_and_chat[1]
    turns = tuple(
        Message(role, content)  # type: ignore[arg-type]
        for role, content in [("system", "be kind"), ("user", "fox?"), ("assistant", "yes"), ("user", "and")]
    )
    row = chat.row((*turns, Message("assistant", "no")))
    assert text_of(chat, row, wanted=True) == "yes</s>no</s>"
    assert text_of(chat, row, wanted=False) == (
        "<s>system\nbe kind</s>\n<s>user\nfox?</s>\n<s>assistant\n\n<s>user\nand</s>\n<s>assistant\n"
    )
    assert chat.prompt(turns) == row.ids[: len(chat.prompt(turns))]


def test_plain_rows_have_no_template(folder: Path) -> None:
    _, chat = opened(folder, "plain")
    row = chat.row((Message("user", "fox?"), Message("assistant", "yes")))
    assert (text_of(chat, row, wanted=False), text_of(chat, row, wanted=True)) == ("fox?\n", "yes</s>")
    assert chat.digest is None
    with pytest.raises(SettingsInvalid, match="no further turns"):
        chat.prompt((Message("system", "be kind"), Message("user", "fox?")))


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (None, "no chat template"),
        ("{% for m in messages %}{{ m.content if loop.last else '-' }}</s>{% endfor %}", "writes earlier turns"),
        ("{{ raise_exception('no system here') }}", "refuses a conversation"),
    ],
)
def test_templates_that_cannot_be_used_are_told(tmp_path: Path, template: str | None, told: str) -> None:
    backbone = open_tiny(save_causal(tmp_path / "model", template=template))
    turns = [Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d")]
    with pytest.raises((ModelUnsupported, DataRejected), match=told) as refused:
        load_chat(backbone, tmp_path / "model", "chat").row(tuple(turns))
    assert "plain" in refused.value.remedy


@pytest.mark.parametrize(("architecture", "tied"), [("llama", False), ("llama", True), ("gpt2", True)])
def test_losses_are_those_of_transformers(tmp_path: Path, architecture: str, tied: bool) -> None:
    model, chat = opened(save_causal(tmp_path, architecture, tie_word_embeddings=tied))
    twin = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    rows = [chat.row(turns) for turns in CHATS.turns[::7]]
    measured = measure_responses(model, rows)
    for row, (loss, right) in zip(rows, measured, strict=True):
        labels = torch.tensor([token if mark else -100 for token, mark in zip(*row, strict=True)])
        with torch.no_grad():
            logits = twin(torch.tensor([row.ids])).logits[0, :-1]
        assert loss == pytest.approx(float(cross_entropy(logits, labels[1:], reduction="sum")), rel=1e-5)
        assert right == int((logits.argmax(dim=1) == labels[1:]).sum())


def test_gradients_are_the_token_mean_however_a_batch_is_cut(model_and_chat: tuple[CausalModel, Chat]) -> None:
    model, chat = model_and_chat
    rows = [chat.row(turns) for turns in CHATS.turns[:6]]
    rows[0] = chat.row((Message("user", "fox?"), Message("assistant", "a long answer " * 4)))
    tokens = torch.tensor([sum(row.wanted) for row in rows])
    objective = TokenObjective(torch.device("cpu"))

    def gradient(parts: list[list[int]]) -> torch.Tensor:
        with Lora().attach(model.backbone, LoraSettings(rank=2), seed=3) as attachment:
            parameters = attachment.parameters()
            activations = ResponseActivations(model, rows, split=0, memory=0)
            for part in parts:
                loss = objective.total(activations.vectors(part, attachment), tokens[part])
                (loss / objective.weight_of(tokens)).backward()
            return torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])

    torch.testing.assert_close(gradient([[0, 1, 2, 3, 4, 5]]), gradient([[0], [1, 2, 3, 4], [5]]))
    assert gradient([[0]]).abs().sum() > 0


def test_logits_in_parts_give_the_same_gradients(
    model_and_chat: tuple[CausalModel, Chat], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, chat = model_and_chat
    rows = [chat.row(turns) for turns in CHATS.turns[:4]]
    found = []
    for chunk in (256, 3):
        monkeypatch.setattr("graftwork.training.responses._CHUNK", chunk)
        with Lora().attach(model.backbone, LoraSettings(rank=2), seed=3) as attachment:
            parameters = attachment.parameters()
            ResponseActivations(model, rows, split=0, memory=0).vectors(range(4), attachment)[:, LOSS].sum().backward()
            found.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
    torch.testing.assert_close(*found)


def test_cached_activations_of_the_lower_layers_change_nothing(model_and_chat: tuple[CausalModel, Chat]) -> None:
    model, chat = model_and_chat
    rows = [chat.row(turns) for turns in CHATS.turns[:4]]
    with Lora().attach(model.backbone, LoraSettings(rank=2, layers=1), seed=3) as attachment:
        assert attachment.split == 2
        cached = ResponseActivations(model, rows, split=2, memory=1e9)
        assert cached.place == "memory"
        with torch.no_grad():
            losses = cached.vectors(range(4), attachment).numpy()
    np.testing.assert_allclose(losses, measure_responses(model, rows), rtol=1e-5)
    other = ResponseActivations(model, [row._replace(wanted=row.wanted[::-1]) for row in rows], split=2, memory=1e9)
    assert other.identity != cached.identity


def test_it_learns_and_says_by_how_much(trained: TrainedReplies) -> None:
    found = trained.evaluation
    assert found is not None
    assert found.difference.high < 0
    assert found.loss.value < 0.5 * found.base_loss.value
    assert "better than the unadapted base" in found.verdict
    assert found.perplexity.value == pytest.approx(np.exp(found.loss.value), rel=1e-4)
    manifest = trained.artifact.manifest
    assert (manifest.purpose, manifest.labels, set(trained.artifact.files)) == (
        "generation",
        (),
        {"adapter_config.json", "adapter_model.safetensors"},
    )
    assert manifest.serve_with["vLLM"].startswith("vllm serve BASE --enable-lora --max-lora-rank 8 ")


def test_the_same_seed_gives_the_same_digest_also_when_resumed(
    trained: TrainedReplies, model_and_chat: tuple[CausalModel, Chat], tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"fine_tuning": CONFIG.fine_tuning.model_copy(update={"checkpoint_steps": 1})})
    run = Run(tmp_path)

    class Stops(Exception):
        pass

    def stepped() -> dict[str, float]:
        if (tmp_path / "run.json").exists() and (tmp_path / "lora.safetensors").exists():
            raise Stops
        return {}

    run.stepped = stepped  # type: ignore[method-assign]
    with pytest.raises(Stops):
        train_replies(*model_and_chat, CHATS, config=config, run=run)
    again = train_replies(*model_and_chat, CHATS, config=config, run=Run(tmp_path, resume=True))
    assert again.artifact.digest == trained.artifact.digest


def written(artifact: Artifact, to: Path) -> Path:
    to.mkdir()
    for name, content in {**artifact.files, MANIFEST: artifact.manifest_bytes}.items():
        (to / name).write_bytes(content)
    return to


def test_peft_and_a_merged_model_generate_the_same_tokens(
    trained: TrainedReplies, model_and_chat: tuple[CausalModel, Chat], folder: Path, tmp_path: Path
) -> None:
    model, chat = model_and_chat
    prompts = ["fox 3?", "hen 4?"]
    own = [reply.text for reply in replies(model, chat, trained.artifact, prompts, max_new_tokens=6)]
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    loaded = peft.PeftModel.from_pretrained(base, written(trained.artifact, tmp_path / "adapter"))
    (tmp_path / "merged").mkdir()
    export_causal(model, trained.artifact, folder, tmp_path / "merged")
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    for other in (loaded, merged):
        for prompt, text in zip(prompts, own, strict=True):
            ids = torch.tensor([chat.prompt(asked(prompt))])
            out = other.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=1
            )
            assert chat.text(out[0, ids.shape[1] :].tolist()) == text
    ids = torch.tensor([chat.prompt(asked("cat 1?"))])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, merged(ids).logits, rtol=1e-4, atol=1e-4)
    settings = json.loads(trained.artifact.files["adapter_config.json"])
    assert settings["task_type"] == "CAUSAL_LM"
    assert "q_proj" in settings["target_modules"]


def test_published_answers_are_judged_as_they_were(
    trained: TrainedReplies, model_and_chat: tuple[CausalModel, Chat]
) -> None:
    model, chat = model_and_chat
    answers = list(replies(model, chat, trained.artifact, ["fox 3?", "hen 4?"], max_new_tokens=6))
    assert [answer.text for answer in answers] == ["yes", "no"]
    assert all(answer.ended for answer in answers)
    found, _ = judge_on(model, chat, trained.artifact, CHATS)
    base = measure_responses(model, [chat.row(turns) for turns in CHATS.turns])
    assert found.base_loss.value == pytest.approx(base[:, LOSS].sum() / found.tokens, abs=1e-6)
    assert found.token_accuracy > base[:, RIGHT].sum() / found.tokens


def test_drawn_tokens_follow_the_seed(trained: TrainedReplies, model_and_chat: tuple[CausalModel, Chat]) -> None:
    model, chat = model_and_chat

    def drawn(seed: int) -> str:
        (reply,) = replies(model, chat, trained.artifact, ["fox 3?"], max_new_tokens=12, temperature=5.0, seed=seed)
        return reply.text

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(4)}) > 1


def test_pieces_told_are_the_whole_answer(trained: TrainedReplies, model_and_chat: tuple[CausalModel, Chat]) -> None:
    told: list[str] = []
    (reply,) = replies(
        *model_and_chat, trained.artifact, ["fox 3?"], max_new_tokens=12, temperature=3.0, seed=2, told=told.append
    )
    assert "".join(told) == reply.text
    assert len(told) > 1


def test_what_is_too_long_is_cut_from_the_left_or_left_out(model_and_chat: tuple[CausalModel, Chat]) -> None:
    extra = Conversations.from_pairs(["long " * 30, "hi"], ["yes", "no " * 60])
    chats = Conversations((*CHATS.turns, *extra.turns), (*CHATS.rows, 41, 42), "chats.jsonl")
    config = TrainingConfig.parse(assignments=[*SETTINGS, "fine_tuning.epochs=1"])
    trained = train_replies(*model_and_chat, chats, config=config)
    found = {finding.code: finding for finding in trained.findings}
    assert found["prompt-cut"].rows == (41,)
    assert found["response-too-long"].rows == (42,)
    with pytest.raises(SettingsInvalid, match="do not fit"):
        list(replies(*model_and_chat, trained.artifact, ["hi " * 80], max_new_tokens=9))


def test_what_cannot_generate_is_refused(
    tmp_path: Path, folder: Path, trained: TrainedReplies, model_and_chat: tuple[CausalModel, Chat]
) -> None:
    encoder = save_model(tmp_path / "bert", "bert")
    with pytest.raises(ModelUnsupported, match="cannot generate"):
        open_causal(open_tiny(encoder), encoder)
    headless = save_model(tmp_path / "headless", "llama", tie_word_embeddings=False)
    with pytest.raises(ModelUnreadable, match="no output layer") as missing:
        open_causal(open_tiny(headless), headless)
    assert [problem.where for problem in missing.value.problems] == ["lm_head.weight"]
    with pytest.raises(DataRejected, match="nothing to answer"):
        list(replies(*model_and_chat, trained.artifact, ["fox?", " "], max_new_tokens=2))
    _, plain = opened(folder, "plain")
    with pytest.raises(BaseMismatch) as other:
        list(replies(model_and_chat[0], plain, trained.artifact, ["fox?"], max_new_tokens=2))
    assert [problem.where for problem in other.value.problems] == ["manifest.json, template"]


def test_settings_that_have_no_use_are_listed() -> None:
    with pytest.raises(SettingsInvalid) as refused:
        check_settings(
            TrainingConfig.parse(
                strategy="partial", assignments=["fine_tuning.label_smoothing=0.1", "fine_tuning.learning_rate=auto"]
            )
        )
    assert [problem.where for problem in refused.value.problems] == [
        "strategy",
        "fine_tuning.learning_rate",
        "fine_tuning.label_smoothing",
    ]
    assert check_settings(TrainingConfig()).fine_tuning.micro_batch_size == 8


def test_intervals_are_of_token_means_by_row() -> None:
    tokens = np.array([1, 9, 2, 4])
    base = np.array([[2.0, 0], [9.0, 3], [4.0, 1], [8.0, 2]])
    own = base - np.array([1, 0]) * tokens[:, None] * 0.5
    found = evaluate_replies(own, base, tokens)
    assert found.base_loss.value == pytest.approx(23 / 16, abs=1e-6)
    assert (found.difference.low, found.difference.value, found.difference.high) == (-0.5, -0.5, -0.5)
    assert found.base_token_accuracy == pytest.approx(6 / 16)
    assert paired_token_loss(base[:, 0], base[:, 0], tokens).value == 0
    assert "cannot be told" in evaluate_replies(base, base, tokens).verdict


def test_other_servers_are_only_told_of_what_they_honour() -> None:
    assert "--max-lora-rank 16 " in commands(b"{}", [9, 4])["vLLM"]
    assert "above its 512" in commands(b"{}", [600])["vLLM"]
    for told in commands(b'{"rank_pattern": {"q_proj": 4}}', [8, 4]).values():
        assert "--format transformers" in told
