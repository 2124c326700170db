"""A report is one file that needs no other file, describes its pictures, and runs no script of a user."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from pvae import plots
from pvae.report import Column, Entry, Page, Picture, Question, Section, Settings, Sheet, data_address, write_page

EVIL = "<script>alert('x')</script>"


class Tags(HTMLParser):
    """Collects every tag with its attributes, and the text of headings."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.headings, self.open = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open = tag

    def handle_data(self, data):
        if self.open in ("h1", "h2") and data.strip():
            self.headings.append((self.open, data.strip()))

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def picture(seed=0, alt="a grid of draws"):
    noise = np.random.default_rng(seed).uniform(size=(12, 8, 8))
    return Picture(plots.image_grid(noise), alt, f"caption {seed}")


def page(**changes):
    sheet = Sheet(
        "the caption",
        (Column("name", numeric=False), Column("value", "what it means")),
        ((Entry("a"), Entry("1.0", "± 0.1", 1.0)), (Entry("b"), Entry("failed"))),
        frozenset({1}),
    )
    section = Section("Part one", ("text",), (sheet,), (picture(), picture(1)), code="pvae compare x")
    folded = Section("Part two", settings=(Settings("All settings", {"seed": 0}),))
    values = {"title": "A page", "lead": ("The lead.",), "sections": (section, folded), "foot": "by pvae"}
    return Page(**{**values, **changes})


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("report") / "new" / "index.html", page()).read_text()


def test_page_has_one_title_and_its_sections_in_order(html):
    assert Tags(html).headings == [("h1", "A page"), ("h2", "Part one"), ("h2", "Part two")]


def test_page_refers_to_nothing_outside_itself(html):
    parsed = Tags(html)
    without_pictures = re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)
    assert not parsed.named("link") and not re.search(r"https?:|url\((?!#)|@import|//[a-z]", without_pictures)
    sources = [attributes[key] for _, attributes in parsed.tags for key in ("src", "srcset") if key in attributes]
    assert len(sources) == 4 and all(source.startswith("data:image/") for source in sources)
    links = [attributes["href"] for _, attributes in parsed.tags if "href" in attributes]
    assert all(link.startswith(("data:", "#")) for link in links)


def test_every_picture_has_its_own_text(html):
    assert [image["alt"] for image in Tags(html).named("img")] == ["a grid of draws"] * 2
    assert "caption 0" in html and "caption 1" in html


def test_page_suits_phones_and_dark_mode_and_paper(html):
    metas = {meta.get("name"): meta.get("content") for meta in Tags(html).named("meta")}
    assert metas["viewport"] == "width=device-width, initial-scale=1"
    assert "prefers-color-scheme: dark" in html and "@media print" in html
    assert "scroll" in next(each["class"] for each in Tags(html).named("div") if "role" in each)


def test_sheet_keeps_the_numbers_that_sort_it(html):
    parsed = Tags(html)
    assert [cell["data-order"] for cell in parsed.named("td") if "data-order" in cell] == ["1.0"]
    assert [row.get("class") for row in parsed.named("tr")] == [None, None, "faded"]


def test_text_of_users_is_escaped_everywhere(tmp_path):
    sheet = Sheet(EVIL, (Column(EVIL, EVIL, numeric=False),), ((Entry(EVIL, EVIL),),))
    shown = Picture(picture().figure, f'"{EVIL}', EVIL)
    settings = Settings(EVIL, {EVIL: EVIL})
    section = Section(EVIL, (EVIL,), (sheet,), (shown,), (settings,), EVIL)
    html = write_page(tmp_path / "index.html", Page(EVIL, (EVIL,), (section,), EVIL)).read_text()
    assert "<script>alert" not in html and html.count("&lt;script&gt;alert") == 20
    assert len(Tags(html).named("script")) == 1
    assert Tags(html).named("img")[0]["alt"] == f'"{EVIL}'


def test_backquotes_of_an_answer_are_code_and_hide_no_tag(tmp_path):
    question = Question("Why?", "look", f"Run `pvae --help`. `{EVIL}`")
    html = write_page(tmp_path / "index.html", Page("a", (), (Section("b", questions=(question,)),), "")).read_text()
    assert "Run <code>pvae --help</code>." in html and "<code>&lt;script&gt;" in html and "<script>alert" not in html


def test_pictures_are_small_and_keep_their_colours():
    pixels = np.array([[[0.0, 0.45, 0.7], [0.84, 0.37, 0.0]]] * 2)
    address = data_address(plots.image_grid(pixels[None]), dpi=60)
    with Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))) as image:
        assert image.mode == "P"
        found = {colour for _, colour in image.convert("RGB").getcolors()}
    assert {(0, 114, 178), (214, 94, 0)} <= found
    assert len(data_address(picture().figure)) < 40_000


def test_page_stays_below_three_megabytes_and_says_what_it_leaves_out(tmp_path, monkeypatch):
    monkeypatch.setattr("pvae.report.writing.data_address", lambda figure, dpi: "data:," + "x" * dpi * 10000)
    many = Section("many", pictures=tuple(picture(0, f"picture {i}") for i in range(5)))
    path = write_page(tmp_path / "index.html", page(sections=(many,)))
    assert path.stat().st_size < 3_000_000
    html = path.read_text()
    assert len(Tags(html).named("img")) == 3
    assert "left out to keep the page below 3 MB: picture 4" in html
    assert max(len(image["src"]) for image in Tags(html).named("img")) == 800_006


def test_writing_replaces_the_old_page_and_leaves_nothing_else(tmp_path):
    write_page(tmp_path / "index.html", page(title="old"))
    write_page(tmp_path / "index.html", page(title="new"))
    assert [each.name for each in tmp_path.iterdir()] == ["index.html"]
    assert ("h1", "new") in Tags((tmp_path / "index.html").read_text()).headings
