"""The moving average of the parameters (`run.ema_decay`) is evaluated, saved, resumed and loaded."""

import json
import shutil

import chex
import jax
import pytest

from tests.train.experiments import short
from tests.train.processes import assert_same_model, model_of
from train import loop
from train.assemble import assemble
from train.experiment import with_run
from train.runs.checkpoints import Checkpoints
from train.step import State


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("average") / "whole"
    loop.train(with_run(short(folder), ema_decay=0.9))
    return folder


def state_of(folder) -> State:
    job = assemble(with_run(short(folder), ema_decay=0.9))
    with Checkpoints(folder, print) as checkpoints:
        state = checkpoints.restore(job.program)
    assert state is not None
    return state


def test_the_average_is_evaluated_and_saved_as_the_model(whole):
    state, job = state_of(whole), assemble(with_run(short(whole), ema_decay=0.9))
    assert state.average is not None
    chex.assert_trees_all_equal(jax.device_get(state.average), model_of(whole))
    result = json.loads((whole / "result.json").read_text())["test"]["loss"]
    assert loop.evaluate(job, *state.average, "test")["loss"] == pytest.approx(result, rel=1e-6)
    assert loop.evaluate(job, state.params, state.model_state, "test")["loss"] != pytest.approx(result, rel=1e-3)


def test_a_resumed_run_continues_the_average(whole, tmp_path):
    part = tmp_path / "part"
    shutil.copytree(whole, part)
    shutil.rmtree(part / "checkpoints" / "40")
    for name in ("result.json", "best.json"):
        (part / name).unlink(missing_ok=True)
    loop.train(with_run(short(part), ema_decay=0.9))
    assert_same_model(whole, part)
    chex.assert_trees_all_equal(state_of(whole).params, state_of(part).params)


def test_init_from_takes_the_average(whole, tmp_path):
    experiment = with_run(short(tmp_path / "next"), ema_decay=0.9, steps=1)
    loop.train(experiment := with_run(type(experiment)(**{**vars(experiment), "init_from": str(whole)}), ema_decay=0.999))
    state = state_of(tmp_path / "next")
    before = model_of(whole)[0]["model"]["dense_0"]["kernel"]
    moved = jax.tree.map(lambda x: abs(x["model"]["dense_0"]["kernel"] - before).max(), state.params, is_leaf=lambda x: "model" in x)
    assert 0 < moved < 0.1
