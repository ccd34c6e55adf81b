"""Mixtures: examples from several parts in fixed proportions."""

from collections.abc import Sequence

import numpy as np

from data.dataset import Batch, Examples, Subset
from data.errors import DataError


class Weighted:
    """Examples grouped into parts of `sizes` rows. `data.order.mixed` draws from the parts in proportion to `weights`."""

    def __init__(self, examples: Examples, sizes: Sequence[int], weights: Sequence[float]):
        assert sum(sizes) == len(examples), f"parts of {sizes} rows, but {len(examples)} rows in all"
        self.examples, self.sizes, self.weights = examples, sizes, weights

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, indices: np.ndarray, /) -> Batch:
        return self.examples[indices]


def weighted(examples: Examples, part: np.ndarray, weights: Sequence[float], source: object) -> Examples:
    """Return the examples grouped by `part`, [rows], or unchanged if there is one part.

    Raises DataError if a part has no rows.
    """
    if len(weights) == 1:
        return examples
    sizes = np.bincount(part, minlength=len(weights)).tolist()
    if 0 in sizes:
        raise DataError(
            f"data.source {source}: part {sizes.index(0) + 1} of the mixture has no training rows: "
            "it is too short, or repeats the other parts"
        )
    return Weighted(Subset(examples, np.argsort(part, kind="stable")), sizes, weights)
