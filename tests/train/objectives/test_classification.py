"""Classification: losses against formulas in NumPy, metrics against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, matthews_corrcoef, precision_recall_fscore_support

from data.dataset import Columns
from data.images.labelled import Images
from data.loader import evaluation_batches
from data.text.labelled import LabelledText
from fmodels.bert import BertConfig
from fmodels.mlp import MlpConfig
from train.experiment import Experiment
from train.objectives.augmentation import Augmentation
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
            total += weights[y] * -(target @ ((1 - p) ** gamma * np.log(p)))
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


def test_logit_adjustment_adds_the_logs_of_the_shares_in_training():
    """Menon et al. 2021, eq. 10."""
    plain, adjusted = (Classification(classes=CLASSES, label_shares=SHARES, logit_adjustment=tau) for tau in (0.0, 0.7))
    params, batch = problem(32)
    moved = jax.tree.map(jnp.copy, params)
    moved["head"]["classifier"]["dense"]["bias"] += 0.7 * np.log(SHARES)

    def loss(objective, params, train: bool) -> float:
        term = objective.loss(identity, params, {}, batch, jax.random.key(0), train)[0].terms["classification"]
        return float(np.divide(*term))

    assert loss(adjusted, params, True) == pytest.approx(loss(plain, moved, True), rel=1e-5)
    assert loss(adjusted, params, False) == pytest.approx(loss(plain, params, False), rel=1e-6)


def test_calibration_error_matches_its_definition():
    """Guo et al. 2017, eq. 3, on an evaluation set with padding rows."""
    objective = Classification(classes=CLASSES, label_shares=SHARES)
    params, batch = problem(200, seed=1)
    sums, _ = objective.loss(identity, params, {}, batch, jax.random.key(0), False)
    found = objective.summarize(jax.device_get(sums))
    dense, valid = params["head"]["classifier"]["dense"], np.asarray(batch["valid"]) > 0
    p = np.asarray(jax.nn.softmax(batch["pooled"] @ dense["kernel"] + dense["bias"]))[valid]
    confidence, right = p.max(1), p.argmax(1) == np.asarray(batch["label"])[valid]
    error = 0.0
    for low in np.arange(15) / 15:
        chosen = (confidence >= low) & (confidence < low + 1 / 15)
        if chosen.any():
            error += chosen.mean() * abs(right[chosen].mean() - confidence[chosen].mean())
    assert found["calibration_error"] == pytest.approx(error, rel=1e-4)
    assert 0.05 < error < 0.95
    assert sum(found["calibration"]["rows"]) == valid.sum()
    title, html = objective.sections({**found, "per_class": found["per_class"]}, Codec())[-1]
    assert title == "Calibration" and f"is {error:.3f}" in html and "<svg" in html


class Codec:
    labels = tuple("abcde")


def flat(params, state, batch, rng=None, train=False):
    """A model that returns the pixels."""
    return {"pooled": batch["image"].reshape(len(batch["image"]), -1)}, state


def images(rows: int = 8) -> tuple[dict, dict]:
    """Return (params, batch) of images with WIDTH pixels."""
    params, batch = problem(rows)
    image = jnp.asarray(np.random.default_rng(2).random((rows, 1, WIDTH, 1)), jnp.float32)
    return params, {**batch, "image": image, "valid": jnp.ones(rows)}


def term(objective, params, batch, train: bool = True) -> tuple[float, float]:
    numerator, denominator = objective.loss(flat, params, {}, batch, jax.random.key(3), train)[0].terms["classification"]
    return float(numerator), float(denominator)


def test_images_are_normalized_in_training_evaluation_and_prediction():
    params, batch = images()
    objective = Classification(classes=CLASSES, label_shares=SHARES, image_mean=(0.5,), image_std=(0.25,))
    plain = Classification(classes=CLASSES, label_shares=SHARES)
    by_hand = {**batch, "image": (batch["image"] - 0.5) / 0.25}
    for train in (True, False):
        assert term(objective, params, batch, train) == pytest.approx(term(plain, params, by_hand, train), rel=1e-5)
    found, wanted = objective.predict(flat, params, {}, batch), plain.predict(flat, params, {}, by_hand)
    np.testing.assert_allclose(found["probabilities"], wanted["probabilities"], rtol=1e-5)


def test_images_are_augmented_in_training_only_and_before_normalization():
    params, batch = images()
    options = {"classes": CLASSES, "label_shares": SHARES, "image_mean": (0.5,), "image_std": (0.25,)}
    objective = Classification(**options, augment=Augmentation(crop=2, flip=True))
    seen = objective.seen(batch, jax.random.key(3))["image"]
    assert not np.allclose(seen, batch["image"])
    assert (np.asarray(seen) == 0).any(), "padding is black"
    assert term(objective, params, batch) == pytest.approx(term(Classification(**options), params, {**batch, "image": seen}))
    assert term(objective, params, batch, False) == pytest.approx(term(Classification(**options), params, batch, False))


@pytest.mark.parametrize("fields", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}], ids=str)
def test_the_targets_of_mixed_images_are_mixed(fields):
    """The loss and the class weight are means of those of both labels, in the shares of the images."""
    params, batch = images()
    weights = (1.0, 0.5, 2.0, 0.5, 1.0)
    objective = Classification(classes=CLASSES, label_shares=SHARES, class_weights=weights, **fields)
    plain = Classification(classes=CLASSES, label_shares=SHARES)
    one_hot = jax.nn.one_hot(batch["label"], CLASSES)
    mixed, target = objective.augmented(batch, one_hot, jax.random.key(3))
    share = 1 - (target * one_hot).sum(-1)
    different = np.asarray(batch["label"]) != np.roll(batch["label"], 1)
    assert (np.asarray(share)[different] > 0).any()
    row = lambda batch, i: {name: x[i : i + 1] for name, x in batch.items()}
    loss = lambda label: np.array([term(plain, params, row({**mixed, "label": label}, i))[0] for i in range(8)])
    own, other = loss(batch["label"]), loss(jnp.roll(batch["label"], 1))
    weight = np.asarray(target @ np.array(weights)) / np.mean(weights)
    numerator, denominator = term(objective, params, batch)
    share = np.asarray(share)
    assert numerator == pytest.approx((weight * ((1 - share) * own + share * other)).sum(), rel=1e-4)
    assert denominator == pytest.approx(weight.sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mixup": 0.5}, "objective.mixup and cutmix mix images, but data LabelledText has none"),
        ({"augment": Augmentation(flip=True)}, "objective.augment changes images, but data LabelledText has none"),
    ],
)
def test_options_of_images_need_images(fields, message):
    with pytest.raises(ValueError, match=message):
        Experiment(model=BertConfig(), objective=Classification(**fields), data=LabelledText())


def test_the_mean_and_the_std_go_together():
    with pytest.raises(ValueError, match="go together: set both, or neither"):
        Experiment(model=MlpConfig(), objective=Classification(image_mean=(0.5,)), data=Images())


def test_the_mean_needs_one_number_per_channel():
    with pytest.raises(ValueError, match="image_mean has 3 numbers for images with 1 channels"):
        Experiment(model=MlpConfig(), objective=Classification(image_mean=(0.5,) * 3, image_std=(0.5,) * 3), data=Images())
