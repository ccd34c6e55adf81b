"""Sentence embeddings from pairs of texts that belong together, by contrast with the other pairs of a batch.

Shapes: B batch, D model width, N rows of a split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from fmodels.axes import constrain
from fmodels.model import Model
from train.errors import UserError
from train.objectives import Sums, means
from train.objectives.correlation import spearman
from train.parts import Rendering

Metric = Literal["retrieval_accuracy", "spearman"]
SHOWN = 8  # numbers of an embedding that are shown


@dataclass(frozen=True, kw_only=True)
class SentenceEmbedding:
    """Symmetric InfoNCE loss (van den Oord et al. 2018, eq. 4; both directions, as in Radford et al. 2021, §2.3).

    An embedding is the pooled output, scaled to length 1. Each text is classified among the second texts of all rows of the
    batch, on all devices, by the dot product of the embeddings divided by the temperature, and each second text among the texts.
    The value of the loss therefore depends on the batch size.
    """

    temperature: float = 0.05
    "divisor of the cosines in the loss"
    metrics: tuple[Metric, ...] = field(default=("retrieval_accuracy",), metadata={"how": True})
    """scores of a whole split. retrieval_accuracy: the share of texts with their own second text nearest among those of the \
split, averaged with the other direction; spearman: rank correlation of the cosine with the `score` of the rows"""

    def __post_init__(self):
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}")
        if len(set(self.metrics)) != len(self.metrics):
            raise ValueError(f"metrics must be distinct, not {', '.join(self.metrics)}")

    @property
    def panels(self) -> tuple[str, ...]:
        return ("contrastive_accuracy", *self.metrics)

    @property
    def scores(self) -> tuple[str, ...]:
        return self.metrics

    def check(self, experiment: Any) -> None:
        """Raises ValueError if the data has no second texts, or batches are split into microbatches."""
        if "second_tokens" not in experiment.data.spec():
            name = type(experiment.data).__name__
            raise ValueError(f"objective SentenceEmbedding needs pairs of related texts, but data {name} has none")
        if experiment.run.accumulation > 1:
            raise ValueError(
                f"run.accumulation is {experiment.run.accumulation}, but objective SentenceEmbedding compares all rows of a "
                "batch: set it to 1"
            )

    def init(self, model: Model, rng: jax.Array, batch: dict) -> tuple[dict, dict]:
        params, state = model.init(rng, batch)
        return {"model": params}, state

    def embeddings(self, apply, params, state, batch, rng=None, train: bool = False) -> tuple[jax.Array, jax.Array, Any]:
        """Return the embeddings [B, D] of both texts of each row, and the model state."""
        found, rngs = [], (None, None) if rng is None else jax.random.split(rng)
        second = {name.removeprefix("second_"): batch[name] for name in batch if name.startswith("second_")}
        for texts, one in zip((batch, {**batch, **second}), rngs, strict=True):
            outputs, state = apply(params["model"], state, texts, rng=one, train=train)
            pooled_BD = outputs["pooled"].astype(jnp.float32)
            found.append(pooled_BD * jax.lax.rsqrt((pooled_BD**2).sum(-1, keepdims=True) + 1e-12))
        return found[0], found[1], state

    def loss(self, apply, params, state, batch, rng, train: bool) -> tuple[Sums, Any]:
        text_BD, second_BD, state = self.embeddings(apply, params, state, batch, rng, train)
        valid_B = batch["valid"]
        cosines_BB = constrain(text_BD @ constrain(second_BD, None, None).T, "batch", None)
        losses, hits = jnp.zeros(()), jnp.zeros(())
        for logits_BB in (cosines_BB / self.temperature, cosines_BB.T / self.temperature):
            logits_BB = jnp.where(valid_B[None] > 0, logits_BB, -1e9)  # rows that only fill the batch are no candidates
            own_B = jnp.where(jnp.eye(len(valid_B), dtype=bool), logits_BB, 0).sum(-1)
            losses += ((jax.nn.logsumexp(logits_BB, -1) - own_B) * valid_B).sum() / 2
            hits += ((own_B >= logits_BB.max(-1)) * valid_B).sum() / 2
        rows = valid_B.sum()
        return Sums({"contrastive": (losses, rows)}, {"contrastive_accuracy": (hits, rows)}), state

    def summarize(self, sums: Sums) -> dict[str, float]:
        return means(sums)

    def predict(self, apply, params, state, batch) -> dict[str, jax.Array]:
        """Return the embeddings `text` and `second` [B, D], and `has_second` [B]."""
        text_BD, second_BD, _ = self.embeddings(apply, params, state, batch)
        return {"text": text_BD, "second": second_BD, "has_second": batch["second_mask"].any(-1)}

    def describe(self, outputs: dict[str, np.ndarray], codec) -> list[dict]:
        """Return {"embedding": [D numbers]} for each row, and for a pair {"second": [D numbers], "cosine": …}."""
        rows = []
        for text_D, second_D, has_second in zip(*(outputs[name] for name in ("text", "second", "has_second")), strict=True):
            pair = {"second": second_D.tolist(), "cosine": float(text_D @ second_D)} if has_second else {}
            rows.append({"embedding": text_D.tolist(), **pair})
        return rows

    def score(self, predictions: Sequence[Mapping[str, Any]], references: Sequence[float | None]) -> dict[str, float]:
        """Raises UserError for `spearman` without scores."""
        found = {}
        if "retrieval_accuracy" in self.metrics:
            sides = (np.array([row[name] for row in predictions]) for name in ("embedding", "second"))
            found["retrieval_accuracy"] = retrieval_accuracy(*sides)
        if "spearman" in self.metrics:
            missing = [row for row, score in enumerate(references) if score is None]
            if missing:
                raise UserError(f"objective.metrics: spearman needs a score for every row, but row {missing[0]} has none")
            found["spearman"] = spearman([p["cosine"] for p in predictions], references)
        return found

    def chance(self, references: Sequence[Any]) -> dict[str, float]:
        return {"retrieval_accuracy": 1 / len(references)} if "retrieval_accuracy" in self.metrics else {}

    def render(self, described: Mapping[str, Any], reference: float | None = None) -> Rendering:
        """Show the cosine and the score, if known, and the first numbers of the embedding."""
        numbers = ", ".join(f"{x:.3f}" for x in described["embedding"][:SHOWN])
        lines = [f"embedding: {numbers}, … ({len(described['embedding'])} numbers)"]
        if "cosine" in described:
            lines.insert(0, f"cosine: {described['cosine']:.3f}")
        return Rendering(lines if reference is None else [*lines, f"score: {reference:g}"])


def retrieval_accuracy(text_ND: np.ndarray, second_ND: np.ndarray) -> float:
    """Return the share of rows of either side with the nearest row of the other side in the same place.

    A row with several nearest ones, such as repeated texts, counts if its own is one of them.
    """
    hits = 0
    for one_ND, other_ND in ((text_ND, second_ND), (second_ND, text_ND)):
        for start in range(0, len(one_ND), 1000):
            cosines = one_ND[start : start + 1000] @ other_ND.T
            own = np.diagonal(cosines, start)
            hits += int((own >= cosines.max(1) - 1e-6).sum())
    return hits / (2 * len(text_ND))
