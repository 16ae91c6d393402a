"""Lesson 01 and the safe pickles: the digits are the published ones, and no file can do more than hold arrays."""

import gzip
import hashlib
import os
import pickle
import pickletools
import re
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from minitorch_train import data
from minitorch_train.data import get_data, get_test_data, normalize, show_digits
from minitorch_train.safe_pickle import Refused, load_pairs

matplotlib.use("Agg")
ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "mnist.pkl.gz"
SIZES = {"train": 50000, "valid": 10000, "test": 10000}


@pytest.fixture(scope="module")
def digits():
    return get_data(DATA)


@pytest.fixture
def packed(tmp_path):
    """Writes bytes, or an object as a pickle, to a gzip file and returns its path."""
    def write(content, protocol=4):
        path = tmp_path / "file.pkl.gz"
        raw = content if isinstance(content, bytes) else pickle.dumps(content, protocol)
        path.write_bytes(gzip.compress(raw, 1))
        return path
    return write


PAIR = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1, 0])


def load_small(path, count=1):
    return load_pairs(path, count, limit=100_000)


# The digits

def test_shapes_types_and_first_labels(digits):
    x_train, y_train, x_valid, y_valid = digits
    for x, y, rows in ((x_train, y_train, 50000), (x_valid, y_valid, 10000), (*get_test_data(DATA), 10000)):
        assert x.shape == (rows, 784) and x.dtype == torch.float32
        assert y.shape == (rows,) and y.dtype == torch.int64
        assert x.is_contiguous() and 0 <= x.min() and x.max() == 0.99609375
        assert y.unique().tolist() == list(range(10))
    assert y_train[:3].tolist() == [5, 0, 4]


def test_results_can_be_written_to_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, y = get_test_data(DATA)
        x[0, 0], y[0] = 0.5, 3
    assert x[0, 0] == 0.5 and y[0] == 3


def test_anybody_can_open_the_file_with_pickle(digits):
    with gzip.open(DATA) as file:
        (x, y), valid, test = pickle.load(file)
    assert np.array_equal(x, digits[0]) and np.array_equal(y, digits[1]) and np.array_equal(valid[0], digits[2])
    assert [a.dtype.str for a in (x, y)] == ["<f4", "<i8"]


