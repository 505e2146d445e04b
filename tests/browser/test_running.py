"""A stack that runs, in a browser: both kinds of task, and one followed to its end."""

import re

import pytest
from playwright.sync_api import Browser, expect

from hybrid_executor.model.reason import Reason
from tests.fixtures.browser import PATIENCE_MS, LogIn, Picture, Site, tell_by_the_tab
from tests.fixtures.stack import RunningStack, wait_until

#: In Airflow's event log, which its UI calls the audit log.
WAITS = "hybrid executor: waits"


@pytest.fixture
def site(stack_that_runs: RunningStack, run_id: str) -> Site:
    setup = stack_that_runs.stack.setup
    return Site(setup.airflow_url, setup.state / "passwords.json")


def test_both_kinds_are_found_and_each_leads_to_its_log(log_in: LogIn, site: Site) -> None:
    page = log_in(site)
    for task_id, where in (("in_a_pod", " on "), ("on_a_worker", "celery@")):
        page.goto(f"{site.url}/plugin/hybrid-executor")
        frame = page.frame_locator("iframe")
        frame.get_by_role("link", name="Ledger").click()
        frame.get_by_label("Task", exact=True).fill(task_id)
        frame.get_by_role("button", name="Search").click()
        frame.get_by_role("link", name=re.compile(f"^seen.{task_id}")).first.click()
        expect(frame.get_by_role("article").first).to_contain_text("succeeded")
        expect(frame.locator(".facts").first).to_contain_text(where)
        frame.get_by_role("link", name="Log of this try").first.click()
        page.wait_for_url(re.compile(f"/dags/seen/runs/.*/tasks/{task_id}"))
        # The lines themselves are drawn as one scrolls; what wrote them is always told.
        expect(page.locator("body")).to_contain_text("task.stdout")


def test_the_tab_of_a_run_counts_its_tasks_and_leads_to_the_workers_that_live(
    log_in: LogIn, site: Site, run_id: str
) -> None:
    page = log_in(site)
    page.goto(f"{site.url}/dags/seen/runs/{run_id}")
    page.get_by_text("Where and why").first.click()
    frame = page.frame_locator("iframe")
    sums = frame.get_by_role("list", name="Where its task instances are")
    expect(sums).to_contain_text("16 task instances")
    expect(sums).to_contain_text("2 submitted")
    frame.get_by_role("link", name="Workers", exact=True).click()
    workers = frame.get_by_role("region", name="Celery workers")
    expect(workers.get_by_role("row").filter(has_text="celery@").first).to_contain_text("live")


def test_the_tab_of_a_task_says_why_it_does_not_start(
    log_in: LogIn, site: Site, run_id: str, picture: Picture
) -> None:
    page = log_in(site, height=700)
    for task_id, reason, words in (
        ("larger_than_any_node", Reason.UNSCHEDULABLE, "Insufficient memory"),
        ("on_a_queue_without_workers", Reason.IN_QUEUE, "nobody-serves-it"),
    ):
        tell_by_the_tab(page, f"{site.url}/dags/seen/runs/{run_id}/tasks/{task_id}", reason, words)
        picture(page, f"why-{reason.lower()}")


def test_the_audit_log_of_a_task_says_why_it_has_waited_for_a_minute(
    log_in: LogIn, site: Site, run_id: str, stack_that_runs: RunningStack
) -> None:
    task_id = "on_a_queue_without_workers"
    asked = {"dag_id": "seen", "run_id": run_id, "task_id": task_id, "event": WAITS}
    client = stack_that_runs.client
    reason = f"{Reason.IN_QUEUE}: "
    wait_until(
        lambda: any(reason in one["extra"] for one in client.get("/eventLogs", asked)["event_logs"]),
        180,
        lambda: str(client.get("/eventLogs", asked)),
    )
    page = log_in(site)
    page.goto(f"{site.url}/dags/seen/runs/{run_id}/tasks/{task_id}")
    page.get_by_text("Audit Log").first.click()
    row = page.get_by_role("row").filter(has_text=WAITS).filter(has_text=reason)
    expect(row).to_contain_text(Reason.IN_QUEUE.hint)


def test_a_task_is_followed_to_its_end_without_a_reload(
    log_in: LogIn, site: Site, run_id: str, stack_that_runs: RunningStack
) -> None:
    page = log_in(site)
    page.goto(f"{site.url}/hybrid/task?dag_id=seen&run_id={run_id}&task_id=until_it_may_go")
    expect(page.get_by_role("article")).to_contain_text("running")
    page.evaluate("window.notReloaded = true")
    (stack_that_runs.stack.setup.data / "go").touch()
    expect(page.get_by_role("list", name="What happened")).to_contain_text("its process ended well")
    expect(page.get_by_role("main")).to_contain_text("success in Airflow")
    assert page.evaluate("window.notReloaded")


def test_flower_shows_pods_beside_celery_tasks_and_opens_one_of_each(
    browser: Browser, stack_that_runs: RunningStack, run_id: str, picture: Picture
) -> None:
    setup = stack_that_runs.stack.setup
    context = browser.new_context(http_credentials={"username": setup.user, "password": setup.password})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(setup.flower_url + "/workers")
    for name in ("kubernetes@", "celery@"):
        expect(page.locator("#workers-table")).to_contain_text(name)
    picture(page, "flower-workers")
    page.goto(setup.flower_url + "/tasks")
    expect(page.locator("#tasks-table")).to_contain_text("seen.")
    picture(page, "flower-tasks")
    for name, where in (("seen.in_a_pod", "kubernetes@"), ("seen.on_a_worker", "celery@")):
        page.goto(setup.flower_url + "/tasks")
        page.get_by_role("searchbox").fill(name)
        row = page.locator("#tasks-table tbody tr")
        expect(row.filter(has_text=where).first).to_be_visible()
        row.filter(has_text=name).first.locator("a[href*='/task/']").first.click()
        expect(page.locator("body")).to_contain_text(where)
        expect(page.locator("body")).to_contain_text(run_id)
    # A namespace is no process that Flower could ask; what it runs is found as the guide says.
    worker = f"kubernetes@{stack_that_runs.namespace}"
    answer = page.goto(f"{setup.flower_url}/worker/{worker}")
    assert answer
    assert answer.status == 404
    page.goto(setup.flower_url + "/tasks")
    page.get_by_role("searchbox").fill(f"worker:{worker}")
    expect(page.locator("#tasks-table")).not_to_contain_text("seen.on_a_worker")
    expect(page.locator("#tasks-table")).to_contain_text("seen.in_a_pod")
    context.close()


def test_the_tab_of_a_task_says_that_the_broker_is_away_and_then_that_all_is_well(
    log_in: LogIn, site: Site, stack_that_runs: RunningStack, picture: Picture
) -> None:
    """The server is ended in earnest, so this comes last."""
    stack_that_runs.kill("valkey", hold=True)
    try:
        started = stack_that_runs.trigger("later")
        page = log_in(site, height=700)
        url = f"{site.url}/dags/later/runs/{started}/tasks/on_a_worker"
        tell_by_the_tab(page, url, Reason.BROKER_UNAVAILABLE, "refused")
        picture(page, f"why-{Reason.BROKER_UNAVAILABLE.lower()}")
    finally:
        stack_that_runs.restart("valkey")
    assert stack_that_runs.wait_run("later", started) == {"on_a_worker": "success"}
    expect(page.frame_locator("iframe").get_by_role("main")).to_contain_text("success in Airflow")
