"""The metric that chooses the best checkpoint, ends a run early, and shows overfitting."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from train import parts
from train.assemble import Job
from train.errors import UserError, nearest


@dataclass(frozen=True)
class Best:
    """A metric, `SPLIT/NAME`, and whether its `min` or its `max` is best."""

    metric: str
    mode: str

    def __str__(self) -> str:
        return f"{self.mode}:{self.metric}"

    def improves(self, value: float, best: float | None) -> bool:
        """Return whether `value` is better than `best`, the best so far. NaN is never better."""
        if best is None:
            return value == value
        return value < best if self.mode == "min" else value > best

    def logged(self, log: Iterable[Mapping[str, Any]]) -> dict[int, float]:
        """Return the logged values of the metric by step. The log has None for values that are not finite; here they are NaN."""
        values = {row["step"]: row[self.metric] for row in log if self.metric in row}
        return {step: float("nan") if value is None else value for step, value in values.items()}

    def since_best(self, values: Iterable[float]) -> int:
        """Return the number of evaluations after the best one."""
        best, since = None, 0
        for value in values:
            best, since = (value, 0) if self.improves(value, best) else (best, since + 1)
        return since


def best_of(job: Job) -> Best:
    """Return the metric that `run.best` names, or the loss of the held-out split. Raises UserError if training does not report it.

    Without `min:` or `max:`, the loss, its terms and the metrics in `objective.minimized` are minimized; others are maximized.
    """
    wanted, held_out, objective = job.experiment.run.best, job.dataset.held_out, job.experiment.objective
    if wanted is None:
        return Best(f"{held_out}/loss", "min")
    match = re.fullmatch(r"(?:(min|max):)?([^/:]+)/(.+)", wanted)
    assert match is not None, "the experiment checks the form"
    mode, split, name = match.groups()
    if split != held_out:
        raise UserError(f"run.best {wanted}: training evaluates {held_out} only, as {held_out}/{name}")
    sums = jax.eval_shape(job.program.evaluate, job.program.shapes.params, job.program.shapes.model_state, job.spec)
    # Sums of ones give all metric names and avoid division by zero.
    summary = objective.summarize(jax.tree.map(lambda s: np.ones(s.shape), sums))
    known = [key for key, value in summary.items() if isinstance(value, float)] + list(parts.scores(objective))
    if name not in known:
        raise UserError(f"run.best {wanted}: there is no metric {name}{nearest(name, known)}")
    less_is_better = {"loss", *sums.terms, *parts.minimized(objective)}
    return Best(f"{split}/{name}", mode or ("min" if name in less_is_better else "max"))


WORSE_BY = 0.02  # of the best value; smaller declines are within the usual noise


def overfitting(log: Sequence[Mapping[str, Any]], best: Best, saved: int | None, patience: int | None) -> str:
    """Return a message if the metric has become worse since its best evaluation while the training loss fell; else "".

    `saved` is the step of the best checkpoint, `patience` that of the run.
    """
    values = best.logged(log)
    losses = {row["step"]: row["train/loss"] for row in log if row.get("train/loss") is not None}
    steps = [step for step, value in values.items() if value == value and step in losses]
    if not steps:
        return ""
    peak, last = (min if best.mode == "min" else max)(steps, key=values.__getitem__), steps[-1]
    is_worse = abs(values[last] - values[peak]) > WORSE_BY * abs(values[peak]) and peak != last
    if not (is_worse and losses[last] < losses[peak]):
        return ""
    keeps = "keeps" if saved == peak else "with a checkpoint at every evaluation (--run.checkpoint-every) keeps"
    stops = "" if patience else "; --run.patience N stops after N evaluations without improvement"
    return (
        f"overfitting: {best.metric} was best at step {peak} ({values[peak]:.4f}) and is {values[last]:.4f} at step {last}, while "
        f"train/loss fell from {losses[peak]:.4f} to {losses[last]:.4f}; --run.best {best.metric} {keeps} step {peak}{stops}"
    )
