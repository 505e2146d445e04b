"""Every command of the documentation is one that there is, and each block of them says which test runs it."""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from docs.commands import commands, fences
from hybrid_executor.cli.definition import get_cli_commands

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def texts(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_each_block_of_commands_says_which_test_runs_it_or_why_none_does(page: Path) -> None:
    for fence in fences(texts(page)):
        assert len(fence.marks) == 1, f"no mark, or more than one: {fence.text}"
        [(mark, value)] = fence.marks.items()
        assert mark in {"test", "not-run"}, fence.text
        assert value, fence.text
        if mark == "test":
            file, _, name = value.partition("::")
            assert f"def {name}(" in (ROOT / file).read_text() if name else (ROOT / file).is_file()


def subcommands() -> dict[str, set[str]]:
    """The options of each ``airflow hybrid`` command."""
    found: dict[str, set[str]] = {}

    def walk(every: Iterable[Any], prefix: str = "") -> None:
        for one in every:
            if not hasattr(one, "args"):
                walk(one.subcommands, f"{prefix}{one.name} ")
                continue
            found[f"{prefix}{one.name}"] = {flag for argument in one.args for flag in argument.flags}
            for argument in one.args:
                walk(getattr(argument, "commands", ()), f"{prefix}{one.name} ")

    [group] = get_cli_commands()
    walk(group.subcommands)
    return found


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_of_ours_is_one_that_there_is_with_options_that_it_has(page: Path) -> None:
    known = subcommands()
    for words in commands(texts(page)):
        if words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word]
            assert set(targets) <= TARGETS, words
        elif words[0] == "airflow":
            name = max((one for one in known if " ".join([*words[2:], ""]).startswith(f"{one} ")), key=len)
            flags = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            assert flags <= known[name] | {"-h", "--help"}, (words, known[name])


@pytest.mark.parametrize("page", sorted((ROOT / "docs/adr").glob("0*.md")), ids=lambda page: page.name)
def test_every_decision_says_when_it_is_violated(page: Path) -> None:
    text = texts(page)
    [violated] = re.findall(r"^## Violated when\n(.*?)(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE)
    assert re.search(r"^- \S", violated, flags=re.MULTILINE)
    for part in ("Context", "Decision"):
        assert f"\n## {part}\n" in text


def test_the_site_is_made_without_a_warning(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "sphinx", "-q", "--fail-on-warning", "--keep-going", "docs", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {page.relative_to(tmp_path).with_suffix(".md") for page in tmp_path.rglob("*.html")}
    sources = {page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md")}
    assert sources - {Path("README.md")} <= pages
