"""CIFAR-10 (Krizhevsky 2009) from folders `train/CLASS/*.jpg` and `test/CLASS/*.jpg`. The JPEG compression costs accuracy."""

from dataclasses import replace

from data.images.labelled import Images
from data.images.unlabelled import UnlabelledImages
from fmodels.convnet import ConvNetConfig
from fmodels.resnet import cifar_resnet
from fmodels.vit import vit
from train.experiment import Experiment, Run
from train.objectives.augmentation import Augmentation
from train.objectives.classification import Classification
from train.objectives.image_contrast import ImageContrast
from train.objectives.masked_patches import MaskedPatches
from train.optim import Optimizer

DATA = Images(source="files:cifar10", shape=(32, 32, 3), batch_size=64, normalize="standard")


def cifar10_lenet() -> Experiment:
    """Train the network of PyTorch's CIFAR-10 tutorial with its settings, two epochs of batches of 4 by SGD with momentum.

    Accuracy on test, mean and standard deviation of seeds 0 to 2 (--run.seed), Python 3.12 with JAX 0.12:

        0.558 ± 0.0004   fmodels run cifar10-lenet --data.source files:FOLDER
        0.518 ± 0.035    the same with --optimizer.schedule constant, as in the tutorial
        0.542 ± 0.001    python -m train.bench.torch_lenet FOLDER      PyTorch 2.13, also constant

    At a constant learning rate the last steps are noisy: seed 0 had 0.507 after one epoch and 0.478 after two.
    """
    return Experiment(
        model=ConvNetConfig(
            channels=(6, 16), convolutions=(1,), window=5, padding="valid", pools=2, batch_norm=False, hidden=(120, 84)
        ),
        objective=Classification(),
        data=replace(DATA, batch_size=4, normalize="symmetric"),
        optimizer=Optimizer(name="momentum", learning_rate=1e-3, schedule="linear", clip_norm=None),
        run=Run(steps=25_000, log_every=500, evaluate_every=12_500, checkpoint_every=25_000),
    )


def cifar10_resnet20() -> Experiment:
    """Train the ResNet-20 of He et al. 2016 with crops and mirror images for 18 epochs.

    `fmodels run cifar10-resnet20 --data.source files:FOLDER`: 85.2 % accuracy on test, in 104 minutes of CPU time on two cores
    (Python 3.12, JAX 0.12). Trained on the lossless images, this network reaches 81.0 % on these JPEG files
    (`tests/goldens/make_vision.py`).
    """
    return Experiment(
        model=cifar_resnet(20),
        objective=Classification(augment=Augmentation(crop=4, flip=True)),
        data=DATA,
        optimizer=Optimizer(name="momentum", learning_rate=0.05, schedule="linear", warmup_steps=1_000, l2=5e-4, clip_norm=None),
        run=Run(steps=14_000, evaluate_every=2_000, checkpoint_every=2_000),
    )


def cifar10_mae() -> Experiment:
    """Pretrain a ViT-Ti/4 without labels: predict the pixels of three patches in four."""
    return Experiment(
        model=vit("ti", 4),
        objective=MaskedPatches(patch=4, augment=Augmentation(resized_crop=0.5, flip=True)),
        data=UnlabelledImages(source=DATA.source, shape=DATA.shape, batch_size=128, normalize=DATA.normalize),
        optimizer=Optimizer(name="adamw", learning_rate=1e-3, schedule="cosine", warmup_steps=200, weight_decay=0.05, b2=0.95),
        run=Run(steps=4_000, evaluate_every=1_000, checkpoint_every=1_000),
    )


def cifar10_simclr() -> Experiment:
    """Pretrain a ViT-Ti/4 without labels: two views of an image agree."""
    return replace(cifar10_mae(), objective=ImageContrast())


def cifar10_vit() -> Experiment:
    """Train a ViT-Ti/4 on a tenth of the labels; --init-from RUN fine-tunes a pretrained one."""
    return Experiment(
        model=vit("ti", 4, drop_path=0.05),
        objective=Classification(augment=Augmentation(crop=4, flip=True)),
        data=replace(DATA, labels_per_class=500),
        optimizer=Optimizer(
            name="adamw", learning_rate=5e-4, schedule="cosine", warmup_steps=100, weight_decay=0.05, layer_decay=0.75
        ),
        run=Run(steps=800, evaluate_every=400, checkpoint_every=800),
    )
