"""Sentence embeddings: the loss against formulas in NumPy, padded batches, retrieval and correlation."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

from tests.train.experiments import classes, embeddings
from train.errors import UserError
from train.experiment import with_run
from train.objectives.sentence_embedding import SentenceEmbedding, retrieval_accuracy

OBJECTIVE = SentenceEmbedding(temperature=0.2)


def pooled(params, state, batch, rng=None, train=False):
    """A model that returns `tokens` of the batch as its pooled output."""
    return {"pooled": batch["tokens"]}, state


def problem(rows: int, valid: int, seed: int = 0) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    sides = {name: rng.normal(size=(rows, 6)) for name in ("tokens", "second_tokens")}
    mask = {"mask": np.ones((rows, 6), bool), "second_mask": np.ones((rows, 6), bool)}
    return jax.tree.map(jnp.asarray, {**sides, **mask, "valid": 1.0 * (np.arange(rows) < valid)})


def unit(x: jax.Array) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_loss_is_the_cross_entropy_of_both_directions():
    batch = problem(8, valid=6)
    sums, _ = OBJECTIVE.loss(pooled, {"model": {}}, {}, batch, jax.random.key(0), True)
    logits = unit(batch["tokens"])[:6] @ unit(batch["second_tokens"])[:6].T / 0.2  # without the rows that fill the batch
    log_p = [x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (logits, logits.T)]
    wanted = -np.mean([np.diagonal(x).mean() for x in log_p])
    hits = np.mean([x.argmax(1) == np.arange(6) for x in (logits, logits.T)])
    loss, rows = sums.terms["contrastive"]
    assert float(loss / rows) == pytest.approx(wanted, rel=1e-5) and rows == 6
    assert float(sums.metrics["contrastive_accuracy"][0] / rows) == pytest.approx(hits)


def test_retrieval_counts_both_directions_and_repeated_texts():
    text = unit(np.array([[1.0, 0], [0, 1], [1, 1]]))
    assert retrieval_accuracy(text, text) == 1
    assert retrieval_accuracy(text, text[[1, 0, 2]]) == pytest.approx(1 / 3)
    second = unit(np.array([[1.0, 0.1], [0.1, 1], [1, 0.2]]))
    # forward: the third text is nearest to the third second; backward: the third second is nearest to the first text.
    assert retrieval_accuracy(text, second) == pytest.approx((3 + 2) / 6)
    assert retrieval_accuracy(text[[0, 0, 1]], second[[0, 0, 1]]) == 1
    many = unit(np.random.default_rng(0).normal(size=(1500, 16)))
    assert retrieval_accuracy(many, many) == 1 and retrieval_accuracy(many, many[::-1]) < 0.01


def test_scores_of_described_rows():
    batch = problem(16, valid=16)
    objective = replace(OBJECTIVE, metrics=("retrieval_accuracy", "spearman"))
    rows = objective.describe(jax.device_get(objective.predict(pooled, {"model": {}}, {}, batch)), None)
    cosines = (unit(batch["tokens"]) * unit(batch["second_tokens"])).sum(1)
    assert [row["cosine"] for row in rows] == pytest.approx(cosines.tolist(), abs=1e-6)
    wanted = np.random.default_rng(1).normal(size=16) + cosines
    found = objective.score(rows, wanted.tolist())
    assert found["spearman"] == pytest.approx(spearmanr(cosines, wanted).statistic)
    assert 0 < found["retrieval_accuracy"] < 1
    with pytest.raises(UserError, match="spearman needs a score for every row, but row 3 has none"):
        objective.score(rows, [1.0, 2.0, 3.0, None, *[1.0] * 12])
    assert objective.score([{**row, "cosine": 0.5} for row in rows], wanted.tolist())["spearman"] == 0


def test_a_single_text_has_an_embedding_only():
    batch = problem(2, valid=2) | {"second_mask": jnp.zeros((2, 6), bool)}
    (row, _) = OBJECTIVE.describe(jax.device_get(OBJECTIVE.predict(pooled, {"model": {}}, {}, batch)), None)
    assert row.keys() == {"embedding"} and np.linalg.norm(row["embedding"]) == pytest.approx(1, rel=1e-5)
    assert len(OBJECTIVE.render(row).lines) == 1


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="needs pairs of related texts, but data LabelledText has none"):
        replace(classes(), objective=OBJECTIVE)
    with pytest.raises(ValueError, match=r"run.accumulation is 2, but .* compares all rows of a batch: set it to 1"):
        with_run(embeddings(), accumulation=2)
    with pytest.raises(ValueError, match="temperature must be positive, not 0"):
        SentenceEmbedding(temperature=0.0)
    with pytest.raises(ValueError, match="metrics must be distinct"):
        SentenceEmbedding(metrics=("spearman", "spearman"))
