from __future__ import annotations

import doctest

import pytest

from graftwork.cli import weights
from tests.cli.running import Graft


def test_the_example() -> None:
    assert doctest.testmod(weights).attempted > 0


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("acme", "acme: is not of the form tenant=weight"),
        ("=2", "=2: is not of the form tenant=weight"),
        ("acme=much", "acme=much: 'much' is not a number above 0"),
        ("acme=0", "acme=0: '0' is not a number above 0"),
        ("acme=-1", "acme=-1: '-1' is not a number above 0"),
        ("acme=inf", "acme=inf: 'inf' is not a number above 0"),
        ("acme=nan", "acme=nan: 'nan' is not a number above 0"),
        ("globex=1", "globex=1: globex has a weight already"),
    ],
)
def test_mistakes_in_weights_are_told_before_anything_starts(graft: Graft, given: str, problem: str) -> None:
    told = graft(["serve", "--weight", "globex=2.5", "--weight", given])
    assert (told.code, told.out) == (2, "")
    assert problem in told.err
    assert "--weight globex=2.5" not in told.err
