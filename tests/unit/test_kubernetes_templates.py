"""Pod templates are read when the routes are, again when a file changes, and never for a pod."""

import logging
import os
from collections.abc import Hashable
from pathlib import Path

import pytest

from hybrid_executor.backends.kubernetes.templates import KEPT_MAX, LOOK_EVERY_S, Disk, Templates
from hybrid_executor.model.attempt import BackendName, Route
from hybrid_executor.model.errors import InvalidPod

GOOD = "spec:\n  containers:\n  - name: base\n    image: {image}\n"
BAD = "spec:\n  containers:\n  - name: main\n"
LOGGER = "hybrid_executor.kubernetes"


class Counted(Disk):
    """The disk, with a count of what is asked of it."""

    def __init__(self) -> None:
        self.looks: list[str] = []
        self.reads: list[str] = []

    def stamp(self, path: str) -> Hashable:
        self.looks.append(path)
        return super().stamp(path)

    def read(self, path: str) -> str:
        self.reads.append(path)
        return super().read(path)


class Site:
    """Templates in a folder, and the time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files, self.now_s = folder, Counted(), 0.0
        self.templates = Templates(str(folder / "conf.yaml"), self.files, lambda: self.now_s)
        self.write("conf.yaml", GOOD.format(image="conf"))

    def write(self, name: str, text: str) -> None:
        """As a ConfigMap, an editor or git does it: a new file takes the place of the old one."""
        (self.folder / f"{name}.new").write_text(text)
        (self.folder / f"{name}.new").replace(self.folder / name)

    def later(self) -> None:
        self.now_s += LOOK_EVERY_S

    def image(self, name: str = "conf.yaml") -> str:
        document = self.templates.at(str(self.folder / name)).document()
        return str(document["spec"]["containers"][0]["image"])


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def route(**more: object) -> Route:
    return Route(backend=BackendName.KUBERNETES, rule="routes.yaml rule 1: queue gpu", **more)  # type: ignore[arg-type]


def test_a_thousand_pods_cost_one_read_and_a_look_a_second(site: Site) -> None:
    site.templates.load([route()])
    for _ in range(3):
        site.later()
        for _ in range(1000):
            site.templates.of_route(route(pod_defaults={"spec": {"priorityClassName": "high"}}))
    assert (len(site.files.reads), len(site.files.looks)) == (1, 4)


def test_the_same_version_with_the_same_defaults_is_merged_once(site: Site) -> None:
    high = route(pod_defaults={"spec": {"priorityClassName": "high"}})
    first = site.templates.of_route(high)
    assert site.templates.of_route(high) is first
    assert first.document()["spec"]["priorityClassName"] == "high"
    site.write("conf.yaml", GOOD.format(image="next"))
    site.later()
    assert site.templates.of_route(high).document()["spec"]["containers"][0]["image"] == "next"


def test_an_edited_file_is_read_again_however_it_is_edited(site: Site) -> None:
    assert site.image() == "conf"
    site.write("conf.yaml", GOOD.format(image="conb"))
    site.later()
    assert site.image() == "conb"
    in_place = site.folder / "conf.yaml"
    stat = in_place.stat()
    in_place.write_text(GOOD.format(image="conc"))
    os.utime(in_place, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    site.later()
    assert site.image() == "conc"


def test_a_link_that_points_elsewhere_is_a_change(site: Site, tmp_path: Path) -> None:
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "pod.yaml").write_text(GOOD.format(image=version))
    current = tmp_path / "current"
    current.symlink_to(tmp_path / "one")
    assert site.image("current/pod.yaml") == "one"
    (tmp_path / "next").symlink_to(tmp_path / "two")
    (tmp_path / "next").replace(current)
    site.later()
    assert site.image("current/pod.yaml") == "two"


@pytest.mark.parametrize("harm", ["text", "bytes", "gone"])
def test_a_file_that_has_become_wrong_is_said_once_and_its_last_good_version_stays(
    site: Site, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    path = site.folder / "conf.yaml"
    assert site.image() == "conf"
    with caplog.at_level(logging.INFO, LOGGER):
        if harm == "gone":
            path.unlink()
        else:
            path.write_bytes(BAD.encode() if harm == "text" else b"\xff")
        for _ in range(5):
            site.later()
            assert site.image() == "conf"
        [said] = caplog.messages
        words = {"text": f"{path}:2: spec.containers: needs", "bytes": "UTF-8", "gone": "can't be read"}
        assert "its last good version stays in use" in said
        assert words[harm] in said
        site.write("conf.yaml", GOOD.format(image="mended"))
        site.later()
        assert site.image() == "mended"
        assert caplog.messages[1:] == [f"pod template {path} is in order again"]


def test_a_file_that_never_was_good_fails_by_file_line_and_field(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.write("gpu.yaml", BAD)
    path = site.folder / "gpu.yaml"
    with caplog.at_level(logging.INFO, LOGGER):
        problems = site.templates.load([route(pod_template_file=str(path))])
        for _ in range(3):
            with pytest.raises(
                InvalidPod, match=f"pod template: {path}:2: spec.containers: needs a container"
            ):
                site.templates.of_route(route(pod_template_file=str(path)))
    assert problems == [f"{path}:2: spec.containers: needs a container named `base`, which runs the task"]
    assert [r.getMessage().splitlines()[0] for r in caplog.records] == [
        "pod template refused, what needs it fails as InvalidPod:"
    ]


def test_loading_finds_what_is_wrong_with_every_template_and_route(site: Site) -> None:
    site.write("gpu.yaml", BAD)
    twice = {"spec": {"initContainers": [{"name": "base"}]}}
    celery = Route(backend=BackendName.CELERY, rule="default", pod_template_file="unread.yaml")
    problems = site.templates.load(
        [route(pod_template_file=str(site.folder / "gpu.yaml")), route(pod_defaults=twice), celery]
    )
    assert [line.partition(":")[0] for line in problems] == [
        str(site.folder / "gpu.yaml"),
        "routes.yaml rule 1",
    ]
    assert "more than one container is named 'base'" in problems[1]
    assert "unread.yaml" not in site.files.looks


def test_without_a_configured_template_there_is_the_minimal_pod() -> None:
    files = Counted()
    templates = Templates("", files)
    assert templates.load([route()]) == []
    assert templates.of_route(route()).document()["spec"]["containers"] == [{"name": "base"}]
    assert files.looks == []


def test_generated_names_do_not_pile_up(site: Site) -> None:
    for number in range(KEPT_MAX + 10):
        with pytest.raises(InvalidPod):
            site.templates.at(f"{site.folder}/none-{number}.yaml")
    assert len(site.templates._kept) == KEPT_MAX
    assert site.templates.of_route(route()).document()["spec"]["containers"][0]["image"] == "conf"
