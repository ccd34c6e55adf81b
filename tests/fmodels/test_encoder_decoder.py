"""Encoder-decoders: published sizes, packed rows, and decoding with a cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmodels import t5
from fmodels.axes import split
from fmodels.nn.encoder_decoder import EncoderDecoderConfig
from fmodels.t5 import T5Config
from fmodels.transformer import SIZES, Seq2SeqConfig, transformer
from tests.cases import cases

ROWS, SOURCE, LENGTH = 3, 9, 12
SMALL = {"layers": 2, "width": 16, "heads": 4, "hidden": 24, "vocab_size": 40, "max_length": 16}
SMALL |= {"dropout": 0.0, "attention_dropout": 0.0}
CONFIGS = {
    "transformer": Seq2SeqConfig(**SMALL),
    "learned": Seq2SeqConfig(**SMALL, position="learned"),
    "t5": T5Config(**SMALL, head_size=6),
    "t5 1.1 scanned": T5Config(**SMALL, head_size=6, activation="geglu_tanh", tied=False, scan=True),
    "rotary": T5Config(**SMALL, position="rotary", kv_heads=2),
}
configs = pytest.mark.parametrize("config", cases(CONFIGS, ["transformer", "t5 1.1 scanned"]))

PUBLISHED = {
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    "t5-1.1-small": 76_961_152,
    "t5-1.1-base": 247_577_856,
    "t5-1.1-large": 783_150_080,
    "t5-1.1-xl": 2_849_757_184,
    "t5-1.1-xxl": 11_135_332_352,
}


def batch(**fields) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    found = {"source": rng.integers(39, size=(ROWS, SOURCE)), "tokens": rng.integers(39, size=(ROWS, LENGTH))}
    return {name: jnp.asarray(x) for name, x in {**found, **fields}.items()}


def shapes(config: EncoderDecoderConfig) -> dict:
    params, state = jax.eval_shape(config.build().init, jax.random.key(0), batch())
    assert state == {}
    return split(params)[0]


def random_params(config: EncoderDecoderConfig) -> dict:
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.1, 0.3, leaf.shape), jnp.float32), shapes(config))


def parameters(config: EncoderDecoderConfig) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(config)))


def test_published_parameter_counts():
    assert {size: parameters(t5.t5(size, scan=True)) for size in t5.SIZES} == PUBLISHED
    assert t5.t5("t5-base", head_size=None) == T5Config(hidden=3072)
    # Vaswani et al. 2017, table 3: 65 and 213 million, with about 37,000 tokens.
    assert [parameters(transformer(size, vocab_size=37_000)) for size in SIZES] == [63_082_496, 214_245_376]
    assert transformer("base") == Seq2SeqConfig(hidden=2048)


@configs
def test_initial_logits_have_unit_scale(config):
    """Embeddings have unit variance on input, and hidden states of unit variance give logits of about unit variance."""
    params, _ = split(config.build().init(jax.random.key(0), batch())[0])
    out, _ = config.build().apply(params, {}, batch())
    assert 0.3 < (out["hidden"] @ out["embedding"].T).std() < 3


def changes(config: EncoderDecoderConfig, inputs: dict, field: str, at: int) -> np.ndarray:
    """Return where the hidden states change if the token at `at` changes."""
    model, params = config.build(), random_params(config)
    changed = {**inputs, field: inputs[field].at[:, at].add(1)}
    before, after = (model.apply(params, {}, x)[0]["hidden"] for x in (inputs, changed))
    return np.asarray(jnp.abs(before - after).max((0, 2)) > 1e-6)


@configs
def test_targets_see_the_whole_source_and_earlier_targets(config):
    mask = np.arange(SOURCE) < 8
    inputs = batch(source_mask=np.tile(mask, (ROWS, 1)))
    np.testing.assert_array_equal(changes(config, inputs, "tokens", 5), np.arange(LENGTH) >= 5)
    assert changes(config, inputs, "source", 7).all() and not changes(config, inputs, "source", 8).any()


@configs
def test_packed_pairs_do_not_reach_each_other(config):
    sequences, sources = np.array([1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 0, 0]), np.array([1, 1, 2, 2, 2, 2, 3, 3, 0])
    place = lambda x: np.concatenate([np.arange((x == number).sum()) for number in (1, 2, 3, 0)])
    rows = {
        "sequences": sequences,
        "source_sequences": sources,
        "positions": place(sequences),
        "source_positions": place(sources),
    }
    inputs = batch(**{name: np.tile(x, (ROWS, 1)) for name, x in rows.items()})
    for at in (0, 4, 8):
        wanted = (sequences == sequences[at]) & (np.arange(LENGTH) >= at)
        np.testing.assert_array_equal(changes(config, inputs, "tokens", at), wanted)
    for at in (1, 3, 6):
        np.testing.assert_array_equal(changes(config, inputs, "source", at), sequences == sources[at])


@configs
def test_decoding_with_a_cache_equals_the_whole_target(config):
    model, params, padding = config.build(), random_params(config), np.array([0, 3, 5])  # on the left
    inputs = batch(mask=np.arange(LENGTH) >= padding[:, None], source_mask=np.arange(SOURCE) < np.array([[9], [4], [1]]))
    whole, _ = model.apply(params, {}, inputs)
    prompt = {name: x if "source" in name else x[:, :6] for name, x in inputs.items()}
    first, _ = model.apply(params, {}, prompt, 14)
    cache, hidden = first["cache"], [first["hidden"]]
    step = jax.jit(lambda tokens, cache: model.apply(params, {}, {"tokens": tokens}, cache)[0])
    for i in range(6, LENGTH):
        out = step(inputs["tokens"][:, i : i + 1], cache)
        assert jax.tree.map(jnp.shape, out["cache"]) == jax.tree.map(jnp.shape, cache)
        hidden, cache = [*hidden, out["hidden"]], out["cache"]
    real = np.asarray(inputs["mask"])
    np.testing.assert_allclose(np.concatenate(hidden, 1)[real], np.asarray(whole["hidden"])[real], rtol=0, atol=1e-5)


def test_sequences_that_are_too_long_are_errors():
    model = Seq2SeqConfig(**{**SMALL, "max_length": 10}).build()
    with pytest.raises(ValueError, match="target length 12 exceeds max_length 10"):
        jax.eval_shape(model.init, jax.random.key(0), batch())
    with pytest.raises(ValueError, match="source length 11 exceeds max_length 10"):
        jax.eval_shape(model.init, jax.random.key(0), batch(source=np.zeros((ROWS, 11), int)))
    short = batch(tokens=np.zeros((ROWS, 4), int))
    params = jax.eval_shape(model.init, jax.random.key(0), short)[0]
    with pytest.raises(ValueError, match="12 tokens exceed max_length 10"):
        jax.eval_shape(lambda params: model.apply(params, {}, short, 12), split(params)[0])


def test_invalid_config_values_are_errors():
    with pytest.raises(ValueError, match=r"^position directional looks ahead, which a decoder cannot"):
        T5Config(position="directional")
    with pytest.raises(ValueError, match=r"^vocab_size must be at least 1, not 0$"):
        Seq2SeqConfig(vocab_size=0)
