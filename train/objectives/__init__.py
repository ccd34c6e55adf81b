"""Objectives: pure losses, their heads and their metrics. One objective a file.

An objective is a frozen dataclass with

    init(model, rng, batch) -> (params, state)
        {"model": …, "head": …} boxed with logical axes, and the model state
    loss(apply, params, state, batch, rng, train) -> (Sums, state)
        pure; `apply` is the model's, `rng` a function of (seed, step); `train`: drop out and corrupt as in training
    summarize(sums) -> dict of floats
        the metrics of a whole evaluation set, from the sums of its batches
    predict(apply, params, state, batch) -> dict of arrays, one row an example
    describe(outputs, codec) -> list of JSON values, one an example: what `predict` prints

A loss is reported as sums, numerators with their denominators, and is the sum of the ratios of its `terms`: so it is the same
number over any split of a batch into devices, microbatches and ragged last batches. Every batch has `valid` [B], 1 for real rows
and 0 for those that only fill the last batch of an evaluation, and `example` [B], the number of each row in the data.
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
