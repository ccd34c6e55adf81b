"""Generation: tokens of `transformers`, sampling from the right tokens, stops, seeds, and prompts of unequal length."""

from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmodels.gpt import GptConfig
from fmodels.model import Model
from fmodels.nn.decoding import Decoding, filtered, generate, padded, penalized, prefill
from tests.cases import cases
from tests.fmodels.nn.test_cache import random_params
from tests.fmodels.test_parity import FAMILIES, GOLDENS, arrays, golden, scanned

STOP, PAD, NEW = (17, 21), 1, 10
METHODS = {
    "greedy": {},
    "repetition_penalty": {"repetition_penalty": 1.7},
    "beams": {"beams": 4},
    "beams_long": {"beams": 3, "length_penalty": 2.5},
    "beams_short": {"beams": 5, "length_penalty": -1.0},
}


@pytest.mark.parametrize("scan", cases({"loop": False, "scan": True}, ["loop"]))
@pytest.mark.parametrize("method", cases({name: name for name in METHODS}, ["greedy", "beams"]))
@pytest.mark.parametrize("name", ["gpt2", "llama", "t5_1_1"])
def test_tokens_equal_those_of_transformers(name, method, scan):
    config, groups = golden(name)
    params = FAMILIES[name].from_hf(groups["weights"])["model"]
    if scan:
        config, params = type(config)(**{**vars(config), "scan": True}), scanned(params)
    with np.load(GOLDENS / f"{name}_generated.npz") as file:
        batch = {key.removeprefix("inputs/"): file[key] for key in file.files if "inputs" in key}
        wanted = file[f"outputs/{method}"]
    if method == "repetition_penalty":
        batch = {field: np.ones_like(x) if "mask" in field else x for field, x in batch.items()}
    if "source" in batch:
        batch["tokens"] = np.zeros((len(batch["source"]), 1), np.int32)  # the start token
    decoding = Decoding(new_tokens=NEW, stop=STOP, pad=PAD, **METHODS[method])
    found = generated(config.build(), params, batch, decoding)
    np.testing.assert_array_equal(found, wanted)


@partial(jax.jit, static_argnames=("model", "decoding"))
def jitted(model: Model, params, batch, decoding: Decoding, rng: jax.Array) -> jax.Array:
    return generate(model.apply, params, {}, batch, decoding, rng)


def generated(model: Model, params, batch, decoding: Decoding, seed: int = 0) -> np.ndarray:
    return np.asarray(jitted(model, arrays(params), arrays(batch), decoding, jax.random.key(seed)))


def small() -> GptConfig:
    return GptConfig(layers=2, width=16, heads=4, vocab_size=40, max_length=32, dropout=0.0, attention_dropout=0.0)


def run(prompts: list[list[int]], seed: int = 0, **options) -> np.ndarray:
    config, decoding = small(), Decoding(**{"new_tokens": 8, **options})
    batch, model = arrays(padded(prompts, decoding.new_tokens, config.max_length)), config.build()
    return generated(model, random_params(model, batch), batch, decoding, seed)


PROMPTS = [[3, 9, 27, 4, 12], [7], [20, 21, 22]]


@pytest.mark.parametrize("options", [{}, {"beams": 3}, {"repetition_penalty": 1.5}], ids=str)
def test_a_prompt_alone_gives_the_tokens_it_has_in_a_batch(options):
    together = run(PROMPTS, **options)
    for row, prompt in zip(together, PROMPTS, strict=True):
        np.testing.assert_array_equal(run([prompt], **options)[0], row)


def test_greedy_tokens_are_the_most_probable_without_a_cache():
    found, model = run(PROMPTS[:1])[0], small().build()
    tokens = [*PROMPTS[0], *found.tolist()]
    params = random_params(model, {"tokens": jnp.zeros((1, 8), int)})
    out, _ = model.apply(params, {}, {"tokens": jnp.array([tokens])})
    most = jnp.argmax(out["hidden"] @ out["embedding"].T, -1)[0]
    assert most[len(PROMPTS[0]) - 1 : -1].tolist() == found.tolist()


