"""The store against a model: what each revision held, what watchers are told, what is forgotten."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_executor.standalone.api.deletion import DeleteOptions
from hybrid_executor.standalone.api.journal import NoJournal, SqliteJournal
from hybrid_executor.standalone.api.kinds import CONFIGMAPS, KINDS, NAMESPACES, PODS
from hybrid_executor.standalone.api.problems import Problem
from hybrid_executor.standalone.api.registry import Registry
from hybrid_executor.standalone.api.selectors import Selection, parse_labels
from hybrid_executor.standalone.api.store import Body, Compacted, Store
from hybrid_executor.standalone.api.watching import event_lines

#: (name, label): put an object with that label, or remove it where the label is None.
STEPS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(["x", "y", None])), min_size=1, max_size=30
)
CHOSEN = Selection(labels=parse_labels("app=x"))


def body(name: str, label: str) -> Body:
    return {"metadata": {"namespace": "n", "name": name, "labels": {"app": label}}}


def play(store: Store, steps: list[tuple[str, str | None]]) -> dict[int, dict[str, str]]:
    """Do the steps; answers name and label of every object at every revision."""
    held: dict[str, str] = {}
    moments = {store.revision: {}}
    for name, label in steps:
        if label is not None:
            store.put(PODS, ("n", name), body(name, label))
            held = held | {name: label}
        elif name in held:
            store.remove(PODS, ("n", name), body(name, held[name]))
            held = {key: value for key, value in held.items() if key != name}
        moments[store.revision] = held
    return moments


def chosen(held: dict[str, str]) -> set[str]:
    return {name for name, label in held.items() if label == "x"}


@given(STEPS)
def test_every_revision_of_the_window_can_be_listed_again(steps: list[tuple[str, str | None]]) -> None:
    store = Store(KINDS, NoJournal())
    for revision, held in play(store, steps).items():
        assert {item.key[1] for item in store.select_at(PODS, Selection(), revision)} == held.keys()
        assert {item.key[1] for item in store.select_at(PODS, CHOSEN, revision)} == chosen(held)


@given(STEPS)
def test_a_watcher_who_applies_its_events_has_what_a_list_shows(steps: list[tuple[str, str | None]]) -> None:
    store = Store(KINDS, NoJournal())
    moments = play(store, steps)
    for revision, held in moments.items():
        known = chosen(held)
        lines = event_lines(
            store.changes_since(PODS, revision), CHOSEN, lambda stored: stored.key[1].encode()
        )
        for line in lines:
            kind, name = line.split(b'"')[3].decode(), line.rstrip(b"}\n")[-1:].decode()
            assert (kind == "ADDED") is (name not in known)
            known = known - {name} if kind == "DELETED" else known | {name}
        assert known == {item.key[1] for item in store.select(PODS, CHOSEN)}


@given(STEPS, st.integers(1, 4))
def test_history_is_complete_or_refused(steps: list[tuple[str, str | None]], window: int) -> None:
    store = Store(KINDS, NoJournal(), window)
    moments = play(store, steps)
    for revision in moments:
        later = [moment for moment in moments if moment > revision]
        try:
            changes = store.changes_since(PODS, revision)
        except Compacted:
            assert len(later) > window
        else:
            assert [change.revision for change in changes] == later


def test_compacting_forgets_the_past_but_not_the_present() -> None:
    store = Store(KINDS, NoJournal())
    store.put(PODS, ("n", "a"), body("a", "x"))
    store.compact()
    assert store.changes_since(PODS, store.revision) == []
    with pytest.raises(Compacted):
        store.changes_since(PODS, store.revision - 1)


@settings(max_examples=20, deadline=None)
@given(steps=STEPS)
def test_a_journal_brings_everything_back(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str | None]]
) -> None:
    file: Path = tmp_path_factory.mktemp("journal") / "objects.sqlite3"
    journal = SqliteJournal(file)
    before = Store(KINDS, journal)
    play(before, steps)
    journal.close()
    journal = SqliteJournal(file)
    after = Store(KINDS, journal)
    journal.close()
    assert after.revision == before.revision
    assert after.select(PODS, Selection()) == before.select(PODS, Selection())
    assert after.select(PODS, CHOSEN) == before.select(PODS, CHOSEN)
    assert after.changes_since(PODS, after.revision) == []


# Owners


def owned(name: str, **uids: str) -> Body:
    owners = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": uid} for owner, uid in uids.items()
    ]
    return {"metadata": {"name": name, "ownerReferences": owners}}


def cluster() -> Registry:
    return Registry(Store(KINDS, NoJournal()))


def uid_of(registry: Registry, name: str) -> str:
    made: Any = registry.create(CONFIGMAPS, "default", {"metadata": {"name": name}})
    return str(made.body["metadata"]["uid"])


def test_what_lost_its_last_owner_is_collected() -> None:
    registry = cluster()
    one, two = uid_of(registry, "one"), uid_of(registry, "two")
    registry.create(CONFIGMAPS, "default", owned("child", one=one, two=two))
    registry.delete(CONFIGMAPS, ("default", "one"), DeleteOptions())
    assert registry.get(CONFIGMAPS, ("default", "child"))
    registry.delete(CONFIGMAPS, ("default", "two"), DeleteOptions())
    with pytest.raises(Problem):
        registry.get(CONFIGMAPS, ("default", "child"))


def test_an_orphan_stays_without_its_owner() -> None:
    registry = cluster()
    registry.create(CONFIGMAPS, "default", owned("child", one=uid_of(registry, "one")))
    registry.delete(CONFIGMAPS, ("default", "one"), DeleteOptions(orphan=True))
    child = registry.get(CONFIGMAPS, ("default", "child"))
    assert child.body["metadata"]["ownerReferences"] == []


def test_nothing_is_created_in_a_namespace_that_ends() -> None:
    registry = cluster()
    registry.create(NAMESPACES, "", {"metadata": {"name": "n"}})
    held = {"metadata": {"name": "c", "finalizers": ["example.com/hold"]}}
    registry.create(CONFIGMAPS, "n", held)
    registry.delete(NAMESPACES, ("", "n"), DeleteOptions())
    assert registry.get(NAMESPACES, ("", "n")).body["status"] == {"phase": "Terminating"}
    with pytest.raises(Problem) as refused:
        registry.create(CONFIGMAPS, "n", {"metadata": {"name": "late"}})
    assert (refused.value.code, refused.value.reason) == (403, "Forbidden")
