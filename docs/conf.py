"""How Sphinx builds the documentation."""

from __future__ import annotations

import re
from typing import Any

import pvae

project = "pvae"
author = "the pvae developers"
copyright = "the pvae developers, Apache License 2.0"
version = release = pvae.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"pvae {version}"
html_copy_source = False

# Docstrings put names in single backquotes.
default_role = "code"
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3


def _shapes_are_text(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Keep the star of a shape such as (batch, *event) from starting emphasis, outside of code."""
    for number, line in enumerate(lines):
        parts = line.split("`")
        parts[::2] = [re.sub(r"(?<=[ (])\*(?=\w+[,)])", r"\\*", part) for part in parts[::2]]
        lines[number] = "`".join(parts)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _shapes_are_text)
