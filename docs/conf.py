"""How Sphinx builds the documentation."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert

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
html_static_path = ["_static"]
html_theme = "furo"
html_title = f"pvae {version}"
html_copy_source = False
# Formulas become MathML, which browsers draw without a script and without a network.
html_math_renderer = "mathml"

# Docstrings put names in single backquotes.
default_role = "code"
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

_THIN_SPACE = '<mspace width="0.167em"/>'


def _shapes_are_text(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Keep the star of a shape such as (batch, *event) from starting emphasis, outside of code."""
    for number, line in enumerate(lines):
        parts = line.split("`")
        parts[::2] = [re.sub(r"(?<=[ (])\*(?=\w+[,)])", r"\\*", part) for part in parts[::2]]
        lines[number] = "`".join(parts)


def _mathml(formula: str, display: str) -> str:
    """Return a formula as MathML, with thin spaces around the names of functions, as TeX sets them."""
    text = convert(formula, display=display)
    text = re.sub(r"(<mi>[a-z]{2,}</mi>)(?=<m(?!o|space)\w)", rf"\1{_THIN_SPACE}", text)
    return re.sub(r"(?<=</m[in]>)(?=<mi>[a-z]{2,}</mi>)", _THIN_SPACE, text)


def _formula(translator: Any, node: Any) -> None:
    """Write a formula in a line of text as MathML."""
    translator.body.append(_mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def _formula_block(translator: Any, node: Any) -> None:
    """Write a formula on lines of its own as MathML; a wide one can be scrolled."""
    formula = _mathml(node.astext(), "block")
    translator.body.append(f'<div class="formula" tabindex="0">{formula}</div>')
    raise nodes.SkipNode


def _captions_have_levels(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Give the captions of tables of contents the level that a heading needs for a screen reader."""
    for part in ("furo_navigation_tree", "body"):
        if part in context:
            context[part] = context[part].replace('role="heading"', 'role="heading" aria-level="2"')


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (_formula, None), (_formula_block, None))
    app.add_css_file("pvae.css")
    app.connect("html-page-context", _captions_have_levels, priority=900)  # after the theme's own
    app.connect("autodoc-process-docstring", _shapes_are_text)
