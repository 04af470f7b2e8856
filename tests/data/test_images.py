"""Pictures as rows: read from folders and files, decoded whatever is in them, checked and compared."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graftwork.data.check import check_dataset
from graftwork.data.clean import clean_dataset, without_unreadable
from graftwork.data.images import groups
from graftwork.data.media import Media
from graftwork.data.pictures import open_picture
from graftwork.data.read import read_dataset
from graftwork.errors import DataRejected, DataUnreadable, ModalityMismatch


def draw(path: Path, seed: int = 0, size: tuple[int, int] = (32, 24)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    scene = np.random.default_rng(seed).integers(0, 255, (4, 4, 3)).astype(np.uint8)
    Image.fromarray(scene).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def media(picture: Image.Image, format: str = "PNG", **options: object) -> Media:
    data = io.BytesIO()
    picture.save(data, format=format, **options)
    return Media.of_bytes(data.getvalue(), "image", name="it")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(4):
        draw(tmp_path / ("cat" if index % 2 else "dog") / f"{index}.png", seed=index)
    return tmp_path


def test_a_folder_per_class(folder: Path) -> None:
    rows = read_dataset(folder)
    assert rows.modality == "image"
    assert rows.labels == ("cat", "cat", "dog", "dog")
    assert [Path(item.name).name for item in rows.texts if isinstance(item, Media)] == [
        "1.png",
        "3.png",
        "0.png",
        "2.png",
    ]


def test_a_folder_with_metadata_and_a_file_of_paths_are_the_same_rows(folder: Path) -> None:
    lines = ["dog/0.png,dog", "cat/1.png,cat"]
    (folder / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
    (folder / "rows.csv").write_text("\n".join(["picture,kind", *lines]))
    told, named = read_dataset(folder), read_dataset(folder / "rows.csv", text="picture", label="kind")
    assert told.texts == named.texts
    assert told.labels == ("dog", "cat")
    assert told.digest == named.digest


def test_the_digest_is_of_the_content(folder: Path) -> None:
    before = read_dataset(folder).digest
    (folder / "cat" / "1.png").rename(folder / "cat" / "0.png")
    assert read_dataset(folder).digest == before
    draw(folder / "cat" / "0.png", seed=9)
    assert read_dataset(folder).digest != before


def test_files_that_are_not_there_are_all_named(folder: Path) -> None:
    (folder / "rows.csv").write_text("text,label\ncat/1.png,cat\nno.png,cat\nnor.png,dog\n")
    with pytest.raises(DataUnreadable, match="2 files") as caught:
        read_dataset(folder / "rows.csv")
    assert [problem.where.rpartition(", ")[2] for problem in caught.value.problems] == ["row 3", "row 4"]


def test_texts_and_pictures_side_by_side_are_refused(folder: Path) -> None:
    (folder / "cat" / "note.txt").write_text("a text")
    with pytest.raises(ModalityMismatch):
        read_dataset(folder)


def test_a_file_that_changes_while_it_is_used_is_refused(folder: Path) -> None:
    item = read_dataset(folder).texts[0]
    draw(folder / "cat" / "1.png", seed=7)
    assert isinstance(item, Media)
    with pytest.raises(DataUnreadable, match="changed"):
        item.read()


def test_bad_files_stop_training_and_are_skipped_when_asked(folder: Path) -> None:
    (folder / "cat" / "empty.png").write_bytes(b"")
    whole = (folder / "dog" / "0.png").read_bytes()
    (folder / "dog" / "cut.png").write_bytes(whole[: len(whole) // 2])
    rows = read_dataset(folder)
    (found,) = check_dataset(rows).errors
    assert (found.code, found.count) == ("unreadable-media", 2)
    assert "cat/empty.png is empty" in found.message
    kept = without_unreadable(rows)
    assert len(kept) == 4
    report = check_dataset(kept)
    assert not report.errors
    assert [found.code for found in report.warnings if found.code == "skipped-media"] == ["skipped-media"]


def test_duplicates_near_duplicates_and_tiny_pictures_are_told(folder: Path) -> None:
    whole = Image.open(folder / "dog" / "0.png")
    (folder / "dog" / "again.png").write_bytes((folder / "dog" / "0.png").read_bytes())
    whole.save(folder / "dog" / "as.jpg", quality=85)
    whole.resize((50, 40)).save(folder / "dog" / "large.png")
    draw(folder / "cat" / "tiny.png", seed=5, size=(12, 40))
    (folder / "cat" / "damaged.png").write_bytes(b"no picture, and not a tiny one")
    rows = read_dataset(folder)
    codes = {found.code: found.count for found in check_dataset(rows).findings}
    assert codes["duplicate-rows"] == 1
    assert codes["near-duplicates"] == 2
    assert codes["tiny-images"] == 1
    assert len(clean_dataset(rows)) == len(rows) - 1


def test_test_pictures_that_look_like_training_pictures_are_told(folder: Path, tmp_path: Path) -> None:
    rows = read_dataset(folder)
    other = tmp_path / "test" / "cat" / "1.png"
    other.parent.mkdir(parents=True)
    Image.open(folder / "cat" / "1.png").resize((64, 48)).save(other)
    draw(tmp_path / "test" / "dog" / "8.png", seed=8)
    findings = {found.code: found.count for found in check_dataset(rows, test=read_dataset(tmp_path / "test")).findings}
    assert findings["test-near-duplicates"] == 1


def test_groups_are_those_of_comparing_colours_and_shapes() -> None:
    flat = [media(Image.new("RGB", (40, 40), colour)) for colour in ("red", "blue", "red")]
    larger = media(Image.new("RGB", (90, 70), "red"))
    broken = Media.of_bytes(b"no picture", "image")
    assert groups([*flat, larger, broken, broken]).tolist() == [0, 1, 0, 0, 2, 2]
    assert groups([]).tolist() == []


def pixel(item: Media) -> tuple[int, ...]:
    picture = open_picture(item)
    assert picture.mode == "RGB"
    value = picture.getpixel((0, 0))
    assert isinstance(value, tuple)
    return value


def test_every_kind_of_pixel_becomes_rgb() -> None:
    grey16 = Image.fromarray(np.full((4, 4), 0x8080, np.uint16))
    assert pixel(media(grey16)) == (128, 128, 128)
    assert pixel(media(Image.new("L", (4, 4), 7))) == (7, 7, 7)
    assert pixel(media(Image.new("RGBA", (4, 4), (255, 0, 0, 0)))) == (255, 255, 255)
    assert pixel(media(Image.new("LA", (4, 4), (0, 128)))) == (127, 127, 127)
    assert pixel(media(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF")) == (255, 0, 0)
    assert pixel(media(Image.new("1", (4, 4), 1))) == (255, 255, 255)
    animation = [Image.new("RGB", (4, 4), colour) for colour in ("lime", "blue")]
    assert pixel(media(animation[0], "GIF", save_all=True, append_images=animation[1:])) == (0, 255, 0)


def test_pictures_are_turned_as_their_camera_said() -> None:
    wide = Image.new("RGB", (8, 4), "black")
    wide.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    seen = open_picture(media(wide, exif=exif))
    assert seen.size == (4, 8)
    assert seen.getpixel((3, 0)) == (255, 255, 255)


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it is large and is not."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_000, 6_000), (12_000, 10_000), (100_000, 100_000)])
def test_what_is_too_large_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(DataRejected, match="50,000,000"):
        open_picture(Media.of_bytes(bomb(*size), "image", name="bomb.png"))


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"<svg/>", b"\xff\xd8\xff\xe0" + b"\0" * 50, bomb(50, 50)])
def test_what_is_no_picture_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(DataRejected, match=r"^x\.png: "):
        open_picture(Media.of_bytes(data, "image", name="x.png"))
