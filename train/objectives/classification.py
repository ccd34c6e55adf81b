"""Classification of whole examples (text, images) by a model with a pooled output vector.

Shapes: B batch, D model width, C classes, N bins.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from data import labels as labelling
from train.objectives import Sums, means
from train.objectives.augmentation import mix
from train.objectives.images import OfImages
from train.objectives.pooled import Pooled
from train.parts import Rendering
from train.report import page

BINS = 15  # of confidence


def other_labels(folder: Path, codec: Any) -> dict[str, str]:
    """Return the head, unless the run in `folder` has the labels of `codec` in the same order."""
    other = labelling.read(folder) if (folder / labelling.FILE).exists() else ("unknown",)
    if other == tuple(codec.labels):
        return {}
    return {"head/classifier/": f"its labels are {listed(other)}, here they are {listed(codec.labels)}"}


@dataclass(frozen=True, kw_only=True)
class Classification(OfImages, Pooled):
    """Cross-entropy of a dense head on the pooled output, with the targets `label` [B]."""

    classes: int | None = None
    "number of classes (None: from the data)"
    loss_name: Literal["cross_entropy", "focal"] = "cross_entropy"
    "cross-entropy, or focal loss, which weights it by (1 - p)^gamma for the probability p of the label (Lin et al. 2017)"
    gamma: float = 2.0
    "exponent of the focal loss"
    mixup: float = 0.0
    "mix training images: parameter of the beta distribution of the share of the other image (Zhang et al. 2018); 0: off"
    cutmix: float = 0.0
    "paste a rectangle of another training image: parameter of the distribution of its share (Yun et al. 2019); 0: off"
    logit_adjustment: float = 0.0
    "in training, add this times the log of the share of each class to its logit (Menon et al. 2021, eq. 10)"
    label_smoothing: float = 0.0
    "share of the target probability spread over all classes (Szegedy et al. 2016, §7)"
    auxiliary: float = 0.4
    "weight of the loss of the auxiliary output, for models that have one (Szegedy et al. 2016, §4)"
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
        for name in ("gamma", "auxiliary", "mixup", "cutmix", "logit_adjustment"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if isinstance(self.class_weights, tuple):
            if self.classes is not None and len(self.class_weights) != self.classes:
                raise ValueError(f"class_weights has {len(self.class_weights)} entries for {self.classes} classes")
            if not self.class_weights or not min(self.class_weights) >= 0 or not sum(self.class_weights) > 0:
                raise ValueError(f"class_weights must be 0 or more and not all 0, not {self.class_weights}")

    HEADS: ClassVar[Mapping[str, str]] = {"classifier": "pooled", "auxiliary": "auxiliary"}
    panels = ("accuracy",)
    minimized = ("calibration_error",)

    def check(self, experiment: Any) -> None:
        super().check(experiment)
        if (self.mixup or self.cutmix) and "image" not in experiment.data.spec():
            raise ValueError(f"objective.mixup and cutmix mix images, but data {type(experiment.data).__name__} has none")
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
        label_B = batch["label"]
        target_BC = jax.nn.one_hot(label_B, self.outputs)
        if train:
            batch, target_BC = self.augmented(batch, target_BC, rng)
        logits, state = self.heads(apply, params, state, self.normalized(batch), rng, train)
        logits_BC = logits["classifier"]
        weight_B = batch["valid"] * (target_BC @ self.weight_of_class()) if train else batch["valid"]
        total = lambda logits_BC: (self.losses(logits_BC, target_BC, train) * weight_B).sum()
        terms = {"classification": (total(logits_BC), weight_B.sum())}
        if train and "auxiliary" in logits:
            terms["auxiliary"] = (self.auxiliary * total(logits["auxiliary"]), weight_B.sum())
        guess_B, rows = logits_BC.argmax(-1), batch["valid"].sum()
        right_B = (guess_B == label_B) * batch["valid"]
        guessed_BC = jax.nn.one_hot(guess_B, self.outputs) * batch["valid"][:, None]
        tables = {"confusion": jax.nn.one_hot(label_B, self.outputs).T @ guessed_BC}
        if not train:
            tables["calibration"] = calibration(jax.nn.softmax(logits_BC).max(-1), right_B, batch["valid"])
        metrics = {"accuracy": (right_B.sum(), rows), **{name: (table, jnp.ones(())) for name, table in tables.items()}}
        return Sums(terms, metrics), state

    def augmented(self, batch: dict, target_BC: jax.Array, rng: jax.Array) -> tuple[dict, jax.Array]:
        """Return the batch after augmentation and mixing, and the mixed targets."""
        batch = super().seen(batch, jax.random.fold_in(rng, 2))
        if not (self.mixup or self.cutmix):
            return batch, target_BC
        image_BHWC, share_B = mix(batch["image"], self.keys(batch, jax.random.fold_in(rng, 3)), self.mixup, self.cutmix)
        other_BC = jnp.roll(target_BC, 1, axis=0)
        return {**batch, "image": image_BHWC}, target_BC + share_B[:, None] * (other_BC - target_BC)

    def seen(self, batch: dict, rng: jax.Array) -> dict:
        return self.augmented(batch, jnp.zeros((len(batch["label"]), 1)), rng)[0]

    def losses(self, logits_BC: jax.Array, target_BC: jax.Array, train: bool) -> jax.Array:
        """Return the loss of each example [B]: the cross-entropy, and in training that with the options of the loss."""
        if not train:
            return -(target_BC * jax.nn.log_softmax(logits_BC)).sum(-1)
        if self.logit_adjustment:
            assert self.label_shares is not None, "an experiment is resolved before it runs"
            logits_BC += self.logit_adjustment * np.log(np.maximum(np.asarray(self.label_shares, np.float32), 1e-6))
        log_p_BC = jax.nn.log_softmax(logits_BC)
        target_BC = target_BC * (1 - self.label_smoothing) + self.label_smoothing / self.outputs
        if self.loss_name == "focal":
            target_BC *= jnp.maximum(-jnp.expm1(log_p_BC), 1e-6) ** self.gamma  # above 0, where the gradient is finite
        return -(target_BC * log_p_BC).sum(-1)

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
        """Return the loss, `scores` of the confusion matrix, and `calibration_error`, that of Guo et al. 2017 (eq. 3)."""
        result = {**means(sums), **scores(np.asarray(sums.metrics["confusion"][0]))}
        if "calibration" in sums.metrics:
            confidence_N, right_N, count_N = np.asarray(sums.metrics["calibration"][0])
            result["calibration_error"] = float(np.abs(confidence_N - right_N).sum() / count_N.sum())
            result["calibration"] = dict(
                zip(("confidence", "accuracy", "rows"), _bins(confidence_N, right_N, count_N), strict=True)
            )
        return result

    def predict(self, apply, params, state, batch) -> dict[str, jax.Array]:
        return {"probabilities": jax.nn.softmax(self.logits(apply, params, state, self.normalized(batch))[0])}

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
        found = [("Classes", tables)]
        if "calibration" in result:
            found.append(("Calibration", reliability(result["calibration"], result["calibration_error"])))
        return found


def calibration(confidence_B: jax.Array, right_B: jax.Array, valid_B: jax.Array) -> jax.Array:
    """Return the sums of confidence, of right predictions and of rows for each of BINS equal ranges of confidence, [3, N]."""
    bin_BN = jax.nn.one_hot(jnp.minimum((confidence_B * BINS).astype(jnp.int32), BINS - 1), BINS) * valid_B[:, None]
    return jnp.stack([confidence_B, right_B, jnp.ones_like(right_B)]) @ bin_BN


def _bins(confidence_N: np.ndarray, right_N: np.ndarray, count_N: np.ndarray) -> tuple[list, list, list]:
    """Return the mean confidence, the accuracy (None: no rows) and the number of rows of each bin."""
    mean = lambda total_N: [float(total / n) if n else None for total, n in zip(total_N, count_N, strict=True)]
    return mean(confidence_N), mean(right_N), count_N.astype(int).tolist()


def reliability(bins: Mapping[str, Sequence[Any]], error: float) -> str:
    """Return the reliability diagram: accuracy over confidence (Niculescu-Mizil and Caruana 2005)."""
    rows = [row for row in zip(bins["confidence"], bins["accuracy"], bins["rows"], strict=True) if row[2]]
    caption = (
        "Accuracy of the predictions in each range of confidence; larger dots have more rows. Dots on the dotted line are "
        f"calibrated. The mean distance from it, weighted by rows, is {error:.3f} (expected calibration error, {BINS} ranges)."
    )
    return page.reliability(rows, caption)


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
