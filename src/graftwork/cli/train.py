"""`graft train`: from labelled rows to a published adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from graftwork.cli.options import command_of, examples
from graftwork.cli.session import services
from graftwork.cli.training.exclusions import check_request
from graftwork.cli.training.request import TrainRequest
from graftwork.errors import SettingsInvalid

if TYPE_CHECKING:
    from graftwork.cli.training.ground import Ground
    from graftwork.training.config import TrainingConfig
    from graftwork.wiring import Services


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(
        epilog=examples(
            "graft train tickets.csv --base minilm --name acme/tickets",
            "graft train train.csv --test test.csv --base minilm --name acme/news --strategy lora --seed 1",
            "graft train rows.jsonl --base minilm --name acme/mood --set lora.rank=4 --set fine_tuning.epochs=2",
            "graft train europe.csv --parent acme/mood --name acme/mood~eu   # on top of another adapter",
            "graft train --task topic=news.csv --task mood=tweets.csv --base minilm --name acme/mail",
            "graft train mails.csv --task topic --task mood=feeling --base minilm --name acme/mail --compare-single",
            "graft train new.csv --continue acme/mood --replay old.csv",
            "graft train new.csv --continue acme/mood --set forgetting.protection=ewc --source old.csv",
            "graft train chats.jsonl --base smollm2 --name acme/replies   # prompts and responses: it generates",
            "graft train more.csv --base minilm --name acme/mood --like acme/mood:production --seed 1",
            "graft train tickets.csv --base minilm --name acme/tickets --strategy lora --find-rate",
            "graft train tickets.csv --base minilm --name acme/tickets --resume   # after it was killed",
            "graft train films.csv --base minilm --name acme/mood --adapt-to tweets.csv --test judged-tweets.csv",
        )
    )(command_of(TrainRequest, train))


def train(asked: TrainRequest) -> None:
    """Check labelled rows, adapt a base model to them, judge the result and publish it as the next version.

    Rows with prompt and response, or with messages, teach a causal language model to answer instead.
    """
    from graftwork.cli.training.answering import train_to_answer
    from graftwork.cli.training.ground import lay_ground

    check_request(asked)
    with services() as opened:
        ground = lay_ground(opened, asked)
        if asked.file is not None and not asked.task and asked.reader.holds_conversations(asked.file):
            train_to_answer(opened, asked, ground)
        else:
            _refuse_generation(ground.config)
            _train_to_classify(opened, asked, ground)


def _train_to_classify(opened: Services, asked: TrainRequest, ground: Ground) -> None:
    """Only plan, only look for a rate, or train and publish."""
    from graftwork.cli.training.classifier import train_and_publish
    from graftwork.cli.training.looking import tell_plan, tell_rate
    from graftwork.cli.training.publishing import RunOptions
    from graftwork.cli.training.rows import read_given
    from graftwork.cli.training.telling import tell_trained, tell_way_back

    given = read_given(asked)
    if asked.dry_run:
        tell_plan(opened, ground, given, as_json=asked.as_json)
    elif asked.find_rate:
        tell_rate(opened, ground, given, as_json=asked.as_json)
    else:
        published, trained = train_and_publish(opened, ground, given, RunOptions.of(asked))
        tell_trained(published, trained, as_json=asked.as_json)
        if ground.previous is not None and not asked.as_json:
            tell_way_back(published, ground.previous)


def _refuse_generation(config: TrainingConfig) -> None:
    if config.generation != type(config)().generation:
        raise SettingsInvalid(
            "generation.template has no effect: these rows are labelled texts, for a classifier",
            remedy="Leave it out, or give rows with prompt and response, or with messages.",
        )
