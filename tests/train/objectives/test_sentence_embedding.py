"""Sentence embeddings: the contrastive loss by hand, rows that do not count, and retrieval over a split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

from train.objectives.sentence_embedding import SentenceEmbedding

B, T, D = 6, 5, 8


def embedding(params, state, batch, rng=None, train=False):
    """A model whose hidden states are rows of a table."""
    return {"hidden": params["table"][batch["tokens"]]}, state


def problem() -> tuple[dict, dict]:
    rng = np.random.default_rng(0)
    batch = {"valid": np.array([1.0, 1, 1, 1, 1, 0])}
    for side in ("", "second_"):
        batch[f"{side}tokens"] = rng.integers(20, size=(B, T))
        batch[f"{side}mask"] = np.arange(T) < rng.integers(2, T + 1, size=(B, 1))
    return jax.tree.map(jnp.asarray, ({"model": {"table": rng.normal(size=(20, D))}}, batch))


def unit_means(params, batch, side: str) -> np.ndarray:
    table, rows = np.asarray(params["model"]["table"], np.float64), []
    for ids, mask in zip(np.asarray(batch[f"{side}tokens"]), np.asarray(batch[f"{side}mask"]), strict=True):
        mean = table[ids[mask]].mean(0)
        rows.append(mean / np.linalg.norm(mean))
    return np.array(rows)


def test_the_loss_compares_each_text_with_the_batch_in_both_directions():
    params, batch = problem()
    found, _ = SentenceEmbedding(temperature=0.1).loss(embedding, params, {}, batch, jax.random.key(0), True)
    first, second = (unit_means(params, batch, side)[:5] for side in ("", "second_"))  # the last row does not count
    logits = first @ second.T / 0.1
    both = [-np.log(np.exp(x[i, i]) / np.exp(x[i]).sum()) for x in (logits, logits.T) for i in range(5)]
    hits = [x[i].argmax() == i for x in (logits, logits.T) for i in range(5)]
    np.testing.assert_allclose(found.terms["contrastive"], [sum(both) / 2, 5], rtol=1e-4)
    np.testing.assert_allclose(found.metrics["batch_accuracy"], [sum(hits) / 2, 5])


def test_scores_search_the_whole_split():
    params, batch = problem()
    objective = SentenceEmbedding()
    rows = objective.describe(objective.predict(embedding, params, {}, batch), None)
    first, second = (unit_means(params, batch, side) for side in ("", "second_"))
    cosines = (first * second).sum(1)
    np.testing.assert_allclose([row["cosine"] for row in rows], cosines, atol=1e-5)
    found = objective.score(rows, [3.0, 1.0, 2.0, 5.0, 4.0, 0.0])
    assert found["retrieval_accuracy"] == pytest.approx(((first @ second.T).argmax(1) == np.arange(B)).mean())
    assert found["spearman"] == pytest.approx(spearmanr(cosines, [3, 1, 2, 5, 4, 0]).statistic)
    assert objective.score(rows, [None] * B)["spearman"] == 0
