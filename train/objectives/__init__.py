"""The objective contract: a pure loss with its heads and metrics. One objective per file.

An objective is a frozen dataclass with

    init(model, rng, batch) -> (params, state)
        parameters {"model": …, "head": …}, boxed with their logical axes, and the model state
    loss(apply, params, state, batch, rng, train) -> (Sums, state)
        a pure function; `apply` is the model's, `rng` depends on (seed, step) only; `train` turns on dropout and corruption
    summarize(sums) -> dict, with `loss`
        metrics of a whole evaluation set, from the sums over its batches
    predict(apply, params, state, batch) -> dict of arrays with one row per example
    describe(outputs, codec) -> list of JSON values, one per example, which the command `predict` prints

A loss is reported as sums (numerators and denominators) and is the sum of the ratios of its `terms`. Its value therefore does
not depend on how rows are split into devices, microbatches and ragged last batches. Every batch has `valid` [B], 1 for real rows
and 0 for padding rows of the last batch of an evaluation, and `example` [B], the index of each row in the data.

An objective with metrics that need a whole evaluation set at once (BLEU, span F1, a median) also has

    scores: tuple of the names of these metrics
    score(predictions, references) -> dict
        `predictions` are the rows of `describe` for a whole split and `references` are `Dataset.references`, both in the order
        of the data; called in the first process only

An objective that generates texts also has

    generates_from: the field of a row from which it generates, such as `prompt`
    prompts(rows, codec) -> train.objectives.prompts.Prompts

It may also define `check`, `resolved`, `unfit`, `seen`, `panels`, `minimized`, `chance`, `questions`,
`render` and `sections`; see `train/parts.py`.
`sections` builds its HTML with the functions of `train/report/page.py`.
"""

from typing import NamedTuple

import jax

Ratio = tuple[jax.Array, jax.Array]  # numerator, denominator


class Sums(NamedTuple):
    """Ratios by name. `terms` are minimized, `metrics` only reported. A numerator may be an array (a confusion matrix)."""

    terms: dict[str, Ratio]
    metrics: dict[str, Ratio]


def means(sums: Sums) -> dict[str, float]:
    """Return every scalar ratio of `sums`, which must be on the host, and `loss`, the sum of the terms."""
    scalars = {name: float(n / max(d, 1e-9)) for name, (n, d) in {**sums.terms, **sums.metrics}.items() if n.ndim == 0}
    return {"loss": sum(scalars[name] for name in sums.terms), **scalars}
