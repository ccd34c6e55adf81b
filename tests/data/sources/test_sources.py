"""Sources by name, their splits, pydocs, digits and mixtures; labels and label budgets."""

import numpy as np
import pytest

from data import labels, sources
from data.errors import DataError
from data.images.labelled import Images
from data.loader import Batches
from data.sources import pydocs
from data.text.labelled import LabelledText

ROWS = [{"number": i} for i in range(10)]


@pytest.mark.parametrize(
    ("expression", "numbers"),
    [
        ("a", range(10)),
        ("a[:3]", range(3)),
        ("a[50%:]", range(5, 10)),
        ("a[10%:30%]", range(1, 3)),
        ("a[:2]+b", [0, 1, *range(10)]),
    ],
)
def test_splits_are_selected_with_the_syntax_of_tfds(expression, numbers):
    chosen = sources.choose({"a": ROWS, "b": ROWS}, {"train": expression}, "x")
    for _ in range(2):
        assert [row["number"] for row in chosen["train"]] == list(numbers)


@pytest.mark.parametrize(
    ("expression", "message"),
    [("c", "no split 'c'; available: a, bee"), ("be", "did you mean bee"), ("a[1", "'a\\[1' is invalid; use NAME")],
)
def test_an_unknown_split_is_reported(expression, message):
    with pytest.raises(DataError, match=message):
        sources.choose({"a": ROWS, "bee": ROWS}, {"train": expression}, "x")


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        ("a", "a"),
        ("a[:90%]", "a[80%:]"),
        ("a[:9]", "a[8:]"),
        ("a[:9]", "a[50%:]"),
        ("a[:50%]", "a[4:6]"),
        ("b+a[2:4]", "a[3:]"),
        ("a[:90%]", "a"),
    ],
)
def test_splits_with_rows_in_common_are_refused(train, validation):
    with pytest.raises(DataError) as caught:
        sources.choose({"a": ROWS, "b": ROWS[:]}, {"train": train, "validation": validation}, "x")
    assert f"data.splits: train={train} and validation={validation} overlap" in str(caught.value)


@pytest.mark.parametrize(
    ("train", "validation"),
    [("a[:90%]", "a[90%:]"), ("a[3:]", "a[:3]"), ("a[:5]", "a[50%:]"), ("a", "b"), ("a[6:]+b", "a[:50%]")],
)
def test_splits_without_rows_in_common_are_accepted(train, validation):
    splits = sources.choose({"a": ROWS, "b": ROWS[:]}, {"train": train, "validation": validation}, "x")
    assert all(len(list(rows)) for rows in splits.values())


def test_digits_have_fixed_splits():
    splits = sources.find("digits").splits({}, {})
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 1438, "test": 359}
    assert splits["test"][0]["image"].shape == (8, 8, 1) and {row["label"] for row in splits["test"]} == set("0123456789")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("0.5*digits", "a mixture needs two or more sources"),
        ("0.5*digits+pydocs", "'pydocs' is not WEIGHT\\*SOURCE"),
        ("1*digits+0*pydocs", "weights must be positive"),
        ("1*digits+1*nothing", "there is no source 'nothing'"),
    ],
)
def test_an_invalid_mixture_is_reported(argument, message):
    with pytest.raises(DataError, match=message):
        sources.find(f"mixture:{argument}").splits({}, {})


def test_labels_are_numbered_in_sorted_order():
    found = labels.sorted_labels({"train": np.array([0, 1, 0]), "test": np.array([1])}, ["b", "a"], "x")
    assert found.names == ("a", "b") and found.numbers["train"].tolist() == [1, 0, 1] and found.numbers["test"].tolist() == [0]
    assert found.counts(np.arange(3))["labels of train"] == {"a": 1, "b": 2}


@pytest.mark.parametrize("label", ["a", "b"])
def test_a_held_out_slice_of_one_label_is_refused(label):
    found = {"train": np.array([0, 0, 1]), "validation": np.array([0, 0] if label == "a" else [1])}
    sliced = "train=train[:90%],validation=train[90%:]"
    with pytest.raises(
        DataError, match=rf"validation has the label '{label}' only; are the rows sorted by label\? Omit --data.splits"
    ):
        labels.sorted_labels(found, ["a", "b"], "x", sliced)
    assert labels.sorted_labels(found, ["a", "b"], "x", "train=train,validation=other").notes
    with pytest.raises(DataError, match="'b', which is not in train; train has a; are the rows sorted by label"):
        labels.sorted_labels({"train": np.array([0]), "validation": np.array([1])}, ["a", "b"], "x", sliced)


def test_a_budget_selects_equally_many_rows_per_label_and_depends_on_the_seed():
    found = labels.sorted_labels({"train": np.arange(30) % 3, "test": np.arange(3)}, ["a", "b", "c"], "x")
    four = np.full(3, 4)
    chosen = labels.budget(found, four, 0, "x")
    assert np.bincount(chosen % 3).tolist() == [4, 4, 4] and len(set(chosen)) == 12
    assert chosen.tolist() == labels.budget(found, four, 0, "x").tolist() != labels.budget(found, four, 1, "x").tolist()
    with pytest.raises(DataError, match="'a' has 10 rows"):
        labels.budget(found, np.full(3, 11), 0, "x")


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([0, 1], [2], "test has the label 'c', which is not in train; train has a, b"),
        ([0, -1], [0], "row 1 of train has no label"),
        ([0, 0], [0], "classification needs at least two labels; every row of train has 'a'"),
        ([0, 1], [-1], "no held-out split has labels"),
    ],
)
def test_unusable_labels_are_reported(train, test, message):
    with pytest.raises(DataError, match=message):
        labels.sorted_labels({"train": np.array(train), "test": np.array(test)}, ["a", "b", "c"], "x")


