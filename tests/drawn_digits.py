"""Pictures of digits as people take them, and pictures that are none: drawn here, the same for the same seed.

`digits(seed)` gives 250: 25 groups, and in each of them every digit once. `none(seed)` gives pictures that show no digit, or more than one.
`python tests/drawn_digits.py FOLDER` writes a sheet of each.
"""

import io
import math
import sys
from functools import cache, partial
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from minitorch_train.data import get_data

FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")
UPRIGHT = ["DejaVuSans.ttf", "DejaVuSansMono.ttf", "DejaVuSerif.ttf", "STIXGeneral.ttf", "cmr10.ttf", "cmss10.ttf", "cmtt10.ttf"]
SLANTED = ["DejaVuSans-Oblique.ttf", "DejaVuSansMono-Oblique.ttf", "DejaVuSerif-Italic.ttf", "STIXGeneralItalic.ttf", "cmti10.ttf"]
BOLD = ["DejaVuSans-Bold.ttf", "DejaVuSansMono-Bold.ttf", "DejaVuSerif-Bold.ttf", "STIXGeneralBol.ttf", "cmb10.ttf", "DejaVuSans-BoldOblique.ttf"]


# Shapes: ink from 0 to 1, `[rows, columns]`, cut to what is drawn, and so many pixels high

