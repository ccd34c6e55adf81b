"""The command line: its commands and options are frozen, and every user error is one line that suggests the fix."""

import json
import os
import pty
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.train.processes import free_port
from train import cli, loop, notes, recipes
from train.__main__ import VERBS, main
from train.errors import UserError
from train.runs.rundir import check_name

GOLDEN = Path(__file__).parents[2] / "goldens" / "cli.json"
MLP = ["run", "digits-mlp", "--run.steps", "2"]
TEXT = ["run", "bert-tiny", "--run.steps", "1", "--data.length", "16", "--data.batch-size", "8", "--data.vocab-size", "300"]


@pytest.fixture(autouse=True)
def empty_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def command_line() -> dict[str, list[str]]:
    shown = ("bert-tiny", "pydocs-topics", "digits-mlp", "digits-cnn")
    options = {f"run {name}": sorted(cli.options_of(recipes.known()[name]())) for name in shown}
    return {"verbs": sorted(VERBS), "recipes": sorted(recipes.known()), **options}


def test_commands_and_options_are_frozen():
    """To update after an intended change: FMODELS_WRITE_GOLDENS=1 pytest tests/train/verbs/test_cli.py -k frozen"""
    if os.environ.get("FMODELS_WRITE_GOLDENS"):
        GOLDEN.write_text(json.dumps(command_line(), indent=1) + "\n")
    assert command_line() == json.loads(GOLDEN.read_text())


def test_common_options_have_the_documented_names():
    documented = (
        "run.dir run.steps run.seed data.source data.batch-size optimizer.learning-rate mesh.data mesh.fsdp mesh.tensor init-from"
    )
    assert {f"--{name}" for name in documented.split()} <= set(command_line()["run bert-tiny"])


def error_line(capsys, arguments: list[str]) -> str:
    """Run a command that fails: status 2, one line on stderr, no files written. Return the line."""
    before = set(Path().rglob("*"))
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("error: ") and output.err.count("\n") == 1, output
    assert set(Path().rglob("*")) == before
    return output.err


