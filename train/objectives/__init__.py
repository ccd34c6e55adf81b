"""The objective contract: pure losses, their heads and their metrics. One objective per file.

An objective is a frozen dataclass with

    init(model, rng, batch) -> (params, state)
        {"model": …, "head": …} boxed with logical axes, and the model state
    loss(apply, params, state, batch, rng, train) -> (Sums, state)
        pure; `apply` is the model's, `rng` is a function of (seed, step); `train` turns on dropout and corruption
    summarize(sums) -> dict
        the metrics of a whole evaluation set, from the sums over its batches
    predict(apply, params, state, batch) -> dict of arrays, one row per example
    describe(outputs, codec) -> list of JSON values, one per example: what `predict` prints

A loss is reported as sums, numerators with their denominators, and is the sum of the ratios of its `terms`. It is therefore the
same number for any split of a batch into devices, microbatches and ragged last batches. Every batch has `valid` [B], 1 for real
rows and 0 for the rows that fill the last batch of an evaluation, and `example` [B], the number of each row in the data.

An objective with metrics that need a whole evaluation set at once (BLEU, span F1, a median) also has

    scores: tuple of the names of these metrics
    score(predictions, references) -> dict
        `predictions` are the rows of `describe` for a whole split, `references` the data's own (`Dataset.references`), both in
        the order of the data; called in the first process only

It may also define `check`, `resolved`, `seen`, `panels`, `minimized`, `render` and `sections`; see `train/parts.py`.
"""

from typing import NamedTuple

import jax

Ratio = tuple[jax.Array, jax.Array]  # numerator, denominator


class Sums(NamedTuple):
    """`terms` are minimised; `metrics` are only reported. A numerator may be an array (a confusion matrix)."""

    terms: dict[str, Ratio]
    metrics: dict[str, Ratio]


def means(sums: Sums) -> dict[str, float]:
    """Every scalar ratio of sums that are on the host, and `loss`, the sum of the terms."""
    scalars = {name: float(n / max(d, 1e-9)) for name, (n, d) in {**sums.terms, **sums.metrics}.items() if n.ndim == 0}
    return {"loss": sum(scalars[name] for name in sums.terms), **scalars}
