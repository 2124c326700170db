"""Write one self-contained HTML page of text, tables, pictures and settings; it needs no other file and no network."""

from __future__ import annotations

from pvae.report.content import (
    Column,
    Download,
    Entry,
    Explorer,
    Listing,
    Page,
    Picture,
    Question,
    Section,
    Settings,
    Sheet,
)
from pvae.report.data_uris import data_address
from pvae.report.writing import write_page

__all__ = [
    "Column",
    "Download",
    "Entry",
    "Explorer",
    "Listing",
    "Page",
    "Picture",
    "Question",
    "Section",
    "Settings",
    "Sheet",
    "data_address",
    "write_page",
]
