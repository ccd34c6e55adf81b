"""Experiments: JSON round trips, errors that name the field, and the fields that may change when resuming."""

import copy
import json
import sys
from dataclasses import replace
from typing import Any

import pytest

from data.images.labelled import Images
from data.sources.digits import Digits
from data.text.labelled import LabelledText
from data.text.language_modelling import Text
from fmodels.bert import BertConfig
from fmodels.convnet import ConvNetConfig
from fmodels.mlp import MlpConfig
from train import recipes
from train.errors import UserError
from train.experiment import Experiment, Run, differences, from_json, leaves, resolve, to_json, with_how
from train.objectives.classification import Classification
from train.objectives.masked_lm import MaskedLM
from train.optim import Optimizer, Rule
from train.sharding import RULES, Mesh
from train.step import Guard


def bert() -> Experiment:
    """An experiment with non-default values in fields of every type."""
    return Experiment(
        model=BertConfig(layers=2, width=16, heads=2, hidden=None, max_length=64),
        objective=MaskedLM(next_sentence=True, mask_id=4, random_ids=(5, 300)),
        data=Text(layout="pairs", length=32),
        optimizer=Optimizer(clip_norm=None, rules=(Rule(pattern=r".*/bias", freeze=True), Rule(pattern=".*", learning_rate=0.5))),
        mesh=Mesh(data=2, fsdp=4),
        run=Run(steps=10, guard=Guard(policy="skip", spike=3.0)),
        init_from="runs/other",
    )


def digits() -> Experiment:
    objective = Classification(classes=10, class_weights=(1.0,) * 10, label_shares=(0.1,) * 10)
    return Experiment(model=ConvNetConfig(), objective=objective, data=Images(source=Digits(), shape=(8, 8, 1)))


def through_json(experiment: Experiment) -> Experiment:
    return from_json(json.loads(json.dumps(to_json(experiment, Experiment), allow_nan=False)))


EXPERIMENTS = {**recipes.known(), "sentence pairs": bert, "source object": digits}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_recipe_round_trips(name):
    experiment = EXPERIMENTS[name]()
    assert through_json(experiment) == experiment
    assert differences(through_json(experiment), experiment) == []
    assert through_json(replace(experiment, run=replace(experiment.run, seed=2**32 - 1))).run.seed == 2**32 - 1


def test_undeclared_types_are_stored_with_their_import_path():
    value = to_json(digits(), Experiment)
    assert value["model"]["type"] == "fmodels.convnet:ConvNetConfig"
    assert value["data"]["source"] == {"type": "data.sources.digits:Digits"}
    assert value["optimizer"]["type"] == "train.optim:Optimizer"
    assert "type" not in value and "type" not in value["run"] and "type" not in value["optimizer"]["rules"][0]
    assert value["data"]["shape"] == [8, 8, 1]


