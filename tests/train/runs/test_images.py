"""Runs on images: normalization is kept for prediction; pretraining without labels, then fine-tuning or a linear probe."""

import json
from dataclasses import replace

import chex
import jax
import numpy as np
import pytest

from data.images.labelled import Images
from data.images.unlabelled import UnlabelledImages
from fmodels.vit import VitConfig
from tests.train.processes import model_of
from train import loop
from train.__main__ import main
from train.assemble import assemble
from train.experiment import Experiment, Run
from train.objectives.augmentation import Augmentation
from train.objectives.classification import Classification
from train.objectives.image_contrast import ImageContrast
from train.objectives.masked_patches import DECODER, MaskedPatches
from train.optim import Optimizer
from train.recipes.digits import digits_mlp
from train.runs.trained import reopen

VIT = VitConfig(layers=1, width=16, heads=2, patch=2)


def digits(folder, objective, init_from=None, **optimizer) -> Experiment:
    kind = Images if isinstance(objective, Classification) else UnlabelledImages
    return Experiment(
        model=VIT,
        objective=objective,
        data=kind(source="digits", batch_size=64, normalize="standard"),
        optimizer=Optimizer(**{"learning_rate": 5e-3, "schedule": "constant", **optimizer}),
        run=Run(dir=str(folder), steps=20, evaluate_every=0, checkpoint_every=20),
        init_from=init_from,
    )


def test_prediction_normalizes_like_training(tmp_path):
    recipe = digits_mlp()
    data = replace(recipe.data, normalize="standard")
    objective = replace(recipe.objective, augment=Augmentation(crop=1))
    experiment = replace(recipe, data=data, objective=objective, run=Run(dir=str(tmp_path / "run"), steps=5))
    loop.train(experiment)
    saved = json.loads((tmp_path / "run/experiment.json").read_text())["objective"]
    job = assemble(experiment)
    images = np.stack([job.dataset.shown["test"][i] for i in range(8)])
    pixels = job.dataset.splits["train"][np.arange(len(job.dataset.splits["train"]))]["image"]
    assert saved["image_mean"] == [pytest.approx(pixels.mean(), abs=1e-5)]
    predictor = reopen(job.experiment, print)
    rows = predictor({"image": images})
    params, state = model_of(tmp_path / "run")
    batch = {"image": jax.numpy.asarray((images - saved["image_mean"][0]) / saved["image_std"][0])}
    plain = replace(job.experiment.objective, image_mean=None, image_std=None)
    wanted = plain.predict(job.experiment.model.build().apply, params, state, batch)["probabilities"]
    found = [[row["probabilities"][str(label)] for label in range(10)] for row in rows]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "objective",
    [MaskedPatches(patch=2, decoder=replace(DECODER, layers=1, width=16, heads=2)), ImageContrast(projection=8)],
    ids=["masked patches", "contrast"],
)
def test_a_pretrained_model_is_fine_tuned_or_probed(tmp_path, objective, capsys):
    loop.train(digits(tmp_path / "pretrained", objective))
    before = model_of(tmp_path / "pretrained")[0]["model"]
    loop.train(digits(tmp_path / "tuned", Classification(), str(tmp_path / "pretrained")))
    capsys.readouterr()
    probe = digits(tmp_path / "probe", Classification(), str(tmp_path / "pretrained"))
    first, *others = probe.optimizer.rules
    rules = (replace(first, pattern="model/.*", freeze=True), *others)  # as in the README
    loop.train(replace(probe, optimizer=replace(probe.optimizer, rules=rules)))
    assert "2 new (head/classifier/dense/bias, head/classifier/dense/kernel)" in capsys.readouterr().err
    chex.assert_trees_all_equal(model_of(tmp_path / "probe")[0]["model"], before)
    tuned = model_of(tmp_path / "tuned")[0]["model"]
    assert np.abs(tuned["patch_embedding"]["kernel"] - before["patch_embedding"]["kernel"]).max() > 1e-4
    assert main(["report", str(tmp_path / "pretrained")]) == 0
    assert "<h2" in (tmp_path / "pretrained/report.html").read_text()
