"""`fmodels evaluate RUN`: compute the metrics of a run on a held-out split."""

import json
from dataclasses import dataclass

from train import cli, cluster
from train.errors import UserError, nearest
from train.runs.arguments import OtherData, RunArguments, assemble_run


@dataclass(frozen=True)
class Arguments(RunArguments):
    """Compute the metrics of a run on a whole split."""

    split: str | None = None
    "split to evaluate (None: test if there is one, else validation)"
    data: OtherData = OtherData()
    step: int | None = None
    "step of the checkpoint to evaluate (None: the newest)"
    best: bool = False
    "evaluate the best checkpoint, as chosen by run.best during training"
    json: bool = False
    "print one JSON value and nothing else"


def main(arguments: list[str]) -> int:
    wanted = cli.parse(Arguments, arguments, "fmodels evaluate")
    if wanted.best and wanted.step is not None:
        raise UserError("--best and --step both choose a checkpoint; give one of them")
    wanted.join()
    from train import loop
    from train.runs.trained import load

    job = assemble_run(wanted, wanted.data)
    splits = job.dataset.splits
    chosen = wanted.split or ("test" if "test" in splits else "validation")
    cluster.check_equal({"split": chosen, "best": wanted.best, "step": wanted.step})
    if chosen not in splits:
        raise UserError(f"{job.path} has no split {chosen}{nearest(chosen, splits)}")
    if wanted.data.source is not None and chosen == "train":
        raise UserError("--split train: choose a split of other data with --data.splits test=NAME")
    if wanted.best and wanted.data.source is None and chosen == job.dataset.held_out:
        cluster.say(f"the best checkpoint was chosen on {chosen}, so these figures are optimistic")
    params, model_state = load(job.path, job.program, cluster.say, wanted.step, wanted.best)
    result = loop.evaluate(job, params, model_state, chosen)
    if wanted.json:
        print(json.dumps({"run": str(job.path), "split": chosen, **result}))
    else:
        print(f"{job.path}, {wanted.data.source or chosen}: {len(splits[chosen]):,} examples")
        for name, value in result.items():
            if isinstance(value, float):
                print(f"  {name:24}{value:.4f}")
    return 0
