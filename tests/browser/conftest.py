"""A browser, users who log in as people do, and two Airflows: its API server alone, and a stack that runs."""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright

from hybrid_executor.standalone.stack.ports import LOOPBACK
from tests.browser.life import a_busy_hour
from tests.fixtures.debian import install
from tests.fixtures.page import serving
from tests.fixtures.rights import NO_RIGHTS, ONE_TEAM
from tests.fixtures.servers import SharedPostgres
from tests.fixtures.stack import RunningStack, running_stack, wait_until

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
#: Where pictures for the documentation are written, if somebody wants them.
IMAGES = os.environ.get("BROWSER_IMAGES")
#: What a busy machine takes to show a page.
PATIENCE_MS = 30_000


@dataclass(frozen=True)
class Site:
    """Where an Airflow is, and who may log in."""

    url: str
    passwords: Path


LogIn = Callable[..., Page]
#: Writes a picture of a page, by name.
Picture = Callable[[Page, str], None]


@pytest.fixture(scope="session")
def busy(
    postgres: SharedPostgres, airflow_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Airflow's API server with what the ledger holds after a busy hour, and nothing that changes it."""
    home = tmp_path_factory.mktemp("busy")
    with postgres.fresh_database(airflow_template) as dsn, serving(dsn, home) as served:
        records = a_busy_hour(served.live_scheduler())
        served.know(*{record.address.dag_id for record in records if record.address})
        served.record(*records)
        server = uvicorn.Server(uvicorn.Config(served.app, host=LOOPBACK, port=0, log_level="warning"))
        thread = threading.Thread(target=server.run, name="airflow", daemon=True)
        thread.start()
        wait_until(lambda: server.started, 60, lambda: "Airflow's API server did not start")
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Site(f"http://{LOOPBACK}:{port}", home / "passwords.json")
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="session")
def stack_that_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The stack of the demo, with tasks to look at, and users of different rights."""
    dags = tmp_path_factory.mktemp("dags")
    shutil.copytree(HERE / "dags", dags, dirs_exist_ok=True)
    extra = {
        "AIRFLOW__CORE__AUTH_MANAGER": "tests.fixtures.rights.RightsByDag",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"admin:admin,{ONE_TEAM}:viewer,{NO_RIGHTS}:viewer",
        "PYTHONPATH": str(ROOT),
    }
    with running_stack(tmp_path_factory.mktemp("stack"), dags, extra=extra) as running:
        yield running


@pytest.fixture(scope="session")
def run_id(stack_that_runs: RunningStack) -> str:
    """A run of which everything has ended that can; the rest runs or waits."""
    stack, started = stack_that_runs, stack_that_runs.trigger("seen")
    expected = {f"on_a_worker[{number}]": "success" for number in range(12)} | {
        "in_a_pod": "success",
        "until_it_may_go": "running",
        "on_a_queue_without_workers": "queued",
        "larger_than_any_node": "queued",
    }
    wait_until(
        lambda: stack.states("seen", started) == expected, 240, lambda: str(stack.states("seen", started))
    )
    return started


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; Playwright's own is a download."""
    if not shutil.which("chromium"):
        install(["chromium", "fonts-dejavu-core"])
    with sync_playwright() as playwright:
        # As root there is no other way.
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []
        started = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        expect.set_options(timeout=PATIENCE_MS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def log_in(browser: Browser) -> Iterator[LogIn]:
    """A window in which a user has logged in by Airflow's own form."""
    states: dict[tuple[str, str], object] = {}
    opened = []

    def window(site: Site, user: str = "admin", *, theme: str = "light", width: int = 1280) -> Page:
        if (site.url, user) not in states:
            context = browser.new_context()
            page = context.new_page()
            page.set_default_timeout(PATIENCE_MS)
            page.goto(site.url)
            page.fill("input[name=username]", user)
            page.fill("input[name=password]", json.loads(site.passwords.read_text())[user])
            page.click("button[type=submit]")
            page.wait_for_url(lambda url: "login" not in url)
            states[site.url, user] = context.storage_state()
            context.close()
        context = browser.new_context(
            storage_state=states[site.url, user],  # type: ignore[arg-type]
            viewport={"width": width, "height": 1300},
        )
        context.add_init_script(f"localStorage.setItem('theme', '{theme}')")
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        opened.append(context)
        return page

    yield window
    for context in opened:
        context.close()


@pytest.fixture
def picture() -> Picture:
    """Write a picture of a page for the documentation."""

    def take(page: Page, name: str) -> None:
        if IMAGES:
            page.screenshot(path=Path(IMAGES) / f"{name}.png")

    return take