def idx(array):
    """An array of bytes as an IDX file."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(scope="module")
def idx_folder(digits, tmp_path_factory):
    """The four files of MNIST, made again from what is stored."""
    folder = tmp_path_factory.mktemp("idx")
    images = [(x.numpy() * 256).astype(np.uint8).reshape(-1, 28, 28) for x in (*digits[::2], get_test_data(DATA)[0])]
    labels = [y.numpy().astype(np.uint8) for y in (*digits[1::2], get_test_data(DATA)[1])]
    for name, x, y in (("train", np.concatenate(images[:2]), np.concatenate(labels[:2])), ("t10k", images[2], labels[2])):
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(x))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(y))
    return folder


PUBLISHED = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def make_mnist(*arguments):
    return subprocess.run([sys.executable, ROOT / "nbs/tools/make_mnist.py", *arguments], capture_output=True, text=True)


def test_the_digits_are_the_published_ones(idx_folder):
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in idx_folder.iterdir()} == PUBLISHED


def test_the_file_is_built_from_them_byte_for_byte(idx_folder, tmp_path):
    out = tmp_path / "mnist.pkl.gz"
    assert make_mnist(idx_folder, out).returncode == 0
    assert out.read_bytes() == DATA.read_bytes()
    assert list(tmp_path.iterdir()) == [out]
    assert DATA.read_bytes()[3:8] == bytes(5), "gzip's flags and time stamp are 0"


def test_a_changed_source_is_refused(idx_folder, tmp_path):
    for path in idx_folder.iterdir():
        raw = bytearray(path.read_bytes())
        raw[-1] ^= path.name.startswith("t10k-labels")
        (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(raw, 1))
    result = make_mnist(tmp_path, tmp_path / "out.gz")
    assert result.returncode != 0 and "t10k-labels-idx1-ubyte has the SHA-256" in result.stderr
    assert not list(tmp_path.glob("out.gz*"))


# Where the file is looked for

def test_the_order_of_places(tmp_path, monkeypatch):
    package = tmp_path / "checkout" / "minitorch_train"
    here = tmp_path / "here"
    for folder in (package, here):
        folder.mkdir(parents=True)
    monkeypatch.setattr(data, "files", lambda name: package)
    monkeypatch.chdir(here)
    with pytest.raises(FileNotFoundError) as error:
        get_data()
    places = [here / "mnist.pkl.gz", package.parent / "mnist.pkl.gz", package / "mnist.pkl.gz"]
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == [str(place.resolve()) for place in places]
    for place in reversed(places):
        place.write_bytes(b"")
        assert data._find_data(None) == place.resolve()
    assert data._find_data("elsewhere.gz") == Path("elsewhere.gz")


def test_a_path_that_is_not_there():
    with pytest.raises(FileNotFoundError, match="nowhere"):
        get_data("nowhere.pkl.gz")


# Who may have written the file

@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(packed, protocol):
    [(x, y)] = load_small(packed((PAIR,), protocol))
    assert np.array_equal(x, PAIR[0]) and x.dtype == np.float32
    assert np.array_equal(y, PAIR[1]) and y.dtype == np.int64


@pytest.mark.parametrize("protocol", (2, 3, 4, 5))
@pytest.mark.parametrize("package", ("numpy.core", "numpy._core"))
def test_the_names_of_numpy_1_and_2(packed, protocol, package):
    raw = pickle.dumps((PAIR,), protocol)
    name, other = re.search(rb"numpy\._?core", raw)[0], package.encode()
    if protocol >= 4:  # the length of a name stands before it, and a frame counts its bytes
        raw = re.sub(rb"\x8c.(" + re.escape(name) + rb"\.\w+)", lambda m: b"\x8c" + bytes([len(m[1]) + len(other) - len(name)]) + m[1], raw, flags=re.DOTALL)
        raw = re.sub(rb"\x95.{8}", b"", raw, flags=re.DOTALL)
    raw = raw.replace(name, other)
    assert package in "".join(str(arg) for _, arg, _ in pickletools.genops(raw))
    [(x, _)] = load_small(packed(raw))
    assert np.array_equal(x, PAIR[0])


def python_2(x, y, text):
    """What Python 2 and NumPy 1 wrote for `((x, y),)`: bytes as strings, as protocol 0 or 2 has them."""
    def string(b):
        if text:
            return b"S'" + "".join(chr(c) if 32 <= c < 127 and c not in b"\\'" else f"\\x{c:02x}" for c in b).encode() + b"'\n"
        return b"U" + bytes([len(b)]) + b if len(b) < 256 else b"T" + struct.pack("<i", len(b)) + b

    def array(a):
        code, order = a.dtype.str[1:].encode(), a.dtype.str[:1].encode()
        shape = b"(" + b"".join(b"I%d\n" % n for n in a.shape) + b"t"
        dtype = b"cnumpy\ndtype\n(" + string(code) + b"I0\nI1\ntR(I3\n" + string(order) + b"NNNI-1\nI-1\nI0\ntb"
        start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\nt" + string(b"b") + b"tR"
        return start + b"(I1\n" + shape + dtype + b"I00\n" + string(a.tobytes()) + b"tb"

    return (b"" if text else b"\x80\x02") + b"((" + array(x) + array(y) + b"tt."


@pytest.mark.parametrize("text", (True, False))
def test_python_2(packed, text):
    x = np.linspace(0, 1, 120, dtype=np.float32).reshape(10, 12)
    raw = python_2(x, PAIR[1], text)
    assert np.array_equal(pickle.loads(raw, encoding="latin1")[0][0], x)
    [(found, y)] = load_small(packed(raw))
    assert np.array_equal(found, x) and np.array_equal(y, PAIR[1])


def parts(**changed):
    """Three parts of the right sizes, blank, with arrays replaced by name."""
    arrays = {f"x_{name}": np.zeros((rows, 784), np.float32) for name, rows in SIZES.items()}
    arrays |= {f"y_{name}": np.zeros(rows, np.int64) for name, rows in SIZES.items()}
    arrays |= changed
    return tuple((arrays[f"x_{name}"], arrays[f"y_{name}"]) for name in SIZES)


def test_a_full_file_in_an_old_protocol_and_another_byte_order(packed):
    x = np.zeros((50000, 784), ">f4")
    x[7, 8] = 0.5
    y = np.asfortranarray(np.full(10000, 9, ">i8"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x_train, _, _, y_valid = get_data(packed(parts(x_train=np.asfortranarray(x), y_valid=y), protocol=3))
    assert x_train[7, 8] == 0.5 and x_train.sum() == 0.5 and x_train.is_contiguous() and (y_valid == 9).all()


def test_several_gzip_members(tmp_path):
    raw = pickle.dumps((PAIR,))
    (tmp_path / "two.gz").write_bytes(gzip.compress(raw[:100]) + gzip.compress(raw[100:]))
    [(x, _)] = load_small(tmp_path / "two.gz")
    assert np.array_equal(x, PAIR[0])


# What is refused

class Runs:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("function, name", [(os.mkdir, r"(posix|nt)\.mkdir"), (eval, r"(builtins|__builtin__)\.eval"), (np.load, r"numpy\S*\.load")])
def test_nothing_else_is_called(packed, tmp_path, function, name, protocol):
    marker = tmp_path / "marker"
    argument = f"__import__('os').mkdir({str(marker)!r})" if function is eval else str(marker)
    with pytest.raises(Refused, match=rf"file.pkl.gz asks for {name}, which arrays do not need; it was not run"):
        load_small(packed((Runs(function, argument), PAIR), protocol))
    assert not marker.exists()


@pytest.mark.parametrize("raw", [
    b"\x80\x02cnumpy\nfromfile\n.", b"\x80\x02cnumpy.core.multiarray\nfromstring\n.", b"\x80\x02cnumpy.core.numeric\nload\n.",
    b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93.", b"\x80\x02c_codecs\ndecode\n.", b"\x80\x02cbuiltins\ngetattr\n.", b"\x80\x02ccopyreg\n_reconstructor\n.",
])
def test_other_names_are_refused(packed, raw):
    with pytest.raises(Refused, match="asks for"):
        load_small(packed(raw))


OBJECTS = np.array([print, None], dtype=object)


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("array", [OBJECTS, np.array(["a"]), np.array([1 + 1j]), np.zeros(2, "M8[s]"), np.zeros(2, [("a", "f4")])], ids=lambda a: a.dtype.kind)
def test_arrays_of_anything_but_plain_numbers(packed, protocol, array):
    with pytest.raises(Refused, match="not of plain numbers|asks for|instruction"):
        load_small(packed(((array, PAIR[1]),), protocol))


STRUCTURES = {
    "two parts": (PAIR, PAIR), "four": (PAIR,) * 4, "a dictionary": {"train": PAIR}, "a bare array": PAIR[0], "nothing": None,
    "a part of three": ((*PAIR, PAIR[1]),) * 3, "a part of lists": (([1.0], [1]),) * 3, "a number": 3,
}


@pytest.mark.parametrize("content", STRUCTURES.values(), ids=STRUCTURES)
def test_other_structures(packed, content):
    with pytest.raises(Refused, match="should hold 3 pairs of arrays|instruction|not a pickle of arrays"):
        load_small(packed(content), count=3)


LABELS, PIXELS = np.zeros(50000, np.int64), np.zeros((10000, 784), np.float32)


def with_value(array, place, value):
    array = array.copy()
    array[place] = value
    return array


WRONG_PARTS = {
    "too few rows": ({"x_train": PIXELS}, r"x_train has shape \[10000, 784\] and type float32, wanted \[50000, 784\] and float32"),
    "images in two dimensions": ({"x_test": PIXELS.reshape(-1, 28, 28)}, r"x_test has shape \[10000, 28, 28\]"),
    "64-bit pixels": ({"x_valid": PIXELS.astype(np.float64)}, "x_valid has shape .* and type float64, wanted .* float32"),
    "bytes as pixels": ({"x_valid": PIXELS.astype(np.uint8)}, "type uint8"),
    "32-bit labels": ({"y_train": LABELS.astype(np.int32)}, "y_train has shape .* and type int32, wanted .* int64"),
    "labels in a column": ({"y_train": LABELS[:, None]}, r"y_train has shape \[50000, 1\]"),
    "label 10": ({"y_train": with_value(LABELS, 7, 10)}, r"y_train has 10 at \[7\], wanted 0 to 9"),
    "label -1": ({"y_train": with_value(LABELS, 49999, -1)}, r"y_train has -1 at \[49999\], wanted 0 to 9"),
    "nan": ({"x_valid": with_value(PIXELS, (3, 7), np.nan)}, r"x_valid has nan at \[3, 7\], wanted 0 to 1"),
    "inf": ({"x_valid": with_value(PIXELS, (0, 0), np.inf)}, r"x_valid has inf at \[0, 0\]"),
    "pixels to 255": ({"x_test": with_value(PIXELS, (9999, 783), 255)}, r"x_test has 255.0 at \[9999, 783\]"),
    "negative pixel": ({"x_valid": with_value(PIXELS, (1, 2), -0.125)}, r"x_valid has -0.125 at \[1, 2\]"),
}


@pytest.mark.parametrize("changed, message", WRONG_PARTS.values(), ids=WRONG_PARTS)
def test_wrong_parts_are_named(packed, changed, message):
    path = packed(parts(**changed), protocol=5)
    with pytest.raises(ValueError, match=rf"file\.pkl\.gz: .*{message}"):
        get_data(path)


GOOD = gzip.compress(pickle.dumps((PAIR,)), mtime=0)


@pytest.mark.parametrize("raw, message", [
    (b"", "is empty"), (b"\x1f", "is not a gzip file"), (b"PK\x03\x04 a zip file", "is not a gzip file: it begins with b'PK'"),
    (pickle.dumps((PAIR,)), "is not a gzip file"), (GOOD[:2], "truncated"), (GOOD[:40], "truncated"), (GOOD[:-8], "truncated"), (GOOD[:-1], "truncated"),
    (GOOD[:60] + bytes([GOOD[60] ^ 1]) + GOOD[61:], "damaged|truncated|not a pickle|instruction|asks for|fit|holds|declares"),
    (GOOD[:-8] + bytes([GOOD[-8] ^ 1]) + GOOD[-7:], "is damaged"), (GOOD + b"rest", "is damaged"),
    (gzip.compress(b"", mtime=0), "truncated"), (gzip.compress(pickle.dumps((PAIR,))[:-20], mtime=0), "truncated"),
    (gzip.compress(pickle.dumps((PAIR,)) + b"x", mtime=0), "goes on after the end"),
])
def test_damaged_files(tmp_path, raw, message):
    path = tmp_path / "damaged.pkl.gz"
    path.write_bytes(raw)
    with pytest.raises(Refused, match=rf"damaged\.pkl\.gz .*({message})"):
        load_small(path)


def frombuffer(data, shape, code=b"f4"):
    """A pickle that hands these bytes, this type and this shape to NumPy's constructor."""
    dtype = b"cnumpy\ndtype\n(\x8c" + bytes([len(code)]) + code + b"\x89\x88tR(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return b"\x80\x05cnumpy.core.numeric\n_frombuffer\n(" + data + dtype + shape + b"\x8c\x01CtR."


BYTES = b"C\x08" + bytes(8)
HOSTILE = {
    "a huge array declared": b"\x80\x05\x96" + struct.pack("<Q", 2**40),
    "huge bytes declared": b"\x80\x04\x8e" + struct.pack("<Q", 2**40),
    "huge text declared": b"\x80\x04\x8d" + struct.pack("<Q", 2**62),
    "a huge frame declared": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.",
    "negative length": b"\x80\x02T\xff\xff\xff\xff",
    "millions of tiny instructions": b"\x80\x04" + b")" * 5_000_000 + b".",
    "millions of remembered things": b"\x80\x04N" + b"\x94" * 5_000_000 + b".",
    "a remembered thing with a huge number": b"\x80\x02Nr\xff\xff\xff\xff.",
    "duplicates": b"\x80\x02]" + b"2" * 1000 + b".",
    "deep nesting": b"\x80\x02" + b"(" * 9000 + b"t" * 9000 + b".",
    "a list that holds itself": b"\x80\x02]q\x00h\x00a.",
    "a number of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "an endless line": b"S'" + b"a" * 5_000_000,
    "a call of a number": b"\x80\x02K\x01)R.",
    "a state for a tuple": b"\x80\x02)Nb.",
    "a state for a class": b"\x80\x02cnumpy\ndtype\nNb.",
    "nothing on the stack": b"\x80\x02tR.",
    "a shape too large": frombuffer(BYTES, b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"),
    "a negative shape": frombuffer(BYTES, b"J\xff\xff\xff\xffJ\xfe\xff\xff\xff\x86"),
    "a shape that is no number": frombuffer(BYTES, b"\x8c\x012\x85"),
    "too many dimensions": frombuffer(BYTES, b"K\x02" + b"(" + b"K\x01" * 99 + b"t"),
    "an object type": frombuffer(BYTES, b"K\x01\x85", b"O8"),
    "a long type": frombuffer(BYTES, b"K\x02\x85", b"f4" * 100),
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE)
def test_hostile_pickles(packed, raw):
    with pytest.raises(Refused, match=r"file\.pkl\.gz "):
        load_pairs(packed(raw), 1, limit=10_000_000)


@pytest.mark.parametrize("name", ["millions of tiny instructions", "millions of remembered things", "deep nesting"])
def test_instructions_are_counted(packed, name):
    with pytest.raises(Refused, match="has more instructions than a few arrays need"):
        load_pairs(packed(HOSTILE[name]), 1, limit=10_000_000)


@pytest.mark.parametrize("name", ["a state for a tuple", "a state for a class"])
def test_a_state_is_for_arrays_only(packed, name):
    with pytest.raises(Refused, match="sets the state of something that is not an array"):
        load_small(packed(HOSTILE[name]))


@pytest.mark.parametrize("name", ["a shape too large", "a negative shape", "a shape that is no number"])
def test_bytes_and_shape_have_to_agree(packed, name):
    with pytest.raises(Refused, match="holds an array whose 8 bytes do not fit its shape and type"):
        load_small(packed(HOSTILE[name]))


LIMITED = """
import sys
from minitorch_train.data import get_data
from pathlib import Path
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        get_data(path)
    except ValueError as error:
        print(path.name, str(error).partition(".gz")[2][:70])
"""


def peak_megabytes(*command):
    """What a command printed, and the most memory that it held, in millions of bytes."""
    script = "import resource, subprocess, sys\nprint(subprocess.run(sys.argv[1:], capture_output=True, text=True, check=True, timeout=60).stdout)\n" \
             "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    out = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    text, _, peak = out.rstrip().rpartition("\n")
    return text, int(peak) * (1 if sys.platform == "darwin" else 1024) / 1e6


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell a process's peak memory in this way")
def test_bombs_are_bounded_in_memory_and_time(tmp_path):
    zeros = gzip.compress(bytes(50_000_000), 1)  # 220 kB, and gzip files may be joined
    start = {"bytes": b"\x80\x04\x8e" + struct.pack("<Q", 5_000_000_000), "text": b"S'", "instructions": b"\x80\x04",
             "after": pickle.dumps((PAIR,) * 3)}
    for name, raw in start.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(raw) + zeros * 100)
    baseline = peak_megabytes(sys.executable, "-c", "import minitorch_train.data")[1]
    text, peak = peak_megabytes(sys.executable, "-c", LIMITED, str(tmp_path))
    lines = dict(line.split(" ", 1) for line in text.splitlines() if line)
    assert lines["bytes.gz"].strip() == "declares a piece of 5,000,000,000 bytes, far more than its arrays nee"
    assert lines["text.gz"].strip().startswith("unpacks to more than 881,")
    assert "instruction" in lines["instructions.gz"] and "goes on after the end" in lines["after.gz"]
    assert peak - baseline < 1950, "the longest line of text is held once, and once more while it grows"


def doubled(times):
    """The start of a pickle that remembers a tuple of two tuples of two tuples, and so on."""
    return b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * times


def long_text(length, letter=b"a", end=b""):
    return b"X" + struct.pack("<I", length * len(letter) + len(end)) + letter * length + end


SHARED = b"\x80\x02" + long_text(20_000_000, "é".encode()) + b"q\x00("
SLOW_OR_LARGE = {  # each took minutes or gigabytes once
    "a name that is a tree of tuples": (doubled(40) + b"cnumpy\ndtype\nh\x00\x85R.", "belongs"),
    "an order that is one": (doubled(40) + frombuffer(BYTES, b"K\x02\x85")[2:].replace(b"\x8c\x01CtR.", b"h\x00tR."), "belongs"),
    "one text encoded many times": (SHARED + b"c_codecs\nencode\nh\x00U\x06latin1\x86R" * 300 + b"t.", "encodes far more"),
    "one name decoded many times": (SHARED + b"cnumpy\ndtype\nh\x00\x85R" * 300 + b"t.", "belongs"),
    "one argument a letter": (b"\x80\x02cnumpy\ndtype\n" + long_text(200_000_000) + b"R.", "not a tuple"),
    "two sizes of millions of digits": (frombuffer(BYTES, b"I0x" + b"f" * 20_000_000 + b"\nq\x07h\x07\x86"), "do not fit"),
    "thousands of long sizes": (frombuffer(BYTES, b"(I" + b"9" * 4300 + b"\nq\x07" + b"h\x07" * 4000 + b"t"), "do not fit"),
    "bytes as sizes": (frombuffer(BYTES, b"B" + struct.pack("<I", 100_000_000) + b"\x01" * 100_000_000), "do not fit"),
    "one letter of four bytes": (b"\x80\x02" + long_text(400_000_000, end="\U0001f600".encode()) + b".", "long text with letters"),
    "one letter of four bytes, escaped": (b"V" + b"a" * 400_000_000 + b"\\U0001f600\n.", "long text with letters"),
}


@pytest.fixture(scope="module")
def imports_megabytes():
    return peak_megabytes(sys.executable, "-c", "import minitorch_train.data")[1]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell a process's peak memory in this way")
@pytest.mark.parametrize("raw, message", SLOW_OR_LARGE.values(), ids=SLOW_OR_LARGE)
def test_small_files_stay_small(packed, tmp_path, imports_megabytes, raw, message):
    packed(raw)
    code = "import resource; resource.setrlimit(resource.RLIMIT_CPU, (12, 12))\n" + LIMITED.replace("[:70]", "")
    text, peak = peak_megabytes(sys.executable, "-c", code, str(tmp_path))
    assert message in text
    assert peak - imports_megabytes < 1300


@pytest.mark.parametrize("raw, message", [
    (b"\x80\x05\x96" + struct.pack("<Q", 2**40), "declares a piece of 1,099,511,627,776 bytes"),
    (b"\x80\x05\x96" + struct.pack("<Q", 50) + b"N.", "is truncated: its pickle ends too early"),
    (b"N" + b"p0\n" * 20_000 + b".", "has more instructions"),
    (b"\x80\x02]2.", "uses the pickle instruction b'2'"),
    (frombuffer(BYTES, b"K\x03\x85"), "do not fit its shape"),
    (frombuffer(BYTES, b"J\x00\x00\x00\x00J\xff\xff\xff\x7f\x86"), "do not fit its shape"),
    (frombuffer(BYTES, b"K\x01\x85", b"O8"), "an array of Python objects"),
    (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aU\x05utf16\x86R.", "asks for the encoding 'utf16'"),
    (b"\x80\x02X\x18\x00\x00\x00" + "ā".encode() * 12 + b".", "long text with letters"),
    (b"V" + b"\\u0100" * 12 + b"\n.", "long text with letters"),
])
def test_each_guard_gives_its_own_reason(packed, raw, message):
    with pytest.raises(Refused, match=re.escape(message)):
        load_small(packed(raw))


@pytest.mark.parametrize("protocol", range(2, 6))
def test_object_arrays_are_refused_for_what_they_are(packed, protocol):
    objects = np.array([None, None], dtype=object)  # nothing in it that would be refused by name
    with pytest.raises(Refused, match="holds an array of Python objects, not of plain numbers"):
        load_small(packed(((objects, PAIR[1]),), protocol))


def test_a_list_as_the_state_of_plain_numbers(packed):
    dtype = b"cnumpy\ndtype\n(U\x02f4I0\nI1\ntR"
    raw = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR(K\x01K\x01\x85" + dtype + b"I00\n]Natb."
    with pytest.raises(Refused, match="holds an array of Python objects"):
        load_small(packed(raw))


def test_a_gzip_member_that_ends_where_a_chunk_ends(tmp_path):
    raw = pickle.dumps((PAIR,))
    body = gzip.compress(raw[:100], mtime=0)[10:]
    header = b"\x1f\x8b\x08\x08" + bytes(4) + b"\x00\xff"  # the flag 8: a file name follows, up to a zero
    first = header + b"a" * (65536 - len(header) - 1 - len(body)) + b"\0" + body
    assert len(first) == 65536
    (tmp_path / "two.gz").write_bytes(first + gzip.compress(raw[100:]))
    [(x, _)] = load_small(tmp_path / "two.gz")
    assert np.array_equal(x, PAIR[0])


def test_a_full_file_of_python_2(packed):
    x, y = np.zeros((50000, 784), np.float32), np.full(10000, 9)
    x[7, 8] = 0.5
    pairs = [python_2(*pair, text=False)[3:-2] for pair in parts(x_train=x, y_valid=y)]  # without header, outer tuple and stop
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x_train, _, _, y_valid = get_data(packed(b"\x80\x02(" + b"".join(pairs) + b"t."))
        x_train[0, 0] = 1
    assert x_train.sum() == 1.5 and x_train[7, 8] == 0.5 and (y_valid == 9).all()


def test_the_limit_leaves_room_for_four_letters_a_byte(monkeypatch):
    def note(path, count, limit):
        raise Refused(limit)

    monkeypatch.setattr(data, "load_pairs", note)
    with pytest.raises(Refused) as error:
        get_data(DATA)
    assert 4 * 70_000 * (784 * 4 + 8) < error.value.args[0] < 4.1 * 70_000 * (784 * 4 + 8)


@pytest.mark.parametrize("value", (1.0078125, -0.0009765625))
def test_pixels_barely_outside_are_refused(packed, value):
    path = packed(parts(x_valid=with_value(PIXELS, (3, 7), value)), protocol=5)
    with pytest.raises(ValueError, match=re.escape(f"x_valid has {value} at [3, 7], wanted 0 to 1")):
        get_data(path)


def test_test_data_come_from_the_path_that_is_given(packed):
    x, y = get_test_data(packed(parts(x_test=with_value(PIXELS, (3, 7), 0.5)), protocol=5))
    assert x.sum() == x[3, 7] == 0.5 and not y.any()


def test_a_folder_of_the_name_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "mnist.pkl.gz").mkdir()
    monkeypatch.chdir(tmp_path)
    assert data._find_data(None) != tmp_path / "mnist.pkl.gz" and data._find_data(None).is_file()


# The functions around it

def test_normalize():
    x = torch.tensor([[0.0, 2.0], [4.0, 6.0]])
    assert torch.equal(normalize(x, 2, 2), torch.tensor([[-1.0, 0.0], [1.0, 2.0]]))
    assert torch.equal(normalize(x, torch.tensor(2.0), torch.tensor(2.0)), normalize(x, 2.0, 2.0))
    scaled = normalize(x, x.mean(0), x.std(0))
    torch.testing.assert_close(scaled.mean(0), torch.zeros(2))
    torch.testing.assert_close(scaled.std(0), torch.ones(2))
    assert normalize(x, x.mean(1, keepdim=True), 1.0)[:, 0].tolist() == [-1.0, -1.0]


@pytest.mark.parametrize("m, s, message", [
    (0, 0, "s should be above 0, but its smallest value is 0"), (0, -1.0, "smallest value is -1.0"), (0, float("nan"), "s should be above 0"),
    (0, torch.tensor([1.0, 0.0]), "smallest value is 0.0"), (torch.zeros(3), 1, r"m should broadcast to the shape \[4, 2\] of x, but its shape is \[3\]"),
    (0, torch.ones(5, 4, 2), "s should broadcast"),
])
def test_normalize_refuses(m, s, message):
    with pytest.raises(ValueError, match=message):
        normalize(torch.zeros(4, 2), m, s)


def test_show_digits_draws_a_grid(digits):
    fig = show_digits(digits[0][:7], digits[1][:7], cols=3)
    assert [ax.get_title() for ax in fig.axes] == ["5", "0", "4", "1", "9", "2", "1", "", ""]
    assert [len(ax.images) for ax in fig.axes] == [1] * 7 + [0] * 2
    assert np.array_equal(fig.axes[2].images[0].get_array(), digits[0][2].view(28, 28))
    assert len(show_digits(digits[0][:2].view(2, 28, 28), ["a", "b"]).axes) == 10
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize("x, labels, message", [
    (torch.zeros(0, 784), None, r"at least one image, but it is \[0, 784\]"), (torch.zeros(3, 100), None, r"x should be \[n, 784\]"),
    (torch.zeros(784), None, "x should be"), (torch.zeros(3, 784), [1, 2], "labels should have 3 entries, one for each image, but has 2"),
])
def test_show_digits_refuses(x, labels, message):
    with pytest.raises(ValueError, match=message):
        show_digits(x, labels)


@pytest.mark.parametrize("x, m, s, error, message", [
    (torch.tensor([True, False]), 0.0, 1.0, TypeError, "x should be a tensor of numbers, but it is torch.bool"),
    (np.ones(3), 0.0, 1.0, TypeError, "x should be a tensor of numbers, but it is of type ndarray"),
    ([1.0, 2.0], 0.0, 1.0, TypeError, "x should be a tensor of numbers, but it is of type list"),
    (torch.ones(3), None, 1.0, TypeError, "m should be a number or a tensor, but it is of type NoneType"),
    (torch.ones(3), 0.0, "1", TypeError, "s should be a number or a tensor, but it is of type str"),
    (torch.ones(3), [0.0] * 3, 1.0, TypeError, "m should be a number or a tensor, but it is of type list"),
    (torch.ones(3), torch.tensor([True] * 3), 1.0, TypeError, "m should be a number or a tensor, but it is torch.bool"),
    (torch.ones(3), 0.0, 1j, TypeError, "s should be a number or a tensor, but it is of type complex"),
    (torch.ones(3), torch.zeros(0, 3).mean(), 1.0, ValueError, "m should be finite, but it holds nan or inf"),
    (torch.ones(3), 0.0, torch.full((3,), torch.nan), ValueError, "s should be above 0, but its smallest value is nan"),
    (torch.ones(3), 0.0, float("inf"), ValueError, "s should be finite"),
    (torch.ones(3), 1.0, torch.ones(3).std(), ValueError, "s should be above 0, but its smallest value is 0.0"),
])
def test_normalize_names_what_it_cannot_use(x, m, s, error, message):
    with pytest.raises(error, match=message):
        normalize(x, m, s)


def test_normalize_takes_whole_numbers_and_no_rows():
    assert normalize(torch.arange(3), 1, 2).tolist() == [-0.5, 0, 0.5]
    for m in (1, torch.tensor(1), torch.tensor(1, dtype=torch.uint8)):
        assert normalize(torch.arange(3, dtype=torch.uint8), m, np.float32(2)).tolist() == [-0.5, 0, 0.5]
    assert normalize(torch.zeros(0, 3), 0.1, torch.ones(3)).shape == (0, 3)


@pytest.mark.parametrize("x, options, error, message", [
    ([[0.0] * 784], {}, TypeError, "x should be a tensor of real numbers, but it is of type list"),
    (np.zeros((1, 784)), {}, TypeError, "x should be a tensor of real numbers, but it is of type ndarray"),
    (torch.zeros(1, 784) * 1j, {}, TypeError, "but it is torch.complex64"),
    (torch.zeros(1, 784), {"cols": 0}, ValueError, "cols should be at least 1, but it is 0"),
    (torch.zeros(1, 784), {"labels": 3}, TypeError, "labels should be a list or a tensor, but it is of type int"),
])
def test_show_digits_names_what_it_cannot_draw(x, options, error, message):
    with pytest.raises(error, match=message):
        show_digits(x, **options)


def test_show_digits_draws_any_real_numbers():
    for x in (torch.zeros(2, 784, dtype=torch.bfloat16), torch.zeros(2, 784, dtype=torch.bool)):
        assert [ax.get_title() for ax in show_digits(x, labels=iter("ab")).axes[:2]] == ["a", "b"]
