"""Unlabelled images: from one folder or from folders of classes, without their labels."""

import numpy as np
import pytest
from PIL import Image

from data.images.labelled import Images
from data.images.unlabelled import UnlabelledImages
from data.inference import config_for
from data.mixture import Weighted
from train.__main__ import main


@pytest.fixture(autouse=True)
def temporary_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FMODELS_CACHE", str(tmp_path / "cache"))


def save(folder, count: int = 20) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(str(folder)))
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (4, 4), np.uint8)).save(folder / f"{i}.png")


def test_images_need_no_label(tmp_path):
    save(tmp_path / "photos")
    dataset = UnlabelledImages(source=f"files:{tmp_path}/photos", shape=(4, 4, 1), normalize="standard").build()
    batch = dataset.splits["train"][np.arange(4)]
    assert batch.keys() == {"image"} and batch["image"].shape == (4, 4, 4, 1)
    assert sum(map(len, dataset.splits.values())) == 20 and set(dataset.splits) == {"train", "validation"}
    assert dataset.facts.keys() == {"image_mean", "image_std"} and dataset.codec.files == {}
    assert not dataset.references


def test_labels_of_the_source_are_left_out(tmp_path):
    for label in "ab":
        save(tmp_path / f"photos/{label}")
    options = {"source": f"files:{tmp_path}/photos", "shape": (4, 4, 1)}
    with_labels, without = Images(**options).build(), UnlabelledImages(**options).build()
    for split, examples in without.splits.items():
        rows = np.arange(len(examples))
        np.testing.assert_array_equal(examples[rows]["image"], with_labels.splits[split][rows]["image"])


def test_a_mixture_keeps_its_proportions(tmp_path):
    for name in ("one", "two"):
        save(tmp_path / name)
    source = f"mixture:0.75*files:{tmp_path}/one+0.25*files:{tmp_path}/two"
    train = UnlabelledImages(source=source, shape=(4, 4, 1)).build().splits["train"]
    assert isinstance(train, Weighted) and (train.sizes, train.weights) == ([18, 18], [0.75, 0.25])


def test_a_source_without_labels_is_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "photos")
    assert isinstance(config_for("files:photos"), UnlabelledImages)
    assert main(["data", "inspect", "files:photos"]) == 0
    assert "shows 8 images of the first batch" in capsys.readouterr().out
    assert [path.name for path in tmp_path.glob("*.png")] == ["files-photos-batch.png"]
