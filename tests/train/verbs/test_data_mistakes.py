"""Data errors on the command line: one line that names the problem, and no damage to the run or the cache."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from data.errors import DataError
from data.text.documents import documents
from data.text.labelled import LabelledText
from data.text.language_modelling import Text
from train.__main__ import main

RUN = ["run", "pydocs-topics", "--data.labels-per-class=None", "--run.steps=1", "--run.checkpoint-every=1", "--data.length=16"]
RUN += ["--data.vocab-size=300", "--run.dir=run", "--optimizer.warmup-steps=0", "--data.batch-size=8", "--model.layers=1"]


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FMODELS_CACHE", str(tmp_path / "cache"))


def write(rows: list, name: str = "rows.jsonl") -> str:
    Path(name).write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return f"--data.source=files:{name}"


def rows(count: int = 60) -> list:
    return [{"text": f"row number {i} says something {i * i}", "label": "ab"[i % 2]} for i in range(count)]


def error_message(capsys, arguments: list[str]) -> str:
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("error: ") and output.err.count("\n") == 1, output
    return output.err


MISTAKES = {
    "unknown field name": (rows(), ["--data.fields=txt=text"], "data.fields must map text, label, document, not 'txt'"),
    "empty label": ([*rows(), {"text": "unlabelled", "label": ""}], [], "line 61: it has no label; use --data.bad-records"),
    "label of a wrong type": ([*rows(), {"text": "a", "label": ["a"]}], [], "its label is list, not a string or a number"),
    "label with a surrogate": ([*rows(), {"text": "a", "label": "\ud83d"}], [], "its label '\\ud83d' is not valid Unicode"),
    "unknown source field": ([*rows(), {}], ["--data.fields=text=sentence"], "no field 'sentence'; available: text, label;"),
    "misspelt source field": ([{"txt": "a"}] * 9, ["--data.fields=text=tx"], "no field 'tx'; did"),
    "field with another name": ([{"txt": "a", "label": i % 2} for i in range(9)], [], "'text'; did you mean txt?"),
    "text of a wrong type": ([*rows(5), {"text": 3, "label": "a"}], [], "its text is int, not a string; use --data.bad-records"),
    "one missing label": ([*rows(), {"text": "unlabelled"}], [], "rows.jsonl, line 61: it has no label; use --data.bad-records"),
    "no labels": ([{"text": "a"}] * 9, [], "no field 'label'; available: text; choose one with --data.fields label=NAME"),
    "reversed slice": (rows(), ["--data.splits=train=train[5:2],test=validation"], "'train[5:2]' is an empty slice"),
    "empty slice": (rows(), ["--data.splits=train=train[:0%],test=validation"], "'train[:0%]' is an empty slice"),
    "same split twice": (rows(), ["--data.splits=train=train,test=train"], "train=train and test=train overlap; a row may be in"),
    "overlapping slices": (rows(), ["--data.splits=train=train[:90%],validation=train[80%:]"], "validation=train[80%:] overlap"),
    "overlapping held-out splits": (rows(), ["--data.splits=train=train,validation=validation,test=validation"], "overlap"),
    "slice of one label": (
        sorted(rows(), key=lambda row: row["label"]),
        ["--data.splits=train=train[:90%],validation=train[90%:]"],
        "validation has the label 'b' only; are the rows sorted by label? Omit --data.splits to hold out a tenth of each label",
    ),
    "held-out training split": (rows(), ["--data.splits=train=held_out"], "held_out is a tenth of train, for validation or"),
    "long texts as sentences": (
        [*rows(), {"text": "word " * 200, "label": "a"}],
        ["--data.splits=train=train,validation=held_out_sentences"],
        "rows.jsonl, line 61: 200 words; held_out_sentences takes at most 100: use held_out in data.splits",
    ),
    "line that is not JSON": ([*rows(3), "{"], [], "rows.jsonl, line 4: not JSON"),
    "fields without a pair": (rows(), ["--data.fields=text"], "data.fields must be NAME=SOURCE_NAME,…, not 'text'"),
    "unknown split name": (rows(), ["--data.splits=train=train,dev=dev"], "data.splits must map train, validation, test"),
    "no training split": (rows(), ["--data.splits=test=train"], "data.splits must include train"),
    "misspelt source split": (rows(), ["--data.splits=train=trian,test=validation"], "did you mean train?"),
    "no held-out split": (rows(), ["--data.splits=train=train"], "the split train, and validation or test; available: train"),
    "same field twice": (rows(), ["--data.fields=text=text,text=label"], "data.fields must name text once"),
    "slice above 100%": (rows(), ["--data.splits=train=train[:200%],test=validation"], "exceeds 100%"),
    "only bad rows": (["{"] * 9, [], "rows.jsonl, line 1: not JSON"),
    "weight NaN": (rows(), ["--data.source=mixture:1*pydocs+nan*digits"], "weights must be positive"),
    "limit of zero": (rows(), ["--data.bad-limit=0"], "data.bad_limit must be at least 1"),
    "all texts too short": (rows(), ["--data.cleaning.min-characters=999"], "no text in validation: cleaning left out"),
    "missing predicate file": (rows(), ["--data.cleaning.keep=no/where.py:f"], "data.cleaning.keep no/where.py:f"),
    "too few rows of a label": (rows(), ["--data.labels-per-class=100"], "fewer than data.labels_per_class 100"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_data_errors_are_one_line_and_leave_no_partial_cache(capsys, mistake):
    content, options, message = MISTAKES[mistake]
    assert message in error_message(capsys, [*RUN, write(content), *options])
    assert not Path("run").exists()
    assert not list(Path().glob("cache/**/*.partial"))


def test_bad_rows_are_skipped_counted_and_recorded(capsys):
    bad = ["{", json.dumps({"text": None, "label": "a"})]
    assert main([*RUN, write([*rows(), *bad]), "--data.bad-records=skip"]) == 0
    assert "skipped 2 bad records" in capsys.readouterr().err
    written = [json.loads(line) for line in Path("run/bad_records.jsonl").read_text().splitlines()]
    assert written == [
        {
            "where": "rows.jsonl, line 61",
            "what": "not JSON: Expecting property name enclosed in double quotes: column 2 (char 1)",
        },
        {"where": "rows.jsonl, line 62", "what": "it has no text"},
    ]


def test_more_bad_rows_than_the_limit_stop_the_run(capsys):
    message = error_message(capsys, [*RUN, write([*rows(), *["{"] * 4]), "--data.bad-records=skip", "--data.bad-limit=3"])
    assert "rows.jsonl, line 64: not JSON" in message and "exceeds data.bad_limit 3" in message


def test_a_changed_source_is_rejected_unless_accept_changed_is_set(capsys):
    source = write(rows())
    assert main([*RUN, source]) == 0
    write([*rows(), {"text": "one row that was added later", "label": "a"}])
    before = Path("run/environment.json").read_text()
    capsys.readouterr()
    message = error_message(capsys, [*RUN, source])
    assert "the data changed since the run was started (" in message
    assert "--data.accept-changed" in message and "train was" in message
    assert error_message(capsys, ["evaluate", "run"]).startswith("error: run: the data changed")
    assert Path("run/environment.json").read_text() == before
    assert main([*RUN, source, "--data.accept-changed"]) == 0
    assert "continuing, as --data.accept-changed allows" in capsys.readouterr().err


def test_swapped_labels_change_the_fingerprint():
    swapped = [{**row, "label": "ba"["ab".index(row["label"])]} for row in rows()]
    found = []
    for name, each in (("one.jsonl", rows()), ("two.jsonl", swapped)):
        write(each, name)
        found.append(LabelledText(source=f"files:{name}", length=16, vocab_size=300).build().fingerprint)
    assert found[0]["train"] != found[1]["train"]


def test_a_mapped_field_is_read_instead_of_the_one_with_our_name():
    found = [{"body": f"their words {i}", "text": f"our words {i}", "kind": "ab"[i % 2], "label": "c"} for i in range(60)]
    del found[30]["body"], found[40]["kind"]
    write(found)
    config = LabelledText(source="files:rows.jsonl", fields="text=body,label=kind", length=16, vocab_size=300)
    dataset = replace(config, bad_records="skip").build()
    assert [json.loads(line)["what"] for line in dataset.bad_records] == ["it has no text", "it has no label"]
    assert dataset.codec.labels == ("a", "b") and all(text.startswith("their") for text in dataset.shown["train"])


def test_fine_tuning_and_pretraining_hold_out_the_same_rows():
    write([{"text": f"words {i}", "kind": "abc"[i % 3 if i % 7 else 0]} for i in range(200)])
    common = {"source": "files:rows.jsonl", "fields": "label=kind", "length": 16, "vocab_size": 300}
    labelled, plain = LabelledText(**common).build(), documents(Text(**common))
    held = set(labelled.shown["validation"])
    assert held == set(plain.texts("validation")) and held.isdisjoint(plain.texts("train"))


def test_a_tenth_of_each_label_can_be_held_out_of_a_named_split():
    write(sorted(rows(200), key=lambda row: row["label"]), "train.jsonl")
    write([{"text": f"another row {row['text']}", "label": row["label"]} for row in rows(10)], "test.jsonl")
    config = LabelledText(source="files:t*.jsonl", splits="train=train,validation=held_out,test=test", length=16, vocab_size=300)
    dataset = config.build()
    counts = {split: dataset.about[f"labels of {split}"] for split in dataset.splits}
    assert counts["validation"]["a"] == counts["validation"]["b"] == 100 - counts["train"]["a"]
    assert 5 <= counts["validation"]["a"] <= 15 and counts["test"] == {"a": 5, "b": 5}


def test_unlabelled_rows_in_a_labelled_split_are_bad():
    write(rows(), "train.jsonl")
    write([*rows(3), {"text": "unlabelled"}], "test.jsonl")
    config = LabelledText(source="files:t*.jsonl", length=16, vocab_size=300)
    with pytest.raises(DataError, match=r"^test\.jsonl, line 4: it has no label"):
        config.build()
    assert len(replace(config, bad_records="skip").build().splits["test"]) == 3


def test_rows_of_a_document_stay_separate_with_labels_and_are_joined_without():
    found = [{"text": f"words {i}", "label": "ab"[i % 2], "document": i // 3} for i in range(90)]
    write(found)
    labelled = LabelledText(source="files:rows.jsonl", length=16, vocab_size=300).build()
    assert sum(map(len, labelled.splits.values())) == 90
    assert Text(source="files:rows.jsonl", length=16, vocab_size=300).build().about["cleaning"]["documents in"] == 30


def test_duplicates_of_held_out_texts_are_removed_only_from_train():
    write([{"text": "a repeated text", "label": "a"}, *rows(20)], "train.jsonl")
    write([{"text": "a repeated text", "label": "a"}] * 2, "test.jsonl")
    dataset = LabelledText(source="files:t*.jsonl", length=16, vocab_size=300).build()
    assert {split: len(examples) for split, examples in dataset.splits.items()} == {"train": 20, "test": 2}
    assert any("cleaning removed 1 exact duplicates, of 23 documents" in note for note in dataset.notes)


def test_a_changed_tokenizer_is_rejected(capsys):
    source = write(rows())
    assert main([*RUN, source]) == 0
    tokenizer = json.loads(Path("run/tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    Path("run/tokenizer.json").write_text(json.dumps(tokenizer))
    capsys.readouterr()
    assert "tokenizer was" in error_message(capsys, ["evaluate", "run"])
    assert "but the run was trained with" in error_message(capsys, ["predict", "run", "--text", "a"])


TUNE = [*RUN, "--run.dir=tuned", "--init-from=run"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.tokenizer-kind=bpe"], "data.tokenizer_kind is bpe, but that of the tokenizer run/tokenizer.json is wordpiece;"),
        (["--data.vocab-size=4096"], "data.vocab_size is 4096, but that of the tokenizer run/tokenizer.json is "),
    ],
)
def test_training_another_tokenizer_than_the_inherited_one_is_an_error(capsys, options, message):
    source = write(rows())
    assert main([*RUN, source]) == 0
    assert main([*TUNE, source]) == 0, "the options of the first run are accepted"
    assert main([*TUNE, source, "--data.vocab-size=None", "--run.dir=other"]) == 0
    capsys.readouterr()
    assert message in error_message(capsys, [*TUNE, source, "--run.dir=third", *options])
    file = ["--data.tokenizer=run/tokenizer.json", "--data.vocab-size=None", "--run.dir=third"]
    assert message in error_message(capsys, [*RUN, source, *file, *options])


def test_a_missing_tokenizer_is_named(capsys):
    source = write(rows())
    assert main([*RUN, source]) == 0
    assert main([*TUNE, source]) == 0
    Path("tuned/tokenizer.json").unlink()
    Path("run/tokenizer.json").unlink()
    capsys.readouterr()
    for command in (["evaluate", "tuned"], ["report", "tuned"], [*TUNE, source]):
        assert "tuned/tokenizer.json is missing; restore it" in error_message(capsys, command)
    assert "run/tokenizer.json is missing; restore it" in error_message(capsys, [*TUNE, source, "--run.dir=other"])
    assert "tuned/tokenizer.json: No such file" in error_message(capsys, ["predict", "tuned", "--text", "a"])


def test_a_damaged_cache_file_is_named():
    write(rows())
    config = LabelledText(source="files:rows.jsonl", length=16, vocab_size=300)
    config.build()
    for pattern in ("documents/*/about.json", "documents/*/train.json", "documents/*/train.label", "rows/*/about.json"):
        (file,) = Path("cache").glob(pattern)
        before = file.read_bytes()
        file.write_bytes(before[: len(before) // 2])
        with pytest.raises(DataError, match=rf"{file.name} is damaged \(.*\); remove .*{file.parent.name} to rebuild it"):
            config.build()
        file.write_bytes(before)


def test_user_code_in_the_data_config_runs_only_if_imported_by_name(capsys):
    Path("mine.py").write_text("def long(text):\n    return len(text) > 5\n")
    source = write(rows())
    assert main([*RUN, source, "--data.cleaning.keep=mine.py:long"]) == 0
    capsys.readouterr()
    assert "if you trust it, pass --import mine.py" in error_message(capsys, ["evaluate", "run"])
    assert main(["evaluate", "run", "--import", "mine.py"]) == 0


REPORT, PREDICT = ["report", "run"], ["predict", "run", "--text", "a"]
DAMAGE = (
    ("environment.json", "{", REPORT, "environment.json cannot be read"),
    ("environment.json", '{"data": null}', PREDICT, "environment.json is damaged: no fingerprint of the data"),
    ("metrics.jsonl", "[1]\n", REPORT, "metrics.jsonl, line 1: damaged"),
    ("metrics.jsonl", '{"step": 1, "train/loss": "low"}\n', REPORT, "metrics.jsonl, line 1: damaged"),
    ("metrics.jsonl", "[" * 100_000 + "\n", REPORT, "metrics.jsonl, line 1: damaged"),
    ("result.json", "[1]", REPORT, "result.json is damaged"),
    ("result.json", '{"test": 3}', REPORT, "result.json is damaged: expected the metrics of each split"),
    ("experiment.json", "[" * 100_000, REPORT, "experiment.json cannot be read"),
    ("experiment.json", "{}", REPORT, "experiment.json: model is missing"),
    ("labels.json", '["a", "a"]', PREDICT, "labels.json: must be a list of at least two distinct labels"),
)


def test_damaged_files_of_a_run_directory_are_named(capsys):
    assert main([*RUN, write(rows())]) == 0
    capsys.readouterr()
    for name, content, command, message in DAMAGE:
        file = Path("run") / name
        before = file.read_text()
        file.write_text(content)
        assert message in error_message(capsys, command)
        file.write_text(before)


def test_data_inspect_shows_a_source(capsys):
    write(rows(), "labelled.jsonl")
    assert main(["data", "inspect", "files:labelled.jsonl"]) == 0
    out = capsys.readouterr().out
    assert "labels of train" in out and "row number" in out
    Path("notes.txt").write_text("\n".join(f"note {i} is of a thing that is {i % 7} years old" for i in range(400)))
    assert main(["data", "inspect", "files:notes.txt"]) == 0
    out = capsys.readouterr().out
    assert "tokens of train" in out and "labels of" not in out
    assert main(["data", "inspect", "digits"]) == 0
    assert "image  " in (out := capsys.readouterr().out) and "float32 [8, 8, 8, 1]" in out
    write([{"body": row["text"], "kind": row["label"]} for row in rows()], "other.jsonl")
    message = error_message(capsys, ["data", "inspect", "files:other.jsonl"])
    assert "no field 'text' or 'image'; available: body, kind; choose one with --data.fields text=NAME" in message
    assert main(["data", "inspect", "files:other.jsonl", "--data.fields", "text=body,label=kind"]) == 0
    assert "labels of train" in capsys.readouterr().out
