"""The metric that chooses the best checkpoint."""

import re
from dataclasses import dataclass
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
