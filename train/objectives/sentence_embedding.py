"""Sentence embeddings, learned from pairs of texts that match (van den Oord et al. 2018; Reimers and Gurevych 2019).

Shapes: B batch, T length, D model width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmodels.model import Model
from train.objectives import Sums, means
from train.parts import Rendering


@dataclass(frozen=True, kw_only=True)
class SentenceEmbedding:
    """Cross-entropy of the text that matches, among those of the batch, in both directions.

    The logits are cosine similarities, divided by a temperature. The batch is that of all devices; with accumulation, a
    microbatch.
    """

    temperature: float = 0.05
    "divisor of the cosine similarities"

    def __post_init__(self):
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, not {self.temperature}")

    panels = ("retrieval_accuracy", "batch_accuracy")
    scores = ("retrieval_accuracy", "spearman")

    def check(self, experiment: Any) -> None:
        if "second_tokens" not in experiment.data.spec():
            name = type(experiment.data).__name__
            raise ValueError(f"objective SentenceEmbedding needs pairs of texts that match, but data {name} has none")

    def init(self, model: Model, rng: jax.Array, batch: dict) -> tuple[dict, dict]:
        params, state = model.init(rng, side(batch, ""))
        return {"model": params}, state

    def embed(self, apply, params, state, batch, rng=None, train: bool = False) -> tuple[list[jax.Array], Any]:
        """Return the mean hidden states [B, D] of both texts, scaled to length 1, and the model state."""
        found, rngs = [], (None, None) if rng is None else jax.random.split(rng)
        for name, key in zip(("", "second_"), rngs, strict=True):
            texts = side(batch, name)
            outputs, state = apply(params["model"], state, texts, rng=key, train=train)
            mask_BT1 = texts["mask"][..., None]
            sum_BD = (outputs["hidden"].astype(jnp.float32) * mask_BT1).sum(1)
            found.append(sum_BD / jnp.sqrt(jnp.square(sum_BD).sum(-1, keepdims=True) + 1e-12))
        return found, state

    def loss(self, apply, params, state, batch, rng, train: bool) -> tuple[Sums, Any]:
        (first_BD, second_BD), state = self.embed(apply, params, state, batch, rng, train)
        valid_B, own_B = batch["valid"], jnp.arange(len(batch["valid"]))
        similarity_BB = first_BD @ second_BD.T / self.temperature
        loss, hits = jnp.zeros(()), jnp.zeros(())
        for logits_BB in (similarity_BB, similarity_BB.T):
            logits_BB = jnp.where(valid_B[None, :] > 0, logits_BB, -1e9)
            loss += -(jax.nn.log_softmax(logits_BB)[own_B, own_B] * valid_B).sum() / 2
            hits += ((logits_BB.argmax(1) == own_B) * valid_B).sum() / 2
        total = valid_B.sum()
        return Sums({"contrastive": (loss, total)}, {"batch_accuracy": (hits, total)}), state

    def summarize(self, sums: Sums) -> dict[str, float]:
        return means(sums)

    def predict(self, apply, params, state, batch) -> dict[str, jax.Array]:
        first_BD, second_BD = self.embed(apply, params, state, batch)[0]
        return {"embedding": first_BD, "second_embedding": second_BD}

    def describe(self, outputs: dict[str, np.ndarray], codec) -> list[dict]:
        """Return {"embedding": […], "second_embedding": […], "cosine": number} for each row."""
        pairs = zip(*(np.asarray(outputs[name], np.float64) for name in ("embedding", "second_embedding")), strict=True)
        return [{"embedding": a.tolist(), "second_embedding": b.tolist(), "cosine": float(a @ b)} for a, b in pairs]

    def score(self, predictions: Sequence[Mapping[str, Any]], references: Sequence[float | None]) -> dict[str, float]:
        """Return the share of texts whose nearest second text of the split is their own, and Spearman's correlation of the cosine
        with the score of a pair, 0 if pairs have no scores."""
        from scipy.stats import spearmanr

        first, second = (np.array([row[name] for row in predictions], np.float32) for name in ("embedding", "second_embedding"))
        nearest = np.concatenate([(first[i : i + 1024] @ second.T).argmax(1) for i in range(0, len(first), 1024)])
        accuracy = float((nearest == np.arange(len(first))).mean())
        cosines = [row["cosine"] for row in predictions]
        known = None not in references and len(set(references)) > 1 and len(set(cosines)) > 1
        return {
            "retrieval_accuracy": accuracy,
            "spearman": float(np.asarray(spearmanr(cosines, references))[0]) if known else 0.0,
        }

    def render(self, described: Mapping[str, Any], reference: float | None = None) -> Rendering:
        """Show the cosine similarity, and the score of the pair if there is one."""
        known = [] if reference is None else [f"score: {reference:g}"]
        return Rendering([f"cosine {described['cosine']:.3f}", *known])


def side(batch: Mapping[str, jax.Array], name: str) -> dict[str, jax.Array]:
    """Return the first ("") or the second ("second_") texts of a batch."""
    return {"tokens": batch[f"{name}tokens"], "mask": batch[f"{name}mask"]}
