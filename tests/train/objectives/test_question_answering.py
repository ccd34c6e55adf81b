"""Question answering: the loss and the best answer against NumPy, SQuAD's metrics by hand, and windows of a question."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.objectives.question_answering import QuestionAnswering, normalized, overlap_f1

B, T, D = 4, 9, 5
CONTEXT = "The quick brown fox jumps over the lazy dog."


def hidden(params, state, batch, rng=None, train=False):
    """A model that returns `hidden` of the batch."""
    return {"hidden": batch["hidden"]}, state


def problem() -> tuple[dict, dict]:
    rng = np.random.default_rng(0)
    dense = {"kernel": rng.normal(size=(D, 2))}
    inside = (np.arange(T) >= 3) & (np.arange(T) < 8)
    batch = {
        "hidden": rng.normal(size=(B, T, D)),
        "begins": np.where(inside, 4 * np.arange(T), -1) * np.ones((B, 1), int),
        "ends": np.where(inside, 4 * np.arange(T) + 3, -1) * np.ones((B, 1), int),
        "start": np.array([3, 0, 5, 4]),
        "end": np.array([3, 0, 7, 6]),
        "valid": np.array([1.0, 1, 1, 0]),
        "example": np.arange(B),
    }
    return jax.tree.map(jnp.asarray, ({"model": {}, "head": {"classifier": {"dense": dense}}}, batch))


def logits(params, batch) -> np.ndarray:
    return np.asarray(batch["hidden"], np.float64) @ np.float64(params["head"]["classifier"]["dense"]["kernel"])


def test_the_loss_is_among_the_context_and_the_first_token():
    params, batch = problem()
    found, _ = QuestionAnswering().loss(hidden, params, {}, batch, jax.random.key(0), True)
    allowed, total = [0, 3, 4, 5, 6, 7], 0.0
    for row in range(3):
        for side, name in enumerate(("start", "end")):
            values = logits(params, batch)[row, :, side]
            total += (np.log(np.exp(values[allowed]).sum()) - values[batch[name][row]]) / 2
    np.testing.assert_allclose(found.terms["question_answering"], [total, 3], rtol=1e-5)


@pytest.mark.parametrize("most", [1, 2, 30])
def test_the_best_answer_is_that_of_all_spans(most):
    params, batch = problem()
    objective = QuestionAnswering(answer_length=most)
    rows = objective.describe(objective.predict(hidden, params, {}, batch), None)
    for row, found in zip(logits(params, batch), rows, strict=True):
        spans = {(a, b): row[a, 0] + row[b, 1] for a in range(3, 8) for b in range(a, min(8, a + most))}
        (a, b), score = max(spans.items(), key=lambda item: item[1])
        assert (found["begin"], found["end"]) == (4 * a, 4 * b + 3)
        assert found["score"] == pytest.approx(score, abs=1e-4)
        assert found["null_score"] == pytest.approx(row[0].sum(), abs=1e-4)


def window(text: str, score: float, null: float = 0.0) -> dict:
    begin = CONTEXT.index(text)
    return {"begin": begin, "end": begin + len(text), "score": score, "null_score": null}


def reference(name: str, *answers: str) -> dict:
    return {"id": name, "context": CONTEXT, "answers": [{"text": text, "start": CONTEXT.index(text)} for text in answers]}


def test_windows_of_a_question_are_one_answer():
    first, second, third = reference("1", "quick brown fox", "fox"), reference("2", "lazy dog"), reference("3")
    predictions = [window("quick", 2.0), window("fox", 3.0), window("lazy dog.", 1.0), window("dog", 0.5, 5.0)]
    references = [first, first, second, third]
    assert QuestionAnswering().score(predictions, references) == {"exact_match": 2 / 3, "answer_f1": 2 / 3}
    with_none = QuestionAnswering(null_threshold=1.0)
    assert with_none.score(predictions, references) == {"exact_match": 1.0, "answer_f1": 1.0}
    assert with_none.merged(predictions[:2], {"context": CONTEXT})["answer"] == "fox"
    assert with_none.merged(predictions[2:], {"context": CONTEXT})["answer"] == "lazy dog."
    assert with_none.render(predictions[3], third).lines == ["no answer", "reference: no answer"]
    assert with_none.render(predictions[0], first).is_right is False


def test_metrics_are_those_of_squad():
    assert normalized("  The Lazy,  a dog's an end. ") == "lazy dogs end"
    assert overlap_f1("the quick brown", "quick fox") == pytest.approx(2 * 1 / (2 + 2))
    assert overlap_f1("brown brown fox", "brown fox") == pytest.approx(2 * 2 / 5)
    assert overlap_f1("the", "") == 1.0 and overlap_f1("fox", "") == 0.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), not 1.0"),
        ({"answer_length": 0}, "answer_length must be at least 1, not 0"),
    ],
)
def test_bad_fields_are_errors(fields, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        QuestionAnswering(**fields)
