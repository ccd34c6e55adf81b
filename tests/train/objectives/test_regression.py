"""Regression: standardized targets, scores in their own units, and correlations of SciPy."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from data.dataset import Columns
from data.loader import evaluation_batches
from tests.train.experiments import classes
from train.objectives.regression import Regression

OBJECTIVE = Regression(score_mean=3.0, score_std=2.0)


def identity(params, state, batch, rng=None, train=False):
    """A model that returns `pooled` of the batch."""
    return {"pooled": batch["pooled"]}, state


RNG = np.random.default_rng(0)
PARAMS = {"model": {}, "head": {"classifier": {"dense": {"kernel": RNG.normal(size=(5, 1)), "bias": np.array([0.3])}}}}
PARAMS = jax.tree.map(jnp.asarray, PARAMS)
ROWS = {"pooled": RNG.normal(size=(23, 5)).astype(np.float32), "score": RNG.normal(3, 2, 23).astype(np.float32)}


def test_metrics_of_an_evaluation_are_in_the_units_of_the_scores():
    """With a padded last batch."""
    sums, rows = [], []
    for batch in evaluation_batches(Columns(ROWS), 8):
        batch = jax.tree.map(jnp.asarray, batch)
        sums.append(OBJECTIVE.loss(identity, PARAMS, {}, batch, jax.random.key(0), False)[0])
        rows += OBJECTIVE.describe(jax.device_get(OBJECTIVE.predict(identity, PARAMS, {}, batch)), None)
    found = OBJECTIVE.summarize(jax.device_get(jax.tree.map(lambda *xs: sum(xs), *sums)))
    dense = PARAMS["head"]["classifier"]["dense"]
    wanted = 3 + 2 * (ROWS["pooled"] @ np.asarray(dense["kernel"])[:, 0] + 0.3)
    assert [row["score"] for row in rows[:23]] == pytest.approx(wanted.tolist(), rel=1e-5)
    mse = np.mean((wanted - ROWS["score"]) ** 2)
    assert found["rmse"] == pytest.approx(np.sqrt(mse), rel=1e-5)
    assert found["loss"] == found["regression"] == pytest.approx(mse / 4, rel=1e-5)
    scores = OBJECTIVE.score(rows[:23], ROWS["score"].tolist())
    assert scores["pearson"] == pytest.approx(pearsonr(wanted, ROWS["score"]).statistic, rel=1e-5)
    assert scores["spearman"] == pytest.approx(spearmanr(wanted, ROWS["score"]).statistic, rel=1e-5)


def test_constant_predictions_have_no_correlation():
    assert OBJECTIVE.score([{"score": 3.0}] * 4, [1.0, 2.0, 3.0, 4.0]) == {"pearson": 0, "spearman": 0}
    assert OBJECTIVE.score([{"score": 3.0}], [1.0]) == {"pearson": 0, "spearman": 0}


def test_a_new_head_predicts_the_mean_as_chance_does():
    batch = {name: jnp.asarray(column) for name, column in ROWS.items()}
    batch |= {"valid": jnp.ones(23), "example": jnp.arange(23)}
    params = jax.tree.map(jnp.zeros_like, PARAMS)
    sums = OBJECTIVE.loss(identity, params, {}, batch, jax.random.key(0), False)[0]
    found, chance = OBJECTIVE.summarize(jax.device_get(sums)), OBJECTIVE.chance(ROWS["score"].tolist())
    assert {name: found[name] for name in ("loss", "rmse")} == pytest.approx({n: chance[n] for n in ("loss", "rmse")}, rel=1e-5)


def test_invalid_fields_and_other_data_are_errors():
    with pytest.raises(ValueError, match=r"^dropout must be in \[0, 1\), not 1.0"):
        Regression(dropout=1.0)
    with pytest.raises(ValueError, match="score_std must be positive and finite"):
        Regression(score_std=0.0)
    with pytest.raises(ValueError, match="needs scores, but data LabelledText has none"):
        replace(classes(), objective=OBJECTIVE)