def test_a_split_without_labels_is_omitted_with_a_note():
    found = labels.sorted_labels(
        {"train": np.array([0, 1]), "validation": np.array([1]), "test": np.array([-1])}, ["a", "b"], "x"
    )
    assert set(found.numbers) == {"train", "validation"} and found.notes[1:] == ("test has no labels and is not used",)


def test_labels_without_a_row_in_a_split_are_noted():
    found = labels.sorted_labels({"train": np.arange(3), "validation": np.array([1]), "test": np.arange(3)}, ["a", "b", "c"], "x")
    assert found.notes == ("validation has no rows of 2 of the 3 labels: a, c",)


@pytest.fixture(scope="module")
def passages():
    return pydocs.collect()


@pytest.mark.slow
def test_pydocs_is_large_and_its_passages_are_unique(passages):
    assert len(passages) > 15_000
    assert len({passage.text for passage in passages}) == len(passages)
    words = [len(passage.text.split()) for passage in passages]
    assert min(words) >= 20 and max(words) <= 120


@pytest.mark.slow
def test_held_out_modules_are_the_same_for_all_tasks(passages):
    corpus, topics = (sources.find(name).splits({}, {}) for name in ("pydocs", "pydocs:topics"))
    documents = {split: {row["document"] for row in rows} for split, rows in corpus.items()}
    assert not documents["train"] & documents["validation"]
    masked = {pydocs.mask_names(row["text"]) for row in corpus["train"]}
    assert not {row["text"] for row in topics["test"]} & masked
    seen = {split: {row["text"] for row in rows} for split, rows in topics.items()}
    assert not seen["train"] & seen["test"] and not seen["validation"] & seen["test"]
    assert {row["label"] for row in topics["test"]} == set(pydocs.TOPICS)


@pytest.mark.slow
def test_topic_passages_contain_no_library_names():
    words = {
        word.strip(".,()").lower()
        for rows in sources.find("pydocs:topics").splits({}, {}).values()
        for row in rows
        for word in row["text"].split()
    }
    assert not words & {"numpy", "np", "scipy", "jax", "jnp", "flax", "sklearn", "matplotlib", "orbax", "python", "scikit-learn"}


def test_predict_masks_library_names_as_training_does():
    config = LabelledText(source="pydocs:topics")
    text, _ = config.prepared("jax.numpy.sum adds up the elements of a jax array")
    assert "jax" not in text and text == pydocs.mask_names("jax.numpy.sum adds up the elements of a jax array")


def digits(**changes):
    return Images(source="digits", batch_size=100, **changes).build()


def drawn(dataset, batches: int = 30) -> np.ndarray:
    """Return the share of each label in the first training batches."""
    found = [Batches(dataset.splits["train"], 100, 0)[i]["label"] for i in range(batches)]
    return np.bincount(np.concatenate(found), minlength=10) / (100 * batches)


def test_a_long_tail_falls_by_one_factor_from_label_to_label():
    dataset = digits(imbalance=20.0)
    whole, counts = (list(about["labels of train"].values()) for about in (digits().about, dataset.about))
    assert counts == [max(round(n * 20 ** (-i / 9)), 1) for i, n in enumerate(whole)]
    assert dataset.about["labels of test"] == digits().about["labels of test"]
    np.testing.assert_allclose(dataset.facts["label_shares"], np.array(counts) / sum(counts), atol=1e-6)
    np.testing.assert_allclose(drawn(dataset), dataset.facts["label_shares"], atol=0.02)


def test_oversampling_draws_all_labels_equally_often():
    dataset = digits(imbalance=20.0, sampling="oversample")
    np.testing.assert_allclose(drawn(dataset), 0.1, atol=0.005)
    assert dataset.facts["label_shares"] == (0.1,) * 10
    assert len(dataset.splits["train"]) == len(digits(imbalance=20.0).splits["train"])


def test_undersampling_drops_rows_of_frequent_labels():
    dataset = digits(imbalance=20.0, sampling="undersample")
    fewest = min(digits(imbalance=20.0).about["labels of train"].values())
    assert set(dataset.about["labels of train"].values()) == {fewest}
    assert any("labelled rows are used" in note for note in dataset.notes)


def test_options_that_choose_rows_exclude_each_other():
    for option, name in (({"imbalance": 2.0}, "imbalance"), ({"sampling": "undersample"}, "sampling undersample")):
        with pytest.raises(ValueError, match=f"labels_per_class 3 and {name} both choose rows; give one of them"):
            Images(labels_per_class=3, **option)
    with pytest.raises(ValueError, match=r"imbalance must be at least 1, not 0\.5"):
        Images(imbalance=0.5)
    with pytest.raises(DataError, match="a mixture has proportions of its own"):
        Images(source="mixture:0.5*digits+0.5*digits", sampling="oversample").build()