ERRORS = {
    "command": (["runn"], "unknown command runn; did you mean run?"),
    "missing recipe": (["run"], "RECIPE is missing: fmodels run RECIPE"),
    "recipe": (["run", "bert-tinny"], "no recipe bert-tinny; did you mean bert-tiny?"),
    "recipe without a similar name": (["run", "zzz"], "there are: bert-base"),
    "recipe file": (["run", "nowhere.py:x"], "nowhere.py: no such Python file"),
    "missing recipe file": (["run", "nowhere.py"], "nowhere.py: no such Python file"),
    "source instead of a recipe": (["run", "files:good.txt"], "files:good.txt is a data source, not a recipe; use it with"),
    "option": ([*MLP, "--optimizer.lerning-rate", "1"], "--optimizer.lerning-rate; did you mean --optimizer.learning-rate?"),
    "option of another model": (
        [*MLP, "--model.layers", "2"],
        "--model.layers; there are: --model.activation, --model.dropout, --model.hidden",
    ),
    "last part of an option": ([*MLP, "--steps", "2"], "unknown option --steps; did you mean --run.steps?"),
    "option of another part": ([*MLP, "--run.batch-size", "2"], "--run.batch-size; did you mean --data.batch-size?"),
    "initials of an option": ([*MLP, "--lr", "2"], "unknown option --lr; did you mean --optimizer.learning-rate?"),
    "option without a similar one": ([*MLP, "--zzz", "2"], "unknown option --zzz; --help lists them"),
    "misspelt dry run": ([*MLP, "--dryrun"], "unknown option --dryrun; did you mean --dry-run?"),
    "misspelt option of a run": (["evaluate", "nothing", "--jsn"], "unknown option --jsn; did you mean --json?"),
    "boolean set to false": ([*TEXT, "--model.bias", "False"], "False: the option takes no value; use --model.no-bias"),
    "boolean set to true": ([*TEXT, "--model.scan=true"], "--model.scan true: the option takes no value; use --model.scan"),
    "other boolean": ([*MLP, "--data.resize", "false"], "the option takes no value; use --data.no-resize"),
    "value without an option": ([*MLP, "more"], "unexpected argument more; options begin with --"),
    "type": ([*MLP, "--run.steps", "many"], "--run.steps: 'many' is not an integer"),
    "choice": ([*MLP, "--optimizer.name", "adamm"], "'adamm' for argument '--optimizer.name'. Expected one of ('adam', 'adamw'"),
    "missing value": ([*MLP, "--run.seed"], "Missing value for argument '--run.seed'"),
    "range": ([*MLP, "--optimizer.learning-rate", "-1"], "optimizer.learning_rate must be greater than 0, not -1.0"),
    "range of a nested part": ([*MLP, "--run.guard.limit", "0"], "run.guard.limit must be at least 1"),
    "regular expression": ([*MLP, "--optimizer.rules.0.pattern", "(("], "is not a regular expression"),
    "combination": ([*TEXT, "--data.length", "600"], "data.length 600 is more than model.max_length 512"),
    "combination of parts": ([*TEXT, "--data.layout", "windows"], "set data.layout pairs"),
    "heads": ([*TEXT, "--model.heads", "3"], "width 128 does not divide into 3 heads"),
    "run": (["evaluate", "nothing"], "there is no run nothing"),
    "combination of fields": (["run", "bert-tiny", "--data.layout", "windows"], "error: objective.next_sentence needs pairs"),
    "missing run": (["evaluate"], "RUN is missing: run directory, or name of a run in runs/"),
    "not a number": ([*MLP, "--optimizer.learning-rate", "fast"], "--optimizer.learning-rate: not a number: 'fast'"),
    "missing subcommand": (["data"], "SUBCOMMAND is missing: inspect or prepare"),
    "missing recipe to inspect": (["data", "inspect"], "RECIPE is missing: fmodels data inspect RECIPE"),
    "folder without a run": (["predict", "occupied"], "occupied is not a run directory: it has no experiment.json"),
    "missing text": (["predict", "nothing", "--text"], "--text is empty"),
    "empty text": (["predict", "nothing", "--text", " "], "--text is empty"),
    "missing source to prepare": (["data", "prepare"], "SOURCE is missing: tfds:NAME"),
    "argument of bench data": (["bench", "data", "digits-mlp"], "unexpected argument digits-mlp; options begin with --"),
    "run to report": (["report", "nothing"], "there is no run nothing"),
    "init-from": ([*MLP, "--init-from", "nothing"], "there is no run nothing"),
    "published weights": ([*TEXT, "--init-from", "bert-base-uncased"], "bert-base-uncased: only runs can be read, not published"),
    "mesh": ([*MLP, "--mesh.data", "3"], "mesh: replica 1 x data 3 x fsdp 1 x tensor 1 does not fit 8 cpu device(s)"),
    "two axes to fill": ([*MLP, "--mesh.fsdp", "-1"], "mesh.data and fsdp are -1; at most one axis may be -1"),
    "batch": ([*MLP, "--data.batch-size", "12"], "12 does not divide over 8 device(s) along replica x data x fsdp: it must be"),
    "accumulation": ([*MLP, "--run.accumulation", "3"], "must be a multiple of 24"),
    "path as a source": ([*TEXT, "--data.source", "good.txt"], "'good.txt' is a path; did you mean files:good.txt?"),
    "folder as a source": ([*TEXT, "--data.source", "occupied"], "'occupied' is a path; did you mean files:occupied?"),
    "glob as a source": ([*TEXT, "--data.source", "*.txt"], "'*.txt' is a path; did you mean files:*.txt?"),
    "source": ([*TEXT, "--data.source", "file:x.txt"], "there is no source 'file'"),
    "missing file": ([*TEXT, "--data.source", "files:missing.txt"], "missing.txt: No such file or directory"),
    "empty tokenizer": ([*TEXT, "--data.tokenizer="], "data.tokenizer must be a path, or None"),
    "tokenizer file": ([*TEXT, "--data.source=files:good.txt", "--data.tokenizer=no.json"], "tokenizer no.json: No such file"),
    "unwritable run.dir": ([*MLP, "--run.dir", "/proc/nothing/here"], "run.dir /proc/nothing/here cannot be written"),
    "not a run directory": ([*MLP, "--run.dir", "occupied"], "occupied exists and is not a run directory"),
    "address": ([*MLP, "--run.dir", "gs://bucket/run"], "run.dir gs://bucket/run is a URL; mount it, and give the path"),
    "run.dir pattern": ([*MLP, "--run.dir", "runs/[2]"], "runs/[2]: checkpoints cannot be read from a path that contains [2]"),
    "run.dir backslash": ([*MLP, "--run.dir", "runs\\2"], "runs\\2: checkpoints cannot be read from a path that contains \\"),
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
    "occupied/file": b"another file",
}
LABELS = ["run", "pydocs-topics", "--run.steps", "1", "--data.vocab-size", "300"]
FILE_ERRORS = {
    "empty.txt": (TEXT, "empty.txt: no rows"),
    "blank.txt": (TEXT, "blank.txt: no rows"),
    "book.pdf": (TEXT, "book.pdf: unknown format .pdf; supported: .txt, .jsonl, .json, .csv"),
    "latin.txt": (TEXT, "latin.txt, line 2: byte 14 (0xe9) is not UTF-8"),
    "short.txt": (TEXT, "train has fewer tokens than data.length 16"),
    "broken.jsonl": (TEXT, "broken.jsonl, line 2: not JSON"),
    "untexted.jsonl": (TEXT, "no field 'text'; available: words; choose one with --data.fields text=NAME"),
    "one.jsonl": (LABELS, "classification needs at least two labels; every row of train has 'only'"),
    "unlabelled.jsonl": (LABELS, "no field 'label'; available: text; choose one with --data.fields label=NAME"),
    "ragged.tsv": (LABELS, "ragged.tsv, line 3: 1 fields, but the header has 2"),
    "headless.tsv": (LABELS, "no field 'text'; available: a, x"),
    "emtpy.txt": (TEXT, "did you mean empty.txt?"),
}


