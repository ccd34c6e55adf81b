"""The 1,797 handwritten digits of 8x8 pixels in scikit-learn (Alpaydin and Kaynak 1998)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data.sources import Rows, choose


@dataclass(frozen=True)
class Digits:
    def stamp(self) -> Mapping[str, str]:
        return {"digits": "1998"}  # constant: the data never changes

    def splits(self, wanted: Mapping[str, str], names: Mapping[str, str]) -> Mapping[str, Rows]:
        """Return rows of `image` (float32 [8, 8, 1] in [0, 1]) and `label`. A fixed random fifth of them is `test`."""
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(labels))
        images, labels = (pixels[order].reshape(-1, 8, 8, 1) / 16).astype(np.float32), labels[order]
        rows = [{"image": image, "label": str(label)} for image, label in zip(images, labels, strict=True)]
        held_out = len(rows) // 5
        return choose({"train": rows[held_out:], "test": rows[:held_out]}, wanted, "digits")


def source(argument: str) -> Digits:
    return Digits()
