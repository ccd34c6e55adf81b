"""Data that is not as it should be, from the command line: one line that names it, and nothing lost."""

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
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FMODELS_CACHE", str(tmp_path / "cache"))


def write(rows: list, name: str = "rows.jsonl") -> str:
    Path(name).write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return f"--data.source=files:{name}"


def rows(count: int = 60) -> list:
    return [{"text": f"row number {i} says something {i * i}", "label": "ab"[i % 2]} for i in range(count)]


def refused(capsys, arguments: list[str]) -> str:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1, said
    return said.err


MISTAKES = {
    "our field misspelt": (rows(), ["--data.fields=txt=text"], "data.fields must be of text, label, document, not 'txt'"),
    "an empty label": ([*rows(), {"text": "unlabelled", "label": ""}], [], "line 61: it has no label; --data.bad-records"),
    "a label that is none": ([*rows(), {"text": "a", "label": ["a"]}], [], "line 61: its label is list, not a name or a number"),
    "half a character": ([*rows(), {"text": "a", "label": "\ud83d"}], [], "line 61: its label '\\ud83d' is no Unicode"),
    "no such field": ([*rows(), {}], ["--data.fields=text=sentence"], "no field 'sentence'; it has: text, label; --data.fields"),
    "a field of theirs misspelt": ([{"txt": "a"}] * 9, ["--data.fields=text=tx"], "no field 'tx'; did"),
    "a field by another name": ([{"txt": "a", "label": i % 2} for i in range(9)], [], "'text'; did you mean txt?"),
    "an ill-typed text": ([*rows(5), {"text": 3, "label": "a"}], [], "its text is int, not a string; --data.bad-records skip"),
    "no label": ([*rows(), {"text": "unlabelled"}], [], "rows.jsonl, line 61: it has no label; --data.bad-records skip"),
    "no label at all": ([{"text": "a"}] * 9, [], "no field 'label'; it has: text; --data.fields label=NAME"),
    "a slice that ends before it begins": (rows(), ["--data.splits=train=train[5:2],test=validation"], "'train[5:2]' ends where"),
    "a slice of nothing": (rows(), ["--data.splits=train=train[:0%],test=validation"], "'train[:0%]' ends where it begins"),
    "one split twice": (rows(), ["--data.splits=train=train,test=train"], "data.splits must differ: test is what"),
    "a line that is not JSON": ([*rows(3), "{"], [], "rows.jsonl, line 4: not JSON"),
    "fields that are no pairs": (rows(), ["--data.fields=text"], "data.fields must be OURS=THEIRS,…, not 'text'"),
    "splits of another name": (rows(), ["--data.splits=train=train,dev=dev"], "data.splits must be of train, validation, test"),
    "nothing to train on": (rows(), ["--data.splits=test=train"], "data.splits must have one for train"),
    "a split that is not there": (rows(), ["--data.splits=train=trian,test=validation"], "did you mean train?"),
    "nothing held out": (rows(), ["--data.splits=train=train"], "a run needs train, and validation or test; it has: train"),
    "a name twice": (rows(), ["--data.fields=text=text,text=label"], "data.fields must name text once"),
    "more than all": (rows(), ["--data.splits=train=train[:200%],test=validation"], "has more than 100 %"),
    "no good row": (["{"] * 9, [], "rows.jsonl, line 1: not JSON"),
    "a weight that is none": (rows(), ["--data.source=mixture:1*pydocs+nan*digits"], "weights must be positive"),
    "a limit of nothing": (rows(), ["--data.bad-limit=0"], "data.bad_limit must be at least 1"),
    "all of it too short": (rows(), ["--data.cleaning.min-characters=999"], "no text in validation: cleaning left out"),
    "a predicate that is not there": (rows(), ["--data.cleaning.keep=no/where.py:f"], "data.cleaning.keep no/where.py:f"),
    "too few of a label": (rows(), ["--data.labels-per-class=100"], "fewer than data.labels_per_class 100"),
}  # fmt: skip


@pytest.mark.quick
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_no_half_written_cache(capsys, mistake):
    found, options, right = MISTAKES[mistake]
    assert right in refused(capsys, [*RUN, write(found), *options])
    assert not Path("run").exists()
    assert not list(Path().glob("cache/**/*.partial"))


def test_bad_rows_are_skipped_counted_and_written_down(capsys):
    bad = ["{", json.dumps({"text": None, "label": "a"})]
    assert main([*RUN, write([*rows(), *bad]), "--data.bad-records=skip"]) == 0
    assert "2 bad records were skipped" in capsys.readouterr().err
    written = [json.loads(line) for line in Path("run/bad_records.jsonl").read_text().splitlines()]
    assert written == [
        {
            "where": "rows.jsonl, line 61",
            "what": "not JSON: Expecting property name enclosed in double quotes: column 2 (char 1)",
        },
        {"where": "rows.jsonl, line 62", "what": "it has no text"},
    ]


@pytest.mark.quick
def test_more_bad_rows_than_the_limit_stop_the_run(capsys):
    said = refused(capsys, [*RUN, write([*rows(), *["{"] * 4]), "--data.bad-records=skip", "--data.bad-limit=3"])
    assert "rows.jsonl, line 64: not JSON" in said and "one bad record more than data.bad_limit 3" in said


def test_a_source_that_changed_is_refused_by_name_unless_that_is_accepted(capsys):
    source = write(rows())
    assert main([*RUN, source]) == 0
    write([*rows(), {"text": "one row more, of which nobody knew", "label": "a"}])
    before = Path("run/environment.json").read_text()
    capsys.readouterr()
    said = refused(capsys, [*RUN, source])
    assert "the data changed since the run was started (" in said and "--data.accept-changed" in said and "train was" in said
    assert refused(capsys, ["evaluate", "run"]).startswith("error: run: the data changed")
    assert Path("run/environment.json").read_text() == before
    assert main([*RUN, source, "--data.accept-changed"]) == 0
    assert "continuing, as --data.accept-changed allows" in capsys.readouterr().err


