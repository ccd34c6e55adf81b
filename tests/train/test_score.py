"""Metrics of a whole split: an objective's `score` of predictions against the references of the data."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from data.images.labelled import Images
from tests.train.experiments import short
from train import loop
from train.errors import UserError
from train.experiment import with_run
from train.objectives.classification import Classification


@dataclass(frozen=True, kw_only=True)
class Counted(Classification):
    """Count the predictions that agree with their references."""

    scores = ("agreeing",)
    name: str = "agreeing"

    def score(self, predictions, references):
        return {self.name: np.float32(sum(p["label"] == r for p, r in zip(predictions, references, strict=True)))}


class WithoutReferences(Images):
    def build(self):
        return replace(super().build(), references={})


def test_score_is_logged_and_chooses_the_best_checkpoint(tmp_path):
    """It agrees with the accuracy, which sums give; the last batch is ragged."""
    experiment = replace(with_run(short(tmp_path / "run"), best="test/agreeing"), objective=Counted())
    result = loop.train(experiment)["test"]
    rows = sum(map(sum, result["confusion"]))
    assert result["agreeing"] == round(result["accuracy"] * rows) and rows % experiment.data.batch_size
    noted = json.loads((tmp_path / "run" / "best.json").read_text())
    assert noted == {"step": 40, "metric": "max:test/agreeing", "value": result["agreeing"]}


def test_metrics_that_scores_does_not_name_are_an_error(tmp_path):
    experiment = replace(short(tmp_path / "run"), objective=Counted(name="agreed"))
    with pytest.raises(UserError, match=r"^Counted.score returns agreed, but its `scores` are agreeing$"):
        loop.train(experiment)


def test_a_score_cannot_replace_a_metric(tmp_path):
    experiment = replace(short(tmp_path / "run"), objective=Counted(name="loss"))
    with pytest.raises(UserError, match=r"^Counted.score returns loss, as `summarize` does$"):
        loop.train(experiment)


def test_missing_references_are_an_error_before_training(tmp_path):
    experiment = replace(short(tmp_path / "run"), objective=Counted(), data=WithoutReferences(source="digits", batch_size=128))
    with pytest.raises(UserError, match=r"^objective Counted needs 359 references for test; the data has 0$"):
        loop.train(experiment)
    assert not (tmp_path / "run").exists()
