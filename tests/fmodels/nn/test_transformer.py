"""Encoder variants: every option trains; padding, scan and remat do not change results."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmodels.axes import split
from fmodels.bert import SIZES, BertConfig, bert, modern_bert, roberta
from fmodels.nn.heads import ClassifierHead, MaskedLMHead
from fmodels.nn.transformer import TransformerConfig, stack_layers, unstack_layers

REAL = np.array([11, 7, 1])  # real tokens per row of the batch; the rest is padding
LENGTH = 11


def small(**changes) -> BertConfig:
    sizes = {"layers": 2, "width": 24, "heads": 4, "hidden": 20, "vocab_size": 31, "max_length": 16}
    return BertConfig(**{**sizes, "dropout": 0.0, "attention_dropout": 0.0, **changes})


def batch(seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed).integers
    tokens, segments = draw(31, size=(3, LENGTH)).astype(np.int32), draw(2, size=(3, LENGTH)).astype(np.int32)
    return {"tokens": tokens, "segments": segments, "mask": np.arange(LENGTH) < REAL[:, None]}


def random_params(config: BertConfig, seed: int = 0) -> dict:
    """Return large random parameters, none 0 or 1, so that each of them affects the outputs."""
    shapes, _ = split(jax.eval_shape(config.build().init, jax.random.key(0), batch())[0])
    rng = np.random.default_rng(seed)
    mean = lambda path: 1.0 if path[-1].key == "scale" else 0.1
    draw = lambda path, leaf: rng.normal(mean(path), 0.3, leaf.shape).astype(np.float32)
    return jax.tree_util.tree_map_with_path(draw, shapes)


def arrays(tree):
    return jax.tree.map(jnp.asarray, tree)


# Both run op by op, so that variants share compiled operations.
def outputs(config: BertConfig, params: dict, inputs: dict) -> dict:
    out, state = config.build().apply(arrays(params), {}, arrays(inputs))
    assert state == {}
    return jax.tree.map(np.asarray, out)


def loss_and_gradients(config: BertConfig, params: dict, inputs: dict, seed: int = 0) -> tuple[tuple[np.ndarray, dict], dict]:
    """Return ((loss, outputs), gradients) in training mode."""
    run = jax.value_and_grad(partial(loss, config), has_aux=True)
    return jax.tree.map(np.asarray, run(arrays(params), arrays(inputs), seed))


def loss(config: BertConfig, params: dict, inputs: dict, seed: int | jax.Array) -> tuple[jax.Array, dict]:
    """Return a loss of all outputs except those at padding."""
    out, _ = config.build().apply(params, {}, inputs, rng=jax.random.key(seed), train=True)
    out["hidden"] = jnp.where(inputs["mask"][..., None], out["hidden"], 0)
    return sum(jnp.sin(x).sum() for x in out.values()), out


def assert_close(a, b, tolerance: float = 1e-5) -> None:
    """Compare leaf by leaf; the tolerance is relative to the largest entry of a leaf if that exceeds 1."""
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * max(1, np.abs(y).max()))
    jax.tree.map(close, a, b)


CHOICES = {
    "activation": ("gelu", "gelu_tanh", "relu", "tanh", "sigmoid", "swiglu", "geglu", "geglu_tanh"),
    "norm": ("layer", "layer_no_bias", "rms"),
    "init": ("normal", "gpt2", "fan_in", "lecun", "xavier"),
    "head_size": (None, 10),
    "kv_heads": (None, 2, 1),
    "window": (None, 2),
    "norm_position": ("pre", "post"),
    "position": ("learned", "sinusoidal", "rotary", "alibi", "relative", "directional", "none"),
    "pooling": ("cls", "mean"),
    "bias": (True, False),
    "segments": (0, 3),
}
DEFAULT = small()
VARIANTS = [{}, *({k: v} for k, values in CHOICES.items() for v in values if v != getattr(DEFAULT, k))]
MODERN = {"norm": "rms", "norm_position": "pre", "activation": "swiglu", "position": "rotary", "bias": False, "pooling": "mean"}
ALTERNATING = {"position": "rotary", "window": 2, "global_every": 2, "rotary_base": 500.0, "local_rotary_base": 90.0}


@pytest.mark.parametrize(
    "change", [*VARIANTS, MODERN, ALTERNATING], ids=lambda c: " ".join(f"{k}={v}" for k, v in c.items()) or "default"
)
def test_every_variant_trains_and_ignores_padding(change):
    config, inputs = small(**change), batch()
    params = random_params(config)
    out, gradients = loss_and_gradients(config, params, inputs)
    chex.assert_tree_all_finite(out)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(gradient).all(), name
        assert "['key']['bias']" in name or np.abs(gradient).max() > 1e-4, f"{name} is unused"  # softmax ignores the key bias

    padding = {k: np.where(inputs["mask"], v, batch(seed=1)[k]) for k, v in inputs.items() if k != "mask"} | {
        "mask": inputs["mask"]
    }
    assert (padding["tokens"] != inputs["tokens"]).any()
    assert_close(loss_and_gradients(config, params, padding), (out, gradients))


@pytest.mark.parametrize("position", CHOICES["position"])
def test_only_position_encodings_distinguish_token_order(position):
    config, inputs = small(position=position), {**batch(), "mask": np.ones((3, LENGTH), bool)}
    params, order = random_params(config), np.r_[0, np.random.default_rng(0).permutation(LENGTH - 1) + 1]
    original = outputs(config, params, inputs)
    permuted = outputs(config, params, {k: v[:, order] for k, v in inputs.items()})
    difference = np.abs(original["hidden"][:, order] - permuted["hidden"])
    assert difference.max() < 1e-5 if position == "none" else difference.max(-1).min() > 0.01


@pytest.mark.parametrize("change", [{"position": "relative"}, MODERN], ids=["relative", "modern"])
def test_padding_does_not_change_real_tokens(change):
    config, inputs = small(**change), batch()
    params = random_params(config)
    padded = outputs(config, params, inputs)
    row, real = 1, REAL[1]
    alone = outputs(config, params, {k: v[row : row + 1, :real] for k, v in inputs.items() if k != "mask"})
    assert_close(padded["hidden"][row, :real], alone["hidden"][0])
    assert_close(padded["pooled"][row], alone["pooled"][0])


def test_rows_with_only_padding_stay_finite():
    for pooling in CHOICES["pooling"]:
        config = small(pooling=pooling)
        inputs = {**batch(), "mask": np.zeros((3, LENGTH), bool)}
        chex.assert_tree_all_finite(outputs(config, random_params(config), inputs))


def test_segments_default_to_zero():
    params, inputs = random_params(small()), batch()
    zeros = {**inputs, "segments": np.zeros_like(inputs["segments"])}
    del inputs["segments"]
    assert_close(outputs(small(), params, inputs), outputs(small(), params, zeros), 0)


@pytest.mark.parametrize(
    "change", [{"position": "relative", "norm_position": "pre"}, ALTERNATING], ids=["relative", "alternating"]
)
def test_scan_matches_the_loop(change):
    config = partial(small, layers=3, **change)
    params, inputs = random_params(config()), batch()
    stacked = {**params, "encoder": stack_layers(params["encoder"])}
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, random_params(config(scan=True)))

    out, gradients = loss_and_gradients(config(scan=True), stacked, inputs)
    gradients["encoder"] = unstack_layers(gradients["encoder"])
    assert_close((out, gradients), loss_and_gradients(config(), params, inputs))


def test_stack_and_unstack_are_inverse():
    encoder = random_params(small(layers=11, position="relative", norm_position="pre"))["encoder"]  # layer_10 must follow layer_9
    stacked = stack_layers(encoder)
    assert set(stacked) == {"layers", "final_norm", "relative_bias"}
    np.testing.assert_array_equal(stacked["layers"]["mlp"]["up"]["bias"][10], encoder["layer_10"]["mlp"]["up"]["bias"])
    assert_close(unstack_layers(stacked), encoder, 0)


@pytest.mark.slow
def test_remat_does_not_change_results():
    """Uses dropout: the recomputation must draw the same random bits."""
    config = partial(small, dropout=0.2, attention_dropout=0.3)
    params, inputs = random_params(config()), batch()
    plain = loss_and_gradients(config(), params, inputs, seed=7)
    for remat in ("dots", "full"):
        assert_close(loss_and_gradients(config(remat=remat), params, inputs, seed=7), plain)

    stacked = {**params, "encoder": stack_layers(params["encoder"])}
    run = jax.jit(jax.grad(loss, 1, has_aux=True), static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
    plain = run(config(scan=True), stacked, inputs, 7)
    for remat in ("dots", "full"):
        assert_close(run(config(scan=True, remat=remat), stacked, inputs, 7), plain)


def test_dropout_depends_on_training_and_key():
    config = small(dropout=0.2, attention_dropout=0.3)
    params, inputs = random_params(config), batch()
    assert_close(outputs(config, params, inputs), outputs(small(), params, inputs), 0)
    losses = [float(loss(config, arrays(params), arrays(inputs), seed)[0]) for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_scanned_layers_drop_different_entries():
    """Blocks that only add dropout(1) would drop the same entries if they shared a key."""
    config = small(scan=True, dropout=0.5, norm_position="pre")
    params = jax.tree.map(np.zeros_like, random_params(config))
    params["encoder"]["layers"]["mlp"]["down"]["bias"] += 1  # each block adds dropout(1)
    params["encoder"]["final_norm"]["scale"] += 1
    out, _ = config.build().apply(arrays(params), {}, arrays(batch()), rng=jax.random.key(0), train=True)
    assert len(np.unique(np.round(np.asarray(out["hidden"])[0, 0], 3))) == 3, "0, 2 and 4 before the norm"


@pytest.mark.parametrize("scan", [False, True], ids=["loop", "scan"])
def test_intermediates(scan):
    config, inputs = small(scan=scan), batch()
    params = random_params(config)
    sown = config.build().intermediates(arrays(params), {}, arrays(inputs))["encoder"]
    if scan:
        hidden, weights = sown["layers"]["hidden"][0], sown["layers"]["attention"]["weights"][0]
    else:
        hidden = np.stack([sown[f"layer_{i}"]["hidden"][0] for i in range(2)])
        weights = np.stack([sown[f"layer_{i}"]["attention"]["weights"][0] for i in range(2)])
    assert weights.shape == (2, 3, 4, LENGTH, LENGTH)
    assert hidden.shape == (2, 3, LENGTH, 24)
    np.testing.assert_allclose(weights.sum(-1), np.ones((2, 3, 4, LENGTH)), rtol=0, atol=1e-6)
    assert (np.asarray(weights).transpose(1, 4, 0, 2, 3)[~inputs["mask"]] == 0).all(), "no attention to padding"
    assert_close(hidden[-1], outputs(config, params, inputs)["hidden"])


def test_compute_dtype_is_the_parameter_dtype():
    config = small(position="relative", norm_position="pre", activation="swiglu")
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), arrays(random_params(config)))
    shapes, _ = jax.eval_shape(config.build().apply, params, {}, arrays(batch()))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("bfloat16")}


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes_of(config: BertConfig) -> dict:
    params, state = jax.eval_shape(config.build().init, jax.random.key(0), {"tokens": jnp.zeros((1, 8), int)})
    assert state == {}
    return split(params)[0]


@pytest.mark.parametrize(
    ("size", "parameters"), [("tiny", 4_385_920), ("mini", 11_170_560), ("small", 28_763_648), ("medium", 41_373_184)]
)
def test_published_sizes(size, parameters):
    """Parameter counts of Turc et al. 2019, without heads."""
    assert count(shapes_of(bert(size))) == count(shapes_of(bert(size, scan=True))) == parameters


@pytest.mark.parametrize(("size", "parameters"), [("base", 110_106_428), ("large", 336_226_108)])
def test_published_sizes_with_both_heads(size, parameters):
    config = bert(size, scan=True)
    vector = jnp.zeros((1, config.width))
    masked_lm = partial(MaskedLMHead().init, train=False)
    heads = (
        jax.eval_shape(masked_lm, jax.random.key(0), vector[None], jnp.zeros((config.vocab_size, config.width))),
        jax.eval_shape(partial(ClassifierHead(2).init, train=False), jax.random.key(0), vector),
    )
    assert count(shapes_of(config)) + count(heads) == parameters


def test_gated_default_has_the_same_parameter_count():
    plain, gated = (count(shapes_of(bert("tiny", activation=name, bias=False))) for name in ("gelu", "swiglu"))
    assert abs(gated / plain - 1) < 0.001
    assert TransformerConfig(width=768, activation="geglu").mlp_width == 2048


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "layers must be at least 1, not 0"),
        ({"heads": -2}, "heads must be at least 1, not -2"),
        ({"max_length": 0}, "max_length must be at least 1, not 0"),
        ({"hidden": 0}, "hidden must be at least 1, or None for the default, not 0"),
        ({"width": 25}, "width 25 does not divide into 4 heads"),
        ({"width": 12, "position": "rotary"}, r"position rotary needs an even head size \(width / heads\), not 3"),
        ({"width": 9, "heads": 3, "position": "sinusoidal"}, "position sinusoidal needs an even width, not 9"),
        ({"kv_heads": 3}, "heads 4 is not a multiple of kv_heads 3"),
        ({"kv_heads": 0}, "kv_heads must be at least 1, or None for the default, not 0"),
        ({"window": 0}, "window must be at least 1, or None for the default, not 0"),
        ({"global_every": 3}, "global_every needs a window: set window"),
        ({"rotary_base": 0.0}, "rotary_base must be greater than 0, not 0.0"),
        ({"norm_epsilon": -1e-5}, "norm_epsilon must be greater than 0, not -1e-05"),
        ({"head_size": 5, "position": "rotary"}, r"position rotary needs an even head size \(width / heads\), not 5"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), not 1.0"),
        ({"attention_dropout": -0.1}, r"attention_dropout must be in \[0, 1\), not -0.1"),
        (
            {"attention": "cudnn", "attention_dropout": 0.1},
            "attention cudnn does not support attention dropout: .* 0",
        ),
        ({"vocab_size": 0}, "vocab_size must be at least 1, not 0"),
        ({"segments": -1}, "segments must be 0 or more, not -1"),
    ],
)
def test_invalid_config_values_are_errors(change, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        small(**change)


def test_local_layers_attend_within_the_window():
    """Change one token. It reaches 2 tokens per local layer, and all tokens through a global layer."""
    inputs = {**batch(), "mask": np.ones((3, LENGTH), bool)}
    changed = {**inputs, "tokens": inputs["tokens"].copy()}
    changed["tokens"][:, 0] = (inputs["tokens"][:, 0] + 1) % 31
    for global_every, reached in ((None, 5), (2, LENGTH)):
        config = small(position="rotary", window=2, global_every=global_every, segments=0)
        params = random_params(config)
        difference = np.abs(outputs(config, params, inputs)["hidden"] - outputs(config, params, changed)["hidden"]).max((0, 2))
        assert (difference[:reached] > 1e-4).all() and (difference[reached:] == 0).all()


def test_grouped_queries_equal_repeated_keys_and_values():
    grouped, full = small(kv_heads=2), small()
    params = random_params(grouped)

    def repeated(path, leaf):
        if {"key", "value"}.isdisjoint(part.key for part in path):
            return leaf
        return np.repeat(leaf.reshape(*leaf.shape[:-1], 2, 6), 2, axis=-2).reshape(*leaf.shape[:-1], 24)

    params_of_full = jax.tree_util.tree_map_with_path(repeated, params)
    assert_close(outputs(grouped, params, batch()), outputs(full, params_of_full, batch()))


def test_sequences_longer_than_max_length_are_errors():
    model = small(max_length=8).build()
    with pytest.raises(ValueError, match="sequence length 11 exceeds max_length 8"):
        jax.eval_shape(model.init, jax.random.key(0), batch())


def test_published_sizes_by_name_with_overrides():
    assert set(SIZES) == {"tiny", "mini", "small", "medium", "base", "large"}
    assert bert("base") == BertConfig()
    assert count(shapes_of(roberta("base"))) == 124_645_632 - 2 * 768  # HF has two unused positions
    assert count(shapes_of(roberta("large"))) == 355_359_744 - 2 * 1024
    assert count(shapes_of(modern_bert("base", scan=True))) == 149_014_272 + 768  # a norm more in the first layer
    assert count(shapes_of(modern_bert("large", scan=True))) == 394_781_696 + 1024
    assert bert("large", dropout=0.0, width=512) == BertConfig(layers=24, width=512, heads=16, dropout=0.0)
