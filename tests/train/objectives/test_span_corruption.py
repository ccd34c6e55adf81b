"""Span corruption: sources and targets hold the text, spans have the sizes of T5, and generated spans are told apart."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.text.language_modelling import Text
from fmodels.t5 import T5Config
from tests.cases import cases
from tests.train.experiments import SIZES, gpt
from train.objectives.span_corruption import SpanCorruption

FIRST, LAST, START, END, MASK = 100, 131, 2, 3, 4
OBJECTIVE = SpanCorruption(sentinel_ids=(FIRST, LAST), start_id=START, end_id=END, mask_id=MASK)


def batch(rows: int, length: int) -> dict[str, jax.Array]:
    text = jnp.arange(10, 10 + length - 2) % 90 + 5  # no special tokens
    tokens = jnp.concatenate([jnp.array([START]), text, jnp.array([END])])
    return {"tokens": jnp.tile(tokens, (rows, 1)), "example": jnp.arange(rows, dtype=jnp.uint32), "valid": jnp.ones(rows)}


def spans_of(target: list[int]) -> dict[int, list[int]]:
    """The tokens after each sentinel of a target."""
    found: dict[int, list[int]] = {}
    for token in target:
        if FIRST <= token <= LAST:
            found[token] = current = []
        else:
            current.append(token)
    return found


@pytest.mark.parametrize(
    ("length", "rate", "mean"),
    cases({"t5": (66, 0.15, 3.0), "long": (40, 0.5, 5.0), "single": (26, 0.3, 1.0), "short": (8, 0.15, 3.0)}, ["t5", "short"]),
)
def test_source_with_its_spans_filled_in_is_the_text(length, rate, mean):
    objective, given = replace(OBJECTIVE, corruption_rate=rate, mean_span=mean), batch(16, length)
    made = jax.jit(objective.corrupt)(given, jax.random.key(0))
    corrupted, count = objective.sizes(length - 2)
    assert corrupted == max(round((length - 2) * rate), 1) and count == max(round(corrupted / mean), 1)
    for text, source, target, tokens in zip(given["tokens"], made["source"], made["targets"], made["tokens"], strict=True):
        *target, end = target.tolist()
        assert end == END and tokens.tolist() == [START, *target]
        spans = spans_of(target)
        assert list(spans) == list(range(FIRST, FIRST + count))
        assert all(spans.values()) and sum(map(len, spans.values())) == corrupted
        filled = [token for piece in source.tolist() for token in spans.get(piece, [piece])]
        assert filled == text.tolist()[1:]
        assert source[0] < FIRST  # the text does not begin with a span


def test_corruption_depends_on_seed_and_example_only():
    corrupt, given = jax.jit(OBJECTIVE.corrupt), batch(8, 66)
    once, again = (np.asarray(corrupt(given, jax.random.key(0))["source"]) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert len({row.tobytes() for row in once}) == 8
    assert (np.asarray(corrupt(given, jax.random.key(1))["source"]) != once).any(1).all()
    swapped = {**given, "example": given["example"][::-1]}
    np.testing.assert_array_equal(corrupt(swapped, jax.random.key(0))["source"], once[::-1])


def test_every_composition_is_equally_probable():
    """7 tokens outside of spans and 3 in 2 spans: 6 x 2 arrangements."""
    objective = replace(OBJECTIVE, corruption_rate=0.3, mean_span=1.5)
    starts, spans = jax.vmap(lambda i: objective.spans(10, jax.random.key(3), i))(jnp.arange(6000))
    assert (starts.sum(1) == 2).all() and (spans.sum(1) == 3).all()
    counts = np.unique(np.concatenate([starts, spans], axis=1), axis=0, return_counts=True)[1]
    assert len(counts) == 12
    assert abs(counts / 6000 * 12 - 1).max() < 0.2  # the standard deviation is 4 %


def test_published_sentinels_descend():
    objective = replace(OBJECTIVE, sentinel_ids=(131, 100))
    assert [int(objective.sentinel(jnp.int32(i))) for i in (0, 1, 31)] == [131, 130, 100]


class Codec:
    def decoded(self, ids) -> str:
        return " ".join(map(str, ids))


def test_generated_text_of_each_mask():
    tokens = np.array([[100, 7, 8, 101, 9, END, END], [101, 9, 100, 7, END, 5, 5], [7, 8, 100, 9, 102, 6, 6]])
    found = OBJECTIVE.describe({"tokens": tokens, "masks": np.array([2, 2, 1])}, Codec())
    assert [row["spans"] for row in found] == [["7 8", "9"], ["7", "9"], ["9"]]


def test_questions_hide_spans_behind_masks():
    class Texts(Codec):
        def text(self, ids) -> str:
            return " ".join(map(str, ids[ids != END]))

    given = {name: np.asarray(x) for name, x in batch(3, 34).items()}
    asked, shown, truths = OBJECTIVE.questions(given, Texts())
    for row, text, truth, original in zip(asked["tokens"], shown, truths, given["tokens"], strict=True):
        spans = iter(truth)
        filled = " ".join(next(spans) if word == str(MASK) else word for word in text.split())
        assert filled.split() == [str(token) for token in original[:-1]]
        assert (row == MASK).sum() == len(truth) == OBJECTIVE.sizes(32)[1]


def experiment(**changes):
    data = replace(Text(length=12, batch_size=16, sentinels=8), **changes)
    return replace(gpt(), model=T5Config(**SIZES), objective=OBJECTIVE, data=data)


def test_sentinels_are_checked_against_the_rows():
    with pytest.raises(ValueError, match=r"data.sentinels is 1, but rows have 3 spans: set it to 3 or more"):
        replace(gpt(), model=T5Config(**{**SIZES, "max_length": 64}), objective=OBJECTIVE, data=Text(length=64, sentinels=1))
    with pytest.raises(ValueError, match=r"needs data\.layout windows, not stream"):
        experiment(layout="stream")
    with pytest.raises(ValueError, match="needs an encoder-decoder, not model GptConfig"):
        replace(experiment(), model=gpt().model)
