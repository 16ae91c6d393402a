"""The pages that are built from the lessons: whole, with every link leading somewhere, and nothing fetched from elsewhere."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import nbformat
import pytest
import torch
from py_mini_racer import MiniRacer

ROOT = Path(__file__).resolve().parents[1]
LESSONS = sorted(path for path in (ROOT / "nbs").glob("[0-9][0-9]_*.ipynb") if re.fullmatch(r"\d\d_\w+", path.stem))


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


def test_a_warning_is_an_error(site_maker, tmp_path, monkeypatch):
    monkeypatch.setattr(site_maker, "put_together", lambda source: (
        source.mkdir(parents=True), (source / "conf.py").write_text("extensions = ['myst_nb']"), (source / "index.md").write_text("# A\n\n[lost](nowhere.md)")))
    with pytest.raises(SystemExit, match="warnings"):
        site_maker.main(tmp_path)


def direct(x):
    return (x.exp() / x.exp().sum(-1, keepdim=True)).log()


def rule(x):
    return x - x.exp().sum(-1, keepdim=True).log()


def shifted(x):
    return rule(x - x.detach().max())


@pytest.mark.parametrize("shift", [0, 1, 50, 80, 87, 88, 89, 120, -50, -87, -95, -100, -103, -104, -120])
@pytest.mark.parametrize("name, version", [("softmax, then log", direct), ("x - log(sum(exp(x)))", rule), ("shifted by the maximum", shifted)])
def test_the_page_computes_as_the_lesson(name, version, shift):
    """The numbers and slopes beside lesson 03 are those of its functions in float32: infinite, `nan` and rotten ones too."""
    script = MiniRacer()
    script.eval((ROOT / "nbs" / "site" / "softmax.js").read_text(encoding="utf-8"))
    x = (torch.tensor([0.0, 0.5, -1.0]) + shift).requires_grad_()
    out = version(x)
    slopes, = torch.autograd.grad(out[0], x)
    said = script.eval(f"versions[{name!r}]({x.tolist()}, 0).flat().map(String).join(' ')").replace("Infinity", "inf").split()
    torch.testing.assert_close(torch.tensor([float(word) for word in said]), torch.cat([out.detach(), slopes]), rtol=1e-3, atol=1e-5, equal_nan=True)


def test_what_can_be_tried_is_on_its_page(site, pages):
    page = site / "lessons" / "03_log_softmax.html"
    assert "where-softmax-breaks" in page.read_text(encoding="utf-8") and "../_static/softmax.js" in pages[page].loads
    assert (site / "_static" / "softmax.js").exists()
