"""Held-out images that are also in train."""

import os

import numpy as np
import pytest

from data.dataset import Columns
from data.images import overlap
from data.images.labelled import Images


def test_images_with_the_same_pixels_are_counted():
    train = np.random.default_rng(0).random((600, 4, 4, 1), np.float32)
    test = np.stack([train[599], 1 - train[0], train[7]])
    splits = {"train": Columns({"image": train}), "validation": Columns({"image": 1 - test}), "test": Columns({"image": test})}
    validation, test = overlap.lines(splits)
    compared = "have the same pixels as one in train (compared with 600 of 600 images of train)"
    assert validation == "warning: 1 of 3 images of validation " + compared + "; for example row 1 and, in train, row 0"
    assert test == "warning: 2 of 3 images of test " + compared + "; for example row 0 and, in train, row 599"


def test_evenly_spaced_images_are_compared(monkeypatch):
    monkeypatch.setattr(overlap, "TRAIN", 50)
    train = np.arange(100, dtype=np.float32).reshape(100, 1, 1, 1)
    (line,) = overlap.lines({"train": Columns({"image": train}), "test": Columns({"image": train})})
    assert line.startswith("warning: 50 of 100 images of test") and "compared with 50 of 100 images" in line


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("FMODELS_DATA"), reason="FMODELS_DATA is not set")
def test_mnist_has_no_test_image_in_train(tmp_path, monkeypatch):
    monkeypatch.setenv("FMODELS_CACHE", str(tmp_path))
    config = Images(source=f"files:{os.environ['FMODELS_DATA']}/mnist", shape=(28, 28, 1))
    (line,) = config.overlaps(config.build())
    assert line.startswith("0 of 10,000 images of test")
