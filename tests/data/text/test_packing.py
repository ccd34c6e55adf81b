"""Fixed-length rows: no token is lost, documents stay separate, rows are full, and packing does not change the loss."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.text import packing
from data.text.pairs import assemble
from data.text.tokenizer import Tokenizer
from fmodels.axes import split
from fmodels.bert import BertConfig
from tests.cases import cases

VOCABULARY = Tokenizer.train([f"{a}{b} and {b}{a}" for a in "abcdefgh" for b in "ijklmnop"], 300)
LOW, HIGH = VOCABULARY.random_ids
LENGTH = 16


@st.composite
def documents(draw):
    """Token ids with word indices that start at 0 and grow by 0 or 1."""
    found = []
    for size in draw(st.lists(st.integers(1, 40), min_size=1, max_size=40)):
        ids = np.array(draw(st.lists(st.integers(LOW, HIGH - 1), min_size=size, max_size=size)), np.int32)
        begins = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
        begins[0] = False
        found.append((ids, np.cumsum(begins).astype(np.int32)))
    return found


def sequences(row: dict) -> list[tuple[list[int], list[int]]]:
    """Return (ids, words from 0) of each sequence of a packed row, without special tokens."""
    found = []
    for number in range(1, row["sequences"].max() + 1):
        selected = np.flatnonzero(row["sequences"] == number)
        tokens, words = row["tokens"][selected], row["words"][selected]
        assert tokens[0] == VOCABULARY.special["cls"] and tokens[-1] == VOCABULARY.special["sep"]
        assert words[0] == words[-1] == -1
        assert row["positions"][selected].tolist() == list(range(len(selected)))
        assert (np.diff(selected) == 1).all()
        found.append((tokens[1:-1].tolist(), (words[1:-1] - words[1]).tolist()))
    return found


@settings(deadline=None)
@given(documents())
def test_packing_keeps_every_token_once_in_separate_sequences(texts):
    rows = list(packing.packed(texts, LENGTH, VOCABULARY))
    inner = LENGTH - 2
    pieces = [(ids[i : i + inner], words[i : i + inner]) for ids, words in texts for i in range(0, len(ids), inner)]
    wanted = [(ids.tolist(), (words - words[0]).tolist()) for ids, words in pieces]
    found = [sequence for row in rows for sequence in sequences(row)]
    assert sorted(found) == sorted(wanted)
    for row in rows:
        padding = row["sequences"] == 0
        assert (row["tokens"][padding] == VOCABULARY.special["pad"]).all() and (row["words"][padding] == -1).all()
        ordinary = row["words"] >= 0
        assert (np.diff(row["words"][ordinary]) >= 0).all()


@settings(deadline=None)
@given(documents())
def test_windows_keep_the_token_stream_and_index_its_words(texts):
    rows = list(packing.windows(texts, LENGTH, VOCABULARY))
    stream = [token for ids, _ in texts for token in [*ids.tolist(), VOCABULARY.special["sep"]]]
    read = [token for row in rows for token in row["tokens"][1:-1].tolist()]
    assert read == stream[: len(read)] and len(stream) - len(read) < LENGTH - 2
    for row in rows:
        assert ((row["words"] < 0) == np.isin(row["tokens"], VOCABULARY.special_ids)).all()


@settings(deadline=None)
@given(documents())
def test_a_stream_has_every_token_once_as_input_and_as_target(texts):
    rows = list(packing.stream(texts, LENGTH, VOCABULARY))
    cls, separator, pad = (VOCABULARY.special[name] for name in ("cls", "sep", "pad"))
    stream = [token for ids, _ in texts for token in [cls, *ids.tolist(), separator]]
    targets = np.concatenate([row["targets"] for row in rows])
    tokens = np.concatenate([row["tokens"] for row in rows])
    assert targets[targets >= 0].tolist() == stream[1:] and tokens[targets >= 0].tolist() == stream[:-1]
    padding = np.arange(len(tokens)) > len(stream) - 1
    assert (tokens[padding] == pad).all() and (targets[padding] == -1).all() and len(tokens) - len(stream) < LENGTH
    for row in rows:
        assert ((row["words"] < 0) == np.isin(row["tokens"], VOCABULARY.special_ids)).all()
        assert (np.diff(row["words"][row["words"] >= 0]) >= 0).all()


def test_words_are_separated_at_window_starts_and_special_tokens():
    cls, mask = VOCABULARY.special["cls"], VOCABULARY.special["mask"]
    ids, words = np.arange(LOW, LOW + 28, dtype=np.int32), np.repeat(np.arange(7), 4).astype(np.int32)
    second = list(packing.windows([(ids, words)], LENGTH, VOCABULARY))[1]
    assert second["words"].tolist() == [-1, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, -1]
    assert packing.renumbered(np.array([-1, 4, 4, 5, -1]), 7)[0].tolist() == [-1, 7, 7, 8, -1]
    assert packing.renumbered(np.array([-1, 4, 4, 5, -1]), 7)[1] == 9
    parts = [(np.array([LOW, mask]), np.array([0, -1])), (np.array([mask, LOW]), np.array([-1, 0]))]
    assert assemble(parts, 8, VOCABULARY)["words"].tolist() == [-1, 0, -1, -1, -1, 1, -1, -1]
    assert cls == assemble(parts, 8, VOCABULARY)["tokens"][0]


POSITIONS = {name: name for name in ("learned", "sinusoidal", "rotary", "alibi", "relative", "directional", "none")}


def packed_and_separate() -> tuple[dict, list[dict]]:
    """Return a packed batch, and its sequences in separate rows, in order."""
    rng = np.random.default_rng(0)
    texts = [(rng.integers(LOW, HIGH, n).astype(np.int32), np.arange(n, dtype=np.int32)) for n in (3, 7, 2, 9, 5, 11, 4)]
    rows = list(packing.packed(texts, LENGTH, VOCABULARY))
    separate = [assemble([(np.array(ids), np.array(words))], LENGTH, VOCABULARY) for row in rows for ids, words in sequences(row)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}, separate


@pytest.mark.parametrize("position", cases(POSITIONS, ["learned", "rotary", "relative"]))
def test_packed_batch_has_the_loss_and_gradients_of_separate_sequences(position):
    config = BertConfig(
        layers=2, width=16, heads=2, hidden=24, vocab_size=HIGH, max_length=LENGTH, segments=0, position=position,
        dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    model = config.build()
    packed, separate = packed_and_separate()
    packed = jax.tree.map(jnp.asarray, packed)
    assert packed["sequences"].max() > 1 and (packed["sequences"] == 0).any()
    single = {name: jnp.stack([row[name] for row in separate]) for name in ("tokens", "mask")}
    shapes, _ = split(jax.eval_shape(model.init, jax.random.key(0), packed)[0])
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), shapes)

    @jax.jit
    @jax.value_and_grad
    def loss(params, batch, real):
        outputs, _ = model.apply(params, {}, batch)
        logits = jnp.einsum("BTD,VD->BTV", outputs["hidden"], outputs["embedding"])
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["tokens"][..., None], axis=-1)[..., 0]
        return -(log_p * real).sum() / real.sum()

    packed_loss, grads = loss(params, packed, packed["sequences"] > 0)
    separate_loss, separate_grads = loss(params, single, single["mask"])
    np.testing.assert_allclose(packed_loss, separate_loss, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(separate_grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * max(1, np.abs(b).max()))


@pytest.mark.skipif("FMODELS_DATA" not in os.environ, reason="FMODELS_DATA is not set")
def test_packed_rows_of_real_text_are_full():
    text = (Path(os.environ["FMODELS_DATA"]) / "wikitext2" / "valid.txt").read_text("utf-8")
    paragraphs = [line for line in text.splitlines() if line.strip()]
    vocabulary = Tokenizer.train(paragraphs, 4096)
    tally = packing.Tally(vocabulary, 512)
    rows = list(tally.made(packing.packed(tally.texts(vocabulary.encode(paragraphs)), 512, vocabulary)))
    assert len(rows) > 100
    assert tally.about()["share of rows filled"] >= 0.97


def test_word_indices_restart_in_each_stretch():
    """Word indices are stored in 16 bits, so they must not grow with the document: negative ones mean no word."""
    size, room = 70_000, 61
    ids, words = np.full(size, LOW, np.int32), np.arange(size, dtype=np.int32)
    for row in packing.stretches([(ids, words)], room, VOCABULARY.special["pad"]):
        np.testing.assert_array_equal(row["words"][: row["size"]], np.arange(row["size"]))
        assert (row["words"][row["size"] :] == -1).all()
