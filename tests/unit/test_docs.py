"""The generated page is up to date, and the examples of the how-to guides work."""

import re
import tomllib
from configparser import ConfigParser
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from docs.cli_page import cli_page
from docs.generate_reference import (
    CLI_PAGE,
    LIMITS_PAGE,
    METRICS_PAGE,
    MISMATCHES_PAGE,
    PAGE,
    configuration_page,
    limits_page,
    metrics_page,
    mismatches_page,
)
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.mismatch import Mismatch
from hybrid_executor.model.reason import Reason
from hybrid_executor.options import OPTIONS
from hybrid_executor.routing import RoutingTable, parse_clusters, parse_routes

ROOT = Path(__file__).parents[2]
ROUTE_TASKS = ROOT / "docs" / "how-to" / "route-tasks.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks(language: str) -> list[str]:
    text = ROUTE_TASKS.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def test_the_configuration_page_says_what_airflow_was_told() -> None:
    assert PAGE.read_text(encoding="utf-8") == configuration_page(), "run python docs/generate_reference.py"


def test_the_page_of_the_embedded_cluster_says_what_it_refuses() -> None:
    assert LIMITS_PAGE.read_text(encoding="utf-8") == limits_page(), "run python docs/generate_reference.py"


def test_the_page_of_metrics_says_what_is_measured() -> None:
    assert METRICS_PAGE.read_text(encoding="utf-8") == metrics_page(), "run python docs/generate_reference.py"


def test_the_page_of_the_command_line_says_what_airflow_was_told() -> None:
    assert CLI_PAGE.read_text(encoding="utf-8") == cli_page(), "run python docs/generate_reference.py"


def test_every_mismatch_is_explained() -> None:
    written = MISMATCHES_PAGE.read_text(encoding="utf-8")
    assert written == mismatches_page(), "run python docs/generate_reference.py"
    assert all(mismatch.meaning and mismatch.rule for mismatch in Mismatch)


@pytest.mark.parametrize("language", ["yaml", "json"])
def test_the_routes_files_of_the_guide_are_valid(language: str) -> None:
    for text in blocks(language):
        if "clusters:" in text:
            assert parse_clusters(text, f"/opt/airflow/clusters.{language}")
            continue
        table = RoutingTable(parse_routes(text, f"/opt/airflow/routes.{language}"))
        assert table.rules
        assert table.route("gpu-1").backend is BackendName.KUBERNETES or table.route("spot-1").retry_on


@pytest.mark.parametrize("page", ["several-teams", "spot-nodes"])
def test_the_routes_of_other_guides_are_valid(page: str) -> None:
    text = (ROUTE_TASKS.parent / f"{page}.md").read_text(encoding="utf-8")
    for indent, block in re.findall(r"^( *)```yaml\n(.*?)^\1```", text, flags=re.DOTALL | re.MULTILINE):
        table = RoutingTable(parse_routes(dedent(block), f"/opt/airflow/{page}{indent}.yaml"))
        assert all(rule.route.backend is BackendName.KUBERNETES for rule in table.rules)


def test_the_guides_example_means_what_the_guide_says() -> None:
    table = RoutingTable(parse_routes(blocks("yaml")[0], "/opt/airflow/routes.yaml"))
    assert table.route("gpu-light").backend is BackendName.CELERY
    assert table.route("training").pod_template_file == "/opt/airflow/templates/gpu.yaml"


def test_the_guides_settings_exist() -> None:
    parser = ConfigParser()
    for number, text in enumerate(blocks("ini")):
        parser.read_string(text, source=str(number))
    assert set(parser["hybrid_executor"]) <= {option.name for option in OPTIONS}


def test_the_guides_hook_moves_a_retry_to_kubernetes() -> None:
    scope: dict[str, object] = {}
    exec(blocks("python")[0], scope)  # noqa: S102 - the guide's own code
    hook = scope["task_instance_mutation_hook"]
    assert callable(hook)
    for try_number, queue in ((None, "default"), (0, "default"), (2, "kubernetes")):
        ti = SimpleNamespace(try_number=try_number, queue="default")
        hook(ti)
        assert ti.queue == queue


def test_every_reason_is_explained_once() -> None:
    page = (ROOT / "docs" / "reference" / "reasons.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", page, flags=re.MULTILINE)
    assert sorted(explained) == sorted((str(reason), reason.hint or "nothing") for reason in Reason)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_inside_the_repository_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_of_the_documentation_is_in_its_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES if ROOT / "docs" in page.parents}
    assert {page for page in pages - {"README.md", "index.md"} if f"({page})" not in index} == set()


def test_every_dependency_says_what_it_earns() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    named = {Requirement(line).name for line in lines} - {project["name"]}
    page = (ROOT / "docs" / "explanation" / "dependencies.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", page, flags=re.MULTILINE), key=str.lower) == sorted(
        named, key=str.lower
    )
