from __future__ import annotations

import pytest

from graftwork.errors import ArtifactInvalid, NotFound
from graftwork.registry.base_rows import BaseModel
from graftwork.registry.chain import MOST_ANCESTORS, read_ancestors
from graftwork.registry.lineage import LineageNode, lineage
from graftwork.registry.scope import EVERYTHING, Scope
from tests.registry.builders import Registry, make_artifact


def drawn(node: LineageNode) -> list[str]:
    return [f"{'  ' * depth}{'*' if node.subject else ''}{node.reference}" for depth, node in node.walk()]


def tree(registry: Registry, reference: str, scope: Scope = EVERYTHING) -> list[str]:
    return drawn(lineage(registry.database, registry.catalog, reference, scope=scope))


@pytest.fixture
def family(registry: Registry, base: BaseModel) -> Registry:
    """acme/root@1 -> acme/mid@1 -> {acme/leaf@1, globex/leaf@1}, and acme/alone@1 beside it."""
    publish = registry.catalog.publish
    root = publish("acme/root", make_artifact(base, seed=0))
    mid = publish("acme/mid", make_artifact(base, seed=1, parent=root.digest))
    publish("globex/leaf", make_artifact(base, seed=2, parent=mid.digest))
    publish("acme/leaf", make_artifact(base, seed=3, parent=mid.digest))
    publish("acme/alone", make_artifact(base, seed=4))
    return registry


def test_strategies_that_do_not_add_up_are_not_published_as_a_chain(family: Registry, base: BaseModel) -> None:
    root = family.catalog.resolve("acme/root")
    with pytest.raises(ArtifactInvalid, match="the adapter is made by partial, which cannot be part of a chain"):
        family.catalog.publish("acme/x", make_artifact(base, seed=7, parent=root.digest, strategy="partial"))
    prefix = family.catalog.publish("acme/prefix", make_artifact(base, seed=8, strategy="prefix-tuning"))
    with pytest.raises(ArtifactInvalid, match="its parent is made by prefix-tuning"):
        family.catalog.publish("acme/x", make_artifact(base, seed=7, parent=prefix.digest))


def test_a_chain_ends_somewhere(registry: Registry, base: BaseModel) -> None:
    parent = None
    for seed in range(MOST_ANCESTORS + 1):
        parent = registry.catalog.publish("acme/deep", make_artifact(base, seed=seed, parent=parent)).digest
    assert parent is not None
    deepest = registry.catalog.read(parent)
    ancestors = read_ancestors(registry.catalog.read, deepest)
    assert [one.digest for one in ancestors] == [v.digest for v in registry.catalog.versions("acme/deep")[-2::-1]]
    with pytest.raises(ArtifactInvalid, match="more than 8 ancestors"):
        registry.catalog.publish("acme/deep", make_artifact(base, seed=99, parent=parent))


def test_a_base_shows_all_that_descends_from_it(family: Registry) -> None:
    expected = [
        "*tiny/1/base",
        "  acme/alone@1",
        "  acme/root@1",
        "    acme/mid@1",
        "      acme/leaf@1",
        "      globex/leaf@1",
    ]
    assert tree(family, "tiny") == tree(family, "tiny/1") == tree(family, "tiny/1/base") == expected


def test_an_adapter_shows_its_line_and_its_children(family: Registry) -> None:
    assert tree(family, "acme/mid") == [
        "tiny/1/base",
        "  acme/root@1",
        "    *acme/mid@1",
        "      acme/leaf@1",
        "      globex/leaf@1",
    ]
    assert tree(family, "acme/leaf@1") == ["tiny/1/base", "  acme/root@1", "    acme/mid@1", "      *acme/leaf@1"]


def test_only_what_is_in_scope_is_shown(family: Registry) -> None:
    assert tree(family, "acme/mid", Scope.of("acme"))[3:] == ["      acme/leaf@1"]
    assert tree(family, "globex/leaf", Scope.of("globex")) == ["tiny/1/base", "  *globex/leaf@1"]
    with pytest.raises(NotFound, match="no adapter 'acme/mid'"):
        tree(family, "acme/mid", Scope.of("globex"))


@pytest.mark.parametrize("reference", ["nothing", "acme/nothing", "tiny/9", "acme/root@9", "acme/root:x", "a/b/c/d"])
def test_what_is_neither_is_not_found(family: Registry, reference: str) -> None:
    with pytest.raises(NotFound):
        tree(family, reference)


def test_a_parent_published_twice_is_the_newest_of_the_two(registry: Registry, base: BaseModel) -> None:
    artifact = make_artifact(base)
    registry.catalog.publish("acme/news", artifact)
    registry.catalog.publish("acme/news", artifact)
    registry.catalog.publish("acme/child", make_artifact(base, seed=1, parent=artifact.digest))
    assert tree(registry, "acme/child") == ["tiny/1/base", "  acme/news@2", "    *acme/child@1"]
    registry.catalog.remove("acme/news@1")


def test_a_line_of_any_depth_is_walked() -> None:
    node = None
    for number in range(5_000):
        below = (node,) if node else ()
        node = LineageNode("adapter", f"a/b@{number + 1}", "", "lora", 1, (), subject=False, children=below)
    assert node is not None
    assert [depth for depth, _ in node.walk()] == list(range(5_000))
