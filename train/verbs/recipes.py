"""`fmodels recipes`: list the recipes."""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

from train import cli, parts, recipes
from train.experiment import resolve, to_json


@dataclass(frozen=True)
class Arguments:
    """List the recipes with their descriptions, numbers of parameters, and data."""

    json: bool = False
    "print one JSON value and nothing else"


def main(arguments: list[str]) -> int:
    wanted = cli.parse(Arguments, arguments, "fmodels recipes")
    rows = [describe(name, recipe) for name, recipe in recipes.known().items()]
    if wanted.json:
        print(json.dumps(rows))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("recipe", "description", "parameters", "data", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(row["name"], row["what"], f"{row['parameters']:,}", str(row["data"]))
    console = Console(highlight=False)
    console.print(table)
    console.print("\nTo train one: fmodels run RECIPE")
    return 0


def describe(name: str, recipe: recipes.Recipe) -> dict[str, Any]:
    """Return the row of a recipe. `parameters` counts those of the model; sizes that only the data tells are assumed."""
    import jax
    import numpy as np

    from fmodels.axes import split

    experiment = recipe()
    experiment = resolve(experiment, parts.assumed(experiment.data))
    spec = {key: jax.ShapeDtypeStruct(s.shape, s.dtype) for key, s in experiment.data.spec().items()}
    init = partial(experiment.objective.init, experiment.model.build())
    boxed, _ = jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)), spec)
    params = split(boxed)[0]["model"]
    return {
        "name": name,
        "what": (recipe.__doc__ or "").strip().splitlines()[0].rstrip("."),
        "parameters": sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params)),
        "data": to_json(experiment.data.source),
        "command": f"fmodels run {name}",
    }
