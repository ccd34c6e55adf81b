"""Causal language modelling: predict each token from those before it (Radford et al. 2019).

Shapes: B batch, T length, V vocabulary.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmodels.model import Model
from train.objectives import Sums, means
from train.objectives.cross_entropy import check_chunk, sums_in_chunks, tied_logits
from train.objectives.prompts import Prompts, roles
from train.parts import Rendering


@dataclass(frozen=True, kw_only=True)
class CausalLM:
    """Cross-entropy of the next token.

    The targets are the field `targets` [B, T] (-1: none) if the data has it, and otherwise the next token of the same sequence.
    The model has the output layer.
    """

    logits_chunk: int | None = field(default=None, metadata={"how": True})
    "positions per row with logits in memory at a time, recomputed in the backward pass (None: all)"

    def __post_init__(self):
        check_chunk(self.logits_chunk)

    panels = ("causal_lm_accuracy",)
    minimized = ("perplexity", "bits_per_token", "bits_per_byte")
    generates_from = "prompt"

    def check(self, experiment: Any) -> None:
        """Raises ValueError if the model attends to later tokens, or the rows of the data are not continuous texts."""
        if not getattr(experiment.model, "IS_CAUSAL", True):
            raise ValueError(f"objective CausalLM needs a decoder, but model {type(experiment.model).__name__} sees later tokens")
        layout = getattr(experiment.data, "layout", "stream")
        if layout in ("windows", "pairs"):
            raise ValueError(f"objective CausalLM needs data.layout stream or packed, not {layout}")

    def init(self, model: Model, rng: jax.Array, batch: dict) -> tuple[dict, dict]:
        params, state = model.init(rng, batch)
        return {"model": params}, state

    def loss(self, apply, params, state, batch, rng, train: bool) -> tuple[Sums, Any]:
        outputs, state = apply(params["model"], state, batch, rng=rng, train=train)
        targets_BT, weights_BT = targets(batch)
        weights_BT *= batch["valid"][:, None]
        logits = partial(tied_logits, embedding_VD=outputs["embedding"])
        loss, hits = sums_in_chunks(logits, outputs["hidden"], targets_BT, weights_BT, self.logits_chunk)
        count = weights_BT.sum()
        metrics = {"causal_lm_accuracy": (hits, count)}
        if "bytes" in batch:
            metrics["bytes_per_token"] = ((batch["bytes"] * batch["valid"]).sum(), count)
        return Sums({"causal_lm": (loss, count)}, metrics), state

    def summarize(self, sums: Sums) -> dict[str, float]:
        """Return the means, perplexity, and bits per token. With a field `bytes` in the data, also bits per byte of the text,
        which do not depend on the tokenizer."""
        result = means(sums)
        bits = result["causal_lm"] / math.log(2)
        result |= {"perplexity": math.exp(min(result["causal_lm"], 700)), "bits_per_token": bits}
        size = result.pop("bytes_per_token", 0)
        return {**result, "bits_per_byte": bits / size} if size else result

    def predict(self, apply, params, state, batch) -> dict[str, jax.Array]:
        """Return the five most probable tokens after each text, and the mean cross-entropy of its tokens: `tokens` and
        `probabilities` [B, 5], `loss` [B]."""
        outputs, _ = apply(params["model"], state, batch)
        targets_BT, weights_BT = targets(batch)
        log_p_BTV = jax.nn.log_softmax(tied_logits(outputs["hidden"], outputs["embedding"]))
        losses_BT = -jnp.take_along_axis(log_p_BTV, targets_BT[..., None], axis=-1)[..., 0]
        loss_B = (losses_BT * weights_BT).sum(1) / jnp.maximum(weights_BT.sum(1), 1)
        last_B1 = batch["mask"].sum(1, keepdims=True) - 2  # the last token is [SEP]
        top, tokens = jax.lax.top_k(jnp.exp(jnp.take_along_axis(log_p_BTV, last_B1[..., None], axis=1)[:, 0]), 5)
        return {"loss": loss_B, "tokens": tokens, "probabilities": top}

    def describe(self, outputs: dict[str, np.ndarray], codec) -> list[dict]:
        """Return {"loss": …, "perplexity": …, "next": [{"token": …, "probability": …}, …]} for each row."""
        rows = []
        for loss, tokens, probabilities in zip(outputs["loss"], outputs["tokens"], outputs["probabilities"], strict=True):
            pairs = zip(tokens, probabilities, strict=True)
            following = [{"token": codec.token(int(token)), "probability": float(p)} for token, p in pairs]
            rows.append({"loss": float(loss), "perplexity": math.exp(min(float(loss), 700)), "next": following})
        return rows

    def prompts(self, rows: Sequence[Mapping[str, Any]], codec) -> Prompts:
        """Continue the text in the field `prompt` of each row until the [SEP] that ends a text in training."""
        texts, notes = codec.prompts(rows, self.generates_from)
        begin = [codec.vocabulary.special["cls"]]
        tokens = [np.concatenate([begin, ids]).astype(np.int32) for ids in texts]
        return Prompts(tokens, codec.continuation, **roles(codec.vocabulary), is_continued=True, notes=notes)

    def render(self, described: Mapping[str, Any], reference: Any = None) -> Rendering:
        """Show the most probable next tokens and the perplexity of the text."""
        following = ", ".join(f"{found['token']!r} {found['probability']:.1%}" for found in described["next"])
        return Rendering([f"next: {following}", f"perplexity: {described['perplexity']:.2f}"])


def targets(batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Return the target [B, T] of each position and its weight [B, T], 0 where there is none."""
    if "targets" in batch:
        targets_BT = batch["targets"]
        return jnp.maximum(targets_BT, 0), (targets_BT >= 0).astype(jnp.float32)
    following = lambda x_BT: jnp.pad(x_BT[:, 1:], [(0, 0), (0, 1)])  # padded with 0
    targets_BT = following(batch["tokens"])
    if "sequences" in batch:
        same_BT = (following(batch["sequences"]) == batch["sequences"]) & (batch["sequences"] > 0)
    elif "mask" in batch:
        same_BT = following(batch["mask"])
    else:
        same_BT = following(jnp.ones(targets_BT.shape, bool))
    return targets_BT, same_BT.astype(jnp.float32)
