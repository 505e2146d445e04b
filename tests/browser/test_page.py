"""The page in Airflow's own UI after a busy hour: in both themes, by keyboard, narrow, for who may see."""

import re
from datetime import UTC, datetime, timedelta
from statistics import median

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import FrameLocator, Page, expect

from tests.browser.life import WAITS
from tests.fixtures.browser import LogIn, Picture, Site
from tests.fixtures.page import forget_surveys
from tests.fixtures.rights import NO_RIGHTS, ONE_TEAM
from tests.fixtures.stack import wait_until

RUN = "scheduled__2026-11-22T07:00:00%2B00:00"
TASK = f"/hybrid/task?dag_id=training&run_id={RUN}&task_id=train"
THE_RUN = f"/hybrid/run?dag_id=training&run_id={RUN}"
PATHS = (
    "/hybrid/",
    "/hybrid/attempts",
    "/hybrid/attempts?state=revoked",
    "/hybrid/attempts?limit=no",
    TASK,
    THE_RUN,
    "/hybrid/workers",
)
#: Of each page whose first paint is measured.
LOADS = 5
PAINT = "performance.getEntriesByName('first-contentful-paint')"


def in_frame(page: Page) -> FrameLocator:
    """What the plugin shows within Airflow's own page."""
    return page.frame_locator("iframe")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_airflows_menu_leads_to_every_reason_and_every_row(
    log_in: LogIn, busy: Site, theme: str, picture: Picture
) -> None:
    page = log_in(busy, theme=theme)
    page.goto(busy.url)
    page.get_by_role("button", name="Browse").click()
    page.get_by_role("menuitem", name="Hybrid executor").click()
    frame = in_frame(page)
    waiting = frame.get_by_role("region", name="What has not started", exact=True)
    for _, _, reason, message in WAITS:
        expect(waiting).to_contain_text(f"{reason}: {message}")
        expect(waiting).to_contain_text(reason.hint.replace("`", ""))
    assert frame.locator("html").evaluate("one => getComputedStyle(one).colorScheme") == theme
    picture(page, f"page-overview-{theme}")

    frame.get_by_role("link", name="Workers", exact=True).click()
    workers = frame.get_by_role("region", name="Celery workers")
    for worker, load, state in (("light-1", "0 of 8", "live"), ("light-7", "? of ?", "silent")):
        row = workers.get_by_role("row").filter(has_text=f"celery@{worker}")
        expect(row).to_contain_text(load)
        expect(row).to_contain_text(state)
    picture(page, f"page-workers-{theme}")

    frame.get_by_role("link", name="Ledger").click()
    frame.get_by_label("Reason").select_option("ImagePull")
    frame.get_by_role("button", name="Search").click()
    rows = frame.get_by_role("region", name="Submissions, newest first")
    expect(rows).to_contain_text("registry.example.org/ml:9")
    expect(rows).not_to_contain_text("QuotaExceeded")
    picture(page, f"page-ledger-{theme}")
    rows.get_by_role("link", name="scheduled__").first.click()
    sums = frame.get_by_role("list", name="Where its task instances are").get_by_role("listitem")
    expect(sums).to_have_count(6)
    first, *rest = [int(words.split()[0]) for words in sums.all_inner_texts()]
    assert first == sum(rest) > 100
    picture(page, f"page-run-{theme}")
    frame.get_by_role("link", name="train", exact=True).click()
    frame.get_by_role("link", name=re.compile("^training.train")).first.click()
    expect(frame.get_by_role("article")).to_contain_text("by [hybrid_executor] kubernetes_queues")
    expect(frame.get_by_role("main")).to_contain_text("correct the image's name")
    picture(page, f"page-task-{theme}")
    frame.get_by_role("link", name="Log of this try").click()
    page.wait_for_url(re.compile(r"/dags/training/runs/.*/tasks/train/mapped/\d+"))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(log_in: LogIn, busy: Site, theme: str) -> None:
    page = log_in(busy, theme=theme)
    for path in PATHS:
        page.goto(busy.url + path)
        found = [
            f"{one['id']}: {one['nodes'][0]['html']}"
            for one in Axe().run(page).response["violations"]
            if one["impact"] in ("serious", "critical")
        ]
        assert found == [], path


def test_a_theme_that_is_changed_in_airflow_is_worn_at_once(log_in: LogIn, busy: Site) -> None:
    page = log_in(busy)
    page.goto(busy.url + "/hybrid/")
    other = page.context.new_page()
    other.goto(busy.url + "/hybrid/attempts")
    other.evaluate("localStorage.setItem('theme', 'dark')")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_a_user_without_rights_sees_nothing_and_one_with_some_sees_theirs(log_in: LogIn, busy: Site) -> None:
    page = log_in(busy, NO_RIGHTS)
    for path in PATHS:
        answer = page.goto(busy.url + path)
        assert answer
        assert answer.status in (403, 422)
        assert "default" not in page.content()
    page = log_in(busy, ONE_TEAM)
    page.goto(busy.url + "/hybrid/")
    expect(page.get_by_role("region", name="Queues")).to_contain_text("default")
    assert "training" not in page.content()
    assert "gpu" not in page.content()


