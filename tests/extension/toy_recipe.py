"""A recipe from outside of the package."""

from toy_data import Numbers
from toy_model import ToyConfig
from toy_objective import Total

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
