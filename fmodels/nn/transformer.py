"""General transformer encoder. Its config selects each variant of a block by name.

Shapes: B batch, T length, D model width, F hidden width, N heads.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from fmodels.axes import constrain, target
from fmodels.nn import positions
from fmodels.nn.attention import Attention
from fmodels.nn.layers import ACTIVATIONS, GATED, NORMS, Dense, Dropout

RELATIVE = {"relative": nn.initializers.normal(0.02), "directional": positions.directional}
REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Configuration of a stack of transformer blocks. Raises ValueError for invalid or incompatible values."""

    layers: int = 12
    "number of blocks"
    width: int = 768
    "size of the residual stream, D"
    heads: int = 12
    "number of attention heads; must divide width"
    hidden: int | None = None
    "hidden size of the MLP, F; None: 4 D, or 8/3 D if gated (same cost)"
    activation: Literal["gelu", "gelu_tanh", "relu", "tanh", "sigmoid", "swiglu", "geglu"] = "gelu"
    "activation of the MLP; swiglu and geglu are gated (Shazeer 2020)"
    norm: Literal["layer", "rms"] = "layer"
    "normalization: LayerNorm or RMSNorm"
    norm_position: Literal["pre", "post"] = "post"
    "normalize before each sublayer (pre, Xiong et al. 2020) or after its residual sum (post, Vaswani et al. 2017)"
    position: Literal["learned", "sinusoidal", "rotary", "alibi", "relative", "directional", "none"] = "learned"
    "position encoding; directional: relative bias initialised to ALiBi, with each head looking in one direction"
    init: Literal["normal", "fan_in"] = "normal"
    "kernel initializer: std 0.02, or 1/sqrt(fan_in); fan_in divides the std of residual outputs by sqrt(2 layers)"
    max_length: int = 512
    "maximum sequence length in tokens; size of the learned position table"
    bias: bool = True
    "use biases in dense layers"
    dropout: float = 0.1
    "dropout rate of the embeddings and of each sublayer output"
    attention_dropout: float = 0.1
    "dropout rate of the attention weights"
    attention: Literal["auto", "xla", "cudnn"] = field(default="auto", metadata={"how": True})
    "attention kernel: cudnn needs a GPU, bfloat16 and no attention dropout; auto uses cudnn if possible, else xla"
    scan: bool = False
    "scan over the layers: constant compile time, slightly slower on CPU"
    remat: Literal["none", "dots", "full"] = field(default="none", metadata={"how": True})
    "recompute in the backward pass: nothing (none), all but matrix products (dots), or everything in a block (full)"

    def __post_init__(self):
        for name in ("layers", "width", "heads", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.hidden is not None and self.hidden < 1:
            raise ValueError(f"hidden must be at least 1, or None for the default, not {self.hidden}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide into {self.heads} heads")
        if self.position == "rotary" and self.width // self.heads % 2:
            raise ValueError(f"position rotary needs an even head size (width / heads), not {self.width // self.heads}")
        if self.position == "sinusoidal" and self.width % 2:
            raise ValueError(f"position sinusoidal needs an even width, not {self.width}")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        if self.attention == "cudnn" and self.attention_dropout:
            raise ValueError("attention cudnn does not support attention dropout: set attention_dropout to 0")
        if self.attention == "cudnn" and (self.width // self.heads % 8 or self.width // self.heads > 128):
            raise ValueError(f"attention cudnn needs a head size of 8, 16, … or 128, not {self.width // self.heads}")

    def check(self, experiment: Any) -> None:
        """Raises ValueError if the experiment's sequences are too long, or its attention kernel cannot run.

        The platform is checked only where it is known: within `fmodels.axes.traced_for`.
        """
        length = getattr(experiment.data, "length", None)
        if length is not None and length > self.max_length:
            raise ValueError(f"data.length {length} is more than model.max_length {self.max_length}")
        if self.attention != "cudnn":
            return
        if experiment.run.precision == "f32":
            raise ValueError("model.attention cudnn computes in 16 bits: set run.precision bf16")
        if length is not None and length % 2:
            raise ValueError(f"model.attention cudnn needs an even data.length, not {length}")
        if target() not in (None, "gpu"):
            raise ValueError(f"model.attention cudnn needs an NVIDIA GPU, but the mesh has {target()} devices: set it to xla")

    def adapted(self, params: dict, wanted: dict) -> dict:
        """Return the parameters of another run with their layers stacked or unstacked, as in `wanted`."""
        return restacked(params, wanted)

    @property
    def mlp_width(self) -> int:
        """Hidden size of the MLP, F. The default of gated activations is rounded to a multiple of 8."""
        if self.hidden is not None:
            return self.hidden
        return round(self.width / 3) * 8 if self.activation in GATED else 4 * self.width

    def kernel_init(self, residual: bool = False) -> Callable:
        """Return the initializer of a kernel; `residual` if the output is added to the residual stream."""
        if self.init == "normal":
            return nn.initializers.truncated_normal(0.02)
        return nn.initializers.variance_scaling(0.5 / self.layers if residual else 1.0, "fan_in", "normal")


class MLP(nn.Module):
    config: TransformerConfig

    @nn.compact
    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        c = self.config
        dense = lambda name: Dense(c.mlp_width, ("embed", "mlp"), c.bias, c.kernel_init(), name=name)
        if c.activation in GATED:
            hidden_BTF = GATED[c.activation](dense("gate")(x_BTD)) * dense("up")(x_BTD)
        else:
            hidden_BTF = ACTIVATIONS[c.activation](dense("up")(x_BTD))
        hidden_BTF = constrain(hidden_BTF, "batch", "length", "mlp")
        return Dense(c.width, ("mlp", "embed"), c.bias, c.kernel_init(residual=True), name="down")(hidden_BTF)


class Block(nn.Module):
    """Attention and MLP sublayers, each with norm, dropout and residual sum."""

    config: TransformerConfig
    train: bool

    @nn.compact
    def __call__(self, x_BTD: Float[Array, "B T D"], mask, bias, positions_BT: Int[Array, "#B T"]):
        c = self.config
        attention = Attention(
            c.heads, c.attention_dropout, c.attention, c.position == "rotary", c.bias,
            c.kernel_init(), c.kernel_init(residual=True), name="attention",
        )  # fmt: skip
        sublayers = {
            "attention": lambda x: attention(x, mask, bias, positions_BT, self.train),
            "mlp": MLP(c, name="mlp"),
        }
        for name, sublayer in sublayers.items():
            norm, dropout = NORMS[c.norm](name=f"{name}_norm"), Dropout(c.dropout)
            if c.norm_position == "pre":
                x_BTD = x_BTD + dropout(sublayer(norm(x_BTD)), self.train)
            else:
                x_BTD = norm(x_BTD + dropout(sublayer(x_BTD), self.train))
            x_BTD = constrain(x_BTD, "batch", "length", None)
        self.sow("intermediates", "hidden", x_BTD)
        return x_BTD, None  # carry and no output, as nn.scan expects


class Encoder(nn.Module):
    """Stack of blocks that maps embeddings [B, T, D] to hidden states [B, T, D].

    `mask_BT` is True at real tokens; None if all tokens are real. `sequences_BT` numbers the sequences of packed rows, which do
    not attend to each other. The caller adds learned and sinusoidal positions; the encoder applies all other encodings."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        mask_BT: Bool[Array, "B T"] | None,
        positions_BT: Int[Array, "#B T"],
        train: bool,
        sequences_BT: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T D"]:
        c = self.config
        mask = None if mask_BT is None else mask_BT[:, None, None, :] & jnp.ones((x_BTD.shape[1], 1), bool)
        if sequences_BT is not None:  # padding attends to padding only, and no real token attends to it
            mask = (sequences_BT[:, :, None] == sequences_BT[:, None, :])[:, None]
        bias = None
        if c.position == "alibi":
            bias = positions.alibi(c.heads, positions_BT)
        elif c.position in RELATIVE:
            bias = positions.RelativeBias(c.heads, init=RELATIVE[c.position], name="relative_bias")(x_BTD.shape[1])
        block = Block if c.remat == "none" else nn.remat(Block, policy=REMAT[c.remat], prevent_cse=not c.scan)
        if c.scan:
            stack = nn.scan(
                block,
                variable_axes={"params": 0, "intermediates": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=nn.broadcast,  # pyright: ignore
                length=c.layers,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            x_BTD, _ = stack(c, train, name="layers")(x_BTD, mask, bias, positions_BT)
        else:
            for i in range(c.layers):
                x_BTD, _ = block(c, train, name=f"layer_{i}")(x_BTD, mask, bias, positions_BT)
        if c.norm_position == "pre":
            x_BTD = NORMS[c.norm](name="final_norm")(x_BTD)
        return x_BTD


def stack_layers(encoder: dict) -> dict:
    """Convert the parameters of an unscanned Encoder to a scanned one: stack `layer_0`, `layer_1`, … into `layers`."""
    names = sorted((k for k in encoder if k.startswith("layer_")), key=lambda k: int(k.removeprefix("layer_")))
    rest = {k: v for k, v in encoder.items() if k not in names}
    return {**rest, "layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *(encoder[k] for k in names))}


def unstack_layers(encoder: dict) -> dict:
    """Convert the parameters of a scanned Encoder to an unscanned one: the inverse of `stack_layers`."""
    rest = {k: v for k, v in encoder.items() if k != "layers"}
    count = len(jax.tree.leaves(encoder["layers"])[0])
    layer = lambda i: jax.tree.map(lambda leaf: leaf[i], encoder["layers"])
    return {**rest, **{f"layer_{i}": layer(i) for i in range(count)}}


def restacked(given: Any, wanted: Any) -> Any:
    """Return `given` with the layers of each stack stacked or unstacked, as in `wanted`."""
    if not (isinstance(given, dict) and isinstance(wanted, dict)):
        return given
    if "layers" in wanted and "layer_0" in given:
        given = stack_layers(given)
    elif "layer_0" in wanted and "layers" in given:
        given = unstack_layers(given)
    return {name: restacked(part, wanted.get(name)) for name, part in given.items()}
