from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import ReferenceMalformed
from graftwork.registry.reference import Reference, check_word


def test_a_name_of_several_parts_says_what_answers_instead() -> None:
    parsed = Reference.parse("acme/eu~fr~user7:production")
    assert [str(one) for one in parsed.nearest] == ["acme/eu~fr:production", "acme/eu:production"]
    assert Reference.parse("acme/eu~user7@2").nearest == Reference.parse("acme/eu").nearest == ()


words = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)


@given(tenant=words, name=words, version=st.none() | st.integers(1, 999_999_999))
def test_a_reference_is_read_as_it_is_written(tenant: str, name: str, version: int | None) -> None:
    reference = Reference(tenant, name, version)
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(f"{tenant}/{name}:production").alias == "production"


@given(st.text(max_size=30))
def test_whatever_is_written_it_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except ReferenceMalformed:
        return
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "news", "a/b/c", "A/b", "a/b@0", "a/b@", "a/b:", "../x", "a/b@1:c", "a/b\n", "/b"),
        *("a~b/c", "a/~b", "a/b~", "a/b~~c", "a/b:c~d", f"a/{'b' * 40}~{'c' * 40}"),
    ],
)
def test_these_are_none(text: str) -> None:
    with pytest.raises(ReferenceMalformed):
        Reference.parse(text)


@pytest.mark.parametrize("word", ["", ".x", "-x", "x" * 64, "x y", "Ä"])
def test_these_are_no_words(word: str) -> None:
    with pytest.raises(ReferenceMalformed, match="cannot be a tenant"):
        check_word("tenant", word)
    with pytest.raises(ReferenceMalformed, match="cannot be an alias"):
        check_word("alias", word)