@pytest.fixture
def files():
    for name, content in FILES.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(content)


@pytest.mark.parametrize("case", ERRORS)
def test_error_is_one_line_and_exit_status_2(capsys, files, case):
    arguments, message = ERRORS[case]
    assert message in error_line(capsys, arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([*MLP, "--run.seed", "many"], "--run.seed: 'many' is not an integer"), (["evaluate"], "RUN is missing: run directory")],
)
def test_error_is_the_same_line_on_a_terminal(front_door, tmp_path, arguments, message):
    terminal, process_end = pty.openpty()
    under = ["env", "TERM=xterm-256color", "sh", "-c", f'"$@" >{os.ttyname(process_end)} 2>&1', "sh"]
    process = front_door(*arguments, cwd=tmp_path, under=under)
    process.communicate(timeout=120)
    assert process.returncode == 2
    os.close(process_end)
    output = os.read(terminal, 10_000).decode()
    os.close(terminal)
    assert output.startswith(f"error: {message}") and output.count("\n") == 1 and "\x1b" not in output


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [["recipes"], ["run", "digits-mlp", "--help"]], ids=" ".join)
def test_output_to_a_full_disk_a_closed_pipe_or_a_closed_stdout(front_door, tmp_path, command, unbuffered):
    """Only the full disk is an error."""
    ends = {">/dev/full": (2, "error: output: No space left on device\n"), "| true": (0, ""), ">&-": (0, "")}
    for end, (status, message) in ends.items():
        under = ["env", f"PYTHONUNBUFFERED={unbuffered}", "sh", "-c", f'"$@" {end}', "sh"]
        process = front_door(*command, cwd=tmp_path, under=under)
        err = process.communicate(timeout=120)[1]
        assert (process.returncode, err) == (status, message), end


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_output_that_cannot_be_written_is_an_error(front_door, tmp_path, processes):
    cluster = [f"--cluster.coordinator=127.0.0.1:{free_port()}", "--cluster.processes=2"]
    each = [[*cluster, f"--cluster.process={i}"] for i in range(2)] if processes == 2 else [[]]
    under = ["sh", "-c", '"$@" >/dev/full', "sh"]
    started = [front_door("run", "digits-mlp", "--dry-run", *options, cwd=tmp_path, under=under) for options in each]
    first, *others = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [2, 1][:processes]
    assert first == "error: output: No space left on device\n"
    assert all(err.startswith("error: process 0 of the run is gone") and err.count("\n") == 1 for err in others)


