from __future__ import annotations

import resource
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from graftwork.registry.base_rows import BaseModel
from graftwork.registry.fsck import fsck
from graftwork.registry.garbage import collect_garbage
from tests.registry.builders import Registry, make_artifact
from tests.registry.killed import OPERATIONS


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def errors(registry: Registry) -> list[str]:
    return [str(f) for f in fsck(registry.database, registry.blobs) if f.severity == "error"]


def kill_everywhere(operation: str, registry: Registry, stride: int) -> list[Path]:
    """Homes of the registries in which a child was killed at another step each."""
    command = [sys.executable, "-m", "tests.registry.killed", operation, str(registry.home), str(stride)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [registry.home.with_name(f"{registry.home.name}-{step}") for step in done.stdout.split()]


def visible(registry: Registry) -> tuple[list[str], list[str]]:
    """What a reader sees, every byte of it read and checked."""
    bases = registry.bases.list()
    for base in bases:
        source = next((registry.home / "sources").glob(f"{base.family}-*"))
        assert contents(registry.bases.fetch(base)) == contents(source)
    versions = [
        version for name in registry.catalog.list() for version in registry.catalog.versions(name.reference[:9])
    ]
    for version in versions:
        registry.catalog.read(version)
    return [base.family for base in bases], [version.reference for version in versions]


@pytest.mark.parametrize(
    ("operation", "stride", "before", "after"),
    [
        ("add", 6, (["tiny"], ["acme/news@1"]), (["second", "tiny"], ["acme/news@1"])),
        ("publish", 3, (["tiny"], ["acme/news@1"]), (["tiny"], ["acme/news@1", "acme/news@2"])),
        ("fetch", 2, (["tiny"], ["acme/news@1"]), (["tiny"], ["acme/news@1"])),
    ],
)
def test_killed_anywhere_a_reader_sees_all_or_nothing_and_the_same_command_succeeds(
    tmp_path: Path, operation: str, stride: int, before: tuple[list[str], list[str]], after: tuple[list[str], list[str]]
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    registry = Registry.open(home)
    base = registry.add_base().base
    registry.catalog.publish("acme/news", make_artifact(base))
    registry.close()
    homes = kill_everywhere(operation, registry, stride)
    assert len(homes) >= 5
    states = []
    for killed in homes:
        survivor = Registry.open(killed)
        states.append(visible(survivor))
        assert states[-1] in (before, after)
        assert errors(survivor) == []
        OPERATIONS[operation](survivor)
        assert visible(survivor) == after
        collect_garbage(survivor.database, survivor.blobs, grace=timedelta())
        assert fsck(survivor.database, survivor.blobs) == []
        assert visible(survivor) == after
        survivor.close()
    assert states[0] == before
    assert states[-1] == after


def limited(home: Path, size: int) -> subprocess.CompletedProcess[str]:
    """Publish where no file may grow beyond `size` bytes."""
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from graftwork.errors import StorageError\n"
        "from tests.registry.builders import Registry, make_artifact\n"
        f"registry = Registry.open(Path({str(home)!r})); base = registry.bases.resolve('tiny')\n"
        "artifact = make_artifact(base, seed=1, width=4096, rank=8)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
        "try:\n"
        "    registry.catalog.publish('acme/news', artifact)\n"
        "except StorageError as error:\n"
        "    print(error.code, error)\n"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("size", "code"), [(10_000, "storage-full"), (0, "storage-full"), (350_000, "published")])
def test_a_disk_that_takes_no_more_is_told_and_the_old_version_still_serves(
    registry: Registry, base: BaseModel, size: int, code: str
) -> None:
    old = registry.catalog.publish("acme/news", make_artifact(base))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    done = limited(registry.home, size)
    assert done.returncode == 0, done.stderr
    assert (done.stdout.split() or ["published"])[0] == code
    if code != "published":
        assert registry.catalog.resolve("acme/news") == old
        assert "Free space" in done.stdout
    assert list(registry.blobs.leftovers(timedelta())) == []
    registry.catalog.read(registry.catalog.resolve("acme/news"))
    assert errors(registry) == []
    registry.catalog.publish("acme/news", make_artifact(base, seed=1, width=4096, rank=8))
    assert errors(registry) == []


def test_a_database_that_cannot_grow_is_told_and_changes_nothing(registry: Registry, base: BaseModel) -> None:
    registry.catalog.publish("acme/news", make_artifact(base))
    registry.catalog.set_alias("acme/news", "production", 1)
    script = (
        "import resource; from pathlib import Path\n"
        "from graftwork.errors import StorageError\n"
        "from tests.registry.builders import Registry\n"
        f"registry = Registry.open(Path({str(registry.home)!r}))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try:\n"
        "    registry.catalog.remove_alias('acme/news', 'production')\n"
        "except StorageError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Check the disk's space, its quota and its health" in done.stdout
    assert registry.catalog.resolve("acme/news:production").version == 1
    assert errors(registry) == []


def test_processes_that_publish_one_name_at_once_lose_nothing(registry: Registry, base: BaseModel) -> None:
    each, processes = 5, 3
    script = (
        "import sys; from pathlib import Path; from datetime import timedelta\n"
        "from graftwork.registry.garbage import collect_garbage\n"
        "from tests.registry.builders import Registry, make_artifact\n"
        "number = int(sys.argv[1])\n"
        f"registry = Registry.open(Path({str(registry.home)!r})); base = registry.bases.resolve('tiny')\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        f"for seed in range(number * {each}, (number + 1) * {each}):\n"
        "    artifact = make_artifact(base, seed=seed)\n"
        "    print(registry.catalog.publish('acme/news', artifact).version, artifact.digest)\n"
        "    collect_garbage(registry.database, registry.blobs, grace=timedelta())\n"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(number)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(processes)
    ]  # fmt: skip
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    outputs = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0] * processes, [error for _, error in outputs]
    told = dict(line.split() for output, _ in outputs for line in output.splitlines())
    versions = registry.catalog.versions("acme/news")
    assert {str(v.version): v.digest for v in versions} == told
    assert [v.version for v in versions] == list(range(1, each * processes + 1))
    for version in versions:
        registry.catalog.read(version)
    assert errors(registry) == []


def test_of_processes_that_expect_the_same_version_one_wins(registry: Registry, base: BaseModel) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from graftwork.errors import Conflict\n"
        "from tests.registry.builders import Registry, make_artifact\n"
        f"registry = Registry.open(Path({str(registry.home)!r})); base = registry.bases.resolve('tiny')\n"
        "artifact = make_artifact(base, seed=int(sys.argv[1]))\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "try:\n"
        "    print(registry.catalog.publish('acme/news', artifact, expected_latest=0).digest)\n"
        "except Conflict:\n"
        "    print('conflict')\n"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for seed in range(3)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    outputs = sorted(child.communicate()[0].strip() for child in children)
    assert outputs == [registry.catalog.resolve("acme/news").digest, "conflict", "conflict"]
    assert len(registry.catalog.versions("acme/news")) == 1
