"""Classification with any number of labels per row.

Shapes: B batch, C classes, L most labels of a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from train.objectives import Sums, means
from train.objectives.classification import other_labels
from train.objectives.pooled import Pooled
from train.parts import Rendering

AVERAGES = ("micro", "macro")


@dataclass(frozen=True, kw_only=True)
class MultiLabel(Pooled):
    """Sum over the classes of the sigmoid cross-entropy of a dense head on the pooled output."""

    classes: int | None = None
    "number of classes (None: from the data)"
    threshold: float = field(default=0.5, metadata={"how": True})
    "probability from which a label is predicted"

    def __post_init__(self):
        super().__post_init__()
        if self.classes is not None and self.classes < 2:
            raise ValueError(f"classes must be at least 2, not {self.classes}")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must be in (0, 1), not {self.threshold}")

    panels = ("micro_f1", "macro_f1")
    scores = tuple(f"{average}_{name}" for average in AVERAGES for name in ("precision", "recall", "f1"))

    @property
    def outputs(self) -> int:
        assert self.classes is not None, "an experiment is resolved before it runs"
        return self.classes

    def check(self, experiment: Any) -> None:
        if "labels" not in experiment.data.spec():
            raise ValueError(f"objective MultiLabel needs lists of labels, but data {type(experiment.data).__name__} has none")

    def unfit(self, folder: Path, codec: Any) -> dict[str, str]:
        """Return the head, unless the other run has the same labels in the same order."""
        return other_labels(folder, codec)

    def loss(self, apply, params, state, batch, rng, train: bool) -> tuple[Sums, Any]:
        logits_BC, state = self.logits(apply, params, state, batch, rng, train)
        wanted_BC = jax.nn.one_hot(batch["labels"], self.outputs).sum(1)  # the one-hot of -1 is zero
        losses_B = (jax.nn.softplus(logits_BC) - wanted_BC * logits_BC).sum(1)
        is_exact_B = ((jax.nn.sigmoid(logits_BC) >= self.threshold) == (wanted_BC > 0)).all(1)
        total = batch["valid"].sum()
        terms = {"multi_label": ((losses_B * batch["valid"]).sum(), total)}
        return Sums(terms, {"exact_match": ((is_exact_B * batch["valid"]).sum(), total)}), state

    def summarize(self, sums: Sums) -> dict[str, float]:
        return means(sums)

    def predict(self, apply, params, state, batch) -> dict[str, jax.Array]:
        return {"probabilities": jax.nn.sigmoid(self.logits(apply, params, state, batch)[0])}

    def describe(self, outputs: dict[str, np.ndarray], codec) -> list[dict]:
        """Return {"labels": [label, …], "probabilities": {label: …}} for each row, most probable first."""
        rows = []
        for probabilities_C in np.asarray(outputs["probabilities"]):
            order = np.argsort(-probabilities_C, kind="stable")
            found = {str(codec.labels[i]): float(probabilities_C[i]) for i in order}
            rows.append({"labels": [name for name, p in found.items() if p >= self.threshold], "probabilities": found})
        return rows

    def score(self, predictions: Sequence[Mapping[str, Any]], references: Sequence[Sequence[str]]) -> dict[str, float]:
        """Return precision, recall and F1 over all decisions (micro), and averaged over the labels that occur (macro)."""
        from sklearn.metrics import precision_recall_fscore_support
        from sklearn.preprocessing import MultiLabelBinarizer

        binarizer = MultiLabelBinarizer().fit([*references, *(row["labels"] for row in predictions)])
        wanted, found = binarizer.transform(references), binarizer.transform([row["labels"] for row in predictions])
        if not len(binarizer.classes_):
            return dict.fromkeys(self.scores, 0.0)
        score = partial(precision_recall_fscore_support, wanted, found, zero_division=0)  # pyright: ignore[reportArgumentType]
        values = [value for average in AVERAGES for value in score(average=average)[:3]]
        return {name: float(value) for name, value in zip(self.scores, values, strict=True)}

    def render(self, described: Mapping[str, Any], reference: Sequence[str] | None = None) -> Rendering:
        """Show the labels and their probabilities, and the reference if there is one."""
        line = ", ".join(f"{name} {described['probabilities'][name]:.1%}" for name in described["labels"]) or "no label"
        if reference is None:
            return Rendering([line])
        return Rendering([line, f"labels: {', '.join(reference) or 'none'}"], sorted(described["labels"]) == sorted(reference))