def test_samples_depend_on_the_seed():
    first, second, other = (run(PROMPTS, seed, temperature=1.0) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any(1).all()


def test_a_sequence_ends_at_a_stop_token():
    free = run(PROMPTS)
    stop = int(free[0, 3])
    ended = run(PROMPTS, stop=(stop,), pad=39)
    for before, after in zip(free, ended, strict=True):
        at = np.flatnonzero(before == stop)
        size = at[0] + 1 if len(at) else len(before)
        np.testing.assert_array_equal(after[:size], before[:size])
        assert (after[size:] == 39).all()


def sampled(p: list[float], **options) -> dict[int, float]:
    """Return the probability of each token that can be sampled."""
    kept = filtered(jnp.log(jnp.array([p])), Decoding(**{"temperature": 1.0, **options}))
    return {i: round(float(x), 4) for i, x in enumerate(jax.nn.softmax(kept)[0]) if x > 0}


def test_filters_keep_the_right_tokens():
    p = [0.1, 0.4, 0.05, 0.3, 0.15]
    assert sampled(p) == dict(enumerate(p))
    assert sampled(p, top_k=2) == {1: 0.5714, 3: 0.4286} and sampled(p, top_k=9) == dict(enumerate(p))
    assert sampled(p, top_p=0.39) == {1: 1.0} and set(sampled(p, top_p=0.41)) == {1, 3}
    assert set(sampled(p, top_p=0.86)) == {0, 1, 3, 4} and set(sampled(p, top_p=1.0)) == {0, 1, 2, 3, 4}
    assert set(sampled(p, min_p=0.3)) == {1, 3, 4}
    assert sampled([0.2, 0.8], temperature=0.5) == {0: 0.0588, 1: 0.9412}
    assert set(sampled(p, top_k=4, top_p=0.7, min_p=0.5)) == {1, 3}


def test_penalty_and_vocabulary():
    logits, seen = jnp.array([[2.0, -1.0, 3.0, 4.0]]), jnp.array([[True, True, False, False]])
    found = penalized(logits, seen, Decoding(repetition_penalty=2.0, vocab_size=3))
    assert found.tolist() == [[1.0, -2.0, 3.0, -np.inf]]
    assert (run(PROMPTS, temperature=9.0, vocab_size=5) < 5).all()


def test_samples_follow_the_distribution():
    model, batch = small().build(), arrays(padded([[5, 6]] * 4000, 1, 32))
    params = jax.tree.map(lambda x: x / 3, random_params(model, batch))
    logits, _ = prefill(model.apply, params, {}, batch, 3)
    counts = Counter(generated(model, params, batch, Decoding(new_tokens=1, temperature=1.0))[:, 0].tolist())
    p = np.asarray(jax.nn.softmax(logits[0]))
    deviation = np.sqrt(4000 * p * (1 - p))
    assert all(abs(counts[i] - 4000 * p[i]) < 5 * deviation[i] + 1 for i in range(40))


def test_prompts_are_padded_to_few_lengths():
    batch = padded([[5, 6, 7], [8]], 4, 32, pad=9)
    assert batch["tokens"].tolist() == [[9, 5, 6, 7], [9, 9, 9, 8]]
    assert batch["mask"].tolist() == [[False, True, True, True], [False, False, False, True]]
    lengths = {padded([[1] * n], 4, 32)["tokens"].shape[1] for n in range(1, 29)}
    assert lengths == {1, 2, 4, 8, 16, 28}


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([[1], []], "prompt 1 is empty"),
        ([[1] * 30], "prompt 0 has 30 tokens; with 8 new ones, the model can read 24"),
    ],
)
def test_bad_prompts_are_errors(prompts, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        run(prompts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"new_tokens": 0}, "new_tokens must be at least 1, not 0"),
        ({"beams": 0}, "beams must be at least 1, not 0"),
        ({"temperature": -1.0}, "temperature must be 0 or more, not -1.0"),
        ({"temperature": 1.0, "top_p": 1.5}, r"top_p must be in \(0, 1\], not 1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be greater than 0, not 0.0"),
        ({"beams": 2, "temperature": 1.0}, "beam search does not sample: set temperature to 0, or beams to 1"),
        ({"top_k": 3}, "top_k, top_p and min_p select tokens to sample from: set temperature above 0"),
    ],
)
def test_bad_options_are_errors(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Decoding(**options)


def test_more_new_tokens_than_fit_are_an_error():
    model, batch = small().build(), arrays(padded([[1, 2, 3]], 8, 32))
    with pytest.raises(ValueError, match="36 tokens exceed max_length 32"):
        generated(model, random_params(model, batch), batch, Decoding(new_tokens=32))
