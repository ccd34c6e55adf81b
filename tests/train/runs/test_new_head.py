"""Labels, not positions, decide whether `--init-from` takes the head of another classifier."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.train.processes import model_of
from train import loop
from train.assemble import assemble
from train.experiment import Experiment, with_run
from train.recipes.digits import digits_mlp
from train.runs.begin import initial

SHADES = (20, 120, 220)


def pictures(folder: Path, labels: list[str]) -> Path:
    """Write 30 images per label as LABEL/N.png; each label has its own shade of grey."""
    rng = np.random.default_rng(0)
    for label, shade in zip(labels, SHADES, strict=False):
        (folder / label).mkdir(parents=True)
        for i in range(30):
            noisy = rng.integers(shade - 20, shade + 20, (8, 8)).astype(np.uint8)
            Image.fromarray(noisy).save(folder / label / f"{i}.png")
    return folder


def experiment(tmp_path: Path, name: str, labels: list[str], init_from: Path | None = None) -> Experiment:
    recipe = digits_mlp()
    data = replace(recipe.data, source=f"files:{pictures(tmp_path / f'{name}-images', labels)}", batch_size=16)
    changed = replace(recipe, data=data, init_from=init_from and str(init_from))
    return with_run(changed, dir=str(tmp_path / name), steps=40, evaluate_every=0, checkpoint_every=40)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run that tells `bad` from `good`."""
    folder = tmp_path_factory.mktemp("new-head")
    assert loop.train(experiment(folder, "first", ["bad", "good"]))["validation"]["accuracy"] == 1.0
    return folder / "first"


def begun(given: Experiment) -> tuple[dict, list[str]]:
    """Return the head that a run begins with, and what it says."""
    said = []
    return initial(assemble(given), said.append).params["head"]["classifier"]["dense"], said


def test_the_head_is_taken_if_the_labels_are_equal(trained, tmp_path):
    head, said = begun(experiment(tmp_path, "second", ["bad", "good"], trained))
    np.testing.assert_array_equal(head["kernel"], model_of(trained)[0]["head"]["classifier"]["dense"]["kernel"])
    assert len(said) == 1 and said[0].endswith("0 new, 0 unused")


@pytest.mark.parametrize("labels", [["agree", "reject"], ["bad", "good", "ugly"], ["bad", "fine"]], ids=str)
def test_the_head_is_new_if_the_labels_differ(trained, tmp_path, labels):
    head, said = begun(experiment(tmp_path, "second", labels, trained))
    assert head["kernel"].shape == (128, len(labels)) and not head["kernel"].any(), "a new head is zero"
    assert "2 new (head/classifier/dense/bias, head/classifier/dense/kernel), 2 unused" in said[0]
    why = f"its labels are bad, good, here they are {', '.join(labels)}"
    assert said[1:] == [f"second: head/classifier/ of {trained} is not used: {why}"]


@pytest.mark.parametrize("kept", [["good", "bad"], None], ids=["other order", "missing"])
def test_the_head_is_new_if_the_order_of_the_labels_differs_or_is_unknown(trained, tmp_path, kept):
    file = trained / "labels.json"
    before = file.read_text()
    try:
        file.unlink() if kept is None else file.write_text(json.dumps(kept))
        head, said = begun(experiment(tmp_path, "second", ["bad", "good"], trained))
    finally:
        file.write_text(before)
    assert not head["kernel"].any()
    assert said[1].endswith(f"its labels are {'unknown' if kept is None else 'good, bad'}, here they are bad, good")