@pytest.mark.parametrize("file", FILE_ERRORS)
def test_error_names_an_unusable_file(capsys, files, file):
    arguments, message = FILE_ERRORS[file]
    assert message in error_line(capsys, [*arguments, "--data.source", f"files:{file}"])


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "mlp"
    assert main([*MLP, "--run.dir", str(folder)]) == 0
    return folder


def test_run_directory_of_another_experiment_is_not_overwritten(capsys, run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    message = error_line(capsys, ["run", "digits-mlp", "--run.steps", "3", "--model.hidden", "7", "--run.dir", str(run)])
    assert "model.hidden: saved (256, 128), requested (7,)" in message
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_init_from_names_the_fields_of_a_model_that_does_not_fit(capsys, run):
    message = error_line(capsys, ["run", "digits-mlp", "--model.hidden", "256", "64", "--init-from", str(run)])
    assert "model/dense_1/kernel [256, 128] -> [256, 64]" in message
    assert "model.hidden: saved (256, 128), requested (256, 64); omit --model options to use its model" in message
    message = error_line(capsys, ["run", "digits-mlp", "--model.hidden", "256", "--init-from", str(run)])
    assert "the model lacks its parameter model/dense_1/bias and 1 more; model.hidden: saved (256, 128), req" in message
    message = error_line(capsys, ["run", "digits-cnn", "--init-from", str(run)])
    assert "it has no parameter model/stage_0_0/conv/kernel" in message
    assert "model.type: saved 'fmodels.mlp:MlpConfig', requested 'fmodels.convnet:ConvNetConfig'" in message


def test_init_from_counts_the_parameters(capsys, run):
    assert main(["run", "digits-mlp", "--run.steps", "1", "--init-from", str(run), "--run.dir", "next"]) == 0
    assert f"parameters from {run}: 6 loaded, 0 new, 0 unused" in capsys.readouterr().err


def test_init_from_takes_the_model_of_the_run(capsys):
    short = ["run", "digits-mlp", "--run.steps=1", "--optimizer.warmup-steps=0"]
    assert main([*short, "--model.hidden", "24", "--model.dropout=0.5", "--run.dir=small"]) == 0
    command = [*short, "--init-from", "small", "--run.dir=next"]
    capsys.readouterr()
    assert main(command) == 0
    stderr = capsys.readouterr().err
    assert "model: that of small, since no --model option is given" in stderr and "0 new, 0 unused" in stderr
    model = json.loads(Path("next/experiment.json").read_text())["model"]
    assert model["hidden"] == [24] and model["dropout"] == 0.2
    shutil.rmtree("small")
    assert main(command) == 0  # finished: its own model is used


def test_json_output_is_one_value(capsys, run):
    Path("rows.jsonl").write_text(json.dumps({"image": [[[0.5]] * 8] * 8}) + "\n")
    for arguments in (
        ["evaluate", str(run), "--json"],
        ["predict", str(run), "--input", "rows.jsonl", "--json"],
        ["recipes", "--json"],
    ):
        capsys.readouterr()
        assert main(arguments) == 0
        json.loads(capsys.readouterr().out)


def test_predict_reads_an_image_from_a_file(capsys, run):
    Image.fromarray(np.arange(0, 256, 4, np.uint8).reshape(8, 8)).save("digit.png")
    numbers = (np.arange(0, 256, 4) / 255).reshape(8, 8, 1).tolist()
    Path("rows.jsonl").write_text("\n".join(json.dumps({"image": image}) for image in ("digit.png", numbers)))
    assert main(["predict", str(run), "--input", "rows.jsonl", "--json"]) == 0
    from_file, from_numbers = json.loads(capsys.readouterr().out)
    assert from_file["probabilities"] == pytest.approx(from_numbers["probabilities"], abs=1e-6)
    Path("rows.jsonl").write_text('{"image": "digits.png"}\n')
    assert "rows.jsonl, line 1: digits.png: No such file" in error_line(capsys, ["predict", str(run), "--input", "rows.jsonl"])


def test_predict_names_invalid_rows(capsys, run):
    assert "no.jsonl: No such file or directory" in error_line(capsys, ["predict", str(run), "--input", "no.jsonl"])
    Path("rows.jsonl").write_text('{"image": [[1]]}\n')
    assert "line 1: its image is [1, 1], not [8, 8, 1]" in error_line(capsys, ["predict", str(run), "--input", "rows.jsonl"])
    Path("rows.jsonl").write_text('{"image": \n')
    assert "rows.jsonl, line 1: not JSON" in error_line(capsys, ["predict", str(run), "--input", "rows.jsonl"])
    assert "row 0: it has no image; its fields: text" in error_line(capsys, ["predict", str(run), "--text", "a"])
    assert "has no split tset; did you mean test?" in error_line(capsys, ["evaluate", str(run), "--split", "tset"])


def test_dry_run_prints_a_summary_and_writes_no_files(capsys):
    for option in ("--dry-run", "--dry_run"):
        assert main([*MLP, option]) == 0
        summary = capsys.readouterr().out
        expected = ("parameters    50,826", "FLOPs         ", "memory", "image float32[128, 8, 8, 1]", "runs/digits-mlp, new")
        assert all(words in summary for words in expected)
        assert not any(Path().iterdir())


def test_dry_run_works_whatever_the_run_directory_holds(capsys, run):
    damaged, foreign = Path("damaged"), Path("foreign")
    shutil.copytree(run, damaged)
    (damaged / "experiment.json").write_text("{")
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("Chapter 1")
    cases = {
        (str(run),): f"{run}, which holds this experiment and would be resumed",
        (str(run), "--model.hidden", "7"): "would be refused: "
        + f"{run} holds another experiment: model.hidden: saved (256, 128), requested (7,)",
        ("damaged",): "would be refused: damaged/experiment.json cannot be read",
        ("foreign",): "would be refused: foreign exists and is not a run directory",
        ("/proc/nothing",): "/proc/nothing, new",
    }
    files = lambda: {path: path.stat().st_mtime_ns for held in (run, damaged, foreign) for path in held.rglob("*")}
    before = files()
    for (folder, *options), message in cases.items():
        assert main([*MLP, "--dry-run", "--run.dir", folder, *options]) == 0
        assert f"run directory {message}" in capsys.readouterr().out
    assert files() == before


def test_a_recipe_file_without_a_name_lists_its_recipes(capsys):
    file = Path(__file__).parents[2] / "extension" / "toy_recipe.py"
    for name in (str(file), f"{file}:"):
        message = error_line(capsys, ["run", name])
        assert f"{file}: name a recipe of the file: {file}:scored or {file}:toy" in message


@pytest.mark.parametrize("command", ["run", "run digits-mlp", "bench", "bench data", "data inspect"])
def test_help_exits_with_status_0(capsys, command):
    try:
        assert main([*command.split(), "--help"]) == 0
    except SystemExit as end:  # raised by tyro
        assert end.code == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: fmodels") and ("--dry-run" in out) == command.startswith("run")


def test_unusual_settings_print_a_note(capsys):
    assert main([*MLP, "--data.batch-size=2048", "--optimizer.warmup-steps=2"]) == 0
    notes = capsys.readouterr().err
    assert "optimizer.warmup_steps 2 is not less than run.steps 2: the learning rate never reaches its peak" in notes
    assert "data.batch_size 2048 is more than the 1438 rows of train: a batch contains some rows twice" in notes


def test_a_note_is_printed_once_per_command(capsys):
    def printed():
        capsys.readouterr()
        for name in ("a", "b"):
            experiment, _, _ = cli.join_recipe([*MLP[1:], "--data.batch-size=2048", "--run.dir", name], "run")
            loop.train(experiment)
        return capsys.readouterr().err.count("a batch contains some rows twice")

    notes.begin()
    assert printed() == 1
    notes.begin()
    assert printed() == 1


def test_run_dir_cannot_be_a_dangling_link(capsys):
    Path("link").symlink_to("nowhere")
    assert "run.dir link is a broken symbolic link; remove it" in error_line(capsys, [*MLP, "--run.dir", "link"])


def test_run_dir_must_be_unicode(tmp_path):
    with pytest.raises(UserError, match="checkpoints cannot be read from a path that contains \udce9"):
        check_name(tmp_path / "caf\udce9")
