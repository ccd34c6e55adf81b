"""Stacks of transformer blocks: encoders and decoders. The config selects each variant of a block by name.

Shapes: B batch, T length, S length of a source or slots of a cache, Q queries, K keys, D model width, F hidden width, N heads.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from fmodels.axes import constrain, target
from fmodels.nn import positions
from fmodels.nn.attention import Attention, attention_mask
from fmodels.nn.cache import Cache, Source, extended
from fmodels.nn.layers import ACTIVATIONS, GATED, NORMS, Dense, Dropout, DropPath, Embed

Activation = Literal["gelu", "gelu_tanh", "relu", "tanh", "sigmoid", "swiglu", "geglu", "geglu_tanh"]
Norm = Literal["layer", "layer_no_bias", "rms"]
NormPosition = Literal["pre", "post"]
Position = Literal["learned", "sinusoidal", "rotary", "alibi", "relative", "directional", "none"]
Init = Literal["normal", "gpt2", "fan_in", "lecun", "xavier"]
RELATIVE = {"relative": nn.initializers.normal(0.02), "directional": positions.directional}
TABLE_INIT = nn.initializers.truncated_normal(0.02)
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
    "number of attention heads; must divide width unless head_size is set"
    head_size: int | None = None
    "size of an attention head, H; None: width / heads"
    kv_heads: int | None = None
    "heads of keys and values, each shared by heads / kv_heads query heads (grouped-query attention); None: heads"
    window: int | None = None
    "largest distance of tokens that attend to each other in local layers; None: all layers are global"
    global_every: int | None = None
    "with a window, one layer in this many is global, beginning with the first; None: all layers are local"
    hidden: int | None = None
    "hidden size of the MLP, F; None: 4 D, or 8/3 D if gated (same cost)"
    activation: Activation = "gelu"
    "activation of the MLP; swiglu and geglu are gated (Shazeer 2020)"
    norm: Norm = "layer"
    "normalization: LayerNorm, with or without bias, or RMSNorm"
    norm_epsilon: float | None = None
    "added to the variance; None: 1e-12 with layer, 1e-6 with rms"
    norm_position: NormPosition = "post"
    "normalize before each sublayer (pre, Xiong et al. 2020) or after its residual sum (post, Vaswani et al. 2017)"
    position: Position = "learned"
    "position encoding; directional: relative bias initialised to ALiBi, with each head looking in one direction"
    rotary_base: float = 10_000.0
    "base of the rotary frequencies; larger for long contexts"
    local_rotary_base: float | None = None
    "base of the rotary frequencies in local layers; None: rotary_base"
    init: Init = "normal"
    "kernel initializer: std 0.02 or 1/sqrt(fan_in), divided by sqrt(2 layers) in residual outputs by gpt2 and fan_in; or Glorot"
    max_length: int = 512
    "maximum sequence length in tokens; size of the learned position table"
    bias: bool = True
    "use biases in dense layers"
    dropout: float = 0.1
    "dropout rate of the embeddings and of each sublayer output"
    attention_dropout: float = 0.1
    "dropout rate of the attention weights"
    drop_path: float = 0.0
    "rate of stochastic depth of each sublayer, the same in all layers (Touvron et al. 2022)"
    attention: Literal["auto", "xla", "cudnn"] = field(default="auto", metadata={"how": True})
    "attention kernel: cudnn needs a GPU, bfloat16 and no attention dropout; auto uses cudnn if possible, else xla"
    scan: bool = False
    "scan over the layers: constant compile time, slightly slower on CPU"
    remat: Literal["none", "dots", "full"] = field(default="none", metadata={"how": True})
    "recompute in the backward pass: nothing (none), all but matrix products (dots), or everything in a block (full)"

    SCALED: ClassVar[bool] = True  # whether attention logits are divided by sqrt(H)
    IS_CAUSAL: ClassVar[bool] = False  # whether tokens attend to earlier tokens only

    def __post_init__(self):
        for name in ("layers", "width", "heads", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.hidden is not None and self.hidden < 1:
            raise ValueError(f"hidden must be at least 1, or None for the default, not {self.hidden}")
        if self.head_size is None and self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide into {self.heads} heads")
        for name in ("head_size", "kv_heads", "window", "global_every"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, or None for the default, not {value}")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        if self.global_every is not None and self.window is None:
            raise ValueError("global_every needs a window: set window")
        for name in ("norm_epsilon", "rotary_base", "local_rotary_base"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} must be greater than 0, not {value}")
        if self.position == "rotary" and self.size_of_head % 2:
            raise ValueError(f"position rotary needs an even head size (width / heads), not {self.size_of_head}")
        if self.position == "sinusoidal" and self.width % 2:
            raise ValueError(f"position sinusoidal needs an even width, not {self.width}")
        for name in ("dropout", "attention_dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        if self.attention == "cudnn" and self.attention_dropout:
            raise ValueError("attention cudnn does not support attention dropout: set attention_dropout to 0")
        if self.attention == "cudnn" and (self.size_of_head % 8 or self.size_of_head > 128):
            raise ValueError(f"attention cudnn needs a head size of 8, 16, … or 128, not {self.size_of_head}")

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

    @property
    def size_of_head(self) -> int:
        return self.width // self.heads if self.head_size is None else self.head_size

    @property
    def local_layers(self) -> tuple[bool, ...]:
        """Whether each layer attends within the window only."""
        every = self.global_every
        return tuple(self.window is not None and (every is None or i % every != 0) for i in range(self.layers))

    def kernel_init(self, residual: bool = False, factor: float = 1.0) -> Callable:
        """Return the initializer of a kernel, with its std times `factor`; `residual` if the output is added to the residual
        stream."""
        if self.init == "normal":
            return nn.initializers.truncated_normal(0.02 * factor)
        if self.init == "xavier":
            return nn.initializers.variance_scaling(factor**2, "fan_avg", "uniform")
        if residual and self.init != "lecun":
            factor *= (2 * self.layers) ** -0.5
        if self.init == "gpt2":
            return nn.initializers.normal(0.02 * factor)
        return nn.initializers.variance_scaling(factor**2, "fan_in", "normal")


def check_decoder(config: TransformerConfig) -> None:
    """Raises ValueError if the config of a decoder has the position encoding of an encoder."""
    if config.position == "directional":
        raise ValueError("position directional looks ahead, which a decoder cannot: choose alibi or relative")


def norm(config: TransformerConfig, name: str) -> nn.Module:
    """Return the normalization layer `name` of a config."""
    options = {} if config.norm_epsilon is None else {"epsilon": config.norm_epsilon}
    return NORMS[config.norm](**options, name=name)


def add_positions(
    config: TransformerConfig,
    x_BTD: jax.Array,
    positions_BT: jax.Array,
    name: str = "position_embedding",
    init: Callable = TABLE_INIT,
) -> jax.Array:
    """Return embeddings plus learned or sinusoidal positions; unchanged for other encodings, which the stack applies."""
    if config.position == "learned":
        return x_BTD + Embed(config.max_length, config.width, init=init, name=name)(positions_BT, len(x_BTD))
    if config.position == "sinusoidal":
        return x_BTD + positions.sinusoidal(positions_BT, config.width).astype(x_BTD.dtype)
    return x_BTD


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


class Shared(NamedTuple):
    """Inputs that are the same for all blocks of a stack."""

    masks: tuple[jax.Array | None, jax.Array | None]  # of global and of local layers
    bias: jax.Array | None
    positions_BT: jax.Array
    slot: jax.Array | None  # first slot of the cache to write
    source_BSD: jax.Array | None
    source_mask: jax.Array | None


class Block(nn.Module):
    """Attention and MLP sublayers, each with norm, dropout and residual sum. With `attends_to_source`, the source comes between.

    `is_local` is fixed for the block, or None if it is an input, as in scanned layers of both kinds."""

    config: TransformerConfig
    train: bool
    is_causal: bool = False
    attends_to_source: bool = False
    is_local: bool | None = False

    @nn.compact
    def __call__(self, x_BTD: Float[Array, "B T D"], is_local: jax.Array | None, cache: Cache | None, shared: Shared):
        c, new_cache = self.config, {}
        bases = (c.rotary_base, c.local_rotary_base or c.rotary_base)
        if self.is_local is None:
            whole, local = shared.masks
            assert local is not None and is_local is not None, "layers of both kinds have a window and a flag"
            if whole is None:
                whole = jnp.tril(jnp.ones(local.shape[2:], bool)) if self.is_causal else jnp.ones((), bool)
            mask, base = jnp.where(is_local, local, whole), jnp.where(is_local, bases[1], bases[0])
        else:
            mask, base = shared.masks[self.is_local], bases[self.is_local]
        base = base if c.position == "rotary" else None

        def attend(name: str, x_BTD: jax.Array, mask: jax.Array | None, bias: jax.Array | None, **options) -> jax.Array:
            attention = Attention(
                c.heads, c.kv_heads or c.heads, c.size_of_head, c.attention_dropout, c.attention, c.bias,
                is_scaled=c.SCALED, is_causal=self.is_causal and name == "attention", init=c.kernel_init(),
                query_init=c.kernel_init(factor=1.0 if c.SCALED else c.size_of_head**-0.5),
                out_init=c.kernel_init(residual=True), name=name,
            )  # fmt: skip
            options["cache"] = None if cache is None else cache[name]
            y_BTD, new_cache[name] = attention(x_BTD, mask, bias, self.train, shared.positions_BT, **options)
            return y_BTD

        own, other = {"rotary_base": base, "index": shared.slot}, {"source_BSD": shared.source_BSD}
        sublayers: dict[str, Callable] = {"attention": lambda x: attend("attention", x, mask, shared.bias, **own)}
        if self.attends_to_source:
            sublayers["source_attention"] = lambda x: attend("source_attention", x, shared.source_mask, None, **other)
        sublayers["mlp"] = MLP(c, name="mlp")
        for name, sublayer in sublayers.items():
            norm_of, dropout, drop_path = norm(c, f"{name}_norm"), Dropout(c.dropout), DropPath(c.drop_path)
            dropped = lambda y_BTD: drop_path(dropout(y_BTD, self.train), self.train)  # noqa: B023, called here only
            if c.norm_position == "pre":
                x_BTD = x_BTD + dropped(sublayer(norm_of(x_BTD)))
            else:
                x_BTD = norm_of(x_BTD + dropped(sublayer(x_BTD)))
            x_BTD = constrain(x_BTD, "batch", "length", None)
        self.sow("intermediates", "hidden", x_BTD)
        return x_BTD, None if cache is None else new_cache


class Stack(nn.Module):
    """Stack of blocks that maps embeddings [B, T, D] to hidden states [B, T, D]: an encoder, or with `is_causal` a decoder.

    `mask_BT` is True at real tokens; None if all tokens are real. `sequences_BT` numbers the sequences of packed rows, which do
    not attend to each other, nor to other sequences of the source. The caller adds learned and sinusoidal positions; the stack
    applies all other encodings."""

    config: TransformerConfig
    is_causal: bool = False
    attends_to_source: bool = False

    @nn.compact
    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        mask_BT: Bool[Array, "B T"] | None,
        positions_BT: Int[Array, "#B T"],
        train: bool,
        sequences_BT: Int[Array, "B T"] | None = None,
        source: Source | None = None,
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """Return the hidden states and the updated cache. The tokens extend those in the cache (see `empty_cache`)."""
        c, layer_cache = self.config, {}
        slots_T = slots_S = np.arange(x_BTD.shape[1])
        slot, keys = None, Source(x_BTD, mask_BT, sequences_BT)
        if cache is not None:
            assert sequences_BT is None, "packed rows cannot be decoded"
            cache, slot, layer_cache = extended(cache, x_BTD.shape, mask_BT, source), cache["index"], cache["layers"]
            slots_T, slots_S = slot + slots_T, np.arange(cache["mask"].shape[1])
            keys = Source(x_BTD, cache["mask"], None)
        whole = attention_mask(keys, sequences_BT, slots_T, slots_S, self.is_causal)
        local = whole
        if c.window is not None:
            local = attention_mask(keys, sequences_BT, slots_T, slots_S, self.is_causal, c.window)
        bias = source_mask = None
        if c.position == "alibi":
            bias = positions.alibi(c.heads, slots_T, slots_S)
        elif c.position in RELATIVE:
            table = positions.RelativeBias(c.heads, self.is_causal, init=RELATIVE[c.position], name="relative_bias")
            bias = table(slots_T, slots_S)
        if source is not None:
            source_mask = attention_mask(source, sequences_BT, slots_T, np.arange(source.hidden_BSD.shape[1]))
        elif self.attends_to_source:
            assert cache is not None, "a decoder needs a source, or a cache of one"
            source_mask = cache["source_mask"][:, None, None, :]
        shared = Shared((whole, local), bias, positions_BT, slot, None if source is None else source.hidden_BSD, source_mask)

        block = Block if c.remat == "none" else nn.remat(Block, policy=REMAT[c.remat], prevent_cse=not c.scan)
        kinds = set(c.local_layers)
        if c.scan:
            is_local_L = jnp.asarray(c.local_layers) if len(kinds) > 1 else None
            stack = nn.scan(
                block,
                variable_axes={"params": 0, "intermediates": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(0, 0, nn.broadcast),  # pyright: ignore
                length=c.layers,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            is_local = None if len(kinds) > 1 else c.local_layers[0]
            stack = stack(c, train, self.is_causal, self.attends_to_source, is_local, name="layers")
            x_BTD, new_layers = stack(x_BTD, is_local_L, layer_cache or None, shared)
        else:
            new_layers = {}
            for i, is_local in enumerate(c.local_layers):
                layer = block(c, train, self.is_causal, self.attends_to_source, is_local, name=f"layer_{i}")
                x_BTD, new_layers[f"layer_{i}"] = layer(x_BTD, None, layer_cache.get(f"layer_{i}"), shared)
        if c.norm_position == "pre":
            x_BTD = norm(c, "final_norm")(x_BTD)
        return x_BTD, None if cache is None else {**cache, "layers": new_layers}


def stack_layers(stack: dict) -> dict:
    """Convert the parameters of an unscanned Stack to a scanned one: stack `layer_0`, `layer_1`, … into `layers`."""
    names = sorted((k for k in stack if k.startswith("layer_")), key=lambda k: int(k.removeprefix("layer_")))
    rest = {k: v for k, v in stack.items() if k not in names}
    return {**rest, "layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *(stack[k] for k in names))}


def unstack_layers(stack: dict) -> dict:
    """Convert the parameters of a scanned Stack to an unscanned one: the inverse of `stack_layers`."""
    rest = {k: v for k, v in stack.items() if k != "layers"}
    count = len(jax.tree.leaves(stack["layers"])[0])
    layer = lambda i: jax.tree.map(lambda leaf: leaf[i], stack["layers"])
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
