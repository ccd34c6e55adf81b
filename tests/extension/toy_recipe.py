"""A recipe file outside of the project."""

from dataclasses import replace

from toy_data import Numbers
from toy_model import ToyConfig
from toy_objective import Total
from toy_score import TotalWithMedian

from train.experiment import Experiment, Run
from train.optim import Optimizer
from train.sharding import RULES, Mesh


def toy() -> Experiment:
    """Learn to add."""
    return Experiment(
        model=ToyConfig(),
        objective=Total(),
        data=Numbers(),
        optimizer=Optimizer(learning_rate=3e-2),
        mesh=Mesh(rules={**RULES, "numbers": ()}),
        run=Run(steps=200, log_every=50, evaluate_every=100, checkpoint_every=100),
    )


def scored() -> Experiment:
    """Learn to add, and keep the checkpoint with the lowest median error."""
    return replace(toy(), objective=TotalWithMedian(), run=replace(toy().run, best="test/median_error"))
