"""`fmodels quickstart`, the default command: pretrain, fine-tune, and compare with training from scratch."""

from dataclasses import dataclass
from pathlib import Path

from train import cli
from train.runs.signals import stoppable


@dataclass(frozen=True)
class Arguments:
    """Pretrain on the documentation of the installed libraries, fine-tune on few examples, and compare with training from
    scratch."""

    dir: str = "runs/quickstart"
    "folder of the runs and the report; rerun the command to resume"


def main(arguments: list[str]) -> int:
    wanted = cli.parse(Arguments, arguments, "fmodels quickstart")

    def work() -> int:
        from train.studies.quickstart import quickstart

        quickstart(Path(wanted.dir))
        return 0

    return stoppable(work)
