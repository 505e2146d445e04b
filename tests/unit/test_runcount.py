"""Each task instance of a run is counted in one place, so that the places are all of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.contract import RunGroup
from hybrid_executor.model.record import Stage
from hybrid_executor.runcount import Place, count_run, place_of

STATES = st.sampled_from(
    [None, "scheduled", "queued", "running", "success", "failed", "deferred", "a state of a later Airflow"]
)
groups = st.lists(
    st.builds(
        RunGroup, st.sampled_from("abc"), STATES, st.none() | st.sampled_from("12345"), st.integers(1, 1000)
    )
)
stages = st.dictionaries(st.sampled_from("12345"), st.sampled_from(Stage))


@given(groups, stages)
def test_the_places_of_a_run_sum_up_to_its_task_instances(
    groups: list[RunGroup], stages: dict[str, Stage]
) -> None:
    found = count_run(groups, stages)
    assert found.total == sum(group.count for group in groups)
    assert sum(found.states.values()) == found.total
    assert sum(sum(places.values()) for _, places in found.tasks) == found.total


@pytest.mark.parametrize(
    ("state", "stage", "place"),
    [
        (None, None, Place.NOT_QUEUED),
        ("scheduled", None, Place.NOT_QUEUED),
        ("up_for_retry", None, Place.NOT_QUEUED),
        ("queued", Stage.QUEUED, Place.QUEUED),
        ("queued", Stage.SUBMITTED, Place.SUBMITTED),
        ("queued", Stage.RUNNING, Place.RUNNING),
        ("queued", None, Place.NOT_IN_LEDGER),
        ("running", Stage.SUBMITTED, Place.RUNNING),
        ("success", Stage.RUNNING, Place.ENDED),
    ],
)
def test_airflow_says_what_runs_and_is_over_and_the_ledger_how_far_the_queued_are(
    state: str | None, stage: Stage | None, place: Place
) -> None:
    assert place_of(state, stage) is place


def test_the_task_of_which_most_has_not_ended_is_first() -> None:
    groups = [
        RunGroup("a", "success", None, 9),
        RunGroup("b", "running", None, 2),
        RunGroup("a", None, None, 1),
    ]
    assert [task for task, _ in count_run(groups, {}).tasks] == ["b", "a"]
