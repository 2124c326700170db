"""How Sphinx builds the documentation."""

from __future__ import annotations

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
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"pvae {version}"
html_copy_source = False

# Docstrings put names in single backquotes.
default_role = "code"
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
# Public names are documented where they live, and reached as pvae.name.
autosummary_imported_members = False
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
