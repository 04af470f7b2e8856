"""A folder is whole or absent: after errors, kills, damage and races."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from graftwork.demo.folders import is_whole, make_folder, write_sums
from graftwork.errors import DownloadFailed, StorageError, StorageFull
from tests.demo.archives import digest

DIGESTS = {"a.txt": digest(b"one"), "deep/b.txt": digest(b"two")}


def good(made, scratch):
    (made / "a.txt").write_bytes(b"one")
    (made / "deep").mkdir()
    (made / "deep" / "b.txt").write_bytes(b"two")
    (scratch / "rubbish").write_bytes(b"x")


def never(made, scratch):
    raise AssertionError("it was there already")


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_it_is_made_once(tmp_path):
    target = tmp_path / "new" / "folder"
    assert make_folder(target, DIGESTS, good) is True
    assert (target / "deep" / "b.txt").read_bytes() == b"two"
    assert make_folder(target, DIGESTS, never) is False
    assert names(tmp_path / "new") == ["folder"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "a.txt").write_bytes(b"onE"),
        lambda folder: (folder / "a.txt").unlink(),
        lambda folder: ((folder / "a.txt").unlink(), (folder / "a.txt").mkdir()),
    ],
)
def test_a_damaged_folder_is_made_anew(tmp_path, damage):
    make_folder(tmp_path / "folder", DIGESTS, good)
    damage(tmp_path / "folder")
    assert not is_whole(tmp_path / "folder", DIGESTS)
    assert make_folder(tmp_path / "folder", DIGESTS, good) is True
    assert is_whole(tmp_path / "folder", DIGESTS)
    assert names(tmp_path) == ["folder"]


def test_what_is_not_as_it_should_be_is_not_kept(tmp_path):
    def wrong(made, scratch):
        (made / "a.txt").write_bytes(b"another")

    with pytest.raises(DownloadFailed) as caught:
        make_folder(tmp_path / "folder", DIGESTS, wrong)
    assert [problem.where for problem in caught.value.problems] == ["a.txt", "deep/b.txt"]
    assert names(tmp_path) == []


def test_an_error_leaves_nothing(tmp_path):
    def failing(made, scratch):
        (made / "a.txt").write_bytes(b"one")
        raise DownloadFailed("no network")

    with pytest.raises(DownloadFailed, match="no network"):
        make_folder(tmp_path / "folder", DIGESTS, failing)
    assert names(tmp_path) == []


def test_a_full_disk_says_so_and_leaves_nothing(tmp_path):
    def full(made, scratch):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageFull, match="no space is left"):
        make_folder(tmp_path / "folder", DIGESTS, full)
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file/folder cannot be made"):
        make_folder(tmp_path / "file" / "folder", DIGESTS, good)


def test_killed_in_the_middle_it_is_absent_and_the_next_run_sweeps(tmp_path):
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from graftwork.demo.folders import make_folder\n"
        "def killed(made, scratch):\n"
        "    (made / 'a.txt').write_bytes(b'one')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "make_folder(Path(sys.argv[1]), {'a.txt': ''}, killed)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "folder")], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = names(tmp_path)
    assert left.startswith(".folder-part-")
    assert make_folder(tmp_path / "folder", DIGESTS, good) is True
    assert names(tmp_path) == ["folder"]


def test_two_at_once_make_it_once(tmp_path):
    made_by, barrier = [], threading.Barrier(4)

    def counted(made, scratch):
        made_by.append(threading.get_ident())
        good(made, scratch)

    def run():
        barrier.wait()
        make_folder(Path(tmp_path) / "folder", DIGESTS, counted)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made_by) == 1
    assert is_whole(tmp_path / "folder", DIGESTS)


def test_a_neighbour_whose_name_begins_alike_is_left_alone(tmp_path):
    (tmp_path / ".folder2-part-x").mkdir()
    make_folder(tmp_path / "folder", DIGESTS, good)
    assert names(tmp_path) == [".folder2-part-x", "folder"]


def test_a_folder_of_many_files_is_pinned_by_its_list_of_digests(tmp_path):
    def make(made, scratch):
        for number in range(3):
            (made / f"{number}.png").write_bytes(bytes([number]))
        write_sums(made)

    listed = "".join(f"{digest(bytes([number]))}  {number}.png\n" for number in range(3))
    digests = {"SHA256SUMS": digest(listed.encode())}
    target = tmp_path / "pictures"
    assert make_folder(target, digests, make)
    assert not make_folder(target, digests, make)
    (target / "1.png").write_bytes(b"other")
    assert make_folder(target, digests, make)
    assert (target / "1.png").read_bytes() == b"\1"
