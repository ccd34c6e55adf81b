"""Masked autoencoding of images: what is hidden, what is predicted, and the loss by its definition."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data.images.labelled import Images
from data.text.labelled import LabelledText
from fmodels.axes import split
from fmodels.mlp import MlpConfig
from fmodels.nn.patches import assembled, patches
from fmodels.vit import VitConfig
from train.experiment import Experiment
from train.objectives.augmentation import Augmentation
from train.objectives.masked_patches import DECODER, MaskedPatches

ROWS, SIZE, PATCH = 6, 12, 4
VIT = VitConfig(layers=1, width=16, heads=2, patch=PATCH)
OBJECTIVE = MaskedPatches(patch=PATCH, decoder=replace(DECODER, layers=1, width=16, heads=2))


def batch(seed: int = 0) -> dict:
    image = np.random.default_rng(seed).random((ROWS, SIZE, SIZE, 3), np.float32)
    return {"image": jnp.asarray(image), "example": jnp.arange(ROWS, dtype=jnp.uint32), "valid": jnp.ones(ROWS)}


@pytest.fixture(scope="module")
def trained() -> tuple:
    """Return (apply, params)."""
    model = VIT.build()
    params, _ = OBJECTIVE.init(model, jax.random.key(0), batch())
    return model.apply, split(params)[0]


def test_patches_are_cut_row_by_row():
    image = np.asarray(batch()["image"])
    found = np.asarray(patches(jnp.asarray(image), PATCH))
    np.testing.assert_array_equal(found[2, 5], image[2, 4:8, 8:12].reshape(-1))
    np.testing.assert_array_equal(assembled(jnp.asarray(found), image.shape, PATCH), image)


def test_the_loss_is_the_mean_squared_error_of_hidden_patches(trained):
    """Against the definition, in NumPy: targets have mean 0 and standard deviation 1 within each patch."""
    apply, params = trained
    rows = {**batch(), "valid": jnp.asarray([1.0, 1, 1, 1, 0, 1])}
    objective = replace(OBJECTIVE, image_mean=(0.4,) * 3, image_std=(0.2,) * 3)
    rng = jax.random.key(5)
    sums, _ = objective.loss(apply, params, {}, rows, rng, False)
    kept = np.asarray(objective.choose(rows, jax.random.fold_in(rng, 4)))
    found, _ = objective.decoded(apply, params, {}, rows, jnp.asarray(kept))
    total = 0.0
    for i in (0, 1, 2, 3, 5):
        errors = []
        for place in set(range(9)) - set(kept[i].tolist()):
            row, column = divmod(place, 3)
            pixels = np.asarray(rows["image"])[i, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
            pixels = (pixels.reshape(-1).astype(np.float64) - 0.4) / 0.2
            errors.append(np.mean((np.asarray(found)[i, place] - (pixels - pixels.mean()) / pixels.std()) ** 2))
        total += np.mean(errors)
    assert len(errors) == 7, "a quarter of 9 patches is kept"
    numerator, denominator = sums.terms["masked_patches"]
    assert float(numerator) == pytest.approx(total, rel=1e-4)
    assert denominator == 5


def test_hidden_patches_do_not_reach_the_model(trained):
    apply, params = trained
    kept = jnp.broadcast_to(jnp.array([4, 1]), (ROWS, 2))
    before, _ = OBJECTIVE.decoded(apply, params, {}, batch(), kept)
    image = batch()["image"]
    hidden, seen = image.at[:, 8:, 8:].add(1.0), image.at[:, 4:8, 4:8].add(1.0)
    after, _ = OBJECTIVE.decoded(apply, params, {}, {**batch(), "image": hidden}, kept)
    np.testing.assert_array_equal(before, after)
    changed, _ = OBJECTIVE.decoded(apply, params, {}, {**batch(), "image": seen}, kept)
    assert np.abs(np.asarray(changed) - np.asarray(before)).max() > 1e-4


def test_the_order_of_kept_patches_does_not_matter(trained):
    apply, params = trained
    found = [
        OBJECTIVE.decoded(apply, params, {}, batch(), jnp.broadcast_to(jnp.array(kept), (ROWS, 3)))[0]
        for kept in ([7, 0, 3], [3, 7, 0])
    ]
    np.testing.assert_allclose(*found, rtol=0, atol=1e-5)


def test_each_image_and_step_has_its_own_mask():
    first, second = (np.sort(np.asarray(OBJECTIVE.choose(batch(), jax.random.key(i)))) for i in (0, 1))
    assert first.shape == (ROWS, 2)
    assert len({tuple(row) for row in first}) > 2 and (first != second).any()
    again = np.sort(np.asarray(OBJECTIVE.choose(jax.tree.map(lambda x: x[2:4], batch()), jax.random.key(0))))
    np.testing.assert_array_equal(again, first[2:4])


def test_training_lowers_the_error_and_prediction_reports_it(trained):
    apply, params = trained
    rows = batch()
    loss = jax.jit(lambda params: OBJECTIVE.loss(apply, params, {}, rows, jax.random.key(0), False)[0].terms["masked_patches"][0])
    start = loss(params)
    tx = optax.adam(1e-2)
    step = jax.jit(lambda params, state: tx.update(jax.grad(loss)(params), state))
    state = tx.init(params)
    for _ in range(60):
        updates, state = step(params, state)
        params = optax.apply_updates(params, updates)
    assert loss(params) < 0.9 * start
    (row, *_) = OBJECTIVE.describe(jax.device_get(OBJECTIVE.predict(apply, params, {}, {"image": rows["image"]})), None)
    assert 0 < row["error"] < 2
    assert OBJECTIVE.render(row).lines == [f"error of hidden patches: {row['error']:.3f}"]


def test_hidden_patches_are_shown_in_grey_after_augmentation():
    objective = replace(OBJECTIVE, augment=Augmentation(flip=True))
    shown = np.asarray(patches(objective.seen(batch(), jax.random.key(0))["image"], PATCH))
    assert ((shown == 0.5).all(-1).sum(1) == 7).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": MlpConfig()}, "objective MaskedPatches needs a model of patches, such as VitConfig, not MlpConfig"),
        ({"model": replace(VIT, patch=2)}, "objective.patch is 4, but model.patch is 2: set both"),
        ({"data": LabelledText()}, "objective MaskedPatches needs images, but data LabelledText has none"),
        ({"objective": replace(OBJECTIVE, mask_rate=0.01)}, "mask_rate 0.01 hides none or all of 9 patches"),
    ],
)
def test_parts_that_do_not_fit_are_errors(change, message):
    parts = {"model": VIT, "objective": OBJECTIVE, "data": Images(shape=(SIZE, SIZE, 3))}
    with pytest.raises(ValueError, match=message):
        Experiment(**{**parts, **change})


def test_invalid_fields_are_errors():
    with pytest.raises(ValueError, match=r"mask_rate must be in \(0, 1\), not 1"):
        MaskedPatches(mask_rate=1.0)
    with pytest.raises(ValueError, match="decoder has sinusoidal positions: set its position to none"):
        MaskedPatches(decoder=replace(DECODER, position="learned"))
