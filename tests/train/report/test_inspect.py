"""`data inspect` warns of rows of held-out splits that are nearly in train."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.extension.toy_data import Numbers
from train import parts
from train.__main__ import main


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FMODELS_CACHE", str(tmp_path / "cache"))


def test_texts_that_are_in_train_are_counted(capsys):
    lines = [f"the {i} th sentence of this file is about matter number {i * i} ." for i in range(60)]
    Path("train.tsv").write_text("text\tlabel\n" + "".join(f"{line}\t{i % 2}\n" for i, line in enumerate(lines)))
    held_out = ["this file is about matter number 25", "an unrelated sentence that is in no other file", lines[7] + "!"]
    Path("dev.tsv").write_text("text\tlabel\n" + "".join(f"{line}\t{i % 2}\n" for i, line in enumerate(held_out)))
    warning = "warning: 2 of 3 texts of validation overlap with train: 80% of the 5-word sequences of one text are in the other"
    example = f"; for example {held_out[0]!r} and, in train, {lines[5]!r}"
    compared = " (compared with 60 of 60 texts of train, up to 1,000 characters of each)"
    for command in (["files:*.tsv"], ["sst2", "--data.source", "files:*.tsv", "--data.fields", "", "--data.vocab-size", "300"]):
        assert main(["data", "inspect", *command]) == 0
        assert f"{warning}{compared}{example}\n" in capsys.readouterr().out


def test_images_that_are_in_train_are_counted(capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    for split, rows in (("train", pixels[:30]), ("test", [*pixels[30:], pixels[4]])):
        for i, image in enumerate(rows):
            path = Path(f"images/{split}/{'ab'[i % 2]}/{i:02}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    assert main(["data", "inspect", "files:images"]) == 0
    assert "warning: 1 of 11 images of test have the same pixels as one in train (compared with 30 of 30 images of train)" in (
        capsys.readouterr().out
    )


def test_other_data_says_nothing():
    assert parts.overlaps(Numbers(), Numbers().build()) == ()
