"""Classification of whole examples (text, images) by a model with a pooled output vector.

Shapes: B batch, D model width, C classes.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from data import labels as labelling
from train.objectives import Sums, means
from train.objectives.pooled import Pooled
from train.parts import Rendering
from train.report import page


def other_labels(folder: Path, codec: Any) -> dict[str, str]:
    """Return the head, unless the run in `folder` has the labels of `codec` in the same order."""
    other = labelling.read(folder) if (folder / labelling.FILE).exists() else ("unknown",)
    if other == tuple(codec.labels):
        return {}
    return {"head/classifier/": f"its labels are {listed(other)}, here they are {listed(codec.labels)}"}


@dataclass(frozen=True, kw_only=True)
class Classification(Pooled):
    """Cross-entropy of a dense head on the pooled output, with the targets `label` [B]."""

    classes: int | None = None
    "number of classes (None: from the data)"
    loss_name: Literal["cross_entropy", "focal"] = "cross_entropy"
    "cross-entropy, or focal loss, which weights it by (1 - p)^gamma for the probability p of the label (Lin et al. 2017)"
    gamma: float = 2.0
    "exponent of the focal loss"
    label_smoothing: float = 0.0
    "share of the target probability spread over all classes (Szegedy et al. 2016, §7)"
    class_weights: Literal["none", "balanced"] | tuple[float, ...] = "none"
    "weight of each class in the training loss; balanced: inversely proportional to its share of the training labels"
    # A `how` field: it depends on the data only, and the fingerprint detects a change of the data.
    label_shares: tuple[float, ...] | None = field(default=None, metadata={"how": True})
    "share of each class in the training labels (None: from the data)"

    def __post_init__(self):
        super().__post_init__()
        if self.classes is not None and self.classes < 2:
            raise ValueError(f"classes must be at least 2, not {self.classes}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), not {self.label_smoothing}")
        if not self.gamma >= 0:
            raise ValueError(f"gamma must be 0 or more, not {self.gamma}")
        if isinstance(self.class_weights, tuple):
            if self.classes is not None and len(self.class_weights) != self.classes:
                raise ValueError(f"class_weights has {len(self.class_weights)} entries for {self.classes} classes")
            if not self.class_weights or not min(self.class_weights) >= 0 or not sum(self.class_weights) > 0:
                raise ValueError(f"class_weights must be 0 or more and not all 0, not {self.class_weights}")

    panels = ("accuracy",)

    def check(self, experiment: Any) -> None:
        if "label" not in experiment.data.spec():
            raise ValueError(f"objective {type(self).__name__} needs labels, but data {type(experiment.data).__name__} has none")

    def unfit(self, folder: Path, codec: Any) -> dict[str, str]:
        """Return the head, unless the other run has the same labels in the same order."""
        return other_labels(folder, codec)

    @property
    def outputs(self) -> int:
        assert self.classes is not None, "an experiment is resolved before it runs"
        return self.classes

    def loss(self, apply, params, state, batch, rng, train: bool) -> tuple[Sums, Any]:
        logits_BC, state = self.logits(apply, params, state, batch, rng, train)
        log_p_BC, label_B = jax.nn.log_softmax(logits_BC), batch["label"]
        target_BC = jax.nn.one_hot(label_B, logits_BC.shape[-1])
        weight_B = batch["valid"]
        if train:
            target_BC = target_BC * (1 - self.label_smoothing) + self.label_smoothing / logits_BC.shape[-1]
            weight_B = weight_B * self.weight_of_class()[label_B]
        losses_B = -(target_BC * log_p_BC).sum(-1)
        if train and self.loss_name == "focal":
            p_B = jnp.exp(jnp.take_along_axis(log_p_BC, label_B[:, None], axis=1))[:, 0]
            losses_B *= (1 - p_B) ** self.gamma
        guess_B, rows = logits_BC.argmax(-1), batch["valid"].sum()
        right = ((guess_B == label_B) * batch["valid"]).sum()
        guessed_BC = jax.nn.one_hot(guess_B, logits_BC.shape[-1]) * batch["valid"][:, None]
        confusion_CC = jax.nn.one_hot(label_B, logits_BC.shape[-1]).T @ guessed_BC
        terms = {"classification": ((losses_B * weight_B).sum(), weight_B.sum())}
        return Sums(terms, {"accuracy": (right, rows), "confusion": (confusion_CC, jnp.ones(()))}), state

    def weight_of_class(self) -> jax.Array:
        """Return the class weights [C], scaled to mean 1."""
        assert self.classes is not None and self.label_shares is not None, "an experiment is resolved before it runs"
        if self.class_weights == "none":
            return jnp.ones(self.classes)
        if self.class_weights == "balanced":
            weights_C = 1 / np.maximum(np.asarray(self.label_shares, np.float32), 1e-6)
        else:
            weights_C = np.asarray(self.class_weights, np.float32)
        return jnp.asarray(weights_C / weights_C.mean())

    def summarize(self, sums: Sums) -> dict[str, Any]:
        """Return the loss, and `scores` of the confusion matrix."""
        return {**means(sums), **scores(np.asarray(sums.metrics["confusion"][0]))}

    def predict(self, apply, params, state, batch) -> dict[str, jax.Array]:
        return {"probabilities": jax.nn.softmax(self.logits(apply, params, state, batch)[0])}

    def describe(self, outputs: dict[str, np.ndarray], codec) -> list[dict]:
        """Return {"label": …, "probabilities": {label: …}} for each row, most probable first."""
        rows = []
        for probabilities in outputs["probabilities"]:
            order = np.argsort(-probabilities, kind="stable")
            labels = {str(codec.labels[i]): float(probabilities[i]) for i in order}
            rows.append({"label": next(iter(labels)), "probabilities": labels})
        return rows

    def render(self, described: Mapping[str, Any], reference: str | None = None) -> Rendering:
        """Show the five most probable labels, and the reference if there is one."""
        lines = [f"{probability:6.1%}  {label}" for label, probability in list(described["probabilities"].items())[:5]]
        if reference is None:
            return Rendering(lines)
        confidence = described["probabilities"][described["label"]]
        return Rendering([*lines, f"label: {reference}"], described["label"] == reference, confidence)

    def chance(self, references: Sequence[str]) -> dict[str, float]:
        """Return the loss of equal probabilities, and the accuracy of the most frequent label."""
        assert self.classes is not None, "an experiment is resolved before it runs"
        return {"loss": math.log(self.classes), "accuracy": Counter(references).most_common(1)[0][1] / len(references)}

    def sections(self, result: Mapping[str, Any], codec: Any) -> list[tuple[str, str]]:
        if "confusion" not in result:
            return []
        tables = page.beside(page.confusion(result["confusion"], codec.labels), per_class(result, codec.labels))
        return [("Classes", tables)]


def listed(labels: Sequence[str]) -> str:
    return ", ".join(map(str, labels[:4])) + (f", … ({len(labels)} labels)" if len(labels) > 4 else "")


def per_class(result: Mapping[str, Any], labels: Sequence[str]) -> str:
    """Return an HTML table of precision, recall, F1 and support, from the `per_class` of a result."""
    columns = [result["per_class"][name] for name in ("precision", "recall", "f1", "support")]
    rows = [(label, f"{p:.3f}", f"{r:.3f}", f"{f:.3f}", f"{n:,.0f}") for label, p, r, f, n in zip(labels, *columns, strict=True)]
    return page.table(("label", "precision", "recall", "f1", "support"), rows)


def scores(confusion_CC: np.ndarray) -> dict[str, Any]:
    """Return accuracy, Matthews correlation, macro and per-class precision, recall and F1, and `confusion` [labels, predictions].

    Macro averages are over the classes that occur as a label or as a prediction, as in scikit-learn. Micro averages of precision,
    recall and F1 all equal the accuracy.
    """
    right_C, guessed_C, support_C = np.diag(confusion_CC), confusion_CC.sum(0), confusion_CC.sum(1)
    ratio = lambda part_C, all_C: part_C / np.maximum(all_C, 1)  # 0 / 0 is 0, as with scikit-learn's zero_division=0
    by_class = {
        "precision": ratio(right_C, guessed_C),
        "recall": ratio(right_C, support_C),
        "f1": ratio(2 * right_C, guessed_C + support_C),
    }
    macro = {f"macro_{name}": float(value_C[guessed_C + support_C > 0].mean()) for name, value_C in by_class.items()}
    per_class = {name: value_C.tolist() for name, value_C in {**by_class, "support": support_C}.items()}
    accuracy = float(right_C.sum() / confusion_CC.sum())
    return {
        "accuracy": accuracy,
        "matthews": matthews(confusion_CC),
        **macro,
        "per_class": per_class,
        "confusion": confusion_CC.astype(int).tolist(),
    }


def matthews(confusion_CC: np.ndarray) -> float:
    """Return the Matthews correlation of any number of classes (Gorodkin 2004, eq. 8).

    It is 0 if all labels, or all predictions, are the same.
    """
    guessed_C, support_C, total = confusion_CC.sum(0), confusion_CC.sum(1), confusion_CC.sum()
    covariance = np.trace(confusion_CC) * total - guessed_C @ support_C
    variances = (total**2 - guessed_C @ guessed_C) * (total**2 - support_C @ support_C)
    return float(covariance / math.sqrt(variances)) if variances else 0.0
