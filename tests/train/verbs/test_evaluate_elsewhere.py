"""`fmodels evaluate RUN --data.source …`: a run on other data, prepared like its own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.train.verbs.test_data_mistakes import rows, write
from train.__main__ import main

SHORT = ["--run.steps=1", "--optimizer.warmup-steps=0", "--data.batch-size=8"]


@pytest.fixture(scope="module", autouse=True)
def runs(tmp_path_factory):
    """The current folder, with the run `text` on the labels a, b and c, and the run `images` on digits."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        found = [*rows(60), *[{"text": f"another {i}", "label": "c"} for i in range(20)]]
        write([{"sentence": row["text"], "label": row["label"]} for row in found], "all.jsonl")
        text = ["--data.source=files:all.jsonl", "--data.fields=text=sentence", "--data.vocab-size=300", "--data.length=16"]
        text += ["--model.layers=1", "--data.labels-per-class=None"]
        assert main(["run", "pydocs-topics", *text, *SHORT, "--run.dir=text"]) == 0
        assert main(["run", "digits-mlp", "--run.steps=50", "--run.dir=images"]) == 0
        shutil.move("all.jsonl", "moved.jsonl")  # its own data is not needed
        yield folder


def evaluated(capsys, run, *options):
    capsys.readouterr()
    status = main(["evaluate", run, *options, "--json"])
    out, err = capsys.readouterr()
    assert status == 0, err
    return json.loads(out)


def error(capsys, *arguments):
    capsys.readouterr()
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1
    return err


def test_labels_and_tokenizer_are_those_of_the_run(capsys):
    new = [{"text": f"a good new text {i}", "label": "bc"[i % 2]} for i in range(12)]
    write([{"sentence": row["text"], "label": row["label"]} for row in new], "new.jsonl")
    found = evaluated(capsys, "text", "--data.source", "files:new.jsonl")
    assert np.sum(found["confusion"]) == 12 and np.sum(found["confusion"], axis=1).tolist() == [0, 6, 6]
    write([{"text": row["text"], "label": row["label"]} for row in new], "renamed.jsonl")
    options = ["--data.source", "files:renamed.jsonl", "--data.fields", "label=label"]
    assert evaluated(capsys, "text", *options)["confusion"] == found["confusion"]
    Path("in.jsonl").write_text("".join(json.dumps(row["text"]) + "\n" for row in new))
    assert main(["predict", "text", "--input", "in.jsonl", "--json"]) == 0
    guesses = [guess["label"] for guess in json.loads(capsys.readouterr().out)]
    right = sum(guess == row["label"] for guess, row in zip(guesses, new, strict=True))
    assert found["accuracy"] == pytest.approx(right / 12)


def test_a_split_is_chosen(capsys):
    new = [{"sentence": f"a good new text {i}", "label": "ab"[i % 2]} for i in range(12)]
    Path("more").mkdir()
    write(new, "more/train.jsonl")
    write(new[:4], "more/test.jsonl")
    confusion = lambda *options: np.sum(evaluated(capsys, "text", "--data.source=files:more", *options)["confusion"])
    assert confusion() == 4
    assert confusion("--data.splits", "test=train[:6]") == 6
    assert confusion("--data.splits", "test=train+test") == 16


def test_images_are_those_of_the_run(capsys):
    from sklearn.datasets import load_digits

    digits = load_digits()
    for i in range(40):
        folder = Path("photos") / str(digits.target[i])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[i] * 255 / 16).round().astype(np.uint8)).save(folder / f"{i}.png")
    found = evaluated(capsys, "images", "--data.source=files:photos")
    assert np.sum(found["confusion"]) == 40 and found["accuracy"] > 0.7


def test_what_does_not_fit_is_refused_by_one_line(capsys):
    write([{"sentence": f"text {i}", "label": "az"[i % 2]} for i in range(12)], "unknown.jsonl")
    message = error(capsys, "evaluate", "text", "--data.source=files:unknown.jsonl")
    assert "data.source files:unknown.jsonl: the run does not know the label(s) z; it knows a, b, c" in message
    write([{"body": f"text {i}", "label": "ab"[i % 2]} for i in range(12)], "body.jsonl")
    assert "no field 'sentence'" in error(capsys, "evaluate", "text", "--data.source=files:body.jsonl")
    assert "need --data.source" in error(capsys, "evaluate", "text", "--data.splits=test=test")
    assert "an evaluation has one split" in error(
        capsys, "evaluate", "text", "--data.source=files:body.jsonl", "--data.splits=train=train,test=test"
    )
