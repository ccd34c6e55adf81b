"""Token classification: the loss against a formula in NumPy, predicted words and spans, and truncated sentences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.text.tagged import TaggedText
from train.objectives.token_classification import TokenClassification

SENTENCES = [
    (["Ada", "Lovelace", "lives", "in", "London"], ["B-person", "I-person", "O", "O", "B-place"]),
    (["unhappiness", "of", "Bob"], ["O", "O", "B-person"]),
    (["London", "calls"], ["B-place", "O"]),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tagged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FMODELS_CACHE", str(tmp_path_factory.mktemp("cache")))
        for split, count in {"train": 30, "test": 1}.items():
            lines = ["".join(f"{w}{i % 3 or ''} {t}\n" for w, t in zip(*s, strict=True)) for i in range(count) for s in SENTENCES]
            (folder / f"{split}.conll").write_text("\n".join(lines))
        return TaggedText(source=f"files:{folder}", length=12, batch_size=4, vocab_size=320, tokenizer_kind="bpe").build()


def identity(params, state, batch, rng=None, train=False):
    """A model that returns `hidden` of the batch."""
    return {"hidden": batch["hidden"]}, state


def test_the_loss_is_that_of_the_first_token_of_each_word(dataset):
    objective, rng = TokenClassification(classes=4), np.random.default_rng(0)
    rows = dataset.splits["test"][np.arange(3)]
    dense = {"kernel": rng.normal(size=(7, 4)), "bias": rng.normal(size=4)}
    batch = {**rows, "hidden": rng.normal(size=(3, 12, 7)), "valid": np.array([1.0, 0.0, 1.0]), "example": np.arange(3)}
    params = {"model": {}, "head": {"classifier": {"dense": {name: jnp.asarray(x) for name, x in dense.items()}}}}
    arrays = {name: jnp.asarray(x) for name, x in batch.items()}
    found, _ = objective.loss(identity, params, {}, arrays, jax.random.key(0), False)

    losses, hits = [], []
    for row in (0, 2):
        for at in np.flatnonzero(rows["starts"][row]):
            logits = batch["hidden"][row, at] @ dense["kernel"] + dense["bias"]
            losses.append(np.log(np.exp(logits).sum()) - logits[rows["tags"][row, at]])
            hits.append(logits.argmax() == rows["tags"][row, at])
    assert len(losses) == sum(len(words) for words, _ in (SENTENCES[0], SENTENCES[2]))
    (loss, count), (correct, _) = found.terms["token_classification"], found.metrics["tag_accuracy"]
    np.testing.assert_allclose([loss, count, correct], [sum(losses), len(losses), sum(hits)], rtol=1e-5)


def test_predictions_name_words_and_spans(dataset):
    rows = dataset.splits["test"][np.arange(3)]
    objective = TokenClassification(classes=4)
    described = objective.describe({**rows, "tags": np.maximum(rows["tags"], 0)}, dataset.codec)
    assert [row["words"] for row in described] == [words for words, _ in SENTENCES]
    assert [row["tags"] for row in described] == [tags for _, tags in SENTENCES]
    assert described[0]["spans"] == [{"type": "person", "text": "Ada Lovelace"}, {"type": "place", "text": "London"}]
    scores = objective.score(described, dataset.references["test"])
    assert scores == {"span_precision": 1.0, "span_recall": 1.0, "span_f1": 1.0}
    assert objective.render(described[0], dataset.references["test"][0]).lines == ["Ada Lovelace (person), London (place)"]
    wrong = objective.render(described[2], ["O", "O"])
    assert wrong.lines == ["London (place)", "reference: no spans"] and not wrong.is_right


def test_words_that_a_truncated_row_lacks_count_as_outside():
    scores = TokenClassification(classes=3).score([{"tags": ["B-x"]}], [["B-x", "O", "B-x"]])
    assert scores == {"span_precision": 1.0, "span_recall": 0.5, "span_f1": pytest.approx(2 / 3)}
