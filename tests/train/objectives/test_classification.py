"""Classification: losses against formulas in NumPy, metrics against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, matthews_corrcoef, precision_recall_fscore_support

from data.dataset import Columns
from data.loader import evaluation_batches
from train.objectives.classification import Classification, scores

CLASSES, WIDTH = 5, 7
SHARES = (0.4, 0.3, 0.2, 0.08, 0.02)


def identity(params, state, batch, rng=None, train=False):
    """A model that returns `pooled` of the batch."""
    return {"pooled": batch["pooled"]}, state


def problem(rows: int, seed: int = 0) -> tuple[dict, dict]:
    """Return random (params, batch). One in four rows is not valid."""
    rng = np.random.default_rng(seed)
    dense = {"kernel": rng.normal(size=(WIDTH, CLASSES)), "bias": rng.normal(size=CLASSES)}
    batch = {
        "pooled": rng.normal(size=(rows, WIDTH)),
        "valid": 1.0 * (np.arange(rows) % 4 != 3),
        "example": np.arange(rows, dtype=np.uint32),
        "label": rng.integers(CLASSES, size=rows),
    }
    return jax.tree.map(jnp.asarray, ({"model": {}, "head": {"classifier": {"dense": dense}}}, batch))


def formula(params, batch, smoothing=0.0, weights=(1.0,) * CLASSES, gamma=0.0) -> float:
    """Return the loss of Szegedy et al. 2016, §7, and Lin et al. 2017, §3, averaged with class weights, in float64."""
    dense = jax.tree.map(np.float64, params["head"]["classifier"]["dense"])
    pooled, label, valid = (np.asarray(batch[name]) for name in ("pooled", "label", "valid"))
    total = weight = 0.0
    for x, y, is_valid in zip(pooled.astype(np.float64), label, valid, strict=True):
        scores = np.exp(x @ dense["kernel"] + dense["bias"])
        p = scores / scores.sum()
        target = np.full(CLASSES, smoothing / CLASSES)
        target[y] += 1 - smoothing
        if is_valid:
            total += weights[y] * (1 - p[y]) ** gamma * -(target @ np.log(p))
            weight += weights[y]
    return total / weight


BALANCED = tuple(1 / share for share in SHARES)
CASES = {
    "cross entropy": ({}, {}),
    "label smoothing": ({"label_smoothing": 0.2}, {"smoothing": 0.2}),
    "balanced": ({"class_weights": "balanced"}, {"weights": BALANCED}),
    "explicit": ({"class_weights": (1.0, 0.0, 2.0, 0.5, 9.0)}, {"weights": (1.0, 0.0, 2.0, 0.5, 9.0)}),
    "focal": ({"loss_name": "focal"}, {"gamma": 2.0}),
    "focal gamma": ({"loss_name": "focal", "gamma": 0.7}, {"gamma": 0.7}),
    "all": (
        {"loss_name": "focal", "label_smoothing": 0.1, "class_weights": "balanced"},
        {"smoothing": 0.1, "weights": BALANCED, "gamma": 2.0},
    ),
}


@pytest.mark.parametrize(("fields", "terms"), CASES.values(), ids=CASES.keys())
def test_loss_matches_the_formula(fields, terms):
    objective = Classification(classes=CLASSES, label_shares=SHARES, **fields)
    params, batch = problem(32)

    def loss(train: bool) -> float:
        sums, _ = objective.loss(identity, params, {}, batch, jax.random.key(0), train)
        assert sums.terms.keys() == {"classification"}
        return float(np.divide(*sums.terms["classification"]))

    assert loss(train=True) == pytest.approx(formula(params, batch, **terms), rel=1e-5)
    assert loss(train=False) == pytest.approx(formula(params, batch), rel=1e-5), "evaluation uses plain cross-entropy"


def test_sums_over_parts_of_a_batch_add_up():
    """Numerators and denominators do, also with class weights, so the loss does not depend on the split of the rows."""
    objective = Classification(classes=CLASSES, label_shares=SHARES, class_weights="balanced", loss_name="focal")
    params, batch = problem(32)
    sums = lambda part: objective.loss(identity, params, {}, part, jax.random.key(0), True)[0]
    halves = [sums(jax.tree.map(lambda x, rows=rows: x[rows], batch)).terms for rows in (slice(0, 16), slice(16, 32))]
    jax.tree.map(lambda whole, *parts: np.testing.assert_allclose(sum(parts), whole, rtol=1e-5), sums(batch).terms, *halves)


@pytest.mark.parametrize("absent", [(), (2,)], ids=["all classes", "absent class"])
def test_metrics_match_scikit_learn(absent):
    """On an evaluation set with a padded last batch."""
    objective = Classification(classes=CLASSES, label_shares=SHARES, class_weights="balanced")
    params, batch = problem(23, seed=3)
    rows = {name: np.array(batch[name]) for name in ("pooled", "label")}
    for label in absent:
        rows["label"][rows["label"] == label] += 1
        params["head"]["classifier"]["dense"]["bias"] = params["head"]["classifier"]["dense"]["bias"].at[label].set(-99)
    evaluate = jax.jit(lambda batch: objective.loss(identity, params, {}, batch, jax.random.key(0), False)[0])
    batches = list(evaluation_batches(Columns(rows), 8))
    assert [batch["valid"].sum() for batch in batches] == [8, 8, 7]
    found = objective.summarize(jax.device_get(jax.tree.map(lambda *xs: sum(xs), *map(evaluate, batches))))

    dense = params["head"]["classifier"]["dense"]
    label, guess = rows["label"], (rows["pooled"] @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])).argmax(1)
    labels = {"labels": np.arange(CLASSES)}
    macro = macro_of(label, guess)
    assert {name: found[name] for name in macro} == pytest.approx(macro, rel=1e-6)
    assert found["accuracy"] == pytest.approx(accuracy_score(label, guess), rel=1e-6)
    assert 0.1 < found["accuracy"] < 0.9, "some right, some wrong"
    np.testing.assert_array_equal(found["confusion"], confusion_matrix(label, guess, **labels))
    by_class = precision_recall_fscore_support(label, guess, average=None, zero_division=0, **labels)
    for name, column in zip(("precision", "recall", "f1", "support"), by_class, strict=True):
        assert found["per_class"][name] == pytest.approx(list(column), rel=1e-6)
    valid = jax.tree.map(jnp.asarray, rows | {"valid": np.ones(23, np.float32), "example": np.arange(23, dtype=np.uint32)})
    assert found["loss"] == found["classification"] == pytest.approx(formula(params, valid), rel=1e-5)


def macro_of(label, guess) -> dict[str, float]:
    """Return the macro averages of scikit-learn, with its default labels."""
    found = precision_recall_fscore_support(label, guess, average="macro", zero_division=0)
    return dict(zip(("macro_precision", "macro_recall", "macro_f1"), found[:3], strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_macro_averages_match_scikit_learn_when_classes_are_absent(seed):
    """Classes may occur as labels only, as predictions only, or not at all."""
    rng = np.random.default_rng(seed)
    label, guess = (rng.choice(rng.choice(CLASSES, rng.integers(1, 4), replace=False), 12) for _ in range(2))
    found = scores(confusion_matrix(label, guess, labels=np.arange(CLASSES)).astype(float))
    macro = macro_of(label, guess)
    assert {name: found[name] for name in macro} == pytest.approx(macro, rel=1e-6)
    assert found["matthews"] == pytest.approx(matthews_corrcoef(label, guess), rel=1e-6)
    micro = precision_recall_fscore_support(label, guess, average="micro", zero_division=0)
    assert micro[:3] == pytest.approx([found["accuracy"]] * 3, rel=1e-6)
    assert len(found["per_class"]["f1"]) == CLASSES


def test_macro_f1_is_1_if_all_rows_are_right_and_classes_are_absent():
    assert scores(np.diag([4.0, 0, 3, 2, 0]))["macro_f1"] == 1.0


def test_head_dropout_is_active_in_training_only():
    objective = Classification(classes=CLASSES, label_shares=SHARES, dropout=0.5)
    params, batch = problem(32)
    sums = lambda key, train: objective.loss(identity, params, {}, batch, jax.random.key(key), train)[0]
    loss = lambda key, train: float(sums(key, train).terms["classification"][0])
    assert loss(0, True) == loss(0, True) != loss(1, True)
    assert loss(0, False) == loss(1, False)


def test_describe_sorts_labels_by_probability():
    params, batch = problem(4)
    objective = Classification(classes=CLASSES, label_shares=SHARES)
    probabilities = objective.predict(identity, params, {}, batch)
    np.testing.assert_allclose(probabilities["probabilities"].sum(1), np.ones(4), rtol=1e-5)

    class Labels:
        labels = "abcde"

    for row, p in zip(objective.describe(jax.device_get(probabilities), Labels), probabilities["probabilities"], strict=True):
        assert row["label"] == "abcde"[p.argmax()] == next(iter(row["probabilities"]))
        assert list(row["probabilities"].values()) == sorted(map(float, p), reverse=True)
        assert {label: row["probabilities"][label] for label in "abcde"} == dict(zip("abcde", map(float, p), strict=True))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": 1}, "classes must be at least 2, not 1"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), not 1.0"),
        ({"label_smoothing": -0.1}, r"label_smoothing must be in \[0, 1\), not -0.1"),
        ({"gamma": -1.0}, "gamma must be 0 or more, not -1.0"),
        ({"classes": 3, "class_weights": (1.0, 2.0)}, "class_weights has 2 entries for 3 classes"),
        ({"class_weights": (1.0, -2.0)}, "class_weights must be 0 or more and not all 0, .*"),
        ({"class_weights": (0.0, 0.0)}, "class_weights must be 0 or more and not all 0, .*"),
        ({"class_weights": ()}, "class_weights must be .*"),
    ],
    ids=str,
)
def test_invalid_fields_are_errors(fields, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Classification(**fields)
