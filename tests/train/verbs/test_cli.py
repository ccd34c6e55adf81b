"""The front door: what is offered is frozen, and every mistake is one line that says what would be right."""

import json
import os
import pty
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.train.processes import free_port
from train import cli, recipes
from train.__main__ import VERBS, main
from train.errors import UserError
from train.runs.rundir import check_name

GOLDEN = Path(__file__).parents[2] / "goldens" / "cli.json"
MLP = ["run", "digits-mlp", "--run.steps", "2"]
TEXT = ["run", "bert-tiny", "--run.steps", "1", "--data.length", "16", "--data.batch-size", "8", "--data.vocab-size", "300"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def surface() -> dict[str, list[str]]:
    shown = ("bert-tiny", "pydocs-topics", "digits-mlp", "digits-cnn")
    options = {f"run {name}": sorted(cli.options_of(recipes.known()[name]())) for name in shown}
    return {"verbs": sorted(VERBS), "recipes": sorted(recipes.known()), **options}


@pytest.mark.quick
def test_the_surface_is_frozen():
    """After a deliberate change: FMODELS_WRITE_GOLDENS=1 pytest tests/train/verbs/test_cli.py -k frozen"""
    if os.environ.get("FMODELS_WRITE_GOLDENS"):
        GOLDEN.write_text(json.dumps(surface(), indent=1) + "\n")
    assert surface() == json.loads(GOLDEN.read_text())


@pytest.mark.quick
def test_what_everyone_reaches_for_is_called_as_promised():
    promised = (
        "run.dir run.steps run.seed data.source data.batch-size optimizer.learning-rate mesh.data mesh.fsdp mesh.tensor init-from"
    )
    assert {f"--{name}" for name in promised.split()} <= set(surface()["run bert-tiny"])


def refused(capsys, arguments: list[str]) -> str:
    """The one line that the front door says of a mistake; it exits with 2, and leaves nothing behind."""
    before = set(Path().rglob("*"))
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1, said
    assert set(Path().rglob("*")) == before
    return said.err


QUICK_MISTAKES = {
    "verb": (["runn"], "no verb runn; did you mean run?"),
    "no recipe": (["run"], "which recipe?"),
    "recipe": (["run", "bert-tinny"], "no recipe bert-tinny; did you mean bert-tiny?"),
    "recipe far from all": (["run", "zzz"], "there are: bert-base"),
    "recipe file": (["run", "nowhere.py:x"], "nowhere.py: there is no such Python file"),
    "option": ([*MLP, "--optimizer.lerning-rate", "1"], "--optimizer.lerning-rate; did you mean --optimizer.learning-rate?"),
    "option of another model": ([*MLP, "--model.layers", "2"], "unknown option --model.layers"),
    "type": ([*MLP, "--run.steps", "many"], "--run.steps: 'many' is no whole number"),
    "choice": ([*MLP, "--optimizer.name", "adamm"], "'adamm' for argument '--optimizer.name'. Expected one of ('adam', 'adamw'"),
    "missing value": ([*MLP, "--run.seed"], "Missing value for argument '--run.seed'"),
    "range": ([*MLP, "--optimizer.learning-rate", "-1"], "optimizer.learning_rate must be greater than 0, not -1.0"),
    "range of a nested part": ([*MLP, "--run.guard.limit", "0"], "run.guard.limit must be at least 1"),
    "regular expression": ([*MLP, "--optimizer.rules.0.pattern", "(("], "is not a regular expression"),
    "combination": ([*TEXT, "--data.length", "600"], "data.length 600 is more than model.max_length 512"),
    "combination of parts": ([*TEXT, "--data.layout", "windows"], "set data.layout pairs"),
    "heads": ([*TEXT, "--model.heads", "3"], "width 128 does not divide into 3 heads"),
    "run": (["evaluate", "nothing"], "there is no run nothing"),
    "no run": (["evaluate"], "RUN is missing: its directory, or its name in runs/"),
    "no number": ([*MLP, "--optimizer.learning-rate", "fast"], "--optimizer.learning-rate: no number: 'fast'"),
    "nothing of data": (["data"], "data what? There are: inspect, prepare"),
    "nothing to look at": (["data", "inspect"], "which recipe?"),
    "no run in it": (["predict", "occupied"], "occupied is not a run directory: it has no experiment.json"),
    "no text": (["predict", "nothing", "--text"], "--text is empty"),
    "an empty text": (["predict", "nothing", "--text", " "], "--text is empty"),
    "nothing to prepare": (["data", "prepare"], "SOURCE is missing: tfds:NAME"),
    "more of bench data": (["bench", "data", "digits-mlp"], "bench data takes --json and nothing else, not digits-mlp"),
    "run to report": (["report", "nothing"], "there is no run nothing"),
    "init-from": ([*MLP, "--init-from", "nothing"], "there is no run nothing"),
    "mesh": ([*MLP, "--mesh.data", "3"], "mesh: replica 1 x data 3 x fsdp 1 x tensor 1 does not fit 8 cpu device(s)"),
    "two axes to fill": ([*MLP, "--mesh.fsdp", "-1"], "mesh.data and fsdp are -1; one axis at most takes the devices"),
    "batch": ([*MLP, "--data.batch-size", "12"], "12 does not divide over 8 device(s) along replica x data x fsdp: it must be"),
    "accumulation": ([*MLP, "--run.accumulation", "3"], "must be a multiple of 24"),
    "source": ([*TEXT, "--data.source", "file:x.txt"], "there is no source 'file'"),
    "missing file": ([*TEXT, "--data.source", "files:missing.txt"], "missing.txt: No such file or directory"),
    "no tokenizer": ([*TEXT, "--data.tokenizer="], "data.tokenizer must be a path, or None"),
    "tokenizer": ([*TEXT, "--data.source=files:good.txt", "--data.tokenizer=no.json"], "tokenizer no.json: No such file"),
    "unwritable": ([*MLP, "--run.dir", "/proc/nothing/here"], "run.dir /proc/nothing/here cannot be written"),
    "not a run directory": ([*MLP, "--run.dir", "occupied"], "occupied exists and is not a run directory"),
    "an address": ([*MLP, "--run.dir", "gs://bucket/run"], "run.dir gs://bucket/run is a URL; mount it, and give the path"),
    "a pattern": ([*MLP, "--run.dir", "runs/[2]"], "runs/[2]: checkpoints cannot be read from a path that contains [2]"),
    "a backslash": ([*MLP, "--run.dir", "runs\\2"], "runs\\2: checkpoints cannot be read from a path that contains \\"),
}  # fmt: skip

FILES = {
    "book.pdf": b"%PDF",
    "empty.txt": b"",
    "blank.txt": b"\n \n\n",
    "latin.txt": "first line\ncaf\u00e9 au lait\n".encode("latin-1"),
    "short.txt": b"one\ntwo\n",
    "good.txt": b"\n".join(b"line %d of a text about things that happen %d times" % (i, i * i) for i in range(200)),
    "broken.jsonl": b'{"text": "a", "label": "x"}\n{"text": \n',
    "untexted.jsonl": b'{"words": "a"}\n{"words": "b"}\n',
    "one.jsonl": b"".join(b'{"text": "number %d is here", "label": "only"}\n' % i for i in range(50)),
    "unlabelled.jsonl": b"".join(b'{"text": "number %d is here"}\n' % i for i in range(50)),
    "ragged.tsv": b"text\tlabel\na\tx\nb\n",
    "headless.tsv": b"a\tx\nb\ty\nc\ty\n",
    "occupied/file": b"something of somebody's",
}
LABELS = ["run", "pydocs-topics", "--run.steps", "1", "--data.vocab-size", "300"]
FILE_MISTAKES = {
    "empty.txt": (TEXT, "empty.txt: there is no row in it"),
    "blank.txt": (TEXT, "blank.txt: there is no row in it"),
    "book.pdf": (TEXT, "book.pdf: cannot tell what is in a .pdf; there are: .txt, .jsonl, .csv"),
    "latin.txt": (TEXT, "latin.txt, line 2: byte 14 (0xe9) is not UTF-8"),
    "short.txt": (TEXT, "train has fewer tokens than data.length 16"),
    "broken.jsonl": (TEXT, "broken.jsonl, line 2: not JSON"),
    "untexted.jsonl": (TEXT, "there is no field 'text'; it has: words; --data.fields text=NAME"),
    "one.jsonl": (LABELS, "needs two labels or more; all rows of train have 'only'"),
    "unlabelled.jsonl": (LABELS, "there is no field 'label'; it has: text; --data.fields label=NAME"),
    "ragged.tsv": (LABELS, "ragged.tsv, line 3: 1 fields, but the header has 2"),
    "headless.tsv": (LABELS, "there is no field 'text'; it has: a, x"),
    "emtpy.txt": (TEXT, "did you mean empty.txt?"),
}


@pytest.fixture
def files():
    for name, content in FILES.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(content)


@pytest.mark.quick
@pytest.mark.parametrize("mistake", QUICK_MISTAKES)
def test_a_mistake_is_one_line_and_exit_status_2(capsys, files, mistake):
    arguments, right = QUICK_MISTAKES[mistake]
    assert right in refused(capsys, arguments)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "right"),
    [([*MLP, "--run.seed", "many"], "--run.seed: 'many' is no whole number"), (["evaluate"], "RUN is missing: its directory")],
)
def test_a_mistake_is_the_same_line_on_a_terminal(front_door, tmp_path, arguments, right):
    ours, theirs = pty.openpty()
    under = ["env", "TERM=xterm-256color", "sh", "-c", f'"$@" >{os.ttyname(theirs)} 2>&1', "sh"]
    process = front_door(*arguments, cwd=tmp_path, under=under)
    process.communicate(timeout=120)
    assert process.returncode == 2
    os.close(theirs)
    said = os.read(ours, 10_000).decode()
    os.close(ours)
    assert said.startswith(f"error: {right}") and said.count("\n") == 1 and "\x1b" not in said


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [["recipes"], ["run", "digits-mlp", "--help"]], ids=" ".join)
def test_output_that_nobody_can_have(front_door, tmp_path, command, unbuffered):
    """On a full disk; by who reads no more; and where there is none, which is as it was asked for."""
    ends = {">/dev/full": (2, "error: output: No space left on device\n"), "| true": (0, ""), ">&-": (0, "")}
    for end, (status, right) in ends.items():
        under = ["env", f"PYTHONUNBUFFERED={unbuffered}", "sh", "-c", f'"$@" {end}', "sh"]
        process = front_door(*command, cwd=tmp_path, under=under)
        said = process.communicate(timeout=120)[1]
        assert (process.returncode, said) == (status, right), end


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_output_that_cannot_be_written_is_an_error(front_door, tmp_path, processes):
    of = [f"--cluster.coordinator=127.0.0.1:{free_port()}", "--cluster.processes=2"]
    each = [[*of, f"--cluster.process={i}"] for i in range(2)] if processes == 2 else [[]]
    under = ["sh", "-c", '"$@" >/dev/full', "sh"]
    them = [front_door("run", "digits-mlp", "--dry-run", *options, cwd=tmp_path, under=under) for options in each]
    first, *others = [process.communicate(timeout=120)[1] for process in them]
    assert [process.returncode for process in them] == [2, 1][:processes]
    assert first == "error: output: No space left on device\n"
    assert all(said.startswith("error: process 0 of the run is gone") and said.count("\n") == 1 for said in others)


