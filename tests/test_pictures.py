"""Pictures and `minitorch-train predict`: of every kind, size and way up, and each answered for itself."""

import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from minitorch_train import Model, cli, pictures, save_checkpoint
from minitorch_train.data import get_test_data
from minitorch_train.pictures import read_digit

import drawn_digits

X, Y = get_test_data()


def run(*arguments):
    """What `minitorch-train ARGUMENTS` prints (`stdout`, `stderr`) and its `exit_code`."""
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], prog_name="minitorch-train")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the checkpoint of the fast recipe."""
    folder = tmp_path_factory.mktemp("run")
    result = run("train", "--recipe", "fast", "--checkpoint", folder)
    assert result.exit_code == 0, result.output
    return folder


def large(row=0):
    """A digit, five times as large and off centre, `[210, 190]` from 0 for paper to 255 for ink."""
    digit = X[row].reshape(28, 28).numpy().repeat(5, 0).repeat(5, 1)
    return (np.pad(digit, ((30, 40), (20, 30))) * 255).astype("uint8")


INK = large()
PAPER = Image.fromarray(255 - INK)


def likeness(path, row=0):
    """How like the digit of that row a picture is, as it is read: 1 for the same."""
    read, alone = read_digit(path)
    assert alone == 1 and read.shape == (784,) and read.min() >= 0 and read.max() <= 1
    return torch.nn.functional.cosine_similarity(read, X[row], dim=0).item()


def glass(grey):
    """The digit in one grey, on nothing."""
    return Image.fromarray(np.stack([np.full_like(INK, grey)] * 3 + [INK], -1))


# What is read

@pytest.mark.parametrize("row", range(3))
def test_a_picture_of_any_size_and_colour_becomes_the_same_input(row, tmp_path):
    digit = (X[row].reshape(28, 28).numpy() * 255).astype("uint8")
    wide = np.pad(large(row), ((10, 90), (200, 30)))
    kinds = {"plain": digit, "paper": 255 - digit, "large": large(row), "wide paper": 230 - (0.8 * wide).astype("uint8"),
             "huge": np.kron(large(row), np.ones((9, 9), "uint8")),
             "colour": np.stack([255 - wide, np.full_like(wide, 255), 255 - wide], -1)}
    for name, picture in kinds.items():
        Image.fromarray(picture).save(tmp_path / "digit.png")
        assert likeness(tmp_path / "digit.png", row) > 0.85, name


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.bmp", "a.tif", "a.webp", "a.ppm", "a.tga", "a.ico", "a.wrong"])
def test_every_kind_of_file(name, tmp_path):
    PAPER.convert("RGB").save(tmp_path / name, format="JPEG" if name == "a.wrong" else None)
    assert likeness(tmp_path / name) > 0.97


@pytest.mark.parametrize("mode, name", [("P", "a.png"), ("P", "a.gif"), ("1", "a.png"), ("1", "a.tif"), ("CMYK", "a.jpg"), ("CMYK", "a.tif"), ("L", "a.jpg")])
def test_every_kind_of_pixel(mode, name, tmp_path):
    PAPER.convert(mode).save(tmp_path / name)
    assert likeness(tmp_path / name) > 0.97


@pytest.mark.parametrize("pixels, name", [
    (65535 - INK.astype("uint16") * 257, "a.png"), (65535 - INK.astype("uint16") * 257, "a.tif"),
    ((1 - INK / 255).astype("float32"), "a.tif"), (65535 - INK.astype("int32") * 257, "a.tif")])
def test_pixels_of_more_bits(pixels, name, tmp_path):
    Image.fromarray(pixels).save(tmp_path / name)
    assert likeness(tmp_path / name) > 0.97


@pytest.mark.parametrize("grey", [0, 90, 255])
@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.gif"])
def test_ink_of_any_grey_on_a_transparent_ground(grey, name, tmp_path):
    glass(grey).save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
    assert likeness(tmp_path / name) > 0.85, "a GIF has no half transparent rim"
    large_one = glass(grey).resize((1900, 2100))
    large_one.save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
    assert likeness(tmp_path / name) > 0.85, "a GIF has no half transparent rim"


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_one_colour_that_is_declared_transparent(mode, tmp_path):
    two = Image.fromarray((INK > 127).astype("uint8") * 255)  # white ink; then the ground is made transparent
    ground = two.convert(mode).getpixel((0, 0))
    two.convert(mode).save(tmp_path / "a.png", transparency=ground)
    assert likeness(tmp_path / "a.png") > 0.95


@pytest.mark.parametrize("note, turn", [(1, None), (2, 0), (3, 3), (4, 1), (5, 5), (6, 2), (7, 6), (8, 4)])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_a_picture_is_turned_as_its_camera_noted(note, turn, name, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = note
    stored = PAPER if turn is None else PAPER.transpose(Image.Transpose(turn))
    stored.save(tmp_path / name, exif=exif)
    assert likeness(tmp_path / name) > 0.97
    if turn is not None:
        stored.save(tmp_path / name)
        assert likeness(tmp_path / name) < 0.9, "without the note it is on its side"


def test_notes_that_are_damaged_do_no_harm(tmp_path, recwarn):
    PAPER.save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    recwarn.clear()
    assert likeness(tmp_path / "a.jpg") > 0.97 and not recwarn.list


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_of_a_picture_that_moves_the_first_frame_is_read(name, tmp_path):
    PAPER.save(tmp_path / name, save_all=True, append_images=[Image.new("L", PAPER.size, 255), PAPER.rotate(90)])
    assert likeness(tmp_path / name) > 0.97


# What is refused

def huge_png(path, width, height):
    """A PNG whose head claims a size, with a few bytes behind it."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


