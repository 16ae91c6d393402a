"""The pages that are built from the lessons: whole, with every link leading somewhere, and nothing fetched from elsewhere."""

import importlib.util
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
LESSONS = sorted(path for path in (ROOT / "nbs").glob("[0-9][0-9]_*.ipynb") if re.fullmatch(r"\d\d_\w+", path.stem))


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("make_site", ROOT / "nbs" / "site" / "make_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(maker, tmp_path_factory):
    """The folder of the pages; a warning would have ended it."""
    folder = tmp_path_factory.mktemp("site")
    maker.main(folder)
    return folder / "html"


class Page(HTMLParser):
    """What a page links, loads and shows."""

    def __init__(self, path):
        super().__init__()
        self.path, self.links, self.loads, self.ids, self.pictures, self.formulas, self.text = path, [], [], set(), [], 0, []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.add(attributes.get("id"))
        self.formulas += tag == "math"
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        if tag == "img":
            self.pictures.append(attributes)
        loaded = attributes.get("src") or (attributes.get("href") if tag == "link" and attributes.get("rel") != "next" else None)
        self.loads += [loaded] if loaded else []

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html")}


def test_there_is_a_page_for_each_lesson_and_its_notebook(site, pages):
    for lesson in LESSONS:
        assert site / "lessons" / f"{lesson.stem}.html" in pages
        assert (site / "_static" / "notebooks" / lesson.name).read_bytes() == lesson.read_bytes()
    assert {"index.html", "package.html", "results.html", "teaching.html", "search.html"} <= {path.name for path in pages}


def test_every_link_and_anchor_leads_somewhere(pages):
    lost = []
    for path, page in pages.items():
        for link in page.links:
            where, anchor = urldefrag(link)
            if urlsplit(link).scheme:
                continue
            target = (path.parent / unquote(where)).resolve() if where else path
            if not target.exists() or anchor and target in pages and unquote(anchor) not in pages[target].ids:
                lost.append(f"{path.name}: {link}")
    assert not lost


def test_nothing_is_fetched_from_elsewhere(pages):
    assert [f"{path.name}: {load}" for path, page in pages.items() for load in page.loads if re.match(r"(\w+:)?//", load)] == []


def test_lines_for_machines_are_gone_and_formulas_are_drawn(site, pages):
    for lesson in LESSONS:
        page = pages[site / "lessons" / f"{lesson.stem}.html"]
        assert not [text for text in page.text if text.startswith("#| ") or "\\frac" in text]
        if "$$" in "".join(cell.source for cell in nbformat.read(lesson, as_version=4).cells):
            assert page.formulas


def test_each_figure_has_its_words_and_each_exercise_its_solution(site, pages):
    for lesson in LESSONS:
        page, cells = pages[site / "lessons" / f"{lesson.stem}.html"], nbformat.read(lesson, as_version=4).cells
        drawn = sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))
        described = [picture for picture in page.pictures if len(picture.get("alt") or "") > 60]
        assert len(described) == drawn, lesson.stem
        exercises = len(re.findall(r'(?m)^check\("', "\n".join(cell.source for cell in cells)))
        assert "".join(page.text).count("A worked solution") == exercises >= 3


def test_the_package_page_has_every_public_name(site, pages):
    import minitorch_train as mt
    text = "".join(pages[site / "package.html"].text)
    assert all(name in text for name in mt.__all__)


def test_a_warning_is_an_error(maker, tmp_path, monkeypatch):
    monkeypatch.setattr(maker, "put_together", lambda source: (
        source.mkdir(parents=True), (source / "conf.py").write_text("extensions = ['myst_nb']"), (source / "index.md").write_text("# A\n\n[lost](nowhere.md)")))
    with pytest.raises(SystemExit, match="warnings"):
        maker.main(tmp_path)
