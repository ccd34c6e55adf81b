"""Curves: one panel per metric, one line per run."""

import math
import re

import numpy as np
import pytest

from tests.train.report.html import checked
from train.report.curves import curves, curves_png


def losses(*values, name="train/loss", every=10) -> list[dict]:
    return [{"step": every * (i + 1), name: value} for i, value in enumerate(values)]


def lines(html: str) -> list[list[str]]:
    """Return the strokes of each line that is drawn in the colour of a run."""
    paths = re.findall(r'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--c\d\)', html)
    return [re.findall(r"M[^M]*", path) for path in paths]


def test_curves_share_a_panel_by_metric():
    log = losses(3, 2, 1) + losses(2.5, name="validation/loss", every=30) + losses(1e-3, 1e-4, name="train/learning_rate")
    page = checked(curves({"run": log}, ["train/loss", "validation/loss", "train/learning_rate", "test/loss"]))
    labels = [attrs["aria-label"] for attrs in page.all("svg") if "aria-label" in attrs]
    assert labels == [
        "loss by step. train: 3.0 at step 10 to 1.0 at step 30; validation: 2.5 at step 30",
        "learning_rate by step. train: 0.001 at step 10 to 0.0001 at step 20",
    ]
    assert page.within("li") == ["train", "validation"]
    assert page.within("figcaption") == ["Not logged: test/loss."]


@pytest.mark.parametrize("gap", [None, math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_gaps(gap):
    html = curves({"run": losses(5, 4, gap, 3, 2, 1)}, ["train/loss"])
    (strokes,) = lines(html)
    assert [stroke.count("L") for stroke in strokes] == [1, 2]
    assert "train: 5.0 at step 10 to 1.0 at step 60" in html
    alone = curves({"run": losses(5, gap, 3, gap, gap, 2)}, ["train/loss"])
    assert len(re.findall(r"<use [^>]*var\(--c0\)", alone)) == 3, "a value without neighbours is a dot"
    none = checked(curves({"run": losses(gap, gap)}, ["train/loss"]))
    assert "no finite value" in none.text and not lines(none.text)


def test_seeds_share_a_colour_and_a_mean():
    runs = {f"finetune-{seed}": losses(3 + seed, 2 + seed, 1 + seed) for seed in range(3)}
    runs |= {f"scratch-{seed}": losses(7, 6, 5 + seed) for seed in range(3)}
    html = curves(runs, ["train/loss"])
    page = checked(html)
    assert page.within("li") == ["finetune, train (mean of 3 seeds)", "scratch, train (mean of 3 seeds)"]
    assert len(lines(html)) == 8, "three seeds and their mean, twice"
    assert {colour: html.count(f"stroke: var(--{colour})") for colour in ("c0", "c1", "c2")} == {"c0": 4, "c1": 4, "c2": 0}
    assert "finetune, train (mean of 3 seeds): 4.0 at step 10 to 2.0 at step 30" in html
    assert "scratch, train (mean of 3 seeds): 7.0 at step 10 to 6.0 at step 30" in html


def test_mean_needs_values_of_all_seeds():
    runs = {"a-0": losses(4, 3, 2, 1), "a-1": losses(2, None, 0)}  # the second has a gap at 20 and no value at 40
    html = curves(runs, ["train/loss"])
    assert "train (mean of 2 seeds): 3.0 at step 10 to 1.0 at step 30" in html
    first, second, mean = lines(html)
    assert [stroke.count("L") for stroke in first] == [3]
    assert not any("L" in stroke for stroke in second + mean)


def test_names_without_seeds_are_separate_lines():
    runs = {name: losses(2, 1) for name in ("mlp-128", "mlp-256", "cnn", "cnn-0", "solo-7")}
    assert checked(curves(runs, ["train/loss"])).within("li") == [f"{name}, train" for name in runs]


def test_overlapping_lines_are_dashed():
    dashed = r"stroke-dasharray: [\d.]+,[\d.]+; stroke-dashoffset: [\d.]+; stroke: var\(--c1\)"
    assert re.search(dashed, curves({"a": losses(2, 1), "b": losses(2, 1)}, ["train/loss"]))
    assert not re.search(dashed, curves({"a": losses(2, 1), "b": losses(2, 3)}, ["train/loss"]))


def test_chance_is_a_dotted_line_in_its_panel():
    log = losses(3, 2) + losses(0.4, 0.6, name="validation/accuracy")
    html = curves({"run": log}, ["train/loss", "validation/accuracy"], chance={"accuracy": 0.5, "macro_f1": 0.1})
    page = checked(html)
    assert page.within("li") == ["train", "validation", "chance"]
    labels = [attrs["aria-label"] for attrs in page.all("svg") if "aria-label" in attrs]
    assert "chance" not in labels[0] and labels[1].endswith("validation: 0.4 at step 10 to 0.6 at step 20; chance: 0.5")
    assert len(re.findall(r"stroke-dasharray: 1.5,2.5; stroke-dashoffset: 0; stroke: var\(--muted\)", html)) == 1
    without = checked(curves({"run": log}, ["train/loss"], chance={"accuracy": 0.5}))
    assert "chance" not in without.text


def test_no_curves():
    assert checked(curves({}, ["train/loss"])).text == "Not logged: train/loss."
    assert checked(curves({"run": []}, ["train/loss"])).text == "Not logged: train/loss."


def test_png_of_the_curves(tmp_path):
    from PIL import Image

    names = ["train/loss", "train/learning_rate"]
    curves_png(tmp_path / "curves.png", {"run": losses(3, None, 1) + losses(1e-3, name=names[1])}, names)
    image = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB"))
    assert image.shape[0] > 400 and image.shape[1] > 1000
    assert (image[[0, -1]] == 255).all(), "white background"
    assert ((image == [0x2A, 0x78, 0xD6]).all(-1)).any(), "a line in the first colour"
    with pytest.raises(ValueError, match="no run logged train/loss"):
        curves_png(tmp_path / "none.png", {}, ["train/loss"])
    assert not (tmp_path / "none.png").exists()
