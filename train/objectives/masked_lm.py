"""Masked language modelling with optional next-sentence prediction (Devlin et al. 2019, §3.1).

Shapes: B batch, T length, K predicted positions per row, D model width, V vocabulary.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmodels.axes import constrain
from fmodels.model import Model
from fmodels.nn.heads import ClassifierHead, MaskedLMHead
from train.objectives import Sums, means
from train.objectives.cross_entropy import check_chunk, cross_entropy, sums_in_chunks
from train.parts import Rendering

EVALUATION_MASK_RATE = 0.15  # fixed, so that losses are comparable


@dataclass(frozen=True, kw_only=True)
class MaskedLM:
    """Predict hidden tokens.

    `mask_rate` of the tokens of each row, at least one, are hidden: 80 % become the mask token, 10 % a random token, 10 % stay.
    They are drawn on device from (seed, step, example). The head is computed at the hidden positions only: a fixed number K per
    row, with weight 0 for unused ones. Special tokens and padding (`words` < 0) are never hidden.
    """

    mask_rate: float = 0.15
    "share of tokens to hide in training (evaluation always hides 15 %)"
    whole_words: bool = False
    "hide whole words: all tokens of a word or none"
    next_sentence: bool = False
    "also predict whether the second segment follows the first; needs data.layout pairs"
    mask_id: int | None = None
    "id of the mask token (None: from the tokenizer)"
    random_ids: tuple[int, int] | None = None
    "range of the ids of random tokens: first, last + 1 (None: from the tokenizer)"
    logits_chunk: int | None = field(default=None, metadata={"how": True})
    "hidden positions per row with logits in memory at a time, recomputed in the backward pass (None: all)"

    def __post_init__(self):
        if not 0 < self.mask_rate < 1:
            raise ValueError(f"mask_rate must be in (0, 1), not {self.mask_rate}")
        check_chunk(self.logits_chunk)

    minimized = ("perplexity",)

    @property
    def panels(self) -> tuple[str, ...]:
        return ("masked_lm_accuracy", *(["next_sentence_accuracy"] if self.next_sentence else []))

    def check(self, experiment: Any) -> None:
        """Raises ValueError if next-sentence prediction is on and the data has no pairs."""
        if self.next_sentence and "is_random" not in experiment.data.spec():
            raise ValueError("objective.next_sentence needs pairs of segments: set data.layout pairs")

    def init(self, model: Model, rng: jax.Array, batch: dict) -> tuple[dict, dict]:
        model_rng, lm_rng, sentence_rng = jax.random.split(rng, 3)
        params, state = model.init(model_rng, batch)
        outputs, _ = model.apply(params, state, batch)
        heads = {"masked_lm": _LM.init(lm_rng, outputs["hidden"][:, :1], outputs["embedding"])[0]}
        if self.next_sentence:
            heads["next_sentence"] = _SENTENCE.init(sentence_rng, outputs["pooled"])[0]
        return {"model": params, "head": heads}, state

    def loss(self, apply, params, state, batch, rng, train: bool) -> tuple[Sums, Any]:
        mask_rng, dropout_rng = jax.random.split(rng)
        corrupted_BT, positions_BK, weights_BK = self.corrupt(batch, mask_rng, train)
        weights_BK *= batch["valid"][:, None]
        outputs, state = apply(params["model"], state, {**batch, "tokens": corrupted_BT}, rng=dropout_rng, train=train)
        targets_BK = jnp.take_along_axis(batch["tokens"], positions_BK, axis=1)
        hidden_BKD = constrain(jnp.take_along_axis(outputs["hidden"], positions_BK[..., None], axis=1), "batch", None, None)
        logits = lambda hidden_BKD: self.logits(params, hidden_BKD, outputs["embedding"])
        loss, hits = sums_in_chunks(logits, hidden_BKD, targets_BK, weights_BK, self.logits_chunk)
        count = weights_BK.sum()
        terms = {"masked_lm": (loss, count)}
        metrics = {"masked_lm_accuracy": (hits, count)}
        if self.next_sentence:
            logits_B2, _ = _SENTENCE.apply(params["head"]["next_sentence"], {}, outputs["pooled"])
            losses_B, right_B = cross_entropy(logits_B2, batch["is_random"])
            rows = batch["valid"].sum()
            terms["next_sentence"] = ((losses_B * batch["valid"]).sum(), rows)
            metrics["next_sentence_accuracy"] = ((right_B * batch["valid"]).sum(), rows)
        return Sums(terms, metrics), state

    def logits(self, params: dict, hidden_BKD: jax.Array, embedding_VD: jax.Array) -> jax.Array:
        """Return the logits [B, K, V] of hidden states."""
        return _LM.apply(params["head"]["masked_lm"], {}, hidden_BKD, embedding_VD)[0]

    def corrupt(self, batch: dict, rng: jax.Array, train: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return corrupted tokens [B, T], hidden positions [B, K] and weights [B, K]. Positions of weight 0 are unchanged."""
        assert self.mask_id is not None and self.random_ids is not None, "an experiment is resolved before it runs"
        rate = self.mask_rate if train else EVALUATION_MASK_RATE
        predictions = max(1, round(rate * batch["tokens"].shape[1]))
        whole_words = self.whole_words and train
        mask_id, (low, high) = self.mask_id, self.random_ids

        def row(tokens_T, words_T, example):
            choice, kind, token = jax.random.split(jax.random.fold_in(rng, example), 3)
            score_T = jax.random.uniform(choice, tokens_T.shape)
            ordinary_T = words_T >= 0
            budget = jnp.clip(jnp.round(rate * ordinary_T.sum()), 1, predictions).astype(jnp.int32)
            if whole_words:  # tokens of a word share a score, so they stay adjacent when sorted; words over the budget come last
                length_T = jnp.zeros_like(words_T).at[words_T].add(ordinary_T)[words_T]
                score_T = score_T[words_T] + (length_T > budget)
            order_T = jnp.argsort(jnp.where(ordinary_T, score_T, 3.0), stable=True)
            rank_T = jnp.arange(len(tokens_T))
            taken_T = (rank_T < budget) & ordinary_T[order_T]
            if whole_words:  # drop a word that the budget cuts, unless it is the only one
                word_T = words_T[order_T]
                whole_T = taken_T & ((word_T != word_T[budget - 1]) | (word_T[budget] != word_T[budget - 1]))
                taken_T = jnp.where(whole_T.any(), whole_T, taken_T)
            positions_K, weights_K = order_T[:predictions], taken_T[:predictions]
            draw_K = jax.random.uniform(kind, (predictions,))
            random_K = jax.random.randint(token, (predictions,), low, high)
            old_K = tokens_T[positions_K]
            new_K = jnp.where(draw_K < 0.8, mask_id, jnp.where(draw_K < 0.9, random_K, old_K))
            return tokens_T.at[positions_K].set(jnp.where(weights_K, new_K, old_K)), positions_K, weights_K

        corrupted_BT, positions_BK, weights_BK = jax.vmap(row)(batch["tokens"], batch["words"], batch["example"])
        positions_BK, weights_BK = constrain(positions_BK, "batch", None), constrain(weights_BK, "batch", None)
        return constrain(corrupted_BT, "batch", "length"), positions_BK, weights_BK.astype(jnp.float32)

    def seen(self, batch: dict, rng: jax.Array) -> dict:
        """Return the batch after corruption, with `hidden` [B, T]: True at the predicted positions."""
        tokens_BT, positions_BK, weights_BK = self.corrupt(batch, rng, True)
        rows_B1 = jnp.arange(len(tokens_BT))[:, None]
        hidden_BT = jnp.zeros(tokens_BT.shape, bool).at[rows_B1, positions_BK].set(weights_BK > 0)
        return {**batch, "tokens": tokens_BT, "hidden": hidden_BT}

    def summarize(self, sums: Sums) -> dict[str, float]:
        result = means(sums)
        return {**result, "perplexity": math.exp(min(result["masked_lm"], 700))}

    def predict(self, apply, params, state, batch) -> dict[str, jax.Array]:
        """Return the five most probable tokens at every position: `tokens` and `probabilities` [B, T, 5], and `input` [B, T]."""
        outputs, _ = apply(params["model"], state, batch)
        probabilities_BTV = jax.nn.softmax(self.logits(params, outputs["hidden"], outputs["embedding"]))
        top, tokens = jax.lax.top_k(probabilities_BTV, 5)
        return {"input": batch["tokens"], "tokens": tokens, "probabilities": top}

    def describe(self, outputs: dict[str, np.ndarray], codec) -> list[dict]:
        """Return the top predictions for each mask token: {"masks": [[{"token": …, "probability": …}, …], …]} for each row."""
        rows = []
        for ids, tokens, probabilities in zip(outputs["input"], outputs["tokens"], outputs["probabilities"], strict=True):
            masks = []
            for position in np.flatnonzero(ids == self.mask_id):
                pairs = zip(tokens[position], probabilities[position], strict=True)
                masks.append([{"token": codec.token(int(token)), "probability": float(p)} for token, p in pairs])
            rows.append({"masks": masks})
        return rows

    def questions(self, batch: Mapping[str, np.ndarray], codec) -> tuple[dict[str, Any], list[str], list[list[str]]]:
        """Hide the tokens that an evaluation hides, all by the mask token. The references are the hidden tokens of each row."""
        _, positions_BK, weights_BK = self.corrupt(jax.tree.map(jnp.asarray, dict(batch)), jax.random.key(0), False)
        hidden = [np.sort(row[weights > 0]) for row, weights in zip(*map(np.asarray, (positions_BK, weights_BK)), strict=True)]
        tokens_BT, truths = np.array(batch["tokens"]), []
        for tokens_T, positions in zip(tokens_BT, hidden, strict=True):
            truths.append([codec.token(int(token)) for token in tokens_T[positions]])
            tokens_T[positions] = self.mask_id
        return {**batch, "tokens": tokens_BT}, [codec.text(tokens_T) for tokens_T in tokens_BT], truths

    def render(self, described: Mapping[str, Any], reference: Sequence[str] | None = None) -> Rendering:
        """Show one line per mask token: the most probable tokens, and the hidden token if it is known."""
        fills = [", ".join(f"{fill['token']} {fill['probability']:.1%}" for fill in mask) for mask in described["masks"]]
        if reference is None:
            return Rendering([f"[MASK]: {fill}" for fill in fills] or ["no [MASK] to fill"])
        verdicts = ["✓" if mask[0]["token"] == truth else "✗" for mask, truth in zip(described["masks"], reference, strict=True)]
        rows = zip(verdicts, reference, fills, strict=True)
        return Rendering([f"{mark} [MASK {number}] {truth}: {fill}" for number, (mark, truth, fill) in enumerate(rows, 1)])


_LM = Model(MaskedLMHead())
_SENTENCE = Model(ClassifierHead(2))
