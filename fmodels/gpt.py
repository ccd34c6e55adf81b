"""GPT-2 (Radford et al. 2019), GPT-3 (Brown et al. 2020), and modern decoders, which are other choices in `TransformerConfig`.

Shapes: B batch, T length, D model width, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from flax import linen as nn

from fmodels.axes import constrain, named
from fmodels.model import Model
from fmodels.nn.cache import Cache, begun, positions_of
from fmodels.nn.layers import Dropout, Embed
from fmodels.nn.transformer import Activation, Init, NormPosition, Stack, TransformerConfig, add_positions, check_decoder
from fmodels.nn.vocabulary import check_vocabulary, with_vocabulary


@dataclass(frozen=True, kw_only=True)
class GptConfig(TransformerConfig):
    """Configuration of a decoder. The defaults are GPT-2 small."""

    vocab_size: int | None = 50_257
    "vocabulary size, V, at least the tokenizer's; None: the tokenizer's, rounded up to a multiple of 128"
    tied: bool = True
    "use the token embedding as output layer"
    activation: Activation = "gelu_tanh"
    norm_position: NormPosition = "pre"
    norm_epsilon: float | None = 1e-5
    init: Init = "gpt2"
    max_length: int = 1024

    IS_CAUSAL: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        check_vocabulary(self.vocab_size)
        check_decoder(self)

    def resolved(self, facts: Mapping[str, Any]) -> "GptConfig":
        return with_vocabulary(self, facts)

    def build(self) -> Model:
        return Model(Gpt(self))


# Layers, width, heads. GPT-3's are those of Brown et al. 2020, table 2.1, with two corrections: the table has 24 heads for xl and
# width 5140 for 13b, which contradict its head size and parameter counts.
GPT2 = {"small": (12, 768, 12), "medium": (24, 1024, 16), "large": (36, 1280, 20), "xl": (48, 1600, 25)}
GPT3 = {
    "small": (12, 768, 12),
    "medium": (24, 1024, 16),
    "large": (24, 1536, 16),
    "xl": (24, 2048, 16),
    "2.7b": (32, 2560, 32),
    "6.7b": (32, 4096, 32),
    "13b": (40, 5120, 40),
    "175b": (96, 12_288, 96),
}
SIZES = {f"gpt2-{name}": (*size, 1024) for name, size in GPT2.items()}
SIZES |= {f"gpt3-{name}": (*size, 2048) for name, size in GPT3.items()}
# The block of Llama (Touvron et al. 2023).
MODERN = {"norm": "rms", "activation": "swiglu", "position": "rotary", "bias": False, "dropout": 0.0, "attention_dropout": 0.0}


def gpt(size: str, **changes) -> GptConfig:
    """Return the config of a published size, with any fields overridden: `gpt("gpt2-small", **MODERN, kv_heads=4)`."""
    layers, width, heads, max_length = SIZES[size]
    return GptConfig(**{"layers": layers, "width": width, "heads": heads, "max_length": max_length, **changes})


class Gpt(nn.Module):
    """Decoder.

    Reads `tokens` [B, T] and the optional field `mask` [B, T] (True at real tokens, which may be padded on either side). Packed
    rows add `sequences` [B, T] (sequence number within the row, from 1; 0 at padding) and `positions` [B, T] (position within the
    sequence); tokens attend to earlier ones of their own sequence. With a `cache`, the tokens follow those in the cache; a number
    is that of the slots of a new, empty cache.

    Returns `hidden` [B, T, D], and the output `embedding` [V, D]: the logits of the next token are their product. With a cache,
    also the updated `cache`."""

    config: GptConfig

    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], cache: Cache | int | None = None, *, train: bool) -> dict[str, Any]:
        c = self.config
        tokens_BT, mask_BT, sequences_BT = batch["tokens"], batch.get("mask"), batch.get("sequences")
        length = tokens_BT.shape[1]
        if length > c.max_length:
            raise ValueError(f"sequence length {length} exceeds max_length {c.max_length}")

        assert c.vocab_size is not None, "vocab_size must be resolved before the model is built"
        normal = nn.initializers.normal(0.02)
        token_embedding = Embed(c.vocab_size, c.width, "vocab", normal, name="token_embedding")
        cache = begun(c, cache, len(tokens_BT), token_embedding.table.dtype)
        positions_BT = batch["positions"] if "positions" in batch else positions_of(mask_BT, length, cache)
        x_BTD = constrain(token_embedding(tokens_BT), "batch", "length", None)
        x_BTD = add_positions(c, x_BTD, positions_BT, init=normal)
        x_BTD = constrain(Dropout(c.dropout)(x_BTD, train), "batch", "length", None)

        stack = Stack(c, is_causal=True, name="decoder")
        hidden_BTD, cache = stack(x_BTD, mask_BT, positions_BT, train, sequences_BT, cache=cache)
        output_VD = token_embedding.table
        if not c.tied:
            output_VD = self.param("output", named(normal, "vocab", "embed"), (c.vocab_size, c.width))
        return {"hidden": hidden_BTD, "embedding": output_VD, **({} if cache is None else {"cache": cache})}
