"""MNIST (LeCun et al. 1998) through TFDS, with the small networks of the textbooks."""

from dataclasses import replace

from data.images.labelled import Images
from fmodels.convnet import ConvNetConfig
from fmodels.mlp import MlpConfig
from train.experiment import Experiment, Run
from train.objectives.augmentation import Augmentation
from train.objectives.classification import Classification
from train.optim import Optimizer

EPOCH = 60_000


def mnist_mlp() -> Experiment:
    """Train the 784-128-10 perceptron of the tutorials for five epochs.

    `fmodels run mnist-mlp`: 29 s on two CPU cores (Python 3.12, JAX 0.12), 97.9 % accuracy on test.
    """
    return Experiment(
        model=MlpConfig(hidden=(128,)),
        objective=Classification(),
        data=Images(source="tfds:mnist", shape=(28, 28, 1), batch_size=32),
        optimizer=Optimizer(name="adamw", learning_rate=2e-3, schedule="linear", weight_decay=1e-2),
        run=Run(steps=5 * EPOCH // 32, evaluate_every=EPOCH // 32, checkpoint_every=EPOCH // 32),
    )


def mnist_cnn() -> Experiment:
    """Train the convolutional network of the tutorials for five epochs: 3x3 kernels, 32, 64 and 64 channels, two max pools.

    `fmodels run mnist-cnn`: 91 s on two CPU cores (Python 3.12, JAX 0.12), 99.5 % accuracy on test.
    """
    network = ConvNetConfig(
        channels=(32, 64, 64), convolutions=(1,), padding="valid", pools=2, batch_norm=False, hidden=(64,), dropout=0.1
    )
    return replace(mnist_mlp(), model=network, optimizer=replace(mnist_mlp().optimizer, warmup_steps=200))


def mnist_best() -> Experiment:
    """Train the network of `mnist-cnn` on shifted images for a minute, and evaluate a moving average of its parameters.

    `fmodels run mnist-best`: 67 s on two CPU cores from start to end (Python 3.12, JAX 0.12), 99.5 % accuracy on test.
    """
    recipe = mnist_cnn()
    return replace(
        recipe,
        objective=Classification(augment=Augmentation(crop=2)),
        data=replace(recipe.data, batch_size=64),
        optimizer=replace(recipe.optimizer, learning_rate=3e-3),
        run=Run(steps=4_000, ema_decay=0.99, evaluate_every=4_000, checkpoint_every=4_000),
    )


def mnist_long_tail() -> Experiment:
    """Train the convolutional network on a long tail: 100 zeros for each nine."""
    recipe = mnist_cnn()
    return replace(
        recipe,
        data=replace(recipe.data, imbalance=100.0),
        run=Run(steps=2_000, evaluate_every=1_000, checkpoint_every=2_000),
    )