def cut(ink):
    """The part of it that has ink."""
    rows, columns = np.nonzero(ink.max(1) > 0.02)[0], np.nonzero(ink.max(0) > 0.02)[0]
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def printed(rng, text, height, fonts):
    """A letter or digit of a font."""
    font = ImageFont.truetype(FONTS / rng.choice(fonts), int(height * 1.35))
    image = Image.new("L", (2 * height * len(text), 2 * height))
    ImageDraw.Draw(image).text((height // 3, height // 4), text, 255, font)
    return cut(np.array(image) / 255)


def arc(x, y, rx, ry, start, end):
    """Points on an ellipse; the angles are in degrees, clockwise from the right."""
    angles = np.radians(np.linspace(start, end, 16))
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


SHAPES = {  # strokes of points in a box of width 1 and height 1, y downwards; more than one way for some
    0: [[arc(0.5, 0.5, 0.42, 0.5, -100, 262)], [arc(0.5, 0.5, 0.36, 0.5, -60, 305)]],
    1: [[[(0.5, 0), (0.5, 1)]], [[(0.25, 0.28), (0.55, 0), (0.55, 1)]], [[(0.62, 0), (0.42, 1)]]],
    2: [[arc(0.5, 0.28, 0.4, 0.28, -170, 35) + [(0.1, 1), (0.95, 1)]],
        [arc(0.45, 0.27, 0.36, 0.27, -160, 50) + [(0.3, 0.85)] + arc(0.2, 0.9, 0.12, 0.09, -30, -300) + [(0.6, 0.93), (0.95, 0.97)]]],
    3: [[arc(0.45, 0.25, 0.38, 0.25, -150, 85) + arc(0.45, 0.74, 0.43, 0.26, -85, 150)],
        [[(0.12, 0.02), (0.85, 0.02), (0.42, 0.4)] + arc(0.42, 0.7, 0.42, 0.3, -80, 150)]],
    4: [[[(0.6, 0), (0.05, 0.65), (0.95, 0.65)], [(0.7, 0.35), (0.7, 1)]],
        [[(0.15, 0), (0.12, 0.5), (0.85, 0.48)], [(0.8, 0.02), (0.75, 1)]],
        [[(0.68, 1), (0.68, 0), (0.05, 0.68), (0.98, 0.68)]]],
    5: [[[(0.85, 0.02), (0.22, 0.02), (0.15, 0.45)] + arc(0.45, 0.68, 0.42, 0.31, -125, 145)],
        [[(0.25, 0.05), (0.18, 0.45)] + arc(0.45, 0.68, 0.4, 0.3, -125, 150), [(0.24, 0.04), (0.9, 0.01)]]],
    6: [[[(0.7, 0)] + arc(0.62, 0.62, 0.52, 0.6, -110, -180) + arc(0.48, 0.7, 0.38, 0.29, -180, -540)],
        [[(0.85, 0.08), (0.6, 0.0)] + arc(0.6, 0.6, 0.5, 0.58, -100, -190) + arc(0.47, 0.71, 0.36, 0.28, -200, -530)]],
    7: [[[(0.08, 0.02), (0.92, 0.02), (0.4, 1)]], [[(0.08, 0.03), (0.9, 0), (0.42, 1)], [(0.3, 0.52), (0.85, 0.5)]]],
    8: [[arc(0.5, 0.25, 0.33, 0.25, 90, 450) + arc(0.5, 0.75, 0.4, 0.25, -90, -450)],
        [arc(0.52, 0.24, 0.3, 0.23, -30, -270) + arc(0.48, 0.74, 0.38, 0.26, -80, 260) + [(0.79, 0.15)]]],
    9: [[arc(0.48, 0.3, 0.38, 0.29, -10, -350) + [(0.86, 0.28), (0.78, 1)]],
        [arc(0.5, 0.3, 0.38, 0.29, 0, -345) + [(0.88, 0.3)] + arc(0.4, 0.6, 0.46, 0.4, -10, 110)]]}


def curve(rng, points, stiff):
    """Points along a line through those given, with the bends of a hand."""
    points = np.array(points) + rng.normal(0, 0.012, (len(points), 2))
    steps = np.r_[0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
    fine = np.linspace(0, steps[-1], 160)
    line = np.stack([np.interp(fine, steps, points[:, i]) for i in (0, 1)], 1)
    shake = ndimage.gaussian_filter1d(rng.normal(0, 1, (160, 2)), 12, axis=0) * 0.05
    return ndimage.gaussian_filter1d(line + shake, stiff, axis=0, mode="nearest")


def pen(rng, digit, height, width):
    """A digit written with a pen, whose width is a share of the height."""
    ways, wide = SHAPES[digit], height * rng.uniform(0.5, 0.75)
    slant, thick = rng.uniform(-0.05, 0.3), max(1.0, height * width) * 3
    image = Image.new("L", (int(height * 4.5), int(height * 4.5)))
    draw = ImageDraw.Draw(image)
    for stroke in ways[rng.integers(len(ways))]:
        line = curve(rng, stroke, rng.uniform(1, 3))
        x, y = line[:, 0] * wide + slant * (1 - line[:, 1]) * height, line[:, 1] * height
        dots = (np.stack([x, y], 1) * 3 + height * 0.75).repeat(4, 0)
        dots = ndimage.uniform_filter1d(dots, 4, axis=0, mode="nearest")
        for (a, b), r in zip(dots, thick / 2 * (1 + 0.12 * ndimage.gaussian_filter1d(rng.normal(0, 3, len(dots)), 20))):
            draw.ellipse((a - r, b - r, a + r, b + r), fill=255)
    return cut(np.array(image.reduce(3)) / 255)


@cache
def handwriting():
    """The validation digits, by what they show."""
    _, _, x, y = get_data()
    return [x[y == digit].reshape(-1, 28, 28).numpy() for digit in range(10)]


def written(rng, digit, height):
    """A digit of MNIST's validation set, enlarged."""
    small = cut(rng.choice(handwriting()[digit]))
    scale = height / len(small)
    large = Image.fromarray((np.pad(small, 2) * 255).astype("uint8")).resize([round(scale * (n + 4)) for n in small.shape[::-1]], Image.Resampling.BICUBIC)
    soft = ndimage.gaussian_filter(np.array(large) / 255, height / 60)
    return cut(np.clip((soft - 0.45) * rng.uniform(4, 9) + 0.5, 0, 1))


# The paper: a sheet of ink is put on it, light falls on it, a camera takes it

def place(rng, shape, draw, share=(0.45, 0.8), turn=7, shift=0.5):
    """A sheet of a shape with what `draw` draws at a height, turned by a few degrees, somewhere on it."""
    rows, columns = shape
    ink = draw(max(12, int(rng.uniform(*share) * min(shape))))
    image = Image.fromarray((np.pad(ink, 4) * 255).astype("uint8")).rotate(rng.uniform(-turn, turn), Image.Resampling.BICUBIC, expand=True)
    ink = cut(np.array(image) / 255)
    scale = min(1, 0.94 * rows / ink.shape[0], 0.94 * columns / ink.shape[1])
    if scale < 1:
        ink = np.array(Image.fromarray((ink * 255).astype("uint8")).resize([max(1, int(n * scale)) for n in ink.shape[::-1]])) / 255
    spare = np.subtract(shape, ink.shape)
    top, left = (int(n * np.clip(0.5 + shift * rng.uniform(-1, 1), 0.04, 0.96)) for n in spare)
    sheet = np.zeros(shape)
    sheet[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return sheet


def size(rng, low=160, high=520):
    """Rows and columns of a picture."""
    side = rng.uniform(low, high)
    return int(side * rng.uniform(0.8, 1.25)), int(side * rng.uniform(0.8, 1.25))


def paint(sheet, paper=(1, 1, 1), ink=(0, 0, 0), depth=1.0):
    """Colours `[rows, columns, 3]`: ink on paper."""
    cover = depth * sheet[..., None]
    return np.array(paper) * (1 - cover) + np.array(ink) * cover


def uneven(rng, shape, depth):
    """Light from one side, and a soft spot of it."""
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    angle, (cy, cx) = rng.uniform(0, 2 * math.pi), rng.uniform(-1, 1, 2)
    slope = (x * math.cos(angle) + y * math.sin(angle)) / 1.42
    spot = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / rng.uniform(0.6, 2))
    return (1 - depth * (0.5 + 0.5 * slope)) * (1 - 0.4 * depth * (1 - spot))


def shadow(rng, shape, depth, soft):
    """The shadow of a hand or a phone over one edge or corner."""
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    angle = rng.uniform(0, 2 * math.pi)
    dark = (x * math.cos(angle) + y * math.sin(angle) > rng.uniform(0.15, 0.7)).astype(float)
    return 1 - depth * ndimage.gaussian_filter(dark, soft * min(shape), mode="nearest")


def ruled(rng, shape, colour, squares=False, tilt=2.5):
    """What a ruled or squared paper lets through: 1, or a colour on its lines."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    angle, step = math.radians(rng.uniform(-tilt, tilt)), min(shape) * (rng.uniform(0.07, 0.16) if squares else rng.uniform(0.12, 0.25))
    wide = max(1.0, min(shape) * rng.uniform(0.002, 0.006))
    lines = np.zeros(shape)
    for value in [y * math.cos(angle) + x * math.sin(angle)] + [x * math.cos(angle) - y * math.sin(angle)] * squares:
        far = np.abs((value + rng.uniform(0, step)) % step - step / 2)
        lines = np.maximum(lines, np.clip(wide / 2 + 0.5 - far, 0, 1))
    return 1 - lines[..., None] * (1 - np.array(colour))


def frame(rng, shape, share=(0.0, 0.06), grey=0.0):
    """A drawn frame round the sheet: ink from 0 to 1."""
    inset, wide = int(rng.uniform(*share) * min(shape)), max(1, int(min(shape) * rng.uniform(0.006, 0.03)))
    ink = np.zeros(shape)
    ink[inset : shape[0] - inset, inset : shape[1] - inset] = 1
    ink[inset + wide : shape[0] - inset - wide, inset + wide : shape[1] - inset - wide] = 0
    return ink


def camera(rng, colours, noise=0.015, blur=0.6, quality=90, grain=0.0):
    """A picture as it comes from a camera: blurred, noisy, and pressed into a JPEG."""
    rough = 1 + grain * ndimage.gaussian_filter(rng.normal(0, 1, colours.shape[:2]), 1.2)[..., None] * 3
    seen = ndimage.gaussian_filter(colours * rough, (blur, blur, 0)) + rng.normal(0, noise, colours.shape)
    image = Image.fromarray((np.clip(seen, 0, 1) * 255).round().astype("uint8"))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


# The groups

WHITE = (0.97, 0.97, 0.95)
PENS = {"blue": (0.1, 0.15, 0.55), "black": (0.08, 0.08, 0.1), "red": (0.7, 0.1, 0.12), "green": (0.05, 0.4, 0.2), "purple": (0.35, 0.1, 0.5)}
PAPERS = [(0.98, 0.95, 0.6), (0.75, 0.9, 0.98), (0.98, 0.8, 0.85), (0.72, 0.55, 0.38), (0.8, 0.95, 0.75), (0.55, 0.55, 0.55)]


def anybody(rng, digit, width=(0.03, 0.09)):
    """A digit of whatever hand: MNIST's, if the pen is not too fine for it, or ours."""
    return partial(written, rng, digit) if width[1] > 0.03 and rng.random() < 0.5 else partial(pen, rng, digit, width=rng.uniform(*width))


def type_(rng, digit, fonts):
    shape = size(rng, 60, 400)
    return Image.fromarray((paint(place(rng, shape, lambda h: printed(rng, str(digit), h, fonts), turn=2)) * 255).astype("uint8"))


def drawn(rng, digit, width):
    """On white, as with a drawing program."""
    return Image.fromarray(((1 - place(rng, size(rng), partial(pen, rng, digit, width=rng.uniform(*width)))) * 255).astype("uint8"))


def photo(rng, digit, depth=(0.2, 0.5), width=(0.03, 0.09), paper=WHITE, ink=None, light=None, lines=None, extra=None, grey=False, more=None, **placing):
    """A photograph of a digit on paper."""
    shape = size(rng)
    sheet = place(rng, shape, anybody(rng, digit, width), **placing)
    if extra:
        sheet = np.maximum(sheet, extra(rng, shape))
    ink = ink or list(PENS.values())[rng.integers(len(PENS))]
    colours = paint(sheet, paper, ink, rng.uniform(0.8, 1))
    if lines:
        colours = colours * lines(rng, shape)
    colours = colours * (light(rng, shape) if light else uneven(rng, shape, rng.uniform(*depth)))[..., None]
    if grey:
        colours = colours.mean(-1, keepdims=True).repeat(3, -1)
    return camera(rng, colours, **(more or {}))


def any_paper(rng, digit):
    return photo(rng, digit, paper=PAPERS[rng.integers(len(PAPERS))], ink=PENS[str(rng.choice(["blue", "black", "red", "purple"]))])


def board(rng, digit):
    """Chalk on a board, or light ink on a dark screen."""
    return photo(rng, digit, paper=[(0.1, 0.2, 0.15), (0.12, 0.12, 0.13), (0.1, 0.12, 0.3)][rng.integers(3)],
                 ink=[(0.9, 0.9, 0.85), (0.95, 0.9, 0.5)][rng.integers(2)], more={"grain": 0.05})


def glass(rng, digit):
    """Ink of any colour on nothing, or a small picture like MNIST's own."""
    if digit % 2:
        ink = written(rng, digit, 20)
        return Image.fromarray((np.pad(ink, 4) * 255).astype("uint8"))
    sheet = place(rng, size(rng), anybody(rng, digit))
    colour = np.full((*sheet.shape, 3), rng.integers(0, 256))
    return Image.fromarray(np.dstack([colour, sheet * 255]).astype("uint8"))


def all_of_it(rng, digit):
    """Ruled paper in bad light, small, off centre, noisy."""
    return photo(rng, digit, (0.4, 0.6), lines=partial(ruled, colour=(0.7, 0.8, 0.95)), share=(0.3, 0.5), shift=0.8,
                 more={"noise": 0.03, "blur": 1.0, "quality": 55})


BLUE_LINES, GREY_LINES = (0.6, 0.72, 0.9), (0.65, 0.65, 0.65)
GROUPS = {
    "upright type": partial(type_, fonts=UPRIGHT),
    "slanted type": partial(type_, fonts=SLANTED),
    "bold type": partial(type_, fonts=BOLD),
    "type, photographed": lambda rng, digit: camera(rng, paint(place(rng, s := size(rng), lambda h: printed(rng, str(digit), h, UPRIGHT + BOLD)), WHITE,
                                                               (0.1, 0.1, 0.1)) * uneven(rng, s, 0.4)[..., None]),
    "hairline pen": partial(drawn, width=(0.004, 0.012)),
    "fine pen": partial(drawn, width=(0.015, 0.03)),
    "medium pen": partial(drawn, width=(0.05, 0.09)),
    "thick pen": partial(drawn, width=(0.11, 0.16)),
    "marker": partial(drawn, width=(0.17, 0.21)),
    "pencil": partial(photo, ink=(0.55, 0.55, 0.57), width=(0.012, 0.03), more={"grain": 0.03}),
    "grey, uneven light": partial(photo, depth=(0.5, 0.75), grey=True),
    "grey, hairline": partial(photo, depth=(0.3, 0.6), width=(0.008, 0.014), grey=True, more={"blur": 0.5}),
    "shadow at the edge": partial(photo, light=lambda rng, shape: shadow(rng, shape, rng.uniform(0.3, 0.55), 0.01)),
    "soft shadow": partial(photo, light=lambda rng, shape: shadow(rng, shape, rng.uniform(0.4, 0.7), 0.08)),
    "ruled paper": partial(photo, lines=partial(ruled, colour=BLUE_LINES)),
    "dark ruled paper": partial(photo, lines=partial(ruled, colour=(0.35, 0.35, 0.4))),
    "squared paper": partial(photo, lines=partial(ruled, colour=GREY_LINES, squares=True)),
    "frame": partial(photo, extra=frame, share=(0.35, 0.6), shift=0.3),
    "frame, grey light": partial(photo, extra=partial(frame, share=(0.0, 0.03)), share=(0.35, 0.6), shift=0.3, grey=True, depth=(0.4, 0.6)),
    "coloured paper": any_paper,
    "dark ground": board,
    "small, off centre": partial(photo, share=(0.16, 0.28), shift=0.9),
    "poor camera": partial(photo, turn=12, more={"noise": 0.06, "blur": 1.6, "quality": 25}),
    "on glass, or tiny": glass,
    "all of it": all_of_it,
}


def digits(seed=0):
    """`(group, digit, image)` for 25 groups of 10."""
    return [(group, digit, GROUPS[group](np.random.default_rng([seed, number, digit]), digit))
            for number, group in enumerate(GROUPS) for digit in range(10)]


# Pictures that are none

def letter(rng, text):
    shape = size(rng)
    return camera(rng, paint(place(rng, shape, lambda h: printed(rng, text, h, UPRIGHT + BOLD), turn=3), WHITE, (0.1, 0.1, 0.2)))


def noise(rng, grain):
    """Grey dots, of one pixel and of more."""
    seen = ndimage.gaussian_filter(rng.normal(0, 1, size(rng)), grain, mode="wrap")
    return Image.fromarray((np.clip(0.5 + seen / seen.std() / 5, 0, 1) * 255).astype("uint8"))


def two(rng, a, b):
    """Two digits beside each other."""
    shape = size(rng)
    sheet = place(rng, shape, lambda h: side_by_side(rng, a, b, h), share=(0.3, 0.5), shift=0.3)
    return camera(rng, paint(sheet, WHITE, (0.1, 0.1, 0.3)) * uneven(rng, shape, 0.3)[..., None])


def side_by_side(rng, a, b, height):
    left, right = (anybody(rng, digit)(height) for digit in (a, b))
    rows = max(len(left), len(right))
    gap = np.zeros((rows, int(height * rng.uniform(0.15, 0.4))))
    return np.hstack([np.pad(left, ((0, rows - len(left)), (0, 0))), gap, np.pad(right, ((0, rows - len(right)), (0, 0)))])


def blank(rng):
    shape = size(rng)
    return camera(rng, np.ones((*shape, 3)) * np.array(WHITE) * uneven(rng, shape, rng.uniform(0, 0.6))[..., None])


def line(rng, across):
    """One line, lying, or from corner to corner."""
    shape = size(rng)
    image = Image.new("L", shape[::-1])
    a, b = (0.1, 0.5 + rng.uniform(-0.05, 0.05)), (0.9, rng.uniform(0.45, 0.55))
    if across:
        a, b = (0.1, 0.1), (0.9, 0.9)
    ends = [(x * shape[1], y * shape[0]) for x, y in (a, b)]
    ImageDraw.Draw(image).line(ends, 255, int(rng.uniform(2, 12)))
    return camera(rng, paint(np.array(image) / 255, WHITE, (0.1, 0.1, 0.3)))


def empty_ruled(rng):
    shape = size(rng)
    return camera(rng, np.ones((*shape, 3)) * ruled(rng, shape, GREY_LINES, rng.random() < 0.5) * uneven(rng, shape, 0.3)[..., None])


def scribble(rng):
    points = ndimage.gaussian_filter1d(rng.uniform(0, 1, (14, 2)), 0.4, axis=0)
    shape = size(rng)
    image = Image.new("L", shape[::-1])
    ImageDraw.Draw(image).line([(x * shape[1], y * shape[0]) for x, y in points], 255, int(rng.uniform(3, 9)), joint="curve")
    return camera(rng, paint(np.array(image) / 255, WHITE, (0.1, 0.1, 0.3)))


LETTERS = "AEFHKMNPRWXamkwxdhtR"


def none(seed=0):
    """`(kind, image)`: noise, letters that are like no digit, two digits, blank paper, lines, scribbles."""
    rng = np.random.default_rng([seed, 99])
    return [*(("noise", noise(rng, grain)) for grain in (0, 0, 0.7, 1.5, 3, 6, 10, 15)),
            *(("letter", letter(rng, text)) for text in LETTERS),
            *(("two digits", two(rng, *rng.integers(0, 10, 2))) for _ in range(20)),
            *(("blank", blank(rng)) for _ in range(5)), *(("line", line(rng, across)) for across in (0, 0, 0, 1, 1)),
            *(("empty ruled", empty_ruled(rng)) for _ in range(6)), *(("scribble", scribble(rng)) for _ in range(6))]


def sheet(images, columns, side=96):
    """One picture of many."""
    rows = -(-len(images) // columns)
    whole = Image.new("RGB", (columns * side, rows * side), "orange")
    for i, image in enumerate(images):
        small = image.convert("RGBA")
        small.thumbnail((side - 4, side - 4))
        whole.paste(small.convert("RGB"), (i % columns * side + 2, i // columns * side + 2))
    return whole


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    sheet([image for *_, image in digits()], 20).save(folder / "digits.png")
    sheet([image for _, image in none()], 14).save(folder / "none.png")
