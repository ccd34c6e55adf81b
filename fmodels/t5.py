"""T5 (Raffel et al. 2020) and T5 1.1 (Shazeer 2020): a pre-norm encoder-decoder with relative positions and no biases.

Dropout follows embeddings, sublayers and attention weights, not the activation of the MLP or the final norms.
"""

from dataclasses import dataclass
from typing import ClassVar

from fmodels.nn.encoder_decoder import EncoderDecoderConfig
from fmodels.nn.transformer import Activation, Init, Norm, NormPosition, Position


@dataclass(frozen=True, kw_only=True)
class T5Config(EncoderDecoderConfig):
    """Configuration of a T5. The defaults are T5-base 1.0."""

    vocab_size: int | None = 32_128
    activation: Activation = "relu"
    norm: Norm = "rms"
    norm_position: NormPosition = "pre"
    position: Position = "relative"
    init: Init = "lecun"
    bias: bool = False

    SCALED: ClassVar[bool] = False  # the initial query kernel is smaller instead
    SCALED_INPUT: ClassVar[bool] = False


# Layers, width, heads, head size, hidden width.
V1_0 = {
    "small": (6, 512, 8, 64, 2048),
    "base": (12, 768, 12, 64, 3072),
    "large": (24, 1024, 16, 64, 4096),
    "3b": (24, 1024, 32, 128, 16_384),
    "11b": (24, 1024, 128, 128, 65_536),
}
V1_1 = {
    "small": (8, 512, 6, 64, 1024),
    "base": (12, 768, 12, 64, 2048),
    "large": (24, 1024, 16, 64, 2816),
    "xl": (24, 2048, 32, 64, 5120),
    "xxl": (24, 4096, 64, 64, 10_240),
}
SIZES = {f"t5-{name}": size for name, size in V1_0.items()} | {f"t5-1.1-{name}": size for name, size in V1_1.items()}


def t5(size: str, **changes) -> T5Config:
    """Return the config of a published size, with any fields overridden: `t5("t5-1.1-small", dropout=0.0)`."""
    fields: dict = dict(zip(("layers", "width", "heads", "head_size", "hidden"), SIZES[size], strict=True))
    if "1.1" in size:
        fields |= {"activation": "geglu_tanh", "tied": False}
    return T5Config(**{**fields, **changes})
