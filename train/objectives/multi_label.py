"""Classification of whole examples with any number of labels each, by a model with a pooled output vector.

Shapes: B batch, L labels of a row, C classes, N rows of a split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from train.objectives import Sums, means
from train.objectives.classification import other_labels
from train.objectives.pooled import Pooled
from train.parts import Rendering


@dataclass(frozen=True, kw_only=True)
class MultiLabel(Pooled):
    """Binary cross-entropy of each class by a dense head on the pooled output, averaged over the classes.

    The targets are `labels` [B, L], indices of classes (-1: no more).
    """

    classes: int | None = None
    "number of classes (None: from the data)"
    threshold: float = field(default=0.5, metadata={"how": True})
    "probability from which a label is predicted"

    def __post_init__(self):
        super().__post_init__()
        if self.classes is not None and self.classes < 2:
            raise ValueError(f"classes must be at least 2, not {self.classes}")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must be between 0 and 1, not {self.threshold}")

    panels = ("micro_f1", "macro_f1")
    scores = (*(f"{average}_{name}" for average in ("micro", "macro") for name in ("precision", "recall", "f1")), "exact_match")

    def check(self, experiment: Any) -> None:
        if "labels" not in experiment.data.spec():
            name = type(experiment.data).__name__
            raise ValueError(f"objective MultiLabel needs several labels a row, but data {name} has none")

    def unfit(self, folder: Path, codec: Any) -> dict[str, str]:
        """Return the head, unless the other run has the same labels in the same order."""
        return other_labels(folder, codec)

    @property
    def outputs(self) -> int:
        assert self.classes is not None, "an experiment is resolved before it runs"
        return self.classes

    def loss(self, apply, params, state, batch, rng, train: bool) -> tuple[Sums, Any]:
        logits_BC, state = self.logits(apply, params, state, batch, rng, train)
        wanted_BC = jax.nn.one_hot(batch["labels"], logits_BC.shape[-1]).sum(1)  # that of -1 is 0
        losses_BC = jax.nn.softplus(logits_BC) - wanted_BC * logits_BC
        rows = batch["valid"].sum()
        return Sums({"multi_label": ((losses_BC.mean(-1) * batch["valid"]).sum(), rows)}, {}), state

    def summarize(self, sums: Sums) -> dict[str, float]:
        return means(sums)

    def predict(self, apply, params, state, batch) -> dict[str, jax.Array]:
        """Return `probabilities` [B, C]."""
        return {"probabilities": jax.nn.sigmoid(self.logits(apply, params, state, batch)[0])}

    def describe(self, outputs: dict[str, np.ndarray], codec) -> list[dict]:
        """Return {"labels": [label, …], "probabilities": {label: …}} for each row, most probable first."""
        rows = []
        for probabilities in outputs["probabilities"]:
            order = np.argsort(-probabilities, kind="stable")
            found = {str(codec.labels[i]): float(probabilities[i]) for i in order}
            rows.append({"labels": [name for name, p in found.items() if p >= self.threshold], "probabilities": found})
        return rows

    def score(self, predictions: Sequence[Mapping[str, Any]], references: Sequence[Sequence[str]]) -> dict[str, float]:
        """Return scikit-learn's averages over all labels (micro) and over the classes (macro), and the share of rows with exactly
        the right labels. 0 / 0 is 0."""
        from sklearn.metrics import precision_recall_fscore_support

        names = sorted(predictions[0]["probabilities"])
        chosen = lambda rows: np.array([[name in labels for name in names] for labels in rows])
        found_NC, wanted_NC = chosen([row["labels"] for row in predictions]), chosen(references)
        result = {"exact_match": float((found_NC == wanted_NC).all(1).mean())}
        score: Any = precision_recall_fscore_support
        for average in ("micro", "macro"):
            values = score(wanted_NC, found_NC, average=average, zero_division=0)
            result |= {f"{average}_{name}": float(x) for name, x in zip(("precision", "recall", "f1"), values, strict=False)}
        return result

    def render(self, described: Mapping[str, Any], reference: Sequence[str] | None = None) -> Rendering:
        """Show the predicted labels and their probabilities, and those of the reference if there is one."""
        shown = [f"{described['probabilities'][name]:6.1%}  {name}" for name in described["labels"]] or ["no labels"]
        if reference is None:
            return Rendering(shown)
        is_right = set(described["labels"]) == set(reference)
        return Rendering([*shown, f"labels: {', '.join(reference) or 'none'}"], is_right, self._confidence(described))

    @staticmethod
    def _confidence(described: Mapping[str, Any]) -> float:
        """Return the probability of all predicted labels and no other, if labels are independent."""
        return float(np.prod([p if name in described["labels"] else 1 - p for name, p in described["probabilities"].items()]))