@pytest.mark.quick
def test_labels_that_change_places_are_another_data_set():
    swapped = [{**row, "label": "ba"["ab".index(row["label"])]} for row in rows()]
    found = []
    for name, each in (("one.jsonl", rows()), ("two.jsonl", swapped)):
        write(each, name)
        found.append(LabelledText(source=f"files:{name}", length=16, vocab_size=300).build().fingerprint)
    assert found[0]["train"] != found[1]["train"]


@pytest.mark.quick
def test_a_field_that_is_named_is_the_only_one_that_is_read():
    found = [{"body": f"their words {i}", "text": f"our words {i}", "kind": "ab"[i % 2], "label": "c"} for i in range(60)]
    del found[30]["body"], found[40]["kind"]
    write(found)
    config = LabelledText(source="files:rows.jsonl", fields="text=body,label=kind", length=16, vocab_size=300)
    dataset = replace(config, bad_records="skip").build()
    assert [json.loads(line)["what"] for line in dataset.bad_records] == ["it has no text", "it has no label"]
    assert dataset.codec.labels == ("a", "b") and all(text.startswith("their") for text in dataset.shown["train"])


@pytest.mark.quick
def test_what_is_held_out_of_fine_tuning_is_held_out_of_pretraining():
    write([{"text": f"words {i}", "kind": "abc"[i % 3 if i % 7 else 0]} for i in range(200)])
    common = {"source": "files:rows.jsonl", "fields": "label=kind", "length": 16, "vocab_size": 300}
    labelled, plain = LabelledText(**common).build(), documents(Text(**common))
    held = set(labelled.shown["validation"])
    assert held == set(plain.texts("validation")) and held.isdisjoint(plain.texts("train"))


@pytest.mark.quick
def test_rows_without_a_label_among_others_are_bad_in_every_split():
    write(rows(), "train.jsonl")
    write([*rows(3), {"text": "unlabelled"}], "test.jsonl")
    config = LabelledText(source="files:t*.jsonl", length=16, vocab_size=300)
    with pytest.raises(DataError, match=r"^test\.jsonl, line 4: it has no label"):
        config.build()
    assert len(replace(config, bad_records="skip").build().splits["test"]) == 3


@pytest.mark.quick
def test_rows_of_one_document_are_texts_of_their_own_where_each_has_a_label_and_one_text_where_none_has():
    found = [{"text": f"words {i}", "label": "ab"[i % 2], "document": i // 3} for i in range(90)]
    write(found)
    labelled = LabelledText(source="files:rows.jsonl", length=16, vocab_size=300).build()
    assert sum(map(len, labelled.splits.values())) == 90
    assert Text(source="files:rows.jsonl", length=16, vocab_size=300).build().about["cleaning"]["documents in"] == 30


@pytest.mark.quick
def test_texts_that_are_held_out_leave_train_and_not_each_other():
    write([{"text": "said twice here", "label": "a"}, *rows(20)], "train.jsonl")
    write([{"text": "said twice here", "label": "a"}] * 2, "test.jsonl")
    dataset = LabelledText(source="files:t*.jsonl", length=16, vocab_size=300).build()
    assert {split: len(examples) for split, examples in dataset.splits.items()} == {"train": 20, "test": 2}
    assert any("cleaning removed 1 exact duplicates, of 23 documents" in note for note in dataset.notes)


def test_another_tokenizer_is_refused(capsys):
    source = write(rows())
    assert main([*RUN, source]) == 0
    tokenizer = json.loads(Path("run/tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    Path("run/tokenizer.json").write_text(json.dumps(tokenizer))
    capsys.readouterr()
    assert "tokenizer was" in refused(capsys, ["evaluate", "run"])
    assert "is not the tokenizer that the run was trained with" in refused(capsys, ["predict", "run", "--text", "a"])


@pytest.mark.quick
def test_a_part_of_the_cache_that_is_damaged_is_named():
    write(rows())
    config = LabelledText(source="files:rows.jsonl", length=16, vocab_size=300)
    config.build()
    for pattern in ("documents/*/about.json", "documents/*/train.json", "documents/*/train.label", "rows/*/about.json"):
        (file,) = Path("cache").glob(pattern)
        before = file.read_bytes()
        file.write_bytes(before[: len(before) // 2])
        with pytest.raises(DataError, match=rf"{file.name} is damaged \(.*\); remove .*{file.parent.name}, and it is made anew"):
            config.build()
        file.write_bytes(before)


def test_a_run_whose_data_was_chosen_by_somebodys_code_runs_it_only_if_named(capsys):
    Path("mine.py").write_text("def long(text):\n    return len(text) > 5\n")
    source = write(rows())
    assert main([*RUN, source, "--data.cleaning.keep=mine.py:long"]) == 0
    capsys.readouterr()
    assert "if you trust it, name its file: --import mine.py" in refused(capsys, ["evaluate", "run"])
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
    ("labels.json", '["a", "a"]', PREDICT, "labels.json: a list of two distinct labels or more is needed"),
)


def test_files_of_a_run_directory_that_are_damaged_are_named(capsys):
    assert main([*RUN, write(rows())]) == 0
    capsys.readouterr()
    for name, content, command, right in DAMAGE:
        file = Path("run") / name
        before = file.read_text()
        file.write_text(content)
        assert right in refused(capsys, command)
        file.write_text(before)
