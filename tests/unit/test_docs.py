"""The generated page is up to date, and the examples of the how-to guides work."""

import re
from configparser import ConfigParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from docs.generate_reference import PAGE, configuration_page
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.options import OPTIONS
from hybrid_executor.routing import RoutingTable, parse_routes

ROUTE_TASKS = Path(__file__).parents[2] / "docs" / "how-to" / "route-tasks.md"


def blocks(language: str) -> list[str]:
    text = ROUTE_TASKS.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def test_the_configuration_page_says_what_airflow_was_told() -> None:
    assert PAGE.read_text(encoding="utf-8") == configuration_page(), "run python docs/generate_reference.py"


@pytest.mark.parametrize("language", ["yaml", "json"])
def test_the_routes_files_of_the_guide_are_valid(language: str) -> None:
    [text] = blocks(language)
    table = RoutingTable(parse_routes(text, f"/opt/airflow/routes.{language}"))
    assert table.route("gpu-1").backend is BackendName.KUBERNETES


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
