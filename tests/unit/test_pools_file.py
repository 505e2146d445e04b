"""The pools file: what it says, and what is wrong with it."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.model.errors import ConfigError
from hybrid_executor.routing import Pool, parse_pools
from tests.fixtures.settings import Load

FULL = """\
version: 1
pools:
  light:
    queues: [default, light]
    concurrency: 16
    min_replicas: 1
    max_replicas: 20
  gpu-host:
    queues: cuda
    concurrency: 2
"""
POOLS = (
    Pool(name="light", queues=("default", "light"), concurrency=16, min_replicas=1, max_replicas=20),
    Pool(name="gpu-host", queues=("cuda",), concurrency=2, min_replicas=0, max_replicas=10),
)


def refusal(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_pools(text, "pools.yaml")
    return list(caught.value.problems)


def one(pool: str) -> str:
    return f"version: 1\npools: {{light: {{{pool}}}}}"


def test_pools_keep_the_order_of_the_file_and_get_defaults() -> None:
    assert parse_pools(FULL, "pools.yaml") == POOLS


def test_json_says_the_same() -> None:
    assert parse_pools(json.dumps(yaml.safe_load(FULL)), "pools.json") == POOLS


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "pools.yaml:1: pools: 'pools' is missing; add it"),
        (one("queues: a"), "pools.yaml:2: pool light, concurrency: 'concurrency' is missing; add it"),
        (one("queues: [], concurrency: 1"), "pools.yaml:2: pool light, queues: must not be empty"),
        (one("queues: a, concurrency: 0"), "pools.yaml:2: pool light, concurrency: must be at least 1"),
        (
            one("queues: a, concurrency: '4'"),
            "pools.yaml:2: pool light, concurrency: must be a whole number",
        ),
        (
            one("queues: a, concurrency: 1, max: 3"),
            (
                "pools.yaml:2: pool light, max: unknown key 'max'; remove it or correct its name"
                " (known: queues, concurrency, min_replicas, max_replicas)"
            ),
        ),
        (
            one("queues: a, concurrency: 1, min_replicas: 11"),
            (
                "pools.yaml:2: pool light, min_replicas: min_replicas is 11 and max_replicas 10;"
                " it must not be more"
            ),
        ),
        (
            "version: 1\npools:\n  a: {queues: [x, y], concurrency: 1}\n  b: {queues: y, concurrency: 1}",
            "pools.yaml:4: pool b, queues: 'y' is served by pool a too; leave it to one of them",
        ),
        (
            "version: 1\npools: {Light_1: {queues: a, concurrency: 1}}",
            "pools.yaml:2: pool Light_1: must be named by at most 40 lower case letters,",
        ),
        (
            "version: 1\npools:\n  a: {queues: x, concurrency: 1}\n  a: {queues: y, concurrency: 1}",
            "pools.yaml:4: pool a: is given twice; keep one",
        ),
    ],
)
def test_what_is_wrong_is_said_with_line_pool_and_key(text: str, problem: str) -> None:
    assert any(line.startswith(problem) for line in refusal(text))


_NAMES = st.sampled_from(["light", "queues", "concurrency", "min_replicas", "max_replicas", "x"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 30) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4),
)


@given(_VALUES)
def test_whatever_stands_there_is_pools_or_problems(pools: object) -> None:
    with suppress(ConfigError):
        queues = [
            queue
            for pool in parse_pools(json.dumps({"version": 1, "pools": pools}), "pools.json")
            for queue in pool.queues
        ]
        assert len(queues) == len(set(queues))


def test_a_relative_path_starts_at_airflow_home(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    (tmp_path / "pools.yaml").write_text(FULL)
    settings = load("[hybrid_executor]\npools_file = pools.yaml")
    assert settings.pools == POOLS
    assert settings.problems == ()


def test_a_file_that_is_missing_is_a_problem_and_leaves_no_pools(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    settings = load(f"[hybrid_executor]\npools_file = {path}")
    assert settings.pools == ()
    (problem,) = settings.problems
    assert (
        problem
        == f"[hybrid_executor] pools_file: {path} can't be read (No such file or directory); correct it"
    )
