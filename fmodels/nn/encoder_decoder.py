"""Encoder-decoder: an encoder of a source, and a decoder that attends to it.

Shapes: B batch, S source length, T target length, D model width, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmodels.axes import constrain, named
from fmodels.model import Model
from fmodels.nn.cache import Cache, Source, begun, positions_of
from fmodels.nn.layers import Dropout, Embed
from fmodels.nn.transformer import Stack, TransformerConfig, add_positions, check_decoder
from fmodels.nn.vocabulary import check_vocabulary, with_vocabulary


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig(TransformerConfig):
    """Configuration of an encoder-decoder with one vocabulary. `layers` is the number of blocks of each stack."""

    vocab_size: int | None = None
    "vocabulary size, V, at least the tokenizer's; None: the tokenizer's, rounded up to a multiple of 128"
    tied: bool = True
    "use the token embedding as output layer"

    # A tied embedding has unit variance on input and 1 / D on output. It is stored with that of the output and multiplied by
    # sqrt(D) on input (Vaswani et al. 2017, §3.4), or stored with that of the input and divided by it on output (T5).
    SCALED_INPUT: ClassVar[bool]
    IS_CAUSAL: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        check_vocabulary(self.vocab_size)
        check_decoder(self)

    def resolved(self, facts: Mapping[str, Any]) -> "EncoderDecoderConfig":
        return with_vocabulary(self, facts)

    def build(self) -> Model:
        return Model(EncoderDecoder(self))


class EncoderDecoder(nn.Module):
    """Encoder-decoder with one token embedding for source, target and, if tied, output.

    Reads `source` [B, S], the target so far `tokens` [B, T], which begins with a start token, and the optional `source_mask` and
    `mask` (True at real tokens). Packed rows add `source_sequences`, `source_positions`, `sequences` and `positions`, as in
    `fmodels.gpt.Gpt`; a target attends to the source of the same number. With a `cache`, the tokens follow those in the cache,
    and `source` is only read by the first call; a number is that of the slots of a new, empty cache.

    Returns `hidden` [B, T, D], and the output `embedding` [V, D]: the logits of the next token are their product. With a cache,
    also the updated `cache`."""

    config: EncoderDecoderConfig

    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], cache: Cache | int | None = None, *, train: bool) -> dict[str, Any]:
        c = self.config
        assert c.vocab_size is not None, "vocab_size must be resolved before the model is built"
        embedding_init = nn.initializers.normal(c.width**-0.5 if c.SCALED_INPUT else 1.0)
        token_embedding = Embed(c.vocab_size, c.width, "vocab", embedding_init, name="token_embedding")

        def embedded(side: str, tokens_BT: jax.Array, positions_BT: jax.Array) -> jax.Array:
            if tokens_BT.shape[1] > c.max_length:
                raise ValueError(f"{side} length {tokens_BT.shape[1]} exceeds max_length {c.max_length}")
            x_BTD = constrain(token_embedding(tokens_BT), "batch", "length", None)
            if c.SCALED_INPUT:
                x_BTD *= c.width**0.5
            x_BTD = add_positions(c, x_BTD, positions_BT, f"{side}_position_embedding")
            return constrain(Dropout(c.dropout)(x_BTD, train), "batch", "length", None)

        source = None
        if "source" in batch:
            tokens_BS, mask_BS, sequences_BS = batch["source"], batch.get("source_mask"), batch.get("source_sequences")
            if sequences_BS is not None:
                mask_BS = sequences_BS > 0
            positions_BS = batch.get("source_positions", jnp.arange(tokens_BS.shape[1])[None])
            x_BSD = embedded("source", tokens_BS, positions_BS)
            hidden_BSD, _ = Stack(c, name="encoder")(x_BSD, mask_BS, positions_BS, train, sequences_BS)
            source = Source(hidden_BSD, mask_BS, sequences_BS)

        tokens_BT, mask_BT, sequences_BT = batch["tokens"], batch.get("mask"), batch.get("sequences")
        source_length = None if source is None else source.hidden_BSD.shape[1]
        cache = begun(c, cache, len(tokens_BT), token_embedding.table.dtype, source_length)
        positions_BT = batch["positions"] if "positions" in batch else positions_of(mask_BT, tokens_BT.shape[1], cache)
        x_BTD = embedded("target", tokens_BT, positions_BT)
        decoder = Stack(c, is_causal=True, attends_to_source=True, name="decoder")
        hidden_BTD, cache = decoder(x_BTD, mask_BT, positions_BT, train, sequences_BT, source, cache)
        output_VD = token_embedding.table
        if not c.tied:
            output_init = nn.initializers.normal(c.width**-0.5)
            output_VD = self.param("output", named(output_init, "vocab", "embed"), (c.vocab_size, c.width))
        elif not c.SCALED_INPUT:
            hidden_BTD = hidden_BTD * c.width**-0.5
        return {"hidden": hidden_BTD, "embedding": output_VD, **({} if cache is None else {"cache": cache})}