def changed(path: str, value: Any) -> dict:
    """Return the JSON of `bert` with one key set to `value`, or removed if `value` is `...`."""
    whole = copy.deepcopy(to_json(bert(), Experiment))
    *parents, key = path.split(".")
    at = whole
    for parent in parents:
        at = at[int(parent) if isinstance(at, list) else parent]
    if value is ...:
        del at[key]
    else:
        at[int(key) if isinstance(at, list) else key] = value
    return whole


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("modle", "modle: unknown key; did you mean model?"),
        ("run.step", "run.step: unknown key; did you mean steps?"),
        ("run.guard.polcy", "run.guard.polcy: unknown key; did you mean policy?"),
        ("model.layer", "model.layer: unknown key; did you mean layers?"),
        ("data.sorce", "data.sorce: unknown key; did you mean source?"),
        ("optimizer.rules.1.patern", "optimizer.rules[1].patern: unknown key; did you mean pattern?"),
        ("mesh.pipeline", "mesh.pipeline: unknown key; there are: data, fsdp, replica, rules, tensor"),
    ],
)
def test_unknown_keys_are_errors_that_suggest_the_nearest(path, message):
    with pytest.raises(UserError) as caught:
        from_json(changed(path, 1))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("run.steps", "100"),
        ("run.steps", 1.5),
        ("run.steps", True),
        ("run.steps", None),
        ("run.precision", "f16"),
        ("run.guard", "abort"),
        ("run.guard.spike", "high"),
        ("run", []),
        ("mesh.data", "all"),
        ("init_from", 3),
        ("model.layers", [2]),
        ("model.activation", "gleu"),
        ("model.scan", 1),
        ("data.layout", "rows"),
        ("data.tokenizer", 7),
        ("objective.random_ids", [5]),
        ("objective.mask_rate", "some"),
        ("optimizer.name", "adamv"),
        ("optimizer.rules", {"pattern": ".*"}),
        ("optimizer.rules", ".*"),
        ("optimizer.rules.0", ".*"),
        ("optimizer.rules.0.freeze", "yes"),
        ("optimizer.clip_norm", "1"),
        ("model", 3),
        ("model", None),
        ("objective", "masked_lm"),
        ("data", []),
        ("optimizer", "adamw"),
        ("model", {"layers": 2}),  # without a type
        ("model.type", 3),
        ("model.type", None),
    ],
)
def test_values_of_the_wrong_type_are_errors(path, value):
    with pytest.raises(UserError) as caught:
        from_json(changed(path, value))
    message = str(caught.value)
    where = path.replace(".0", "[0]").removesuffix(".type")
    assert message.startswith(where), message
    assert "\n" not in message
    wrong = value["pattern"] if isinstance(value, dict) and "pattern" in value else value
    assert repr(wrong) in message or str(wrong) in message, f"{message} shows the value"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("run.steps", 0, "run.steps must be at least 1, not 0"),
        ("run.accumulation", 0, "run.accumulation must be at least 1, not 0"),
        ("run.evaluate_every", -1, "run.evaluate_every must be 0 or more, not -1"),
        ("run.seed", 2**32, "run.seed must be in [0, 2**32), not 4294967296"),
        ("run.guard.limit", 0, "run.guard.limit must be at least 1, not 0"),
        ("run.guard.spike", 1.0, "run.guard.spike must be greater than 1, or None, not 1.0"),
        ("mesh.fsdp", 0, "mesh.fsdp must be at least 1, or -1 for all remaining devices, not 0"),
        ("model.dropout", 1.0, "model.dropout must be in [0, 1), not 1.0"),
        ("model.heads", 3, "model.width 16 does not divide into 3 heads"),
        ("data.length", 7, "data.length must be at least 8, not 7"),
        ("data.batch_size", 0, "data.batch_size must be at least 1, not 0"),
        ("objective.mask_rate", 1.0, "objective.mask_rate must be in (0, 1), not 1.0"),
        ("optimizer.learning_rate", 0, "optimizer.learning_rate must be greater than 0, not 0.0"),
        ("optimizer.rules.1.pattern", "(", "optimizer.rules[1].pattern '(' is not a regular expression: "),
        # impossible combinations
        ("data.length", 65, "data.length 65 is more than model.max_length 64"),
        ("data.layout", "windows", "objective.next_sentence needs pairs of segments: set data.layout pairs"),
        ("model.attention", "cudnn", "model.attention cudnn does not support attention dropout: set attention_dropout to 0"),
        ("optimizer.name", "adam", "optimizer.weight_decay 0.1 is not supported by adam: choose adamw or optimizer.l2"),
    ],
)
def test_values_out_of_range_are_errors(path, value, message):
    whole = changed(path, value)
    whole["optimizer"]["weight_decay"] = 0.1
    with pytest.raises(UserError) as caught:
        from_json(whole)
    assert str(caught.value).startswith(message)
    assert str(caught.value) == message or message.endswith(": ")


@pytest.mark.parametrize("path", ["model", "objective", "data", "optimizer.rules.0.pattern"])
def test_missing_fields_are_errors(path):
    with pytest.raises(UserError, match=path.split(".")[-1]):
        from_json(changed(path, ...))


