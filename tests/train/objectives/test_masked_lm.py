"""Masked language modelling: hidden tokens as a function of seed, step and example, and the head at hidden positions."""

import math
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.text.language_modelling import Text
from fmodels.axes import split
from fmodels.bert import BertConfig
from fmodels.nn.heads import MaskedLMHead
from train.experiment import Experiment, Run
from train.objectives import Sums
from train.objectives.masked_lm import MaskedLM
from train.sharding import Mesh
from train.step import Program, build

PAD, UNKNOWN, CLS, SEP, MASK = range(5)
LOW, HIGH, LENGTH = 5, 40, 32  # range of ordinary ids, and tokens per row
COUNT = 1024  # rows; the same in most tests, to compile little
MODEL = BertConfig(layers=1, width=16, heads=2, hidden=24, vocab_size=HIGH, max_length=LENGTH, dropout=0.0, attention_dropout=0.0)


def objective(**changes) -> MaskedLM:
    return MaskedLM(**{"mask_id": MASK, "random_ids": (LOW, HIGH), **changes})


def rows(count: int = COUNT, longest_word: int = 3, fewest: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    """Return rows of [CLS], at least `fewest` ordinary tokens in words of up to `longest_word` tokens, [SEP] and padding."""
    rng = np.random.default_rng(seed)
    real, place = rng.integers(fewest, LENGTH - 1, size=count)[:, None], np.arange(LENGTH)
    ordinary = (place >= 1) & (place <= real)
    tokens = np.where(ordinary, rng.integers(LOW, HIGH, (count, LENGTH)), PAD)
    tokens = np.where(place == 0, CLS, np.where(place == real + 1, SEP, tokens))
    lengths = rng.integers(1, longest_word + 1, (count, LENGTH))
    words = np.stack([np.repeat(place, row)[:LENGTH] for row in lengths])
    return {
        "tokens": tokens.astype(np.int32),
        "words": np.where(ordinary, np.roll(words, 1, axis=1), -1).astype(np.int32),
        "segments": (place > real // 2).astype(np.int32),
        "mask": place <= real + 1,
        "is_random": rng.integers(0, 2, count).astype(np.int32),
        "example": (1000 + np.arange(count)).astype(np.uint32),
        "valid": np.ones(count, np.float32),
    }


@cache
def jitted(objective: MaskedLM, train: bool):
    return jax.jit(lambda batch, rng: objective.corrupt(batch, rng, train))


def corrupt(batch, rng=0, train: bool = True, compiled: bool = True, **changes) -> tuple[np.ndarray, np.ndarray]:
    """Return corrupted tokens and hidden positions (those with a weight in the loss), both [B, T]."""
    masked_lm, rng = objective(**changes), jax.random.key(rng) if isinstance(rng, int) else rng
    inputs = {name: batch[name] for name in ("tokens", "words", "example")}
    out = jitted(masked_lm, train)(inputs, rng) if compiled else masked_lm.corrupt(jax.tree.map(jnp.asarray, inputs), rng, train)
    after, positions, weights = map(np.asarray, out)
    assert set(np.unique(weights)) <= {0.0, 1.0}
    hidden = np.zeros(after.shape, int)
    np.add.at(hidden, (np.arange(len(after))[:, None], positions), weights.astype(int))
    assert hidden.max() <= 1, "no position counts twice"
    return after, hidden.astype(bool)


def within(count: int, total: int, share: float) -> bool:
    """Whether `count` is within five standard deviations of a binomial. The seed is fixed, so the outcome is too."""
    return abs(count - total * share) < 5 * math.sqrt(total * share * (1 - share))


@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_mask_rate_is_exact_in_each_row(rate):
    batch = rows()
    batch["tokens"][:9, 1:], batch["words"][:9] = PAD, -1  # nothing to hide
    batch["tokens"][9:200, 3:6], batch["words"][9:200, 3:6] = UNKNOWN, -1  # special tokens between ordinary ones
    ordinary = batch["words"] >= 0
    after, hidden = corrupt(batch, mask_rate=rate)
    wanted = np.maximum(np.round(np.float32(rate) * ordinary.sum(1).astype(np.float32)), 1)
    np.testing.assert_array_equal(hidden.sum(1), np.where(ordinary.any(1), wanted, 0))
    assert not hidden[~ordinary].any(), "special tokens and padding are never hidden"
    np.testing.assert_array_equal(after[~hidden], batch["tokens"][~hidden])


@pytest.mark.parametrize("whole_words", [False, True])
def test_replacements_are_80_10_10(whole_words):
    batch = rows()
    after, hidden = corrupt(batch, whole_words=whole_words, mask_rate=0.4)
    old, new = batch["tokens"][hidden], after[hidden]
    lucky = 1 / (HIGH - LOW)  # chance that a random token equals the original
    assert len(new) > 4000
    assert within((new == MASK).sum(), len(new), 0.8)
    assert within((new == old).sum(), len(new), 0.1 + 0.1 * lucky)
    replaced = new[(new != old) & (new != MASK)]
    counts = np.bincount(replaced, minlength=HIGH)
    assert counts[:LOW].sum() == 0 and len(counts) == HIGH, "within random_ids"
    assert all(within(count, len(replaced), lucky) for count in counts[LOW:]), "all random ids are equally likely"
    assert counts[LOW] and counts[HIGH - 1]


def test_every_position_is_equally_likely():
    ordinary = LENGTH - 2
    _, hidden = corrupt(rows(fewest=ordinary), mask_rate=0.4)
    assert all(within(count, COUNT, 0.4) for count in hidden.sum(0)[1:-1])


def test_hidden_tokens_depend_on_seed_step_and_example_only():
    batch = rows(fewest=12)
    expected = np.stack(corrupt(batch))
    order = np.random.default_rng(1).permutation(COUNT)
    permuted = np.stack(corrupt({name: x[order] for name, x in batch.items()}))
    np.testing.assert_array_equal(permuted, expected[:, order])
    few = np.stack(corrupt({name: x[5:12] for name, x in batch.items()}, compiled=False))
    np.testing.assert_array_equal(few, expected[:, 5:12], "with another batch size and without jit")

    rows_that_differ = lambda other: (np.stack(corrupt(**other)) != expected).any((0, 2)).mean()
    assert rows_that_differ({"batch": batch, "rng": 1}) > 0.95
    assert rows_that_differ({"batch": {**batch, "example": batch["example"] + COUNT}}) > 0.95
    twins = {name: np.repeat(x[:1], COUNT, axis=0) for name, x in batch.items()} | {"example": batch["example"]}
    assert len(np.unique(corrupt(twins)[0], axis=0)) > 100, "equal rows with different example indices"


def test_evaluation_always_hides_15_percent():
    batch = rows()
    expected = np.stack(corrupt(batch, train=False))
    wanted = np.maximum(np.round(np.float32(0.15) * (batch["words"] >= 0).sum(1).astype(np.float32)), 1)
    np.testing.assert_array_equal(expected[1].sum(1), wanted)
    np.testing.assert_array_equal(expected, np.stack(corrupt(batch, train=False, mask_rate=0.4, whole_words=True)))


def test_whole_words_are_hidden_completely():
    """Also if the first drawn word is longer than the budget."""
    batch = rows(longest_word=5, seed=1)
    ordinary, same = batch["words"] >= 0, batch["words"][:, :, None] == batch["words"][:, None, :]
    length = np.where(ordinary, same.sum(2), 99)
    budget = np.maximum(np.round(np.float32(0.15) * ordinary.sum(1).astype(np.float32)), 1)
    after, hidden = corrupt(batch, whole_words=True)
    possible = length.min(1) <= budget
    assert 100 < possible.sum() < COUNT, "rows of both kinds"
    split_words = (same & ordinary[:, :, None] & (hidden[:, :, None] != hidden[:, None, :])).any((1, 2))
    assert not split_words[possible].any()
    assert (hidden.sum(1) >= 1).all() and (hidden.sum(1) <= budget).all()
    assert not hidden[~ordinary].any()
    np.testing.assert_array_equal(after[~hidden], batch["tokens"][~hidden])
    assert hidden[possible].sum() > 0.6 * budget[possible].sum(), "only the word that the budget cuts is dropped"


def params(seed: int = 0) -> dict:
    """Return random parameters of the model and the heads, without zeros and ones."""
    init = lambda: objective(next_sentence=True).init(MODEL.build(), jax.random.key(0), small_batch())[0]
    shapes, _ = split(jax.eval_shape(init))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.1, 0.3, leaf.shape), jnp.float32), shapes)


