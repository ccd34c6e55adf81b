"""`fmodels generate RUN`: texts as they grow, JSON lines, files, examples, and errors."""

import json
from pathlib import Path

import pytest

from data.text.language_modelling import Text
from data.text.parallel import ParallelText
from fmodels.gpt import GptConfig
from fmodels.transformer import Seq2SeqConfig
from tests.train.processes import free_port
from train import loop
from train.__main__ import main
from train.experiment import Experiment, Run, with_run
from train.objectives.causal_lm import CausalLM
from train.objectives.seq2seq import Seq2Seq
from train.optim import Optimizer
from train.recipes.digits import digits_mlp
from train.runs.rundir import write_experiment

NOTES = "\n".join(f"Note {i}: the heart of the matter {'ABCDEFG'[i % 7]}, and {i * i} more. Ünïcode €." for i in range(60))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with runs on the characters of a text and on pairs of texts, which have hardly learned anything, and a run of a
    classifier."""
    folder = tmp_path_factory.mktemp("generate")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("notes.txt").write_text(NOTES)
        sizes = {"layers": 1, "width": 16, "heads": 2, "max_length": 48, "vocab_size": None, "tied": False}
        model = GptConfig(**sizes, dropout=0.0, attention_dropout=0.0)
        data = Text(source="files:notes.txt", layout="stream", length=16, batch_size=8, tokenizer_kind="characters")
        optimizer, run = Optimizer(learning_rate=1e-2, warmup_steps=1), Run(dir="text", steps=3)
        loop.train(Experiment(model=model, objective=CausalLM(), data=data, optimizer=optimizer, run=run))
        rows = [{"source": line, "target": line[::-1]} for line in NOTES.splitlines()]
        Path("pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
        model = Seq2SeqConfig(layers=1, width=16, heads=2, dropout=0.0, max_length=64, vocab_size=None)
        pairs = ParallelText(source="files:pairs.jsonl", length=64, batch_size=8, tokenizer_kind="bpe", vocab_size=300)
        objective, run = Seq2Seq(metrics=()), Run(dir="pairs", steps=20)
        loop.train(Experiment(model=model, objective=objective, data=pairs, optimizer=optimizer, run=run))
        Path("classes").mkdir()
        write_experiment(with_run(digits_mlp(), dir="classes"))
    return folder


@pytest.fixture(autouse=True)
def here(runs, monkeypatch):
    monkeypatch.chdir(runs)


def printed(capsys, *arguments: object) -> str:
    capsys.readouterr()
    status = main(["generate", "text", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert status == 0, err
    return out


def lines(capsys, *arguments: object) -> list[dict]:
    return [json.loads(line) for line in printed(capsys, *arguments).splitlines()]


SAMPLE = ("--max-new-tokens", 20, "--temperature", 1)


def test_texts_follow_their_prompts(capsys):
    found = lines(capsys, "--prompt", "Note 7", "the €", *SAMPLE, "--json")
    assert [(row["prompt"], row["ended_by"]) for row in found] == [("Note 7", "length"), ("the €", "length")]
    assert all(len(row["text"]) == 20 for row in found) and found[0]["text"] != found[1]["text"]
    shown = printed(capsys, "--prompt", "Note 7", "the €", *SAMPLE)
    assert shown == "\n".join(f"{row['prompt']}{row['text']}\n" for row in found)


def test_texts_are_printed_as_they_grow(monkeypatch):
    pieces = []
    monkeypatch.setattr("builtins.print", lambda *text, **options: pieces.append((*text, options)))
    assert main(["generate", "text", "--prompt", "Note 7", *map(str, SAMPLE)]) == 0
    assert pieces[0] == ("Note 7", {"end": "", "flush": True}) and [len(text) for text, _ in pieces] == [6, 8, 8, 4, 1]


def test_a_file_of_prompts_in_every_format(capsys):
    texts = ["Note 7: the", "a", "of the matter A, and 1 more", "Ü"]
    Path("in.txt").write_text("\n".join(texts))
    Path("in.csv").write_text("id,prompt\n" + "".join(f'{i},"{text}"\n' for i, text in enumerate(texts)))
    Path("in.jsonl").write_text("".join(json.dumps({"text": "no", "prompt": text}) + "\n" for text in texts))
    expected = lines(capsys, "--prompt", *texts, *SAMPLE, "--json")
    assert [row["prompt"] for row in expected] == texts
    for name in ("in.txt", "in.csv", "in.jsonl"):
        assert lines(capsys, "--input", name, *SAMPLE) == expected, name
    assert printed(capsys, "--input", "in.txt", *SAMPLE, "--output", "out.jsonl", "--batch-size", 1) == ""
    assert [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()] == expected
    assert lines(capsys, "--input", "in.txt", *SAMPLE, "--seed", 1) != expected
    assert "Ü" in Path("out.jsonl").read_text(), "not escaped"


def test_a_text_ends_before_a_text_to_stop_at(capsys):
    (free,) = lines(capsys, "--prompt", "Note", *SAMPLE, "--json")
    (ended,) = lines(capsys, "--prompt", "Note", *SAMPLE, "--json", "--stop", "never", free["text"][7:9])
    assert ended == {"prompt": "Note", "text": free["text"][: free["text"].index(free["text"][7:9])], "ended_by": "stop"}


def test_examples_come_before_every_prompt(capsys):
    Path("examples.jsonl").write_text('{"prompt": "Note 1", "text": ": the"}\n{"prompt": "a", "text": " A"}\n')
    for options in (SAMPLE, ("--max-new-tokens", 20, "--beams", 2)):
        (found,) = lines(capsys, "--prompt", "Note 7", "--examples", "examples.jsonl", "--json", *options)
        (whole,) = lines(capsys, "--prompt", "Note 1: the\n\na A\n\nNote 7", "--json", *options)
        assert found == {**whole, "prompt": "Note 7"}


@pytest.mark.parametrize("beams", [1, 3])
def test_an_encoder_decoder_generates_what_it_predicts(capsys, beams):
    sources = ["Note 7: the heart", "a", "of the matter A, and 1 more"]
    options = ("--text", *sources, "--how", f"objective.beams={beams}", "--json")
    assert main(["predict", "pairs", *options]) == 0
    predicted = [row["text"] for row in json.loads(capsys.readouterr().out)]
    assert main(["generate", "pairs", "--prompt", *sources, "--beams", str(beams), "--json"]) == 0
    out, err = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert [row["source"] for row in found] == sources and [row["text"].strip() for row in found] == predicted
    assert all(predicted) and (beams > 1 or len(set(predicted)) > 1)
    assert "the model reads 64 tokens: a text has at most 63 new ones\n" in err


def test_a_mesh_gives_the_same_texts(capsys):
    options = ("--prompt", "Note 7", "the", *SAMPLE, "--json")
    assert lines(capsys, *options, "--mesh.data", 2, "--mesh.tensor", 2, "--mesh.fsdp", 2) == lines(capsys, *options)


def test_a_text_longer_than_the_context_is_announced(capsys):
    assert main(["generate", "text", "--prompt", "Note", "--max-new-tokens", "60", "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)["text"]) == 60
    assert err == "the model reads 48 tokens: a longer text goes on from its last 24\n"


def error(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main(["generate", *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1
    return err


ERRORS = {
    "no prompt": ([], "give the texts to generate from: either --prompt TEXT … or --input FILE"),
    "two prompts": (["--prompt", "a", "--input", "b"], "either --prompt TEXT … or --input FILE"),
    "no text": (["--prompt"], "--prompt is empty"),
    "empty": (["--prompt", ""], "--prompt: prompt is empty"),
    "second empty": (["--prompt", "a", ""], "--prompt, text 2: prompt is empty"),
    "empty line": (["--input", "empty.jsonl"], "empty.jsonl, line 2: prompt is empty"),
    "long": (["--prompt", "a" * 60], "--prompt: the prompt has 61 tokens; the model can read 47"),
    "option": (["--prompt", "a", "--topk", "3"], "unknown option --topk; did you mean --top-k?"),
    "top-k": (["--prompt", "a", "--top-k", "3"], "error: top_k, top_p and min_p select tokens to sample from: set temperature"),
    "new tokens": (["--prompt", "a", "--max-new-tokens", "0"], "error: max_new_tokens must be at least 1, not 0"),
    "no file": (["--input", "no.jsonl"], "no.jsonl: No such file or directory"),
    "no field": (["--input", "other.jsonl"], "other.jsonl, line 1: no text in the field 'prompt'; available: id, source"),
    "not a text": (["--input", "number.jsonl"], "number.jsonl, line 1: no text in the field 'prompt'; available: prompt"),
    "broken file": (["--input", "broken.jsonl"], "broken.jsonl, line 1: not JSON"),
    "no examples": (["--prompt", "a", "--examples", "no.jsonl"], "no.jsonl: No such file or directory"),
    "bad examples": (
        ["--prompt", "a", "--examples", "other.jsonl"],
        "line 1: an example has the fields 'prompt' and 'text'; ",
    ),
    "output": (["--prompt", "a", "--output", "no/out.jsonl"], "no/out.jsonl: No such file or directory"),
}


@pytest.mark.parametrize(("arguments", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_errors_are_one_line(capsys, arguments, message):
    Path("empty.jsonl").write_text('{"prompt": "a"}\n{"prompt": ""}\n')
    Path("other.jsonl").write_text('{"id": 1, "source": "a"}\n')
    Path("number.jsonl").write_text('{"prompt": 1}\n')
    Path("broken.jsonl").write_text("{\n")
    assert message in error(capsys, "text", *arguments)


def test_a_source_that_is_empty_or_does_not_fit_is_an_error(capsys):
    assert "--prompt: source is empty" in error(capsys, "pairs", "--prompt", "")
    long = error(capsys, "pairs", "--prompt", "a", "ab" * 100)
    assert "--prompt, text 2: the source has 201 tokens; the model can read 64" in long


def test_unknown_characters_are_announced(capsys):
    assert main(["generate", "text", "--prompt", "Note ☃", "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().err == "1 of 6 tokens are unknown to the tokenizer\n"


def test_a_run_that_does_not_generate_is_an_error(capsys):
    assert "objective Classification generates no texts; use fmodels predict" in error(capsys, "classes", "--prompt", "a")


@pytest.mark.slow
def test_two_processes_give_the_same_texts(capsys, front_door, runs):
    options = ("--prompt", "Note 7", "the", "of", *SAMPLE)
    expected, port = lines(capsys, *options, "--json"), free_port()
    cluster = (f"--cluster.coordinator=127.0.0.1:{port}", "--cluster.processes=2")
    for more, wanted in (
        (["--output", "both.jsonl"], ""),
        ([], "\n".join(f"{row['prompt']}{row['text']}\n" for row in expected)),
    ):
        started = [
            front_door("generate", "text", *options, *more, *cluster, f"--cluster.process={i}", cwd=runs) for i in range(2)
        ]
        outputs = [process.communicate(timeout=120) for process in started]
        assert [process.returncode for process in started] == [0, 0], outputs
        assert [out for out, _ in outputs] == [wanted, ""]
    assert [json.loads(line) for line in Path("both.jsonl").read_text().splitlines()] == expected
