"""The pieces of a report show their input, escaped, and load no resources."""

import base64
import io
import math
import re

import numpy as np
import pytest

from tests.train.report.html import checked
from train.objectives.classification import per_class
from train.parts import Rendering
from train.report import page as report
from train.report.curves import THEME, curves


def losses(*values, name="train/loss", every=10) -> list[dict]:
    return [{"step": every * (i + 1), name: value} for i, value in enumerate(values)]


def test_text_is_escaped_everywhere():
    bad = '<b onclick="x">&amp;</b>'
    page = checked(
        report.page(
            bad,
            bad,
            [
                (bad, report.table([bad, bad], [[bad, bad]])),
                ("confusion", report.confusion([[1, 2], [3, 4]], [bad, "b"])),
                ("predictions", report.predictions([(bad, Rendering([bad, bad], True))])),
                ("details", report.details({bad: bad}, {"list": [bad]})),
                ("curves", curves({bad: losses(1, 2), "other": losses(2, 1)}, ["train/loss", bad], caption=bad)),
            ],
        )
    )
    assert {name for name, attrs in page.tags if "onclick" in attrs} == set()
    assert page.within("blockquote") == [bad] and page.within("h1") == [bad] and page.within("span").count(bad) >= 2
    assert page.text.count(bad) >= 11


def test_page_follows_the_theme_of_the_reader():
    html = report.page("title", "", [("curves", curves({"run": losses(2, 1)}, ["train/loss"]))])
    figure = html[html.index("<main>") :]
    assert not re.search(r"#[0-9a-f]{6}\b", figure), "every colour of a figure is a variable"
    used = set(re.findall(r"var\(--([a-z]+\d?)\)", html)) - {"columns", "depth"}
    assert used <= set(THEME)
    assert "@media (prefers-color-scheme:dark)" in html and "http" not in html


def test_table_formats_and_aligns_numbers():
    rows = [["a", 0.5, "0.315 ± 0.005", 19000, 18123.4], ["b", 0.98328691, "-", 3, math.nan], ["c", None, "+1.5", 0, 2e-5]]
    page = checked(report.table(["model", "accuracy", "macro_f1", "rows", "rate"], rows, emphasised=1))
    assert page.within("td") == ["0.5", "0.315 ± 0.005", "19,000", "18,123", "0.9833", "-", "3", "nan", "-", "+1.5", "0", "2e-05"]
    assert all(attrs == {"class": "n"} for attrs in page.all("td"))
    assert [attrs.get("class") for attrs in page.all("tr")] == [None, None, "best", None]
    assert [attrs["scope"] for attrs in page.all("th")] == ["col"] * 5 + ["row"] * 3
    assert checked(report.table(["a", "b"], [["1", "words"], ["2", "3"]])).all("td") == [{}, {}], "a column of words"


def test_confusion_matrix():
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
    page = checked(per_class(result, ["a", "b"]))
    assert page.within("thead") == ["label", "precision", "recall", "f1", "support"]
    assert page.within("tbody") == ["a", "1.000", "0.500", "0.667", "1,234", "b", "0.250", "0.123", "0.200", "8"]


def test_predictions_of_text():
    long = "word " * 300
    rows = [
        ("short", Rendering([" 81.2%  jax", "label: jax"], True)),
        (long, Rendering([" 50.0%  jax", "label: numpy"], False)),
        ("without a label", Rendering(["optax"])),
    ]
    page = checked(report.predictions(rows))
    assert [attrs["class"] for attrs in page.all("li")] == ["right", "wrong", ""]
    assert [text for text in page.within("span") if text[0] in "✓✗"] == ["✓ right", "✗ wrong"]
    assert "81.2%  jax" in page.text and "label: numpy" in page.text and "1 of these 2 are right." in page.text
    shown, rest = page.within("blockquote")[1:3]
    assert long.startswith(shown) and len(shown) <= report.TEXT_SHOWN and shown.endswith("word")
    assert rest == f"[… {len(long) - len(shown):,} more characters]"


@pytest.mark.parametrize("channels", [1, 3])
def test_predictions_of_images(channels):
    from PIL import Image

    pixels = np.random.default_rng(0).uniform(0, 16, (5, 7, channels)).astype(np.float32)
    page = checked(report.predictions([(pixels, Rendering(["100.0%  3", "label: 3"], True))]))
    (image,) = page.all("img")
    assert image["alt"] == "image of 5 by 7 pixels"
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))))
    assert decoded.shape == (5, 7, 4)
    want = np.broadcast_to(pixels / pixels.max() * 255, (5, 7, 3))
    np.testing.assert_allclose(decoded[..., :3], want, atol=1)
    assert "✓ right" in page.text


def test_predictions_with_a_caption_and_long_lines():
    page = checked(report.predictions([("a text", Rendering(["x" * 41, "y"], False))], "The <worst>."))
    assert page.within("figcaption") == ["The <worst>."]
    assert [attrs["class"] for attrs in page.all("p")] == ["facts long"], "one line below the other"


def test_details_are_folded_and_complete():
    experiment = {"optimizer": {"learning_rate": 3e-3, "rules": [{"pattern": ".*"}]}, "init_from": None, "mesh": {}}
    page = checked(report.details(experiment, {"git": {"modified": True}}))
    assert page.within("summary") == ["experiment.json", "environment.json"]
    assert page.within("th") == ["optimizer.learning_rate", "optimizer.rules", "init_from", "mesh", "git.modified"]
    assert page.within("td") == ["0.003", '[{"pattern": ".*"}]', "null", "{}", "true"]
    assert all("open" not in attrs for attrs in page.all("details"))