def small_batch() -> dict[str, jax.Array]:
    """Return rows with different numbers of masks, the last one not valid."""
    return jax.tree.map(jnp.asarray, rows(6) | {"valid": np.float32([1, 1, 1, 1, 1, 0])})


def full_loss(params: dict, batch: dict, corrupted: jax.Array, hidden: np.ndarray) -> tuple[jax.Array, tuple]:
    """Independent implementation: masked LM with the head at every position, and next-sentence prediction."""
    out, _ = MODEL.build().apply(params["model"], {}, {**batch, "tokens": corrupted})
    logits_BTV = MaskedLMHead().apply({"params": params["head"]["masked_lm"]}, out["hidden"], out["embedding"], train=False)
    losses_BT = -jnp.take_along_axis(jax.nn.log_softmax(logits_BTV), batch["tokens"][..., None], axis=-1)[..., 0]
    weights_BT = hidden * batch["valid"][:, None]
    dense = params["head"]["next_sentence"]["dense"]
    log_p_B2 = jax.nn.log_softmax(out["pooled"] @ dense["kernel"] + dense["bias"])
    sentence_B = -jnp.where(batch["is_random"], log_p_B2[:, 1], log_p_B2[:, 0]) * batch["valid"]
    right_BT = (logits_BTV.argmax(-1) == batch["tokens"]) * weights_BT
    sentence_right_B = (log_p_B2.argmax(-1) == batch["is_random"]) * batch["valid"]
    count, valid = weights_BT.sum(), batch["valid"].sum()
    parts = [(losses_BT * weights_BT).sum(), sentence_B.sum(), right_BT.sum(), sentence_right_B.sum()]
    return parts[0] / count + parts[1] / valid, dict(zip(("lm", "sentence", "lm_right", "sentence_right"), parts, strict=True))


