"""A learner's first hour: the lessons are copied, opened in JupyterLab, run, answered and read in the dark, in a real browser."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

import minitorch_train

pytestmark = pytest.mark.browser

PATIENCE = 240  # seconds that a thing on the page may take on a busy machine; a quiet one takes some
SHOWN = ".jp-NotebookPanel:not(.lm-mod-hidden)"  # the notebook in front
NO_NEWS = {"fetchNews": "false", "checkForUpdates": False}  # both would ask servers elsewhere

DIRECT = "def my_log_softmax(x):\n    return (x.exp() / x.exp().sum(-1, keepdim=True)).log()"
SHIFTED = "def my_log_softmax(x):\n    x = x - x.max(-1, keepdim=True).values\n    return x - x.exp().sum(-1, keepdim=True).log()"


def until(condition, what):
    """What `condition` gives, once it is true."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {PATIENCE} seconds for {what}"
        time.sleep(0.1)
    return found


def end(server):
    """The server and its kernels are asked to end; what is left then is ended."""
    processes = [server, *server.children(recursive=True)]
    server.terminate()
    for left in psutil.wait_procs(processes, timeout=30)[1]:
        left.kill()


class Lab:
    """A running JupyterLab: the folder of its lessons, and the address that it would open in the learner's browser."""

    def __init__(self, folder, address):
        self.folder, self.address = folder, address
        parts = urlsplit(address)
        self.server, self.token = f"{parts.scheme}://{parts.netloc}", parts.query

    def sessions(self, page):
        """The running notebooks, each with its kernel."""
        return page.request.get(f"{self.server}/api/sessions?{self.token}").json()

    def cells(self, name):
        return json.loads((self.folder / name).read_text(encoding="utf-8"))["cells"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a fresh copy of the lessons, started by what `lessons copy` says, with nothing of the user's own settings."""
    home = tmp_path_factory.mktemp("lab")
    folder, runtime = home / "my course", home / "JUPYTER_RUNTIME_DIR"
    said = subprocess.run([sys.executable, "-m", "minitorch_train", "lessons", "copy", folder], capture_output=True, text=True, check=True).stdout
    start = re.search('(?m)^Begin with: jupyter lab "(.+)"$', said)[1]
    settings = home / "JUPYTER_CONFIG_DIR" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(NO_NEWS))
    private = {name: str(home / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "MINITORCH_PROGRESS")}
    ours = {"PYTHONPATH": str(Path(minitorch_train.__file__).parents[1])}  # the kernels import the package that is tested
    command = [sys.executable, "-m", "jupyterlab", start, "--no-browser", "--ip=127.0.0.1", "--LabApp.extension_manager=readonly"]
    command += ["--allow-root"] * (hasattr(os, "geteuid") and os.geteuid() == 0)
    with open(home / "log.txt", "w") as log:
        server = psutil.Popen(command, env=os.environ | private | ours, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        def opened():  # Jupyter writes the page that takes the browser to it once it listens
            assert server.poll() is None, (home / "log.txt").read_text()
            return [found[1] for path in runtime.glob("jpserver-file-to-run-*-open.html") if (found := re.search('url=(http.+?)"', path.read_text()))]
        yield Lab(folder, until(opened, "JupyterLab")[0])
    finally:
        end(server)


@pytest.fixture
def page(browser, lab):
    """An empty page of a new browser window. Nothing may be asked from elsewhere, and no kernel is left for the next test."""
    context, asked = browser.new_context(viewport={"width": 1280, "height": 800}), []
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    yield page
    for session in lab.sessions(page):
        page.request.delete(f"{lab.server}/api/sessions/{session['id']}?{lab.token}")
    context.close()
    assert [url for url in asked if url.startswith(("http:", "https:")) and urlsplit(url).hostname != "127.0.0.1"] == [] and asked


def ready(lab, page, name):
    """The notebook is in front, and its kernel waits for work: the page says so too early, and a first kernel may be replaced."""
    page.wait_for_selector(f"{SHOWN} .jp-Cell")
    seen = []

    def idle():
        kernels = [session["kernel"] for session in lab.sessions(page) if session["path"] == name]
        calm = len(kernels) == 1 and kernels[0]["execution_state"] == "idle" and kernels[0]["connections"]
        seen.append(calm and kernels[0]["id"])
        return calm and seen[-3:] == 3 * seen[-1:]

    until(idle, f"the kernel of {name}")


def open_notebook(lab, page, name):
    page.goto(f"{lab.server}/lab/tree/{name}?reset&{lab.token}")
    ready(lab, page, name)


def choose(page, *words):
    """An entry of a menu, as `Run`, `Run All Cells`."""
    page.locator(".lm-MenuBar-itemLabel").get_by_text(words[0], exact=True).click()
    for word in words[1:]:
        page.locator(".lm-Menu-itemLabel").get_by_text(word, exact=True).click()


def cell(page, number):
    """A cell by its number from 0, scrolled to: the page draws only those that are near."""
    found = page.locator(f"{SHOWN} .jp-Cell[data-windowed-list-index='{number}']")
    found.scroll_into_view_if_needed()
    return found


def outputs(cell):
    """What a cell has put out, as text."""
    return "".join(cell.locator(".jp-OutputArea-output").all_inner_texts())


def run_all(lab, page, name):
    """Run a notebook from the menu, until its last cell has run or was given up after an error."""
    choose(page, "Run", "Run All Cells")
    prompt = cell(page, len(lab.cells(name)) - 1).locator(".jp-InputPrompt")
    until(lambda: prompt.inner_text() != "[ ]:", f"{name} to start")
    until(lambda: prompt.inner_text() != "[*]:", f"the last cell of {name}")


def saved(lab, page, name):
    """The cells as they are on the disk, once the page says that they are saved."""
    choose(page, "File", "Save Notebook")
    page.locator(".lm-DockPanel-tabBar .lm-mod-current.jp-mod-dirty").wait_for(state="detached")
    return lab.cells(name)


def run_cell(page, number, text=None):
    """What a cell puts out, after `text` was written into it and it was run with Shift+Enter."""
    here = cell(page, number)
    prompt = here.locator(".jp-InputPrompt")
    before = prompt.inner_text()
    here.locator(".cm-content").click()
    if text is not None:
        page.keyboard.press("ControlOrMeta+a")
        page.keyboard.insert_text(text)
    page.keyboard.press("Shift+Enter")
    until(lambda: prompt.inner_text() not in (before, "[*]:"), f"cell {number}")
    return outputs(here)


def answer_and_check(lab, name, exercise):
    """The numbers of the two cells of an exercise."""
    [check] = [number for number, cell in enumerate(lab.cells(name)) if "".join(cell["source"]).startswith(f'check("{exercise}"')]
    return check - 1, check


def test_the_opening_page_is_what_a_learner_sees_first(lab, page):
    name = "00_start_here.ipynb"
    page.goto(lab.address)
    ready(lab, page, name)
    assert page.locator(".lm-DockPanel-tabBar .lm-TabBar-tabLabel").all_inner_texts() == [name]
    assert cell(page, 0).inner_text().startswith("Start here")
    [code] = [number for number, cell in enumerate(lab.cells(name)) if cell["cell_type"] == "code"]
    source = "".join(lab.cells(name)[code]["source"])
    assert run_cell(page, code).strip() == "torch.Size([50000, 784])"
    assert minitorch_train.__file__ in run_cell(page, code, f"{source}\nprint(mt.__file__)")
    page.locator(SHOWN).get_by_role("link", name="03 Log-softmax").click()
    ready(lab, page, "03_log_softmax.ipynb")
    assert cell(page, 0).inner_text().startswith("Log-softmax")


# Each text that a bar shows while it can be seen
WATCH_BARS = """() => {
    window.bars = new Set();
    const look = () => {
        for (const line of document.querySelectorAll('.jp-OutputArea-output pre')) {
            const place = line.getBoundingClientRect(), bar = line.innerText.match(/epoch \\d+: .*\\| (\\d+)\\/\\d+ \\[/);
            if (bar && place.bottom > 0 && place.top < innerHeight) bars.add(Number(bar[1]));
        }
    };
    new MutationObserver(look).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


@pytest.mark.parametrize("name", ["03_log_softmax.ipynb", "10_fit.ipynb"])
def test_a_lesson_runs_whole_from_the_menu(lab, page, name):
    open_notebook(lab, page, name)
    page.evaluate(WATCH_BARS)
    run_all(lab, page, name)
    said = outputs(cell(page, len(lab.cells(name)) - 1))
    code = [cell for cell in saved(lab, page, name) if cell["cell_type"] == "code"]
    assert [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"] == []
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)) and "apart" in said
    bars = page.evaluate("[...bars]")
    if name == "10_fit.ipynb":
        assert len(bars) > 1 and bars == sorted(bars), "the bar of fit moves"
        assert "batch/s" not in json.dumps(code), "and is gone at the end"


def test_a_wrong_answer_is_told_its_mistake(lab, page):
    name = "03_log_softmax.ipynb"
    answer, check = answer_and_check(lab, name, "03.2")
    asked = "".join(lab.cells(name)[check]["source"])
    open_notebook(lab, page, name)
    run_all(lab, page, name)
    run_cell(page, answer, DIRECT)
    said = run_cell(page, check)
    assert "03.2 not right yet." in said and "no shift before exp" in said and "exp(89) is more than float32 can hold." in said
    assert "Subtract the largest value of each row first" in run_cell(page, check, 'check("03.2", hint=True)')
    run_cell(page, answer, SHIFTED)
    assert "03.2 right." in run_cell(page, check, asked)


# The lowest contrast of text in a cell, by kind; and for each figure how opaque and light its ground is, and its contrast with its darkest line
CONTRASTS = """cell => {
    const linear = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
    const ground = e => { while (numbers(getComputedStyle(e).backgroundColor)[3] < 1) e = e.parentElement; return e; };
    const texts = [], figures = [];
    for (const part of cell.querySelectorAll('.jp-RenderedMarkdown, .cm-content, .jp-OutputArea-output')) {
        const walk = document.createTreeWalker(part, NodeFilter.SHOW_TEXT);
        while (walk.nextNode()) {
            const e = walk.currentNode.parentElement;
            if (!walk.currentNode.data.trim() || !e.checkVisibility()) continue;
            const back = numbers(getComputedStyle(ground(e)).backgroundColor);
            texts.push([part.matches('.cm-content') ? 'code' : 'words', contrast(light(numbers(getComputedStyle(e).color)), light(back)), walk.currentNode.data]);
        }
    }
    for (const image of cell.querySelectorAll('.jp-OutputArea-output img')) {
        const canvas = Object.assign(document.createElement('canvas'), {width: image.naturalWidth, height: image.naturalHeight});
        const brush = canvas.getContext('2d');
        brush.drawImage(image, 0, 0);
        const data = brush.getImageData(0, 0, canvas.width, canvas.height).data;
        let darkest = 1, clear = 255;
        for (let i = 0; i < data.length; i += 4) {
            darkest = Math.min(darkest, light(data.subarray(i, i + 3)));
            clear = Math.min(clear, data[i + 3]);
        }
        figures.push([clear, contrast(light(data.subarray(0, 3)), darkest)]);
    }
    return {texts, figures};
}"""


def test_a_lesson_is_legible_in_the_dark(lab, page):
    """Words and outputs at 4.5 : 1 and the colours of code, which are JupyterLab's, at 3 : 1; figures bring a ground of their own."""
    name, theme = "03_log_softmax.ipynb", "JupyterLab Dark"
    open_notebook(lab, page, name)
    choose(page, "Settings", "Theme", theme)
    page.wait_for_selector(f"body[data-jp-theme-name='{theme}']", state="attached")
    texts, figures = [], []
    for number, saved in enumerate(lab.cells(name)):
        cell(page, number).locator(".jp-RenderedMarkdown" if saved["cell_type"] == "markdown" else ".cm-line").first.wait_for()
        found = cell(page, number).evaluate(CONTRASTS)
        texts, figures = texts + found["texts"], figures + found["figures"]
    assert {kind for kind, *_ in texts} == {"words", "code"} and figures
    assert [text for text in texts if text[1] < {"words": 4.5, "code": 3}[text[0]]] == []
    assert [figure for figure in figures if figure[0] < 255 or figure[1] < 4.5] == []


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_make_lab_opens_the_same_page():
    plan = subprocess.run(["make", "-n", "--no-print-directory", "lab"], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True).stdout
    assert plan.splitlines()[-1].endswith("python -m jupyterlab course/00_start_here.ipynb")
