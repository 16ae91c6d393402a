"""The pages in a real browser: nothing fails or leaves, and what can be touched computes as the package does."""

import base64
import functools
import http.server
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from scipy import ndimage

import minitorch_train as mt
from minitorch_train.pictures import _form, read_digit

pytestmark = [pytest.mark.browser, pytest.mark.skipif(sys.version_info < (3, 11), reason="the theme that Python 3.10 gets has other menus and tables, and is not tried")]
WEIGHTS = Path(__file__).resolve().parents[1] / "nbs" / "site" / "weights.js"
SHAPES = [(50, 784), (50,), (10, 50), (10,)]
PAGES = ["index", "drawing", "package", "results", "teaching", "lessons/03_log_softmax", "lessons/05_training_loop"]  # one of each kind


@pytest.fixture(scope="module")
def served(site):
    """The address of the pages on a server of this machine's own."""
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def page(browser):
    """An empty page that remembers what went wrong in it, and what it asked of other machines."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda message: page.wrong.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: None if re.match(r"file:|data:|blob:|http://127\.0\.0\.1:", request.url) else page.wrong.append(request.url))
    yield page
    page.close()


@pytest.mark.parametrize("way", ["server", "folder"])
def test_every_page_loads_whole_and_asks_nobody_else(page, site, served, way):
    for path in sorted([*site.glob("*.html"), *site.glob("lessons/*.html")]):
        name = path.relative_to(site).as_posix()
        page.goto(f"{served}/{name}" if way == "server" else path.as_uri())
        assert page.locator("h1").count(), name
        assert page.evaluate("[...document.images].filter(image => !image.complete || !image.naturalWidth).length") == 0, name
        assert not page.wrong, name


def test_formulas_are_drawn(page, served):
    page.goto(f"{served}/lessons/03_log_softmax.html")
    assert page.locator("math[display=block]").count() > 2
    wide = page.evaluate("[...document.querySelectorAll('math')].map(formula => formula.getBoundingClientRect().width)")
    assert min(wide) > 3 and "$$" not in page.inner_text("article")
    assert page.evaluate("document.fonts.ready.then(() => document.fonts.check('16px \"STIX Two Math\"', '∑'))")


@pytest.mark.parametrize("way", ["server", "folder"])
def test_the_search_finds_a_lesson(page, site, served, way):
    base = served if way == "server" else site.as_uri()
    page.goto(f"{base}/search.html?q=momentum")
    page.wait_for_selector("#search-results li a[href*='07_optimizers']")
    page.wait_for_load_state("networkidle")
    assert page.locator("#search-results li p.context").count() == 0 or way == "server"
    assert not page.wrong


def test_on_a_phone_the_contents_open_and_go_away(page, served):
    page.set_viewport_size({"width": 375, "height": 700})
    page.goto(f"{served}/lessons/03_log_softmax.html")
    page.click(".secondary-toggle")
    page.click("dialog[open] a[href='#any-shape']")
    page.wait_for_selector("dialog[open]", state="detached")
    assert page.locator("#any-shape").bounding_box()["y"] < 100
    page.click(".primary-toggle")
    page.click("dialog[open] a[href='04_cross_entropy.html']")
    page.wait_for_url("**/04_cross_entropy.html")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_it_can_be_read_by_everybody(page, served, name, theme):
    """axe-core finds nothing serious, in the light and in the dark, and on a phone only code scrolls sideways."""
    page.set_viewport_size({"width": 375, "height": 700})
    page.add_init_script(f"localStorage.setItem('mode', '{theme}')")
    page.goto(f"{served}/{name}.html")
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    found = Axe().run(page).response["violations"]
    assert [(rule["id"], rule["nodes"][0]["html"][:200], len(rule["nodes"])) for rule in found if rule["impact"] in ("serious", "critical")] == []


@pytest.mark.parametrize("logits", [[88, 88.5], [-100, -99.5], [1000, 0], [0, 1000]])
def test_the_sliders_give_the_numbers_of_lesson_03(page, served, logits):
    page.goto(f"{served}/lessons/03_log_softmax.html")
    for number, value in zip(page.locator(".where-softmax-breaks input[type=number]").all(), [0, *logits, -5000]):
        number.fill(str(value))  # the third is so low that it adds nothing
    shown = [row.split("\t")[1:3] for row in page.locator(".where-softmax-breaks tbody").inner_text().splitlines()]
    x = torch.tensor([float(value) for value in logits])
    direct, rule = (x.exp() / x.exp().sum()).log(), x - x.exp().sum().log()
    versions = [direct, rule, mt.log_softmax(x), mt.log_softmax(x.double())]
    assert shown == [[f"{value:.4f}" for value in version.tolist()] for version in versions]


def numbers(text: str) -> list[torch.Tensor]:
    """The parts of a network from its numbers, packed as base64."""
    flat = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.float32)
    return [part.reshape(shape) for part, shape in zip(flat.split([torch.Size(shape).numel() for shape in SHAPES]), SHAPES)]


def model_of(parts: list[torch.Tensor]) -> mt.Model:
    model = mt.Model(784, 50, 10)
    model.load_state_dict(dict(zip(model.state_dict(), parts)))
    return model


@pytest.fixture(scope="module")
def came_with():
    """The network that the pages come with."""
    return model_of(numbers(re.search('"(.+)"', WEIGHTS.read_text(encoding="utf-8"))[1]))


def logits_shown(page) -> torch.Tensor:
    return torch.tensor([float(value) for value in page.get_attribute(".drawing-board", "data-logits").split()])


@torch.no_grad()
def test_a_drawing_gets_the_answer_that_python_gives(page, served, came_with):
    page.goto(f"{served}/drawing.html")
    drawings = (mt.get_data()[2][:200].view(-1, 28, 28) > 0.5).numpy()
    found = page.evaluate("""(drawings) => drawings.map((pixels) => {
        const board = document.querySelector(".drawing-board"), pen = board.querySelector(".paper").getContext("2d");
        pen.fillStyle = "white"; pen.fillRect(0, 0, 280, 280); pen.fillStyle = "black";
        pixels.forEach(([y, x]) => pen.fillRect(10 * x, 10 * y, 10, 10));
        board.dispatchEvent(new Event("drawn"));
        return [board.dataset.logits, board.querySelector(".says").textContent];
    })""", [np.argwhere(ink).tolist() for ink in drawings])
    for ink, (logits, says) in zip(drawings, found, strict=True):
        mask = np.kron(ink, np.ones((10, 10), "int8"))
        wanted = came_with(_form(mask[ndimage.find_objects(mask)[0]] > 0))
        torch.testing.assert_close(torch.tensor([float(value) for value in logits.split()]), wanted, rtol=1e-5, atol=1e-4)
        assert f"says {wanted.argmax()}," in says


THREE = [(80, 60), (150, 50), (190, 90), (140, 130), (190, 170), (150, 220), (80, 210)]


def draw(page, points) -> None:
    box = page.locator(".paper").bounding_box()
    page.mouse.move(box["x"] + points[0][0], box["y"] + points[0][1])
    page.mouse.down()
    for x, y in points[1:]:
        page.mouse.move(box["x"] + x, box["y"] + y, steps=3)
    page.mouse.up()


def test_a_three_is_drawn_read_and_learned_as_a_seven(page, served, tmp_path):
    page.goto(f"{served}/drawing.html")
    assert "Nothing is drawn yet" in page.inner_text(".drawing-board .says")
    draw(page, THREE)
    page.wait_for_function("document.querySelector('.drawing-board .says').textContent.includes('says 3,')")
    picture = tmp_path / "three.png"
    pixels = page.evaluate("document.querySelector('.paper').toDataURL('image/png')")
    picture.write_bytes(base64.b64decode(pixels.partition(",")[2]))
    assert Image.open(picture).size == (280, 280)
    seen = torch.tensor(page.evaluate("Array.from(document.querySelector('.seen').getContext('2d').getImageData(0, 0, 28, 28).data).filter((_, k) => k % 4 === 0)"))
    assert (1 - seen / 255 - read_digit(picture)[0].view(-1)).abs().mean() < 0.05  # `predict` sees nearly the same
    page.select_option(".drawing-board select", "7")
    for _ in range(40):
        page.click(".step")
    losses = [float(loss) for loss in page.inner_text(".losses").removeprefix("Loss: ").split(", ")]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
    assert "says 7," in page.inner_text(".drawing-board .says")
    page.click(".back")
    assert "says 3," in page.inner_text(".drawing-board .says")
    page.click(".clear")
    assert "Nothing is drawn yet" in page.inner_text(".drawing-board .says")


def test_one_step_on_a_drawing_is_one_of_training_by_hand(page, served, came_with):
    page.goto(f"{served}/drawing.html")
    draw(page, THREE)
    page.wait_for_function("document.querySelector('.drawing-board .says').textContent.includes('says 3,')")
    page.select_option(".drawing-board select", "7")
    seen = torch.tensor(page.evaluate("""(() => { const pen = document.querySelector('.paper').getContext('2d'), { data } = pen.getImageData(0, 0, 280, 280);
        return Array.from(form(Uint8Array.from({ length: 78400 }, (_, k) => data[4 * k] < 128 ? 1 : 0), 280)); })()"""))
    page.click(".step")
    model = model_of([part.clone() for part in came_with.state_dict().values()])
    mt.train_by_hand(model, seen[None], torch.tensor([7]), bs=1, lr=0.005)
    torch.testing.assert_close(logits_shown(page), model(seen).detach(), rtol=1e-4, atol=1e-3)


def test_a_one_is_drawn_with_the_keys(page, served):
    page.goto(f"{served}/drawing.html")
    page.focus(".paper")
    for key in ["ArrowRight", "ArrowLeft"] + ["ArrowUp"] * 8 + ["Space"] + ["ArrowDown"] * 16:
        page.keyboard.press(key)
    page.wait_for_function("document.querySelector('.drawing-board .says').textContent.includes('says 1,')")


@pytest.mark.parametrize("optimizer, lr, make", [
    ("sgd", 0.5, lambda params: mt.SGD(params, lr=0.5)),
    ("momentum", 0.1, lambda params: mt.SGD(params, lr=0.1, momentum=0.9)),
    ("adam", 0.003, lambda params: mt.Adam(params, lr=0.003)),
])
def test_ten_steps_in_the_worker_are_those_of_the_package(page, served, optimizer, lr, make):
    page.goto(f"{served}/drawing.html")
    start, order, report = page.evaluate("""async (settings) => {
        const { images, labels } = await digits.read(), worker = newTrainer(), net = network();
        const report = await new Promise((resolve) => {
            worker.onmessage = ({ data }) => resolve(data);
            worker.postMessage({ images, labels, params: net.fresh(3), seed: 3, bs: 64, epochs: 1, ...settings });
        });
        worker.terminate();
        const text = (params) => store.pack(new Uint8Array(Float32Array.from(params.flatMap((part) => Array.from(part))).buffer));
        return [text(net.fresh(3)), Array.from(net.shuffled(10000, net.random(3))), { ...report, params: text(report.params), losses: Array.from(report.losses) }];
    }""", {"optimizer": optimizer, "lr": lr})
    assert report["step"] == 10 and sorted(order) == list(range(10000)) != order
    x_train, y_train, x_valid, y_valid = mt.get_data()
    model = model_of(numbers(start))
    opt, losses = make(model.parameters()), []
    for rows in torch.tensor(order[:640]).split(64):
        loss = mt.cross_entropy(model(x_train[rows]), y_train[rows])
        loss.backward()
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())
    assert losses == pytest.approx(report["losses"], abs=1e-4)
    for ours, theirs in zip(model.state_dict().values(), numbers(report["params"])):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert mt.accuracy(model(x_valid[:1000]), y_valid[:1000]).item() == pytest.approx(report["accuracy"], abs=0.0011)


def trained(page) -> str:
    """What the panel says at the end."""
    page.click(".train")
    page.wait_for_function("document.querySelector('.training-panel .train').disabled === false", timeout=120_000)
    return page.inner_text(".training-panel .says")


def test_training_reaches_93_percent_and_the_board_uses_the_network(page, served):
    page.goto(f"{served}/lessons/05_training_loop.html")
    said = trained(page)
    assert float(re.search(r"Step 1570 of 1570: .*accuracy ([\d.]+)\. Done", said)[1]) >= 0.93
    page.goto(f"{served}/lessons/04_cross_entropy.html")
    assert page.inner_text(".whose") == "This is the network that you trained."
    page.click(".back")
    assert page.inner_text(".whose") == "This is the network that the page came with."


def test_training_stops_goes_again_and_repeats(page, site):
    """Over the folder itself: no server is needed to train."""
    page.goto((site / "drawing.html").as_uri())
    page.select_option("[name=epochs]", "30")
    page.click(".train")
    page.wait_for_function("/Step \\d{2,}/.test(document.querySelector('.training-panel .says').textContent)", timeout=60_000)
    page.click(".stop")  # the page listens while the worker trains
    stopped = page.inner_text(".training-panel .says")
    assert stopped.endswith("Stopped.") and "of 4710" in stopped
    page.select_option("[name=epochs]", "1")
    first = trained(page)
    assert first == trained(page) and "Step 157 of 157" in first
    page.fill("[name=seed]", "2")
    assert trained(page) != first
    assert not page.wrong


def test_a_rate_chosen_badly_shows_what_it_does(page, served):
    page.goto(f"{served}/lessons/08_adam.html")
    page.select_option("[name=optimizer]", "adam")
    page.select_option("[name=epochs]", "1")
    assert float(re.search(r"accuracy (0\.\d+)", trained(page))[1]) < 0.5
    page.select_option("[name=lr]", "0.003")
    assert float(re.search(r"accuracy (0\.\d+)", trained(page))[1]) > 0.85


def test_the_weights_are_those_that_the_recipe_gave(came_with):
    """The bytes are those of the run that made them, and read what the recipe's network reads."""
    import hashlib
    raw = base64.b64decode(re.search('"(.+)"', WEIGHTS.read_text(encoding="utf-8"))[1])
    assert hashlib.sha256(raw).hexdigest() == "369d4f166b472cf8cc9f12c3da09670c5b1f7cfe85710465083a888cea41d68b"
    *_, x_valid, y_valid = mt.get_data()
    assert mt.accuracy(came_with(x_valid), y_valid) == pytest.approx(0.9677, abs=0.0005)