def test_a_narrow_window_scrolls_in_one_direction(log_in: LogIn, busy: Site, picture: Picture) -> None:
    page = log_in(busy, width=360)
    for path in PATHS:
        page.goto(busy.url + path)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
    page.goto(busy.url + "/hybrid/")
    picture(page, "page-narrow")


def test_a_narrow_window_shows_why_without_scrolling_sideways(
    log_in: LogIn, busy: Site, picture: Picture
) -> None:
    page = log_in(busy, width=360)
    for path, row in (
        ("/hybrid/", "exceeded quota: gpus"),
        ("/hybrid/attempts?reason=QuotaExceeded", "exceeded quota: gpus"),
    ):
        page.goto(busy.url + path)
        cells = page.get_by_role("row").filter(has_text=row).first.get_by_role("cell")
        for number in range(cells.count()):
            box = cells.nth(number).bounding_box()
            # An empty one is not shown.
            assert box is None or (box["x"] >= 0 and box["x"] + box["width"] <= 360), path
        assert "Why" in cells.filter(has_text=row).evaluate(
            "one => getComputedStyle(one, '::before').content"
        )
    picture(page, "page-narrow-ledger")


def test_the_keyboard_reaches_what_the_mouse_does(log_in: LogIn, busy: Site) -> None:
    page = log_in(busy)
    page.goto(busy.url + "/hybrid/")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the content")
    page.keyboard.press("Enter")
    expect(page.locator(":focus")).to_have_id("main")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_attribute("href", re.compile("attempts"))


def test_a_page_is_complete_without_its_script(log_in: LogIn, busy: Site) -> None:
    page = log_in(busy)
    page.route("**/page.js", lambda route: route.abort())
    page.goto(busy.url + "/hybrid/")
    expect(page.get_by_role("region", name="Queues")).to_contain_text("gpu-large")


@pytest.mark.parametrize(
    ("name", "path", "content"),
    [
        ("overview", "/hybrid/", "What has not started"),
        ("ledger, the last day", "/hybrid/attempts", "scheduled__2026"),
        (
            "ledger, one reason in all of it",
            "/hybrid/attempts?since={since}&reason=OOMKilled",
            "512Mi",
        ),
        ("ledger, one DAG run in all of it", "/hybrid/attempts?since={since}&run_id=run499", "run499"),
        ("task", TASK, "registry.example.org/ml:9"),
    ],
)
def test_the_first_paint_with_a_million_rows_is_told(
    log_in: LogIn, busy: Site, name: str, path: str, content: str
) -> None:
    """Times fail nothing; what is sent and shown does. Each load is the first look that the server knows."""
    page = log_in(busy)
    since = f"{datetime.now(UTC) - timedelta(days=30):%Y-%m-%dT%H:%M}"
    paints, waits = [], []
    for _ in range(LOADS):
        forget_surveys()
        page.goto(busy.url + path.format(since=since))
        expect(page.get_by_role("main")).to_contain_text(content)
        # Asked again from here: the page's own policy forbids what Playwright's wait would do there.
        wait_until(lambda: page.evaluate(f"{PAINT}.length"), 30, lambda: "nothing was painted")
        paints.append(page.evaluate(f"{PAINT}[0].startTime"))
        waits.append(page.evaluate("performance.getEntriesByType('navigation')[0].responseStart"))
    size = page.evaluate("performance.getEntriesByType('navigation')[0].decodedBodySize")
    print(
        f"\nfirst paint, {name}: {median(paints):.0f} ms ({min(paints):.0f} to {max(paints):.0f}),"
        f" of which the server took {median(waits):.0f} ms; {size / 1000:.0f} KB"
    )
    assert size < 200_000


def test_a_page_that_stands_still_asks_for_little(log_in: LogIn, busy: Site) -> None:
    """Nothing changes in this ledger: what is asked again is answered 304, but at the turn of a minute."""
    page = log_in(busy)
    answers: list[int] = []
    page.on("response", lambda one: answers.append(one.status) if one.url.endswith("/hybrid/") else None)
    page.goto(busy.url + "/hybrid/")
    for _ in range(3):
        with page.expect_response(lambda one: one.url.endswith("/hybrid/")):
            pass
    assert answers.count(200) <= 2
    assert answers.count(304) >= 1
