"""Regression of a number, such as the similarity of two texts (Devlin et al. 2019, §4.1, STS-B).

Shapes: B batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.objectives import Sums, means
from train.objectives.pooled import Pooled
from train.parts import Rendering


@dataclass(frozen=True, kw_only=True)
class Regression(Pooled):
    """Mean squared error of a dense head on the pooled output. The head predicts scores scaled to mean 0 and deviation 1."""

    # `how` fields: they depend on the data only, and the fingerprint detects a change of the data.
    score_mean: float | None = field(default=None, metadata={"how": True})
    "mean of the scores of train (None: from the data)"
    score_std: float | None = field(default=None, metadata={"how": True})
    "standard deviation of the scores of train (None: from the data)"

    panels = ("pearson", "spearman")
    scores = ("pearson", "spearman", "mean_absolute_error")
    minimized = ("mean_absolute_error",)

    @property
    def outputs(self) -> int:
        return 1

    def check(self, experiment: Any) -> None:
        if "score" not in experiment.data.spec():
            raise ValueError(f"objective Regression needs scores, but data {type(experiment.data).__name__} has none")

    def scale(self) -> tuple[float, float]:
        """Return the mean and the standard deviation of the scores."""
        assert self.score_mean is not None and self.score_std is not None, "an experiment is resolved before it runs"
        return self.score_mean, self.score_std

    def loss(self, apply, params, state, batch, rng, train: bool) -> tuple[Sums, Any]:
        mean, std = self.scale()
        outputs_B1, state = self.logits(apply, params, state, batch, rng, train)
        wanted_B = (batch["score"].astype(jnp.float32) - mean) / std
        errors_B = jnp.square(outputs_B1[:, 0] - wanted_B)
        return Sums({"regression": (jnp.where(batch["valid"] > 0, errors_B, 0).sum(), batch["valid"].sum())}, {}), state

    def summarize(self, sums: Sums) -> dict[str, float]:
        return means(sums)

    def predict(self, apply, params, state, batch) -> dict[str, jax.Array]:
        mean, std = self.scale()
        return {"score": self.logits(apply, params, state, batch)[0][:, 0] * std + mean}

    def describe(self, outputs: dict[str, np.ndarray], codec) -> list[dict]:
        """Return {"score": number} for each row."""
        return [{"score": float(score)} for score in outputs["score"]]

    def score(self, predictions: Sequence[Mapping[str, Any]], references: Sequence[float]) -> dict[str, float]:
        """Return correlations, which are 0 if all predictions or all references are equal, and the mean absolute error."""
        from scipy.stats import pearsonr, spearmanr

        found, wanted = np.array([row["score"] for row in predictions]), np.asarray(references, np.float64)
        varies = np.ptp(found) > 0 and np.ptp(wanted) > 0
        correlations = [np.asarray(test(found, wanted))[0] if varies else 0.0 for test in (pearsonr, spearmanr)]
        return dict(zip(self.scores, map(float, [*correlations, np.abs(found - wanted).mean()]), strict=True))

    def render(self, described: Mapping[str, Any], reference: float | None = None) -> Rendering:
        """Show the score, and the reference if there is one."""
        known = [] if reference is None else [f"reference: {reference:g}"]
        return Rendering([f"{described['score']:.3f}", *known])
