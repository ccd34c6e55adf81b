"""`fmodels predict RUN --input …` for runs on texts and on images."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.train.verbs.test_data_mistakes import rows, write
from train.__main__ import main


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run on texts, whose fields have other names, and a run on images."""
    folder = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write([{"sentence": row["text"], "label": row["label"]} for row in rows(60)], "all.jsonl")
        small = ["--model.layers=1", "--run.steps=1", "--optimizer.warmup-steps=0", "--data.batch-size=8"]
        text = ["--data.source=files:all.jsonl", "--data.fields=text=sentence", "--data.vocab-size=300", "--data.length=16"]
        assert main(["run", "pydocs-topics", "--data.labels-per-class=None", *text, *small, "--run.dir=text"]) == 0
        assert main(["run", "digits-mlp", "--run.steps=1", "--optimizer.warmup-steps=0", "--run.dir=images"]) == 0
    return folder


@pytest.fixture(autouse=True)
def here(runs, monkeypatch):
    monkeypatch.chdir(runs)


def predicted(capsys, run, *paths):
    capsys.readouterr()
    status = main(["predict", run, "--input", *map(str, paths), "--json"])
    out, err = capsys.readouterr()
    assert status == 0, err
    return json.loads(out)


def error(capsys, *arguments):
    capsys.readouterr()
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1
    return err


def test_texts_are_read_from_every_format_with_the_fields_of_the_run(capsys):
    texts = ["a good one, really", "a bad one"]
    assert main(["predict", "text", "--text", *texts, "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    Path("in.txt").write_text("\n".join(texts))
    Path("in.tsv").write_text("id\tsentence\n" + "".join(f"{i}\t{text}\n" for i, text in enumerate(texts)))
    Path("in.csv").write_text("sentence,label\n" + "".join(f'"{text}",a\n' for text in texts))
    Path("in.jsonl").write_text("".join(json.dumps({"sentence": text}) + "\n" for text in texts))
    Path("strings.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    for name in ("in.txt", "in.tsv", "in.csv", "in.jsonl", "strings.jsonl"):
        assert predicted(capsys, "text", name) == expected, name
    assert predicted(capsys, "text", "in.txt", "in.csv") == expected * 2
    assert main(["predict", "text", "--input", "in.csv"]) == 0
    assert capsys.readouterr().out.startswith("a good one, really\n")


@pytest.fixture(scope="module")
def digits(runs):
    folder = runs / "digits"
    folder.mkdir()
    for i in range(3):
        pixels = np.roll(np.arange(0, 256, 4), 7 * i).astype(np.uint8).reshape(8, 8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def test_images_are_read_from_files_folders_globs_and_tables(capsys, digits):
    expected = predicted(capsys, "images", "digits/0.png", "digits/1.png", "digits/2.png")
    assert len(expected) == 3 and expected[0] != expected[1]
    assert predicted(capsys, "images", "digits") == expected
    assert predicted(capsys, "images", "digits/*.png") == expected
    Path("table.csv").write_text("image\n" + "".join(f"digits/{i}.png\n" for i in range(3)))
    assert predicted(capsys, "images", "table.csv") == expected
    assert main(["predict", "images", "--input", "digits/1.png"]) == 0
    assert capsys.readouterr().out.startswith("digits/1.png\n  ")


def test_input_that_does_not_fit_the_run_is_refused_by_one_line(capsys, digits):
    Path("notes.txt").write_text("hello\n")
    Path("other.csv").write_text("id\n1\n")
    Path("broken.png").write_bytes(b"no")
    cases = [
        ("text", "digits/0.png", "digits/0.png: no field 'sentence', from which the run reads its text; available: image"),
        ("images", "notes.txt", "notes.txt, line 1: no field 'image', from which the run reads its image; available: text"),
        ("text", "other.csv", "other.csv, line 2: no field 'sentence'"),
        ("images", "broken.png", "broken.png: cannot decode the image"),
        ("text", "nothing.csv", "nothing.csv: No such file or directory"),
        ("text", "model.bin", "model.bin: unknown format .bin"),
    ]
    Path("model.bin").write_bytes(b"1")
    for run, path, message in cases:
        assert message in error(capsys, "predict", run, "--input", path)


def test_tables_of_image_files_are_a_source(capsys, digits):
    shutil.copytree(digits, "photos/more")
    lines = [f"more/{i % 3}.png,{'odd' if i % 2 else 'even'}" for i in range(40)]
    Path("photos/train.csv").write_text("\n".join(["file,label", *lines]))
    Path("photos/test.csv").write_text("\n".join(["file,label", *lines[:4]]))
    command = ["run", "digits-mlp", "--data.source=files:photos/*.csv", "--data.fields=image=file", "--run.steps=1"]
    command += ["--optimizer.warmup-steps=0", "--data.batch-size=8"]
    assert main([*command, "--run.dir=of-table"]) == 0
    assert len(predicted(capsys, "of-table", "photos/test.csv")) == 4
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("photos/more/1.png")
    assert "the data changed since the run was started" in error(capsys, "evaluate", "of-table")
    Path("photos/more/1.png").unlink()
    assert "photos/train.csv, line 3: photos/more/1.png: No such file" in error(capsys, *command, "--run.dir=another")