def test_head_at_hidden_positions_matches_head_at_all_positions():
    """Loss and gradients of masked LM with next-sentence prediction."""
    masked_lm, batch, model, rng = objective(next_sentence=True, mask_rate=0.3), small_batch(), MODEL.build(), jax.random.key(7)
    seen = []

    def gathered(params):
        def apply(params, state, batch, **options):
            seen.append(batch["tokens"])
            return model.apply(params, state, batch, **options)

        sums, _ = masked_lm.loss(apply, params, {}, batch, rng, True)
        return sum(n / d for n, d in sums.terms.values()), (sums, seen.pop())

    (loss, (sums, corrupted)), gradients = jax.jit(jax.value_and_grad(gathered, has_aux=True))(params())
    after, hidden = corrupt(batch, jax.random.split(rng)[0], mask_rate=0.3)
    np.testing.assert_array_equal(after, corrupted, "these are the positions of the loss above")

    whole = jax.jit(jax.value_and_grad(full_loss, has_aux=True))
    (full, parts), full_gradients = whole(params(), batch, corrupted, jnp.asarray(hidden))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    close(loss, full)
    jax.tree.map(close, gradients, full_gradients)
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(gradients["head"]))

    count = (hidden * np.asarray(batch["valid"])[:, None]).sum()
    everything = {**sums.terms, **sums.metrics}
    wanted = {"masked_lm": ("lm", count), "next_sentence": ("sentence", 5)}
    wanted |= {"masked_lm_accuracy": ("lm_right", count), "next_sentence_accuracy": ("sentence_right", 5)}
    assert everything.keys() == wanted.keys() and sums.terms.keys() == {"masked_lm", "next_sentence"}
    for name, (part, denominator) in wanted.items():
        close(everything[name], (parts[part], denominator))


def program(seed: int = 0, **changes) -> Program:
    masked_lm, data = objective(next_sentence=True, **changes), Text(layout="pairs", length=LENGTH)
    experiment = Experiment(model=MODEL, objective=masked_lm, data=data, run=Run(seed=seed))
    spec = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in small_batch().items()}
    return build(experiment, spec, Mesh().build(jax.devices()[:1]))


def test_the_step_draws_from_seed_and_step_only():
    """Losses of real steps on one batch. The guard of the state blocks all updates."""
    batch, fixed, built = rows(6, fewest=12), params(), program()

    def losses(batch: dict, steps: int, seed: int = 0) -> list[float]:
        state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), built.shapes)
        state = replace(state, params=jax.tree.map(jnp.copy, fixed), seed=jnp.uint32(seed))
        found = []
        for _ in range(steps):
            state, metrics = built.step(state, batch)
            found.append(float(np.divide(*metrics["sums"].terms["masked_lm"])))
        return found

    expected = losses(batch, 3)
    assert len({*expected, *losses(batch, 1, seed=1)}) == 4, "other masks at another step and from another seed"
    assert losses(batch, 3) == expected
    backwards = {name: x[::-1] for name, x in batch.items()}
    np.testing.assert_allclose(losses(backwards, 3), expected, rtol=1e-6)


def test_evaluation_is_deterministic():
    batch, fixed = small_batch(), params()
    program_a, program_b = program(), program(seed=5, mask_rate=0.6, whole_words=True)
    sums = [jax.device_get(built.evaluate(fixed, {}, batch)) for built in (program_a, program_a, program_b)]
    assert sums[0] == sums[1] == sums[2]
    assert sums[0].terms["masked_lm"][1] == sum(max(1, round(0.15 * (row >= 0).sum())) for row in np.asarray(batch["words"])[:5])


def test_perplexity_uses_the_masked_lm_loss_only():
    one = np.float64(1)
    sums = Sums({"masked_lm": (6 * one, 3 * one), "next_sentence": (one, 2 * one)}, {"masked_lm_accuracy": (one, 3 * one)})
    result = objective(next_sentence=True).summarize(sums)
    wanted = {"loss": 2.5, "masked_lm": 2, "next_sentence": 0.5, "masked_lm_accuracy": 1 / 3, "perplexity": math.e**2}
    assert result == pytest.approx(wanted, rel=1e-12)
    hopeless = objective().summarize(Sums({"masked_lm": (3000 * one, one)}, {}))
    assert math.isfinite(hopeless["perplexity"])
