"""The Transformer of Vaswani et al. 2017: a post-norm encoder-decoder with sinusoidal positions."""

from dataclasses import dataclass
from typing import ClassVar

from fmodels.nn.encoder_decoder import EncoderDecoderConfig
from fmodels.nn.transformer import Activation, Init, Position


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig(EncoderDecoderConfig):
    """Configuration of an encoder-decoder. The defaults are the base model of Vaswani et al. 2017, table 3."""

    layers: int = 6
    width: int = 512
    heads: int = 8
    activation: Activation = "relu"
    position: Position = "sinusoidal"
    norm_epsilon: float | None = 1e-6
    init: Init = "xavier"
    attention_dropout: float = 0.0
    max_length: int = 1024

    SCALED_INPUT: ClassVar[bool] = True


# Layers, width, heads, hidden width, dropout.
SIZES = {"base": (6, 512, 8, 2048, 0.1), "big": (6, 1024, 16, 4096, 0.3)}


def transformer(size: str, **changes) -> Seq2SeqConfig:
    """Return the config of a published size, with any fields overridden: `transformer("base", vocab_size=37_000)`."""
    fields = dict(zip(("layers", "width", "heads", "hidden", "dropout"), SIZES[size], strict=True))
    return Seq2SeqConfig(**{**fields, **changes})
