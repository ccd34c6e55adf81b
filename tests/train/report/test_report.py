"""The report: what it is given is what it shows, as a page that is whole and needs nothing else."""

import base64
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from train.report import curves
from train.report import page as report

pytestmark = pytest.mark.quick
VOID = {"meta", "img", "br"}
LOADING = {"src", "href", "data", "action", "poster", "srcset"}


class Page(HTMLParser):
    """Raises AssertionError where tags do not balance; keeps the text, the tags, and what is in each kind of cell."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> inside {self.open}"
        self.open.pop()

    def handle_data(self, data):
        if data.strip() and not {"style", "script"} & set(self.open):
            self.texts.append((tuple(self.open), data.strip()))

    @property
    def text(self) -> str:
        return " ".join(text for _, text in self.texts)

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]

    def within(self, tag: str) -> list[str]:
        return [text for path, text in self.texts if tag in path]


def checked(html: str) -> Page:
    """The page, of which is asserted that it loads nothing, runs nothing, and has no id twice."""
    page = Page(html)
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    for _, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs)
        for name in LOADING & set(attrs):
            assert attrs[name].startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"url\((?!#)|@import", html)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = [attrs["href"] for _, attrs in page.tags if "href" in attrs] + re.findall(r"url\((#[^)]*)\)", html)
    assert {target[1:] for target in targets} <= set(ids)
    return page


def losses(*values, name="train/loss", every=10) -> list[dict]:
    return [{"step": every * (i + 1), name: value} for i, value in enumerate(values)]


def lines(html: str) -> list[list[str]]:
    """Of each line drawn in the colour of a run, the strokes that it consists of."""
    paths = re.findall(r'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--c\d\)', html)
    return [re.findall(r"M[^M]*", path) for path in paths]


@pytest.fixture
def run(tmp_path) -> Path:
    path = tmp_path / "toy-run"
    path.mkdir()
    experiment = {
        "model": {"type": "toys.models:Toy", "width": 24},
        "objective": {"type": "toys.objectives:Guess", "rules": [{"pattern": ".*/<b>"}]},
        "data": {"source": "digits"},
        "run": {"dir": "runs/toy-run", "steps": 30},
        "init_from": None,
    }
    (path / "experiment.json").write_text(json.dumps(experiment))
    (path / "environment.json").write_text(json.dumps({"versions": {"jax": "0.10.2"}, "devices": ["cpu cpu"]}))
    (path / "metrics.jsonl").write_text("")
    return path


@pytest.fixture
def finished(run) -> Path:
    rows = [
        {"step": step, "train/loss": 3 / step, "train/learning_rate": 1e-3, "train/examples_per_second": 5e3}
        for step in (10, 20, 30)
    ]
    rows.append({"step": 30, "test/loss": 0.125, "test/accuracy": 0.875})
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    per_class = {"precision": [0.8, 1.0], "recall": [1.0, 0.75], "f1": [0.8889, 0.8571], "support": [4.0, 4.0]}
    result = {"loss": 0.125, "guess": 0.125, "accuracy": 0.875, "per_class": per_class, "confusion": [[4, 0], [1, 3]]}
    (run / "result.json").write_text(json.dumps({"test": result}))
    return run


def test_page_of_a_run(finished):
    samples = [{"text": "a passage", "label": "no", "prediction": "yes", "probability": 0.75}]
    page = checked(report.of_run(finished, ["yes", "no"], samples))
    assert page.within("h1") == ["toy-run"]
    assert page.within("h2") == ["Result on the test split", "Training", "Classes of the test split", "Predictions", "Settings"]
    assert page.within("nav") == page.within("h2")
    assert "Guess · Toy · digits · step 30 of 30" in page.text and "not finished" not in page.text
    assert page.within("dt") == ["loss", "accuracy"], "guess is the loss by another name"
    assert page.within("dd") == ["0.125", "0.875"]
    drawn = [attrs["aria-label"] for attrs in page.all("svg") if "aria-label" in attrs]
    assert [label.partition(" by step")[0] for label in drawn] == ["loss", "accuracy", "learning rate", "examples per second"]
    assert drawn[0] == "loss by step. train: 0.3 at step 10 to 0.1 at step 30; test: 0.125 at step 30"
    assert all(attrs["role"] == "img" for attrs in page.all("svg") if "aria-label" in attrs)
    assert page.all("html")[0]["lang"] == "en" and any(attrs.get("name") == "viewport" for attrs in page.all("meta"))


def test_run_without_metrics_says_so(run):
    page = checked(report.of_run(run, [], []))
    assert "Nothing is logged: metrics.jsonl is empty." in page.text
    assert "step 0 of 30 · not finished" in page.text
    assert page.within("h2") == ["Training", "Settings"] and not page.all("svg")
    (run / "metrics.jsonl").unlink()
    assert "Nothing is logged" in report.of_run(run, [], [])


def test_results_of_several_splits(finished):
    result = {"loss": 4.5, "masked_lm": 4.0, "next_sentence": 0.5, "perplexity": math.exp(4)}
    (finished / "result.json").write_text(json.dumps({"validation": result, "test": result}))
    page = checked(report.of_run(finished, [], []))
    assert page.within("h2")[:2] == ["Result on the test split", "Result on the validation split"]
    assert page.within("dt")[:4] == ["loss", "masked lm", "next sentence", "perplexity"]
    assert page.within("dd")[:4] == ["4.5", "4.0", "0.5", "54.5982"]


def test_what_lies_where_is_in_the_page_of_a_run_on_several_devices(finished):
    (finished / "shardings.txt").write_text("parameter  whole because\nmodel/bias  embed is replicated by its rule\n")
    page = checked(report.of_run(finished, [], []))
    assert page.within("summary")[-1] == "shardings.txt" and "embed is replicated by its rule" in page.text


def test_same_input_same_page(finished):
    assert report.of_run(finished, [], []) == report.of_run(finished, [], [])


def test_text_is_escaped_everywhere():
    bad = '<b onclick="x">&amp;</b>'
    page = checked(
        report.page(
            bad,
            bad,
            [
                (bad, report.table([bad, bad], [[bad, bad]])),
                ("confusion", report.confusion([[1, 2], [3, 4]], [bad, "b"])),
                ("predictions", report.predictions([{"text": bad, "label": bad, "prediction": bad}])),
                ("details", report.details({bad: bad}, {"list": [bad]})),
                ("curves", report.curves({bad: losses(1, 2), "other": losses(2, 1)}, ["train/loss", bad], caption=bad)),
            ],
        )
    )
    assert {name for name, attrs in page.tags if "onclick" in attrs} == set()
    assert page.within("blockquote") == [bad] and page.within("h1") == [bad] and page.within("b").count(bad) == 2
    assert page.text.count(bad) >= 11


def test_theme_is_of_the_reader():
    html = report.page("title", "", [("curves", report.curves({"run": losses(2, 1)}, ["train/loss"]))])
    figure = html[html.index("<main>") :]
    assert not re.search(r"#[0-9a-f]{6}\b", figure), "every colour of a figure is a variable"
    used = set(re.findall(r"var\(--([a-z]+\d?)\)", html)) - {"columns", "depth"}
    assert used <= set(report.THEME)
    assert "@media (prefers-color-scheme:dark)" in html and "http" not in html


def test_table_shows_numbers_as_given():
    rows = [["a", 0.5, "0.315 ± 0.005", 19000, 18123.4], ["b", 0.98328691, "-", 3, math.nan], ["c", None, "+1.5", 0, 2e-5]]
    page = checked(report.table(["model", "accuracy", "macro F1", "rows", "rate"], rows, emphasised=1))
    assert page.within("td") == ["0.5", "0.315 ± 0.005", "19,000", "18,123", "0.9833", "-", "3", "nan", "-", "+1.5", "0", "2e-05"]
    assert all(attrs == {"class": "n"} for attrs in page.all("td"))
    assert [attrs.get("class") for attrs in page.all("tr")] == [None, None, "best", None]
    assert [attrs["scope"] for attrs in page.all("th")] == ["col"] * 5 + ["row"] * 3
    assert checked(report.table(["a", "b"], [["1", "words"], ["2", "3"]])).all("td") == [{}, {}], "a column of words"


def test_confusion_has_the_counts_in_their_places():
    matrix = [[8, 1, 0], [0, 0, 0], [30, 30, 40]]
    html = report.confusion(matrix, ["first", "second", "third"])
    page = checked(html)
    assert page.within("td") == [str(count) for row in matrix for count in row]
    assert page.within("th") == ["first", "second", "third"] * 2
    kinds = [attrs["class"] for attrs in page.all("td")[1:]]
    assert kinds == ["hit deep", "miss", "none", "none", "none", "none", "miss", "miss", "hit"]
    depths = [int(depth) for depth in re.findall(r"--depth:(\d+)%", html)]
    assert depths[6] == depths[7] < depths[8] < depths[0], "by the share of the row, not by the count"
    assert "48 of 109 right." in page.text
    assert checked(report.confusion([[1, 0], [0, 1]], [])).within("th") == ["0", "1"] * 2
    with pytest.raises(ValueError, match="3 labels for 2 classes"):
        report.confusion([[1, 0], [0, 1]], ["a", "b", "c"])


def test_per_class():
    result = {"per_class": {"precision": [1.0, 0.25], "recall": [0.5, 0.1234], "f1": [2 / 3, 0.2], "support": [1234.0, 8.0]}}
    page = checked(report.per_class(result, ["a", "b"]))
    assert page.within("thead") == ["label", "precision", "recall", "F1", "support"]
    assert page.within("tbody") == ["a", "1.000", "0.500", "0.667", "1,234", "b", "0.250", "0.123", "0.200", "8"]


def test_predictions_of_text():
    long = "word " * 300
    page = checked(
        report.predictions(
            [
                {"text": "short", "label": "jax", "prediction": "jax", "probability": 0.8123},
                {"text": long, "label": "numpy", "prediction": "jax", "probability": 0.5},
                {"text": "of no label", "prediction": "optax"},
            ]
        )
    )
    assert [attrs["class"] for attrs in page.all("li")] == ["right", "wrong", ""]
    assert [text for text in page.within("span") if text[0] in "✓✗"] == ["✓ right", "✗ wrong"]
    assert page.within("b") == ["jax", "jax", "jax", "numpy", "optax"]
    assert "81.2%" in page.text and "50.0%" in page.text and "1 of these 2 are right." in page.text
    shown, rest = page.within("blockquote")[1:3]
    assert long.startswith(shown) and len(shown) <= report.TEXT_SHOWN and shown.endswith("word")
    assert rest == f"[… {len(long) - len(shown):,} more characters]"


@pytest.mark.parametrize("channels", [1, 3])
def test_predictions_of_images(channels):
    from PIL import Image

    pixels = np.random.default_rng(0).uniform(0, 16, (5, 7, channels)).astype(np.float32)
    page = checked(report.predictions([{"image": pixels, "label": 3, "prediction": "3", "probability": 1.0}]))
    (image,) = page.all("img")
    assert image["alt"] == "image of 5 by 7 pixels, labelled 3"
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))))
    assert decoded.shape == (5, 7, 4)
    want = np.broadcast_to(pixels / pixels.max() * 255, (5, 7, 3))
    np.testing.assert_allclose(decoded[..., :3], want, atol=1)
    assert "✓ right" in page.text, "the label 3 is the prediction '3'"


def test_details_are_folded_and_complete():
    experiment = {"optimizer": {"learning_rate": 3e-3, "rules": [{"pattern": ".*"}]}, "init_from": None, "mesh": {}}
    page = checked(report.details(experiment, {"git": {"modified": True}}))
    assert page.within("summary") == ["experiment.json", "environment.json"]
    assert page.within("th") == ["optimizer.learning_rate", "optimizer.rules", "init_from", "mesh", "git.modified"]
    assert page.within("td") == ["0.003", '[{"pattern": ".*"}]', "null", "{}", "true"]
    assert all("open" not in attrs for attrs in page.all("details"))


def test_curves_share_a_panel_by_metric():
    log = losses(3, 2, 1) + losses(2.5, name="validation/loss", every=30) + losses(1e-3, 1e-4, name="train/learning_rate")
    page = checked(report.curves({"run": log}, ["train/loss", "validation/loss", "train/learning_rate", "test/loss"]))
    labels = [attrs["aria-label"] for attrs in page.all("svg") if "aria-label" in attrs]
    assert labels == [
        "loss by step. train: 3.0 at step 10 to 1.0 at step 30; validation: 2.5 at step 30",
        "learning rate by step. train: 0.001 at step 10 to 0.0001 at step 20",
    ]
    assert page.within("li") == ["train", "validation"]
    assert page.within("figcaption") == ["Not logged: test/loss."]


@pytest.mark.parametrize("gap", [None, math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_a_gap(gap):
    html = report.curves({"run": losses(5, 4, gap, 3, 2, 1)}, ["train/loss"])
    (strokes,) = lines(html)
    assert [stroke.count("L") for stroke in strokes] == [1, 2]
    assert "train: 5.0 at step 10 to 1.0 at step 60" in html
    alone = report.curves({"run": losses(5, gap, 3, gap, gap, 2)}, ["train/loss"])
    assert len(re.findall(r"<use [^>]*var\(--c0\)", alone)) == 3, "a value without neighbours is a dot"
    none = checked(report.curves({"run": losses(gap, gap)}, ["train/loss"]))
    assert "no finite value" in none.text and not lines(none.text)


def test_seeds_share_a_colour_and_a_mean():
    runs = {f"finetune-{seed}": losses(3 + seed, 2 + seed, 1 + seed) for seed in range(3)}
    runs |= {f"scratch-{seed}": losses(7, 6, 5 + seed) for seed in range(3)}
    html = report.curves(runs, ["train/loss"])
    page = checked(html)
    assert page.within("li") == ["finetune, train (mean of 3 seeds)", "scratch, train (mean of 3 seeds)"]
    assert len(lines(html)) == 8, "three seeds and their mean, twice"
    assert {colour: html.count(f"stroke: var(--{colour})") for colour in ("c0", "c1", "c2")} == {"c0": 4, "c1": 4, "c2": 0}
    assert "finetune, train (mean of 3 seeds): 4.0 at step 10 to 2.0 at step 30" in html
    assert "scratch, train (mean of 3 seeds): 7.0 at step 10 to 6.0 at step 30" in html


def test_mean_is_of_all_seeds_or_not_at_all():
    runs = {"a-0": losses(4, 3, 2, 1), "a-1": losses(2, None, 0)}  # the second had a gap at 20 and has not come to 40
    html = report.curves(runs, ["train/loss"])
    assert "train (mean of 2 seeds): 3.0 at step 10 to 1.0 at step 30" in html
    first, second, mean = lines(html)
    assert [stroke.count("L") for stroke in first] == [3]
    assert not any("L" in stroke for stroke in second + mean)


def test_names_that_are_no_seeds_stay_apart():
    runs = {name: losses(2, 1) for name in ("mlp-128", "mlp-256", "cnn", "cnn-0", "solo-7")}
    assert checked(report.curves(runs, ["train/loss"])).within("li") == [f"{name}, train" for name in runs]


def test_lines_on_top_of_each_other_are_all_seen():
    dashed = r"stroke-dasharray: [\d.]+,[\d.]+; stroke-dashoffset: [\d.]+; stroke: var\(--c1\)"
    assert re.search(dashed, report.curves({"a": losses(2, 1), "b": losses(2, 1)}, ["train/loss"]))
    assert not re.search(dashed, report.curves({"a": losses(2, 1), "b": losses(2, 3)}, ["train/loss"]))


def test_curves_of_nothing():
    assert checked(report.curves({}, ["train/loss"])).text == "Not logged: train/loss."
    assert checked(report.curves({"run": []}, ["train/loss"])).text == "Not logged: train/loss."


def test_png_of_the_curves(tmp_path):
    from PIL import Image

    names = ["train/loss", "train/learning_rate"]
    curves.curves_png(tmp_path / "curves.png", {"run": losses(3, None, 1) + losses(1e-3, name=names[1])}, names)
    image = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB"))
    assert image.shape[0] > 400 and image.shape[1] > 1000
    assert (image[[0, -1]] == 255).all(), "on white"
    assert ((image == [0x2A, 0x78, 0xD6]).all(-1)).any(), "a line in the first colour"
    with pytest.raises(ValueError, match="no run logged train/loss"):
        curves.curves_png(tmp_path / "none.png", {}, ["train/loss"])
    assert not (tmp_path / "none.png").exists()
