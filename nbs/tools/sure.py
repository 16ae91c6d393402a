"""What the limit costs below which `minitorch-train predict` says "not sure": `python nbs/tools/sure.py DIR`, with a run of `train --recipe fast` in DIR.

It weighs digits, the first 500 of the validation set and 250 drawn ones, against pictures that are none. None of the drawn ones is a
picture of the tests. For each limit it prints the share of digits that are not answered, of digits answered wrongly, and of the others
that are answered. `predict` takes the limit at which the sum of the three is smallest, 0.7: 0.095 of the digits are then unanswered, 0.007 wrong,
and 0.050 of the others are answered.
"""

import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image

import minitorch_train as mt
from minitorch_train.pictures import read_digit

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
import drawn_digits  # noqa: E402

NONE = -1  # what a picture shows that shows no digit


def pictures():
    """`(what it shows, image)`."""
    _, _, x, y = mt.get_data()
    yield from ((int(digit), Image.fromarray((255 - 255 * row.reshape(28, 28).numpy()).astype("uint8"))) for row, digit in zip(x[:500], y))
    yield from ((digit, image) for _, digit, image in drawn_digits.digits(100))
    yield from ((NONE, image) for seed in range(100, 104) for _, image in drawn_digits.none(seed))


@torch.no_grad()
def answers(folder):
    """`(what it shows, what is read, how surely)` for each picture."""
    weights = mt.load_checkpoint(Path(folder, "run.safetensors"))["model"]
    model = mt.Model(784, len(weights["layers.0.weight"]), 10)
    model.load_state_dict(weights)
    x_train = mt.get_data()[0]
    scale = x_train.mean(), x_train.std()
    with tempfile.TemporaryDirectory() as place:
        for shows, image in pictures():
            image.save(Path(place, "a.png"))
            digit, alone = read_digit(Path(place, "a.png"))
            best, reads = mt.softmax(model(mt.normalize(digit[None], *scale)))[0].max(0)
            yield shows, int(reads), alone * float(best)


def main():
    found = list(answers(sys.argv[1]))
    digits, others = [row for row in found if row[0] != NONE], [row for row in found if row[0] == NONE]
    sums = {}
    print("limit  unanswered  wrong   no digit, answered")
    for limit in (n / 20 for n in range(4, 19)):
        silent = sum(sure < limit for *_, sure in digits) / len(digits)
        wrong = sum(sure >= limit and shows != reads for shows, reads, sure in digits) / len(digits)
        fooled = sum(sure >= limit for *_, sure in others) / len(others)
        sums[limit] = silent + wrong + fooled
        print(f"{limit:5.2f}  {silent:10.3f}  {wrong:5.3f}  {fooled:5.3f}   sum {sums[limit]:.3f}")
    print(f"the sum is smallest at {min(sums, key=sums.get)}")


if __name__ == "__main__":
    main()