@pytest.mark.quick
@pytest.mark.parametrize("file", FILE_MISTAKES)
def test_a_file_that_cannot_be_used_is_named(capsys, files, file):
    arguments, right = FILE_MISTAKES[file]
    assert right in refused(capsys, [*arguments, "--data.source", f"files:{file}"])


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "mlp"
    assert main([*MLP, "--run.dir", str(folder)]) == 0
    return folder


def test_a_directory_of_another_experiment_is_not_written_over(capsys, run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    said = refused(capsys, ["run", "digits-mlp", "--run.steps", "3", "--model.hidden", "7", "--run.dir", str(run)])
    assert "model.hidden: saved (256, 128), requested (7,); run.steps: saved 2, requested 3" in said
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_init_from_parameters_that_do_not_fit_names_them(capsys, run):
    said = refused(capsys, ["run", "digits-mlp", "--model.hidden", "256", "64", "--init-from", str(run)])
    assert "model/dense_1/kernel [256, 128] -> [256, 64]" in said
    said = refused(capsys, ["run", "digits-cnn", "--init-from", str(run)])
    assert "no parameter model/stage_0_0/kernel" in said


def test_init_from_says_what_was_taken_new_and_left_over(capsys, run):
    assert main(["run", "digits-mlp", "--run.steps", "1", "--init-from", str(run), "--run.dir", "next"]) == 0
    assert f"parameters from {run}: 6 loaded, 0 new, 0 unused" in capsys.readouterr().err


def test_json_is_one_value_and_nothing_else(capsys, run):
    Path("rows.jsonl").write_text(json.dumps({"image": [[[0.5]] * 8] * 8}) + "\n")
    for arguments in (
        ["evaluate", str(run), "--json"],
        ["predict", str(run), "--input", "rows.jsonl", "--json"],
        ["recipes", "--json"],
    ):
        capsys.readouterr()
        assert main(arguments) == 0
        json.loads(capsys.readouterr().out)


def test_an_image_to_predict_may_be_a_file(capsys, run):
    Image.fromarray(np.arange(0, 256, 4, np.uint8).reshape(8, 8)).save("digit.png")
    numbers = (np.arange(0, 256, 4) / 255).reshape(8, 8, 1).tolist()
    Path("rows.jsonl").write_text("\n".join(json.dumps({"image": image}) for image in ("digit.png", numbers)))
    assert main(["predict", str(run), "--input", "rows.jsonl", "--json"]) == 0
    of_file, of_numbers = json.loads(capsys.readouterr().out)
    assert of_file["probabilities"] == pytest.approx(of_numbers["probabilities"], abs=1e-6)
    Path("rows.jsonl").write_text('{"image": "digits.png"}\n')
    assert "row 0: digits.png: No such file" in refused(capsys, ["predict", str(run), "--input", "rows.jsonl"])


def test_bad_rows_to_predict_are_named(capsys, run):
    assert "no.jsonl: No such file or directory" in refused(capsys, ["predict", str(run), "--input", "no.jsonl"])
    Path("rows.jsonl").write_text('{"image": [[1]]}\n')
    assert "row 0: its image is [1, 1], not [8, 8, 1]" in refused(capsys, ["predict", str(run), "--input", "rows.jsonl"])
    Path("rows.jsonl").write_text('{"image": \n')
    assert "rows.jsonl, line 1: not JSON" in refused(capsys, ["predict", str(run), "--input", "rows.jsonl"])
    assert "row 0: it has no image; its fields: text" in refused(capsys, ["predict", str(run), "--text", "a"])
    assert "has no split tset; did you mean test?" in refused(capsys, ["evaluate", str(run), "--split", "tset"])


def test_dry_run_tells_and_leaves_nothing(capsys):
    assert main([*MLP, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("parameters    50,826", "FLOPs         ", "memory", "image float32[128, 8, 8, 1]"))
    assert not any(Path().iterdir())


def test_what_is_allowed_and_may_surprise_is_said(capsys):
    assert main([*MLP, "--data.batch-size=2048", "--optimizer.warmup-steps=2"]) == 0
    said = capsys.readouterr().err
    assert "optimizer.warmup_steps 2 is not less than run.steps 2: the learning rate never gets to its peak" in said
    assert "data.batch_size 2048 is more than the 1438 rows of train: a batch holds some of them twice" in said


@pytest.mark.quick
def test_a_link_that_leads_nowhere_is_no_place_for_a_run(capsys):
    Path("link").symlink_to("nowhere")
    assert "run.dir link is a broken symbolic link; remove it" in refused(capsys, [*MLP, "--run.dir", "link"])


def test_a_path_that_is_not_unicode_is_refused(tmp_path):
    with pytest.raises(UserError, match="checkpoints cannot be read from a path that contains \udce9"):
        check_name(tmp_path / "caf\udce9")
