"""Several labels: the loss against a formula in NumPy, metrics against scikit-learn and by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_score

from tests.train.experiments import classes
from train.objectives.multi_label import MultiLabel

CLASSES, WIDTH, ROWS = 4, 6, 20
OBJECTIVE = MultiLabel(classes=CLASSES)


class Codec:
    labels = "abcd"


def identity(params, state, batch, rng=None, train=False):
    """A model that returns `pooled` of the batch."""
    return {"pooled": batch["pooled"]}, state


def problem() -> tuple[dict, dict, np.ndarray]:
    """Return params, a batch with one in four rows not valid, and its labels as a matrix."""
    rng = np.random.default_rng(0)
    dense = {"kernel": rng.normal(size=(WIDTH, CLASSES)), "bias": rng.normal(size=CLASSES)}
    wanted = rng.random((ROWS, CLASSES)) < 0.4
    labels = np.full((ROWS, CLASSES), -1)
    for row, chosen in enumerate(wanted):
        labels[row, : chosen.sum()] = rng.permutation(np.flatnonzero(chosen))
    batch = {"pooled": rng.normal(size=(ROWS, WIDTH)), "labels": labels, "example": np.arange(ROWS)}
    batch["valid"] = 1.0 * (np.arange(ROWS) % 4 != 3)
    return *jax.tree.map(jnp.asarray, ({"model": {}, "head": {"classifier": {"dense": dense}}}, batch)), wanted


def test_loss_is_the_mean_binary_cross_entropy_of_the_valid_rows():
    params, batch, wanted = problem()
    sums, _ = OBJECTIVE.loss(identity, params, {}, batch, jax.random.key(0), True)
    dense = params["head"]["classifier"]["dense"]
    p = 1 / (1 + np.exp(-(np.asarray(batch["pooled"], np.float64) @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"]))))
    losses = -np.where(wanted, np.log(p), np.log(1 - p))
    loss, rows = sums.terms["multi_label"]
    assert rows == 15 and float(loss / rows) == pytest.approx(losses[np.asarray(batch["valid"]) > 0].mean(), rel=1e-5)


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_metrics_are_those_of_scikit_learn(threshold):
    params, batch, wanted = problem()
    objective = replace(OBJECTIVE, threshold=threshold)
    outputs = jax.device_get(objective.predict(identity, params, {}, batch))
    found = outputs["probabilities"] >= threshold
    references = [["abcd"[i] for i in np.flatnonzero(row)] for row in wanted]
    rows = objective.describe(outputs, Codec)
    scores = objective.score(rows, references)
    assert set(scores) == set(objective.scores)
    for average in ("micro", "macro"):
        assert scores[f"{average}_f1"] == pytest.approx(f1_score(wanted, found, average=average))
        assert scores[f"{average}_precision"] == pytest.approx(precision_score(wanted, found, average=average))
    assert scores["exact_match"] == pytest.approx(accuracy_score(wanted, found))


def test_metrics_by_hand():
    probabilities = dict.fromkeys("abc", 0.5)
    rows = [{"labels": labels, "probabilities": probabilities} for labels in (["a"], ["a", "b"], [])]
    scores = OBJECTIVE.score(rows, [["a"], ["b"], []])
    assert scores["micro_precision"] == pytest.approx(2 / 3) and scores["micro_recall"] == 1
    assert scores["macro_precision"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert scores["exact_match"] == pytest.approx(2 / 3)


def test_rows_show_their_labels():
    row = OBJECTIVE.describe({"probabilities": np.array([[0.9, 0.1, 0.6, 0.2]])}, Codec)[0]
    assert row["labels"] == ["a", "c"] and list(row["probabilities"]) == ["a", "c", "d", "b"]
    right, wrong = (OBJECTIVE.render(row, reference) for reference in (["c", "a"], []))
    assert right.is_right and wrong.is_right is False and wrong.lines[-1] == "labels: none"
    assert right.confidence == pytest.approx(0.9 * 0.9 * 0.6 * 0.8)


def test_invalid_fields_and_other_data_are_errors():
    for wrong in ({"classes": 1}, {"dropout": 1.0}, {"threshold": 1.0}):
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))} must be"):
            MultiLabel(**wrong)
    with pytest.raises(ValueError, match="needs several labels a row, but data LabelledText has none"):
        replace(classes(), objective=OBJECTIVE)
