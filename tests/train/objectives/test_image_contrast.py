"""Contrastive learning of images: the loss by its definition, and what it refuses."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data.images.labelled import Images
from data.text.labelled import LabelledText
from fmodels.axes import split
from fmodels.bert import BertConfig
from fmodels.mlp import MlpConfig
from train.experiment import Experiment, Run
from train.objectives.augmentation import Augmentation
from train.objectives.image_contrast import ImageContrast

ROWS, OBJECTIVE = 8, ImageContrast(projection=5, augment=Augmentation(crop=2, flip=True))


def batch() -> dict:
    """Images of one colour each, with noise."""
    rng = np.random.default_rng(0)
    image = rng.random((ROWS, 1, 1, 3), np.float32) + 0.1 * rng.random((ROWS, 6, 6, 3), np.float32)
    return {"image": jnp.asarray(image), "example": jnp.arange(ROWS, dtype=jnp.uint32), "valid": jnp.ones(ROWS)}


@pytest.fixture(scope="module")
def trained() -> tuple:
    """Return (apply, params)."""
    model = MlpConfig(hidden=(16,)).build()
    return model.apply, split(OBJECTIVE.init(model, jax.random.key(0), batch())[0])[0]


def by_definition(objective, apply, params, rows, rng) -> tuple[float, float]:
    """Return the sums over images of the loss (Chen et al. 2020, eq. 1) and of hits, averaged over their two views."""
    views = [objective.seen(rows, jax.random.fold_in(rng, view))["image"] for view in (2, 3)]
    dense = jax.tree.map(np.float64, params["head"]["projection"])
    z = []
    for image in views:
        pooled = np.float64(apply(params["model"], {}, objective.normalized({"image": image}))[0]["pooled"])
        hidden = np.maximum(pooled @ dense["hidden"]["kernel"] + dense["hidden"]["bias"], 0)
        z.append(hidden @ dense["output"]["kernel"] + dense["output"]["bias"])
    chosen = [(i, view) for view in (0, 1) for i in np.flatnonzero(np.asarray(rows["valid"]))]
    unit = {place: z[place[1]][place[0]] / np.linalg.norm(z[place[1]][place[0]]) for place in chosen}
    loss = hits = 0.0
    for i, view in chosen:
        similar = {other: unit[i, view] @ unit[other] / objective.temperature for other in chosen if other != (i, view)}
        own = similar[i, 1 - view]
        loss += (np.log(np.sum(np.exp(list(similar.values())))) - own) / 2
        hits += (own == max(similar.values())) / 2
    return loss, hits


@pytest.mark.parametrize("train", [True, False])
def test_the_loss_matches_its_definition(trained, train):
    """Padding rows are neither images nor negatives."""
    objective = replace(OBJECTIVE, image_mean=(0.5,) * 3, image_std=(0.25,) * 3, temperature=0.3)
    rows, rng = {**batch(), "valid": jnp.asarray([1.0] * 6 + [0.0] * 2)}, jax.random.key(1)
    sums, _ = objective.loss(*trained, {}, rows, rng, train)
    loss, hits = by_definition(objective, *trained, rows, rng)
    numerator, denominator = sums.terms["contrastive"]
    assert float(numerator) == pytest.approx(loss, rel=1e-4)
    assert float(sums.metrics["contrastive_accuracy"][0]) == hits
    assert denominator == 6


def test_training_brings_the_views_of_an_image_together(trained):
    apply, params = trained
    loss = jax.jit(lambda params, rng: OBJECTIVE.loss(apply, params, {}, batch(), rng, True)[0].terms["contrastive"][0] / ROWS)
    tx = optax.adam(1e-2)
    step = jax.jit(lambda params, state, rng: tx.update(jax.grad(loss)(params, rng), state))
    state = tx.init(params)
    mean = lambda params: np.mean([loss(params, jax.random.key(1000 + i)) for i in range(10)])
    start = mean(params)
    for i in range(150):
        updates, state = step(params, state, jax.random.key(i))
        params = optax.apply_updates(params, updates)
    assert mean(params) < start - 0.2


def test_predictions_are_the_pooled_outputs_of_unchanged_images(trained):
    apply, params = trained
    found = OBJECTIVE.describe(jax.device_get(OBJECTIVE.predict(apply, params, {}, {"image": batch()["image"]})), None)
    wanted = apply(params["model"], {}, batch())[0]["pooled"]
    np.testing.assert_allclose([row["embedding"] for row in found], wanted, rtol=1e-6)
    assert OBJECTIVE.render(found[0]).lines[0].endswith("(16 numbers)")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": LabelledText(), "model": BertConfig()}, "augment changes images, but data LabelledText has none"),
        (
            {"run": Run(accumulation=2)},
            "accumulation is 2, but objective ImageContrast compares all rows",
        ),
    ],
)
def test_parts_that_do_not_fit_are_errors(change, message):
    with pytest.raises(ValueError, match=message):
        Experiment(**{"model": MlpConfig(), "objective": OBJECTIVE, "data": Images(), **change})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"projection": 0}, "projection must be at least 1"),
        ({"augment": Augmentation()}, "augment must change images: two views without changes are equal"),
    ],
)
def test_invalid_fields_are_errors(fields, message):
    with pytest.raises(ValueError, match=message):
        ImageContrast(**fields)
