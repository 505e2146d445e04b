"""The documentation as a site: `make docs` writes it to ``docs/_build``; a warning fails it."""

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from hybrid_executor.version import __version__  # noqa: E402

project = "airflow-hybrid-executor"
version = release = __version__
extensions = ["myst_parser"]
root_doc = "index"
# README.md is the list of pages on the code's own site; index.md includes it.
exclude_patterns = ["_build", "README.md"]
# As on the site of the code: links to headings, at any depth that has some.
myst_heading_anchors = 4
html_theme = "alabaster"
html_theme_options = {
    "description": "One Airflow executor, two backends",
    "fixed_sidebar": True,
    "page_width": "1100px",
}
html_show_sourcelink = False
nitpicky = True

#: Links to Markdown files of the project that are no pages of the site.
OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?:helm/)?[A-Z]+\.md(?:#[^)]*)?\)")


def name_what_is_outside(_app: Any, _page: str, source: list[str]) -> None:
    """Such a file is named and not linked: the site has no address for it."""
    source[0] = OUTSIDE.sub(r"\1", source[0])


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", name_what_is_outside)
