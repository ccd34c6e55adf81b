"""Sequence-to-sequence: the loss by hand, packed rows, label smoothing, generation and its scores."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sacrebleu

from data.text.parallel import ParallelText
from fmodels.axes import split
from fmodels.transformer import Seq2SeqConfig
from tests.train.experiments import LENGTH, SIZES, gpt, translation
from train.objectives.seq2seq import Seq2Seq
from train.objectives.text_scores import SCORES

START, END = 2, 3
MODEL = Seq2SeqConfig(**SIZES, tied=False).build()  # a tied output would repeat the last token
OBJECTIVE = Seq2Seq(vocab_size=40, start_id=START, end_id=END)
PAIRS = [([5, 6, 7], [8, 9]), ([10], [11, 12, 13, 14]), ([15, 16], [17])]


def rows_of(groups: list[list[tuple[list[int], list[int]]]]) -> dict[str, jax.Array]:
    """A batch with one row per group of pairs."""
    names = ("source", "source_sequences", "source_positions", "tokens", "sequences", "positions")
    arrays = {name: np.zeros((len(groups), LENGTH), np.int32) for name in names}
    arrays["targets"] = np.full((len(groups), LENGTH), -1, np.int32)
    for row, pairs in enumerate(groups):
        ends = {"source": 0, "": 0}
        for number, (source, target) in enumerate(pairs, 1):
            for side, ids in (("source", [*source, END]), ("", [START, *target])):
                place = slice(ends[side], ends[side] + len(ids))
                arrays[side or "tokens"][row, place] = ids
                prefix = "source_" if side else ""
                arrays[f"{prefix}sequences"][row, place] = number
                arrays[f"{prefix}positions"][row, place] = np.arange(len(ids))
                ends[side] = place.stop
            arrays["targets"][row, place] = [*target, END]
    return {name: jnp.asarray(x) for name, x in arrays.items()} | {"valid": jnp.ones(len(groups))}


SINGLE = rows_of([[pair] for pair in PAIRS])
PARAMS = {"model": jax.tree.map(lambda x: 2 * x, split(jax.jit(MODEL.init)(jax.random.key(0), SINGLE)[0])[0])}


def sums(batch: dict, objective: Seq2Seq = OBJECTIVE, train: bool = False) -> tuple[float, float, float]:
    """The sum of the losses, the hits and the number of targets."""
    run = jax.jit(lambda batch: objective.loss(MODEL.apply, PARAMS, {}, batch, None, train)[0])
    found = run(batch)
    (loss, count), (hits, _) = found.terms["seq2seq"], found.metrics["seq2seq_accuracy"]
    return float(loss), float(hits), float(count)


def logits(batch: dict) -> np.ndarray:
    outputs, _ = jax.jit(MODEL.apply)(PARAMS["model"], {}, batch)
    return np.asarray(outputs["hidden"] @ outputs["embedding"].T, np.float64)


def test_loss_is_the_mean_over_the_target_tokens():
    x_BTV, targets_BT = logits(SINGLE), np.asarray(SINGLE["targets"])
    log_p_BTV = x_BTV - np.log(np.exp(x_BTV).sum(-1, keepdims=True))
    losses = [-log_p_BTV[b, t, target] for (b, t), target in np.ndenumerate(targets_BT) if target >= 0]
    loss, hits, count = sums(SINGLE)
    assert count == len(losses) == sum(len(target) + 1 for _, target in PAIRS)
    assert loss == pytest.approx(np.sum(losses), rel=1e-5)
    assert hits == (x_BTV.argmax(-1) == targets_BT).sum()


def test_several_pairs_in_a_row_have_the_losses_that_they_have_alone():
    assert sums(rows_of([PAIRS[:2], PAIRS[2:]])) == pytest.approx(sums(SINGLE), rel=1e-5)


def test_label_smoothing_mixes_the_target_with_the_uniform_distribution():
    x_BTV, targets_BT = logits(SINGLE), np.asarray(SINGLE["targets"])
    log_p_BTV = x_BTV - np.log(np.exp(x_BTV).sum(-1, keepdims=True))
    wanted_BTV = 0.9 * np.eye(40)[np.maximum(targets_BT, 0)] + 0.1 / 40
    smoothed = -(wanted_BTV * log_p_BTV).sum(-1)[targets_BT >= 0].sum()
    objective = replace(OBJECTIVE, label_smoothing=0.1)
    assert sums(SINGLE, objective, train=True)[0] == pytest.approx(smoothed, rel=1e-5)
    assert sums(SINGLE, replace(objective, logits_chunk=5), train=True)[0] == pytest.approx(smoothed, rel=1e-5)
    assert sums(SINGLE, objective)[0] == pytest.approx(sums(SINGLE)[0])  # not in evaluation


def test_predictions_are_the_most_probable_tokens_without_a_cache():
    predict = jax.jit(partial(OBJECTIVE.predict, MODEL.apply))
    found = np.asarray(predict(PARAMS, {}, SINGLE)["tokens"])
    assert found.shape == (3, LENGTH - 1) and len(set(found.ravel().tolist())) > 3
    for (source, _), tokens in zip(PAIRS, found, strict=True):
        ids = [int(token) for token in tokens[: list([*tokens, END]).index(END)]]
        x_TV = logits(rows_of([[(source, ids)]]))[0]
        chosen = x_TV.argmax(-1)[: len(ids) + 1].tolist()
        assert chosen[: len(ids)] == ids and (chosen[-1] == END or len(ids) == LENGTH - 1)


def test_beam_search_is_a_how_field_that_changes_predictions():
    one, five = (jax.jit(partial(replace(OBJECTIVE, beams=n).predict, MODEL.apply)) for n in (1, 5))
    assert (np.asarray(one(PARAMS, {}, SINGLE)["tokens"]) != np.asarray(five(PARAMS, {}, SINGLE)["tokens"])).any()


TEXTS = ["the cat sat on the mat", "there is a dog in the house", "hello"]
REFERENCES = ["the cat sat on a mat", "a dog is in the house today", "goodbye to you"]


def test_scores_are_those_of_the_libraries():
    predictions = [{"text": text} for text in TEXTS]
    found = replace(OBJECTIVE, metrics=("bleu", "chrf", "rouge1", "rougeL")).score(predictions, REFERENCES)
    assert found["bleu"] == sacrebleu.corpus_bleu(TEXTS, [REFERENCES]).score
    assert found["chrf"] == sacrebleu.corpus_chrf(TEXTS, [REFERENCES]).score
    # words in common: 5 of 6 and 6; 6 of 7 and 7, of which 5 are in the same order; none of 1 and 3
    assert found["rouge1"] == pytest.approx(100 * (10 / 12 + 12 / 14 + 0) / 3)
    assert found["rougeL"] == pytest.approx(100 * (10 / 12 + 10 / 14 + 0) / 3)
    assert SCORES["bleu"](TEXTS, TEXTS) == pytest.approx(100)


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="needs pairs of texts, but data Text has none"):
        replace(gpt(), objective=OBJECTIVE)
    with pytest.raises(ValueError, match="needs an encoder-decoder, not model GptConfig"):
        replace(gpt(), objective=OBJECTIVE, data=ParallelText(source="x", length=LENGTH))
    for wrong in ({"label_smoothing": 1.0}, {"beams": 0}, {"metrics": ("bleu", "bleu")}, {"logits_chunk": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Seq2Seq(**wrong)
    assert translation().objective.scores == ()
