"""Causal language modelling: the targets of each layout, the loss, and predictions."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.text.language_modelling import Text, TextCodec
from data.text.tokenizer import Tokenizer
from fmodels.axes import split
from fmodels.bert import BertConfig
from fmodels.gpt import GptConfig
from train.experiment import Experiment, Run
from train.objectives import Sums
from train.objectives.causal_lm import CausalLM, targets

VOCABULARY, LENGTH = 40, 12
MODEL = GptConfig(layers=1, width=16, heads=2, vocab_size=VOCABULARY, max_length=16, dropout=0.0, attention_dropout=0.0)


def batch(**fields) -> dict[str, jax.Array]:
    tokens = np.random.default_rng(0).integers(5, VOCABULARY, (2, LENGTH))
    return {"tokens": jnp.asarray(tokens), "valid": jnp.ones(2), **{name: jnp.asarray(x) for name, x in fields.items()}}


def params() -> dict:
    shapes, _ = split(jax.eval_shape(lambda: CausalLM().init(MODEL.build(), jax.random.key(0), batch())[0]))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.1, 0.3, leaf.shape), jnp.float32), shapes)


def pairs(batch: dict) -> list[list[tuple[int, int]]]:
    """Return the (position, target) pairs of each row."""
    found, weights = map(np.asarray, targets(batch))
    return [[(int(i), int(row[i])) for i in np.flatnonzero(weight)] for row, weight in zip(found, weights, strict=True)]


def test_targets_are_the_next_tokens():
    rows = batch()
    following = [[(i, int(row[i + 1])) for i in range(LENGTH - 1)] for row in rows["tokens"]]
    assert pairs(rows) == following
    assert pairs({**rows, "mask": jnp.arange(LENGTH) < jnp.array([[4], [12]])}) == [following[0][:3], following[1]]


def test_targets_of_packed_rows_stay_in_their_sequence():
    rows = batch(sequences=[[1, 1, 1, 2, 2, 3, 3, 3, 3, 0, 0, 0]] * 2)
    assert [[i for i, _ in row] for row in pairs(rows)] == [[0, 1, 3, 5, 6, 7]] * 2


def test_targets_of_the_data_are_used():
    wanted = np.array([[7, -1, 9, *[-1] * 9], [-1] * 12])
    assert pairs(batch(targets=wanted)) == [[(0, 7), (2, 9)], []]


@pytest.mark.parametrize("chunk", [None, 5])
def test_loss_of_valid_rows(chunk):
    objective, rows, fixed = CausalLM(logits_chunk=chunk), batch(valid=np.float32([1, 0])), params()
    sums, _ = objective.loss(MODEL.build().apply, fixed, {}, rows, jax.random.key(0), False)
    out, _ = MODEL.build().apply(fixed["model"], {}, rows)
    logits = np.asarray(out["hidden"] @ out["embedding"].T, np.float64)[0, :-1]
    wanted = np.asarray(rows["tokens"])[0, 1:]
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(LENGTH - 1), wanted]
    np.testing.assert_allclose(sums.terms["causal_lm"], (losses.sum(), LENGTH - 1), rtol=1e-5)
    np.testing.assert_allclose(sums.metrics["causal_lm_accuracy"], ((logits.argmax(-1) == wanted).sum(), LENGTH - 1))


def test_perplexity_and_bits():
    terms, counted = {"causal_lm": (np.float64(6), np.float64(3))}, (np.float64(12), np.float64(3))
    wanted = {"loss": 2, "causal_lm": 2, "perplexity": math.e**2, "bits_per_token": 2 / math.log(2)}
    for metrics in ({}, {"bytes_per_token": (np.float64(0), np.float64(3))}):
        assert CausalLM().summarize(Sums(terms, metrics)) == pytest.approx(wanted)
    result = CausalLM().summarize(Sums(terms, {"bytes_per_token": counted}))
    assert result == pytest.approx({**wanted, "bits_per_byte": 6 / math.log(2) / 12})
    assert math.isfinite(CausalLM().summarize(Sums({"causal_lm": (np.float64(3000), np.float64(1))}, {}))["perplexity"])


def test_predictions_are_the_next_tokens_and_the_loss_of_each_text():
    tokenizer = Tokenizer.train(["a mad dog", "zebra"], 300, "characters")
    codec = TextCodec(Text(length=LENGTH), tokenizer)
    encoded, notes = codec.encode([{"text": "a mad"}, {"text": "dog"}])
    assert not notes
    rows = {name: jnp.asarray(x) for name, x in encoded.items()}
    objective, fixed, apply = CausalLM(), params(), MODEL.build().apply
    predict = jax.jit(lambda params, rows: objective.predict(apply, params, {}, rows))
    described = objective.describe(jax.device_get(predict(fixed, rows)), codec)
    for row, (text, found) in enumerate(zip(("a mad", "dog"), described, strict=True)):
        alone = {"tokens": rows["tokens"][row : row + 1, : len(text) + 1]}  # [CLS] text
        out, _ = apply(fixed["model"], {}, alone)
        p = jax.nn.softmax(out["hidden"][0, -1] @ out["embedding"].T)
        assert [one["token"] for one in found["next"]] == [tokenizer.token(int(i)) for i in jnp.argsort(-p)[:5]]
        np.testing.assert_allclose([one["probability"] for one in found["next"]], np.sort(p)[::-1][:5], rtol=1e-4)
        whole = {"tokens": rows["tokens"][row : row + 1, : len(text) + 2], "valid": jnp.ones(1)}
        total, count = objective.loss(apply, fixed, {}, whole, jax.random.key(0), False)[0].terms["causal_lm"]
        assert found["loss"] == pytest.approx(float(total / count), rel=1e-4)
        assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
        assert objective.render(found).lines[1] == f"perplexity: {found['perplexity']:.2f}"


@pytest.mark.parametrize("layout", ["windows", "pairs"])
def test_layouts_that_interrupt_documents_are_errors(layout):
    experiment = Experiment(model=MODEL, objective=CausalLM(), data=Text(layout="stream", length=16), run=Run(steps=1))
    with pytest.raises(ValueError, match=f"^objective CausalLM needs data.layout stream or packed, not {layout}"):
        replace(experiment, data=Text(layout=layout, length=16))


def test_a_model_that_sees_later_tokens_is_an_error():
    with pytest.raises(ValueError, match=r"^objective CausalLM needs a decoder, but model BertConfig sees later tokens$"):
        Experiment(model=BertConfig(), objective=CausalLM(), data=Text(layout="stream", length=16), run=Run(steps=1))
