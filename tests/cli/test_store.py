from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.running import Graft


def blobs(home: Path) -> list[Path]:
    return sorted(path for path in (home / "blobs" / "sha256").rglob("*") if path.is_file())


def test_gc_frees_what_nothing_refers_to(graft: Graft, home: Path) -> None:
    size = graft(["show", "acme/topics", "--json"]).json["size_bytes"]
    before = blobs(home)
    graft(["rm", "acme/topics@1"])
    young = graft(["gc", "--json"]).json
    assert set(young) == {"blobs", "bytes", "leftovers", "leftover_bytes", "young", "dry_run"}
    assert (young["blobs"], young["young"]) == (0, 2)
    dry = graft(["gc", "--grace-hours", "0", "--dry-run", "--json"]).json
    assert (dry["blobs"], dry["bytes"], dry["dry_run"]) == (2, size, True)
    assert blobs(home) == before
    assert "Deleted 2 blobs (" in graft(["gc", "--grace-hours", "0"]).out
    assert len(blobs(home)) == len(before) - 2
    assert graft(["fsck", "--json"]).json == {"errors": 0, "findings": []}


@pytest.mark.parametrize("hours", ["nan", "-1", "inf", "soon"])
def test_gc_takes_only_a_sound_grace_period(graft: Graft, home: Path, hours: str) -> None:
    before = blobs(home)
    done = graft(["gc", "--grace-hours", hours, "--json"])
    assert (done.code, done.error["code"]) == (2, "settings-invalid")
    assert "--grace-hours" in done.error["message"]
    assert blobs(home) == before


def test_fsck_of_a_whole_registry(graft: Graft, home: Path) -> None:
    assert graft(["fsck"]).out == "The registry is sound.\n"
    assert graft(["fsck", "--quick", "--json"]).json == {"errors": 0, "findings": []}


def test_fsck_names_the_damage_and_exits_with_1(graft: Graft, home: Path) -> None:
    head = next(path for path in blobs(home) if b"head.bias" in path.read_bytes()[:100])
    head.chmod(0o644)
    content = bytearray(head.read_bytes())
    content[-1] ^= 1
    head.write_bytes(content)
    done = graft(["fsck"])
    assert done.code == 1
    assert "error: stored files are damaged: 1. Add the base model or publish the adapter again" in done.told
    assert "acme/topics@1" in done.out
    assert "1 errors." in done.out
    assert graft(["fsck", "--quick"]).code == 0
    as_json = graft(["fsck", "--json"])
    assert as_json.code == 1
    assert '"code": "blob-damaged"' in as_json.out
