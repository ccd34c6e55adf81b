"""Prediction of a number from whole examples by a model with a pooled output vector.

Shapes: B batch, D model width.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from train.objectives import Sums, means
from train.objectives.correlation import pearson, spearman
from train.objectives.pooled import Pooled
from train.parts import Rendering


@dataclass(frozen=True, kw_only=True)
class Regression(Pooled):
    """Mean squared error of a dense head on the pooled output, with the targets `score` [B].

    The head predicts standardized scores, of mean 0 and standard deviation 1 in training; predictions are in the original units.
    """

    # `how` fields: they depend on the data only, and the fingerprint detects a change of the data.
    score_mean: float | None = field(default=None, metadata={"how": True})
    "mean of the training scores (None: from the data)"
    score_std: float | None = field(default=None, metadata={"how": True})
    "standard deviation of the training scores (None: from the data)"

    def __post_init__(self):
        super().__post_init__()
        if self.score_std is not None and not 0 < self.score_std < math.inf:
            raise ValueError(f"score_std must be positive and finite, not {self.score_std}")

    panels = ("pearson", "spearman", "rmse")
    minimized = ("rmse",)
    scores = ("pearson", "spearman")

    def check(self, experiment: Any) -> None:
        if "score" not in experiment.data.spec():
            raise ValueError(f"objective Regression needs scores, but data {type(experiment.data).__name__} has none")

    @property
    def outputs(self) -> int:
        return 1

    @property
    def unit(self) -> tuple[float, float]:
        """The mean and the standard deviation of the scores."""
        assert self.score_mean is not None and self.score_std is not None, "an experiment is resolved before it runs"
        return self.score_mean, self.score_std

    def loss(self, apply, params, state, batch, rng, train: bool) -> tuple[Sums, Any]:
        found_B1, state = self.logits(apply, params, state, batch, rng, train)
        mean, std = self.unit
        errors_B = (found_B1[:, 0] - (batch["score"] - mean) / std) ** 2
        return Sums({"regression": ((errors_B * batch["valid"]).sum(), batch["valid"].sum())}, {}), state

    def summarize(self, sums: Sums) -> dict[str, float]:
        """Return the loss and `rmse`, the root of the mean squared error in the units of the scores."""
        found = means(sums)
        return {**found, "rmse": math.sqrt(found["regression"]) * self.unit[1]}

    def predict(self, apply, params, state, batch) -> dict[str, jax.Array]:
        """Return `score` [B]."""
        found_B1, _ = self.logits(apply, params, state, batch)
        mean, std = self.unit
        return {"score": found_B1[:, 0] * std + mean}

    def describe(self, outputs: dict[str, np.ndarray], codec) -> list[dict]:
        """Return {"score": …} for each row."""
        return [{"score": float(score)} for score in outputs["score"]]

    def score(self, predictions: Sequence[Mapping[str, Any]], references: Sequence[float]) -> dict[str, float]:
        found, wanted = [row["score"] for row in predictions], list(references)
        return {"pearson": pearson(found, wanted), "spearman": spearman(found, wanted)}

    def chance(self, references: Sequence[float]) -> dict[str, float]:
        """Return the errors of always predicting the mean of train."""
        mean, std = self.unit
        squared = float(np.mean((np.array(list(references)) - mean) ** 2))
        return {"loss": squared / std**2, "rmse": math.sqrt(squared), "pearson": 0.0, "spearman": 0.0}

    def render(self, described: Mapping[str, Any], reference: float | None = None) -> Rendering:
        known = [] if reference is None else [f"score: {reference:g}"]
        return Rendering([f"{described['score']:.3f}", *known])
