"""Examples of several parts, drawn in proportions that hold over every stretch of training."""

from collections.abc import Sequence

import numpy as np

from data.dataset import Batch, Examples, Subset
from data.errors import DataError


class Weighted:
    """Examples whose rows lie part after part, `sizes` of each; `data.order.mixed` draws from them by `weights`."""

    def __init__(self, examples: Examples, sizes: Sequence[int], weights: Sequence[float]):
        assert sum(sizes) == len(examples), f"parts of {sizes} rows, and {len(examples)} rows"
        self.examples, self.sizes, self.weights = examples, sizes, weights

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, indices: np.ndarray, /) -> Batch:
        return self.examples[indices]


def weighted(examples: Examples, part: np.ndarray, weights: Sequence[float], source: object) -> Examples:
    """The examples by the part of each row; as they are where there is one part. Raises DataError for a part without rows."""
    if len(weights) == 1:
        return examples
    sizes = np.bincount(part, minlength=len(weights)).tolist()
    if 0 in sizes:
        raise DataError(
            f"data.source {source}: part {sizes.index(0) + 1} has nothing to train on: it is too short, or all in others"
        )
    return Weighted(Subset(examples, np.argsort(part, kind="stable")), sizes, weights)
