"""Write weights.js, the network that the pages start with: `python nbs/site/make_weights.py`.

It is what `minitorch-train train --recipe plain` ends with. The recipe gives its network normalised pixels; here the
normalising is put into the first layer, so that the network in the page takes pixels from 0 to 1, as those of the lessons do.
"""

import base64
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import minitorch_train as mt

WEIGHTS = Path(__file__).resolve().with_name("weights.js")


def trained() -> list[torch.Tensor]:
    """The weights of the recipe: two matrices and two rows of biases."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "minitorch_train", "train", "--recipe", "plain", "--checkpoint", folder], check=True)
        weights = mt.load_checkpoint(Path(folder) / "run.safetensors")["model"]
    w1, b1, w2, b2 = (weights[f"layers.{layer}.{kind}"].double() for layer in (0, 2) for kind in ("weight", "bias"))
    x_train = mt.get_data()[0].double()
    mean, std = x_train.mean(), x_train.std()
    return [part.float() for part in (w1 / std, b1 - w1.sum(1) * mean / std, w2, b2)]


def main() -> None:
    """Train, and write the weights as one text through a temporary name."""
    raw = b"".join(part.numpy().tobytes() for part in trained())
    temporary = WEIGHTS.with_suffix(".part")
    head = "// Written by make_weights.py: the weights of 784-50-10 in float32, as base64."
    temporary.write_text(f'{head}\nconst WEIGHTS = "{base64.b64encode(raw).decode()}";\n')
    os.replace(temporary, WEIGHTS)
    print("SHA-256 of the weights:", hashlib.sha256(raw).hexdigest())


if __name__ == "__main__":
    main()
