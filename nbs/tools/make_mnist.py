"""Build mnist.pkl.gz from the four IDX files of MNIST: `python make_mnist.py FOLDER [OUT]`.

FOLDER holds the four files, gzipped or not. Their digests are checked, and the same files give the same bytes each time.
"""

import gzip
import hashlib
import os
import pickle
import sys
from pathlib import Path

import numpy as np

DIGESTS = {  # SHA-256 of the unpacked files, as first published
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def read_idx(folder: Path, name: str) -> np.ndarray:
    """The bytes of one IDX file in its own shape, once its digest is right."""
    plain = folder / name
    packed = folder / f"{name}.gz"
    if not plain.exists() and not packed.exists():
        raise SystemExit(f"{folder} has neither {plain.name} nor {packed.name}")
    raw = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
    digest = hashlib.sha256(raw).hexdigest()
    if digest != DIGESTS[name]:
        raise SystemExit(f"{name} has the SHA-256 {digest}, wanted {DIGESTS[name]}")
    dims = raw[3]
    shape = np.frombuffer(raw, ">u4", count=dims, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape)


def build(folder: Path, out: Path) -> None:
    """Write the three parts to `out`, through a temporary name."""
    parts = {}
    for name in ("train", "t10k"):
        images = read_idx(folder, f"{name}-images-idx3-ubyte")
        labels = read_idx(folder, f"{name}-labels-idx1-ubyte")
        parts[name] = (images.reshape(len(images), -1) / np.float32(256)).astype(np.float32), labels.astype(np.int64)
    x, y = parts["train"]
    layout = ((x[:50000].copy(), y[:50000].copy()), (x[50000:].copy(), y[50000:].copy()), parts["t10k"])
    temporary = out.with_name(out.name + ".part")
    with open(temporary, "wb") as file, gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=file, mtime=0) as packed:
        packed.write(pickle.dumps(layout, protocol=5))
    os.replace(temporary, out)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    default = Path(__file__).resolve().parents[2] / "mnist.pkl.gz"
    build(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else default)
