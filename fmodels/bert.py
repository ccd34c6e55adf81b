"""BERT (Devlin et al. 2019), RoBERTa, and modern encoders, which are other choices in `TransformerConfig`.

Shapes: B batch, T length, D model width, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmodels.axes import constrain
from fmodels.model import Model
from fmodels.nn.layers import Dense, Dropout, Embed
from fmodels.nn.transformer import Stack, TransformerConfig, add_positions, norm
from fmodels.nn.vocabulary import check_vocabulary, with_vocabulary


@dataclass(frozen=True, kw_only=True)
class BertConfig(TransformerConfig):
    """Configuration of a BERT encoder. The defaults are BERT-base, uncased."""

    vocab_size: int | None = 30_522
    "vocabulary size, V, at least the tokenizer's; None: the tokenizer's, rounded up to a multiple of 128"
    segments: int = 2
    "number of segment embeddings; 0: no segment embedding"
    pooling: Literal["cls", "mean"] = "cls"
    "pooled output: the first token through a dense layer and tanh (cls), or the mean of the real tokens (mean)"

    def __post_init__(self):
        super().__post_init__()
        check_vocabulary(self.vocab_size)
        if self.segments < 0:
            raise ValueError(f"segments must be 0 or more, not {self.segments}")

    def resolved(self, facts: Mapping[str, Any]) -> "BertConfig":
        return with_vocabulary(self, facts)

    def build(self) -> Model:
        return Model(Bert(self))


# Sizes of Turc et al. 2019 (tiny to medium) and Devlin et al. 2019 (base, large): layers, width, heads.
SIZES = {
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (4, 512, 8),
    "medium": (8, 512, 8),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
}


def bert(size: str, **changes) -> BertConfig:
    """Return the config of a published size, with any fields overridden: `bert("base", dropout=0.0)`."""
    layers, width, heads = SIZES[size]
    return BertConfig(**{"layers": layers, "width": width, "heads": heads, **changes})


def roberta(size: str, **changes) -> BertConfig:
    """Return the config of RoBERTa (Liu et al. 2019), `base` or `large`, with any fields overridden."""
    return bert(size, **{"vocab_size": 50_265, "segments": 1, "norm_epsilon": 1e-5, **changes})


# ModernBERT (Warner et al. 2024): layers, width, heads, hidden width.
MODERN_SIZES = {"base": (22, 768, 12, 1152), "large": (28, 1024, 16, 2624)}
MODERN = {
    "activation": "geglu",
    "norm": "layer_no_bias",
    "norm_position": "pre",
    "norm_epsilon": 1e-5,
    "position": "rotary",
    "rotary_base": 160_000.0,
    "local_rotary_base": 10_000.0,
    "window": 64,
    "global_every": 3,
    "bias": False,
    "segments": 0,
    "pooling": "mean",
    "dropout": 0.0,
    "attention_dropout": 0.0,
}


def modern_bert(size: str, **changes) -> BertConfig:
    """Return a config in the style of ModernBERT, `base` or `large`, with any fields overridden.

    The published model has no norm before the attention of its first layer, which scanned layers would not allow.
    """
    fields = dict(zip(("layers", "width", "heads", "hidden"), MODERN_SIZES[size], strict=True))
    return BertConfig(**{**MODERN, "vocab_size": 50_368, "max_length": 8192, **fields, **changes})


class Bert(nn.Module):
    """BERT encoder.

    Reads `tokens` [B, T] and the optional fields `segments` [B, T] (default: 0) and `mask` [B, T] (True at real tokens; default:
    all True). Packed rows add `sequences` [B, T] (sequence number within the row, from 1; 0 at padding) and `positions` [B, T]
    (position within the sequence); tokens attend only to their own sequence. Returns `hidden` [B, T, D], `pooled` [B, D], and
    the token `embedding` [V, D] for tied heads."""

    config: BertConfig

    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        c = self.config
        tokens_BT, mask_BT, sequences_BT = batch["tokens"], batch.get("mask"), batch.get("sequences")
        if sequences_BT is not None:
            mask_BT = sequences_BT > 0
        length = tokens_BT.shape[1]
        if length > c.max_length:
            raise ValueError(f"sequence length {length} exceeds max_length {c.max_length}")
        positions_BT = batch.get("positions", jnp.arange(length)[None])

        assert c.vocab_size is not None, "vocab_size must be resolved before the model is built"
        token_embedding = Embed(c.vocab_size, c.width, "vocab", name="token_embedding")
        x_BTD = constrain(token_embedding(tokens_BT), "batch", "length", None)
        if c.segments:
            segments_BT = batch.get("segments", jnp.zeros_like(tokens_BT))
            x_BTD += Embed(c.segments, c.width, name="segment_embedding")(segments_BT)
        x_BTD = add_positions(c, x_BTD, positions_BT)
        x_BTD = Dropout(c.dropout)(norm(c, "embedding_norm")(x_BTD), train)
        x_BTD = constrain(x_BTD, "batch", "length", None)

        hidden_BTD, _ = Stack(c, name="encoder")(x_BTD, mask_BT, positions_BT, train, sequences_BT)
        if c.pooling == "cls":
            pooled_BD = jnp.tanh(Dense(c.width, ("embed", "mlp"), name="pooler")(constrain(hidden_BTD[:, 0], "batch", None)))
        elif mask_BT is None:
            pooled_BD = hidden_BTD.mean(1)
        else:
            weight_BT = mask_BT.astype(hidden_BTD.dtype)
            weight_BT /= jnp.maximum(weight_BT.sum(1, keepdims=True), 1)
            pooled_BD = jnp.einsum("BTD,BT->BD", hidden_BTD, weight_BT)
        return {"hidden": hidden_BTD, "pooled": constrain(pooled_BD, "batch", None), "embedding": token_embedding.table}
