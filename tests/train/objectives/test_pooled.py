"""Regression and several labels: losses against NumPy, scores against scikit-learn and SciPy, and a real training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from train.objectives.classification import scores
from train.objectives.multi_label import MultiLabel
from train.objectives.regression import Regression

WIDTH = 7


class Codec:
    labels = ("a", "b", "c", "d", "e")


def identity(params, state, batch, rng=None, train=False):
    """A model that returns `pooled` of the batch."""
    return {"pooled": batch["pooled"]}, state


def problem(outputs: int, **targets) -> tuple[dict, dict]:
    """Return random (params, batch) of eight rows, of which every fourth is not valid."""
    rng = np.random.default_rng(0)
    dense = {"kernel": rng.normal(size=(WIDTH, outputs)), "bias": rng.normal(size=outputs)}
    batch = {"pooled": rng.normal(size=(8, WIDTH)), "valid": 1.0 * (np.arange(8) % 4 != 3), "example": np.arange(8), **targets}
    return jax.tree.map(jnp.asarray, ({"model": {}, "head": {"classifier": {"dense": dense}}}, batch))


def logits(params, batch) -> np.ndarray:
    dense = jax.tree.map(np.float64, params["head"]["classifier"]["dense"])
    return np.asarray(batch["pooled"], np.float64) @ dense["kernel"] + dense["bias"]


def test_regression_is_the_squared_error_of_scaled_scores():
    wanted = np.random.default_rng(1).normal(3, 2, 8)
    params, batch = problem(1, score=np.where(np.arange(8) % 4 == 3, np.nan, wanted))
    objective = Regression(score_mean=3.0, score_std=2.0)
    found, _ = objective.loss(identity, params, {}, batch, jax.random.key(0), True)
    errors = np.square(logits(params, batch)[:, 0] - (wanted - 3) / 2) * batch["valid"]
    np.testing.assert_allclose(found.terms["regression"], [errors.sum(), 6], rtol=1e-5)
    predicted = objective.describe(objective.predict(identity, params, {}, batch), None)
    np.testing.assert_allclose([row["score"] for row in predicted], logits(params, batch)[:, 0] * 2 + 3, rtol=1e-5)
    result, values = objective.score(predicted, list(wanted)), [row["score"] for row in predicted]
    assert result["pearson"] == pytest.approx(pearsonr(values, wanted).statistic)
    assert result["spearman"] == pytest.approx(spearmanr(values, wanted).statistic)
    assert objective.score(predicted, [1.0] * 8)["pearson"] == 0


def test_several_labels_are_separate_decisions():
    labels = np.full((8, 4), -1)
    rng, chosen = np.random.default_rng(2), []
    for i in range(8):
        chosen.append(sorted(rng.choice(5, size=i % 4, replace=False)))
        labels[i, : i % 4] = chosen[-1]
    params, batch = problem(5, labels=labels)
    objective = MultiLabel(classes=5, threshold=0.4)
    found, _ = objective.loss(identity, params, {}, batch, jax.random.key(0), True)
    p = 1 / (1 + np.exp(-logits(params, batch)))
    wanted = np.array([[c in row for c in range(5)] for row in chosen])
    losses = -np.where(wanted, np.log(p), np.log(1 - p)).sum(1) * batch["valid"]
    np.testing.assert_allclose(found.terms["multi_label"], [losses.sum(), 6], rtol=1e-5)
    exact = ((p >= 0.4) == wanted).all(1) * batch["valid"]
    np.testing.assert_allclose(found.metrics["exact_match"], [exact.sum(), 6])

    predicted = objective.describe(objective.predict(identity, params, {}, batch), Codec)
    assert [sorted(row["labels"]) for row in predicted] == [[Codec.labels[c] for c in np.flatnonzero(row >= 0.4)] for row in p]
    result = objective.score(predicted, [[Codec.labels[c] for c in row] for row in chosen])
    for average in ("micro", "macro"):
        expected = f1_score(wanted, p >= 0.4, average=average, zero_division=0)
        assert result[f"{average}_f1"] == pytest.approx(expected)


def test_matthews_correlation_equals_that_of_scikit_learn():
    rng = np.random.default_rng(3)
    wanted, guessed = rng.integers(4, size=(2, 200))
    guessed = np.where(rng.random(200) < 0.5, wanted, guessed)
    confusion = np.zeros((4, 4))
    np.add.at(confusion, (wanted, guessed), 1)
    assert scores(confusion)["matthews"] == pytest.approx(matthews_corrcoef(wanted, guessed))
    assert scores(np.array([[3.0, 0.0], [2.0, 0.0]]))["matthews"] == 0