def test_json_that_is_not_an_experiment_is_an_error():
    for value in ([], "digits-mlp", None):
        with pytest.raises(UserError, match="expected a mapping of the fields of Experiment"):
            from_json(value)


@pytest.mark.parametrize("where", ["model", "objective", "data", "data.source", "optimizer"])
def test_modules_from_outside_are_imported_only_if_trusted(tmp_path, monkeypatch, where):
    """Reading a run does not execute its author's code unless the user names the module."""
    mark = tmp_path / "imported"
    touch = f"import dataclasses, pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    for name in ("theirs", "trainer"):  # "trainer" begins like our package "train"
        (tmp_path / f"{name}.py").write_text(f"{touch}@dataclasses.dataclass(frozen=True)\nclass Thing:\n    size: int = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    for module in ("theirs", "trainer", "theirs.data", "os"):
        with pytest.raises(UserError) as caught:
            from_json(changed(where, {"type": f"{module}:Thing"}))
        advice = f"if you trust it, pass --import PATH/TO/{module}.py"
        assert str(caught.value) == f"{where}: {module}:Thing is not part of this project; {advice}"
    assert not mark.exists() and "theirs" not in sys.modules

    whole = changed(where, {"type": "theirs:Thing", "size": 2})
    if where == "data":
        whole["objective"]["next_sentence"] = False  # the other data has no pairs
    read = from_json(whole, trusted=("theirs",))
    assert mark.exists()
    part = read
    for name in where.split("."):
        part = getattr(part, name)
    assert part == sys.modules["theirs"].Thing(2)
    monkeypatch.delitem(sys.modules, "theirs")


@pytest.mark.parametrize(
    ("type_", "message"),
    [
        ("fmodels.birt:BertConfig", "model: there is no BertConfig in fmodels.birt"),
        ("fmodels.bert:BirtConfig", "model: there is no BirtConfig in fmodels.bert"),
        ("fmodels.bert", "model: there is no  in fmodels.bert"),
        ("fmodels.bert:bert", "model: fmodels.bert:bert is not a dataclass"),
        ("fmodels.", "model: there is no "),
    ],
)
def test_types_that_do_not_exist_are_errors(type_, message):
    with pytest.raises(UserError) as caught:
        from_json(changed("model", {"type": type_}))
    assert str(caught.value).startswith(message)


HOW = {
    *("run.dir", "run.precision", "run.log_every", "run.evaluate_every", "run.checkpoint_every", "run.keep", "run.best"),
    *("run.read_threads", "run.read_workers", "run.patience", "data.accept_changed", "objective.logits_chunk"),
    *("mesh.replica", "mesh.data", "mesh.fsdp", "mesh.tensor", "mesh.rules", "mesh.type", "model.attention", "model.remat"),
}


def test_how_fields():
    assert {name for name, _, is_how in leaves(bert()) if is_how} == HOW


def test_differences_ignore_how_fields():
    before = bert()
    how = replace(
        before,
        model=replace(before.model, attention="xla", remat="full"),
        objective=replace(before.objective, logits_chunk=64),
        data=replace(before.data, accept_changed=True),
        mesh=Mesh(replica=2, tensor=2, rules={**RULES, "embed": ()}),
        run=replace(
            before.run,
            dir="elsewhere",
            precision="bf16",
            log_every=1,
            evaluate_every=7,
            checkpoint_every=3,
            keep=9,
            best="validation/accuracy",
            patience=3,
            read_threads=1,
            read_workers=3,
        ),
    )
    assert {name for (name, a, _), (_, b, _) in zip(leaves(before), leaves(how), strict=True) if a != b} == HOW - {"mesh.type"}
    assert differences(before, how) == []

    learned = replace(
        how,
        model=replace(how.model, layers=3),
        data=replace(how.data, batch_size=8),
        run=replace(how.run, seed=1, guard=Guard()),
        optimizer=replace(how.optimizer, rules=how.optimizer.rules[:1]),
        init_from=None,
    )
    assert [difference.split(":")[0] for difference in differences(before, learned)] == [
        *("data.batch_size", "init_from", "model.layers", "optimizer.rules", "run.guard.policy", "run.guard.spike", "run.seed")
    ]
    assert "model.layers: saved 2, requested 3" in differences(before, learned)


def test_differences_of_types_are_named():
    found = differences(digits(), replace(digits(), model=MlpConfig()))
    assert "model.type: saved 'fmodels.convnet:ConvNetConfig', requested 'fmodels.mlp:MlpConfig'" in found
    assert "model.channels: saved (32, 64, 128), requested 'absent'" in found
    assert all(line.startswith("model.") for line in found)
    assert [line.split(":")[0] for line in differences(digits(), replace(digits(), data=Images(shape=(8, 8, 1))))] == [
        "data.source",
        "data.source.type",
    ]


FACTS = {"vocab_size": 300, "mask_id": 4, "random_ids": (5, 300)}


def test_resolve_fills_unset_fields():
    unresolved = replace(bert(), objective=MaskedLM(next_sentence=True), model=replace(bert().model, vocab_size=300))
    resolved = resolve(unresolved, FACTS | {"classes": 7})
    assert resolved == replace(unresolved, objective=MaskedLM(next_sentence=True, mask_id=4, random_ids=(5, 300)))
    assert resolve(resolved, FACTS) == resolved, "fields that agree with the facts are unchanged"
    assert resolve(replace(unresolved, model=replace(unresolved.model, vocab_size=512)), FACTS).model.vocab_size == 512, (
        "more rows than tokens"
    )
    assert resolve(replace(unresolved, model=replace(unresolved.model, vocab_size=None)), FACTS).model.vocab_size == 384, "padded"
    labels = {"classes": 10, "label_shares": (0.1,) * 10}
    found = resolve(replace(digits(), objective=Classification()), labels).objective
    assert (found.classes, found.label_shares) == (10, (0.1,) * 10)
    assert through_json(resolved) == resolved


@pytest.mark.parametrize(
    ("part", "facts", "message"),
    [
        ({"objective": MaskedLM(mask_id=3)}, FACTS, "objective.mask_id is 3, but the data has 4: set it to 4"),
        (
            {"model": BertConfig(vocab_size=299)},
            FACTS,
            "model.vocab_size is 299, but the data has 300: set it to 300 or more",
        ),
        (
            {"objective": Classification(classes=3), "data": LabelledText(length=16)},
            {"classes": 4},
            "objective.classes is 3, but the data has 4: set it to 4",
        ),
        (
            {"objective": Classification(class_weights=(1.0, 2.0)), "data": LabelledText(length=16)},
            {"classes": 4, "label_shares": (0.25,) * 4},
            "objective.class_weights has 2 entries for 4 classes",
        ),
    ],
    ids=["mask_id", "vocab_size", "classes", "class_weights"],
)
def test_fields_that_contradict_the_data_are_errors(part, facts, message):
    with pytest.raises(UserError) as caught:
        resolve(replace(bert(), **part), facts)
    assert str(caught.value) == message


def test_how_fields_of_a_run_can_be_set():
    experiment = recipes.find("multi30k-en-de")[1]()
    found = with_how(
        experiment, ["objective.beams=5", "run.precision=bf16", 'objective.metrics=["chrf"]', "objective.logits_chunk=None"]
    )
    assert (found.objective.beams, found.run.precision, found.objective.metrics) == (5, "bf16", ("chrf",))
    assert not differences(experiment, found)
    for wrong, message in {
        "objective.beam=5": r"--how objective.beam=5: expected FIELD=VALUE.*; did you mean objective.beams\?",
        "run.seed=3": r"--how run.seed=3: expected FIELD=VALUE for a field that does not change training",
        "objective.beams": r"--how objective.beams: expected FIELD=VALUE",
        "objective.beams=0": r"objective.beams must be at least 1, not 0",
        "objective.beams=many": r"objective.beams: Input should be a valid integer",
    }.items():
        with pytest.raises(UserError, match=message):
            with_how(experiment, [wrong])