@pytest.mark.parametrize("width, height", [(64_000_001, 1), (8_001, 8_000), (10_000, 10_000), (50_000, 50_000), (2**31 - 1, 2**31 - 1)])
def test_a_huge_picture_is_refused_by_its_head(width, height, tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("its pixels were unpacked"))
    huge_png(tmp_path / "a.png", width, height)
    with pytest.raises(ValueError, match=r"a\.png has more than 64,000,000 pixels"):
        read_digit(tmp_path / "a.png")
    assert not recwarn.list


def test_the_limit_itself_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "LIMIT", PAPER.width * PAPER.height)
    PAPER.save(tmp_path / "a.png")
    assert likeness(tmp_path / "a.png") > 0.97
    monkeypatch.setattr(pictures, "LIMIT", PAPER.width * PAPER.height - 1)
    with pytest.raises(ValueError, match="more than"):
        read_digit(tmp_path / "a.png")


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process's memory is read as Linux tells it")
def test_a_bomb_costs_no_memory(tmp_path):
    picture = tmp_path / "bomb.png"
    Image.new("L", (12_000, 12_000)).save(picture)
    assert picture.stat().st_size < 1_000_000
    code = ("import resource, sys\nfrom minitorch_train.pictures import read_digit\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "try:\n    read_digit(sys.argv[1])\nexcept ValueError as error:\n    print(error)\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)")
    said, more = subprocess.run([sys.executable, "-c", code, picture], capture_output=True, text=True, check=True).stdout.splitlines()
    assert "64,000,000" in said and int(more) < 50_000, "in kilobytes; unpacked, it has 144,000"


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.bmp", "a.tif", "a.webp"])
def test_a_file_that_was_cut_off(name, tmp_path):
    PAPER.convert("RGB").save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for size in (0, 5, len(whole) // 2):
        (tmp_path / name).write_bytes(whole[:size])
        with pytest.raises(ValueError, match=f"{name} cannot be read as a picture: "):
            read_digit(tmp_path / name)


@pytest.mark.parametrize("picture", [Image.new("L", (9, 9), 255), Image.new("L", (9, 9), 0), Image.new("RGB", (1, 1), "red"),
                                     Image.new("RGBA", (9, 9), (0, 0, 0, 0)), Image.new("RGBA", (9, 9), (255, 255, 255, 0))])
def test_a_blank_picture(picture, tmp_path):
    picture.save(tmp_path / "a.png")
    digit, alone = read_digit(tmp_path / "a.png")
    assert not digit.any() and alone == 0


def test_what_is_no_picture(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    PAPER.save(tmp_path / "program.eps")
    wanted = {"text.png": "no kind that is known", "program.eps": "no kind that is known", ".": "it is a folder", "none.png": "No such file"}
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        wanted["pipe"] = "it is no plain file"
    for name, why in wanted.items():
        with pytest.raises(ValueError, match=f"cannot be read as a picture: .*{why}"):
            read_digit(tmp_path / name)


def test_too_little_memory_is_the_pictures_trouble(trained, tmp_path, monkeypatch):
    def none_left(*arguments, **options):
        raise MemoryError

    PAPER.save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "convert", none_left)
    result = run("predict", tmp_path / "a.png", "--checkpoint", trained)
    assert result.exit_code == 1 and result.stderr == f"{tmp_path / 'a.png'} does not fit into the memory that is free\n"


# The command

def test_predict_reads_digits(trained, tmp_path):
    paths = []
    for row in range(20):
        paths.append(tmp_path / f"{row}.png")
        Image.fromarray(255 - (X[row].reshape(28, 28).numpy() * 255).astype("uint8")).save(paths[-1])
    result = run("predict", *paths, "--checkpoint", trained)
    assert result.exit_code == 0 and not result.stderr, result.output
    lines = result.stdout.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(map(str, paths))
    rows = [line.split() for line in lines if "not sure" not in line]
    assert all(abs(sum(map(float, row[2:])) - 1) < 0.01 and len(row) == 12 for row in rows)
    assert all(max(range(10), key=lambda d: float(row[2 + d])) == int(row[1]) for row in rows)
    assert sum(int(row[1]) == Y[int(row[0].split(os.sep)[-1][:-4])] for row in rows) >= 17


def test_each_picture_is_answered_for_itself(trained, tmp_path):
    good = [tmp_path / "first.jpg", tmp_path / "last.png"]
    for path in good:
        PAPER.save(path)
    (tmp_path / "broken.png").write_bytes(good[1].read_bytes()[:300])
    (tmp_path / "text.png").write_text("no picture")
    huge_png(tmp_path / "huge.png", 60_000, 60_000)
    bad = [tmp_path / name for name in ("broken.png", "text.png", "huge.png", "missing.png", ".")]
    result = run("predict", good[0], *bad, good[1], "--checkpoint", trained)
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["picture", *map(str, good)]
    assert [line.startswith(str(path)) for path, line in zip(bad, result.stderr.splitlines(), strict=True)] == [True] * len(bad)
    assert result.exit_code == 1 and "checkpoint" not in result.stderr and str(trained) not in result.stderr
    none = run("predict", *bad, "--checkpoint", trained)
    assert none.exit_code == 1 and not none.stdout


def answers(images, trained, folder):
    """What `predict` says of each image: the digit, or -1 where it is not sure."""
    paths = [folder / f"{i}.png" for i in range(len(images))]
    for image, path in zip(images, paths):
        image.save(path)
    result = run("predict", *paths, "--checkpoint", trained)
    assert result.exit_code == 0 and not result.stderr, result.output
    lines = [line for line in result.stdout.splitlines() if not line.startswith("picture ")]
    return [-1 if "not sure: " in line else int(line.split()[1]) for line in lines]


def test_pictures_that_people_take(trained, tmp_path):
    drawn = drawn_digits.digits()
    assert len(drawn) == 250
    found = answers([image for *_, image in drawn], trained, tmp_path)
    right = dict.fromkeys(drawn_digits.GROUPS, 0)
    for (group, digit, _), answer in zip(drawn, found, strict=True):
        right[group] += answer == digit
    assert sum(right.values()) >= 225 and min(right.values()) >= 7, right


def test_pictures_that_are_none(trained, tmp_path):
    kinds, images = zip(*drawn_digits.none())
    found = answers(images, trained, tmp_path)
    sure = {kind: sum(a >= 0 for k, a in zip(kinds, found, strict=True) if k == kind) for kind in kinds}
    assert sure["two digits"] == sure["blank"] == sure["empty ruled"] == sure["line"] == 0, sure
    assert sum(sure.values()) <= 8, sure


@pytest.mark.parametrize("content, part", [
    (None, "No such file"), (b"nothing", "is no checkpoint"), ({"model": {"w": torch.ones(2)}}, "holds no network for digits"),
    ({"model": 3}, "holds no network"), ({}, "holds no network"), ({"model": {"layers.0.weight": torch.tensor(1.0)}}, "holds no network"),
    ({"model": Model(9, 5, 10).state_dict()}, "holds no network"), ({"model": Model(784, 5, 3).state_dict()}, "holds no network")])
def test_the_checkpoint_is_blamed_for_itself(content, part, tmp_path):
    picture, kept = tmp_path / "a.png", tmp_path / "run.safetensors"
    PAPER.save(picture)
    if isinstance(content, dict):
        save_checkpoint(content, kept)
    elif content is not None:
        kept.write_bytes(content)
    result = run("predict", picture, "--checkpoint", tmp_path)
    assert result.exit_code == 1 and part in result.stderr and str(kept) in result.stderr and str(picture) not in result.stderr
    assert not result.stdout
