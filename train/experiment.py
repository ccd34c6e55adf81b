"""An experiment is a value: a tree of frozen dataclasses that holds all that a run depends on, and round-trips through JSON."""

import dataclasses
import importlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from train import parts
from train.errors import UserError, nearest
from train.optim import Optimizer
from train.sharding import Mesh
from train.step import Guard

PACKAGES = ("fmodels", "train", "data")


def how(default: Any) -> Any:
    """A field that says how a run runs, not what is learned: it may differ when the run continues."""
    return dataclasses.field(default=default, metadata={"how": True})


@dataclass(frozen=True, kw_only=True)
class Run:
    dir: str = how("")
    "where everything goes; runs/RECIPE unless told otherwise"
    steps: int = 1000
    "updates of the parameters"
    seed: int = 0
    "of initialisation, data order, corruption and dropout"
    precision: Literal["f32", "bf16"] = how("f32")
    "what the network computes in; parameters and moments are float32 always"
    accumulation: int = 1
    "microbatches that a batch is computed in; dropout is drawn, and batch norm computed, for each of them"
    log_every: int = how(20)
    "steps between lines of metrics.jsonl"
    evaluate_every: int = how(200)
    "steps between evaluations on the validation split; 0 for the last step only"
    checkpoint_every: int = how(200)
    "steps between checkpoints; the last step has one always"
    keep: int = how(2)
    "newest checkpoints kept, beside the best"
    best: str | None = how(None)
    "metric that chooses the best checkpoint, as [min:|max:]SPLIT/METRIC; None is the loss of the held-out split"
    read_threads: int = how(2)
    "threads that read batches ahead"
    read_workers: int = how(0)
    "processes that do, instead of threads of this one"
    guard: Guard = Guard()

    def __post_init__(self):
        for name in ("steps", "accumulation", "log_every", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("evaluate_every", "read_threads", "read_workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if self.best is not None and not re.fullmatch(r"((min|max):)?[^/:]+/.+", self.best):
            raise ValueError(f"best must be SPLIT/METRIC, min:SPLIT/METRIC or max:SPLIT/METRIC, not {self.best!r}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2**32), not {self.seed}")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Model, objective, data and optimizer may be of any type that keeps their contract; JSON has them with their import path."""

    model: Any
    objective: Any
    data: Any
    optimizer: Any = Optimizer()
    mesh: Mesh = Mesh()
    run: Run = Run()
    init_from: str | None = None
    "run to take parameters from, as far as they fit"

    def __post_init__(self):
        for name in parts.NAMES:
            if not dataclasses.is_dataclass(part := getattr(self, name)):
                raise ValueError(f'{name} must be a dataclass (in JSON with its "type": "MODULE:CLASS"), not {part!r}')
        parts.check(self)


def resolve(experiment: Experiment, facts: Mapping[str, Any]) -> Experiment:
    """Fill the unknown fields of the model and the objective from the facts of the data.

    Raises UserError if a field contradicts the data.
    """
    filled = {}
    for name in ("model", "objective"):
        try:
            filled[name] = parts.resolved(getattr(experiment, name), facts)
        except ValueError as error:
            raise UserError(f"{name}.{error}") from None
    return dataclasses.replace(experiment, **filled)


def with_run(experiment: Experiment, **changes: Any) -> Experiment:
    """Return the experiment with fields of its `run` changed."""
    return dataclasses.replace(experiment, run=dataclasses.replace(experiment.run, **changes))


def to_json(value: Any, declared: Any = Any) -> Any:
    """Plain JSON values; a dataclass that stands where its type is not declared carries it as `type`: "module:Class"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = get_type_hints(type(value))
        body = {f.name: to_json(getattr(value, f.name), hints[f.name]) for f in dataclasses.fields(value)}
        return body if declared is type(value) else {"type": f"{type(value).__module__}:{type(value).__qualname__}", **body}
    if isinstance(value, tuple | list):
        inner = (get_args(declared) or (Any,))[0]
        return [to_json(item, inner) for item in value]
    return value


def from_json(value: Any, declared: Any = Experiment, where: str = "", trusted: tuple[str, ...] = ()) -> Any:
    """The inverse of `to_json`. Raises UserError, naming the key, for an unknown key, an ill-typed or impossible value, and a
    type outside of this project's packages and the modules in `trusted`: nothing else is imported."""
    if declared is Any and isinstance(value, dict) and "type" in value:
        value = dict(value)
        declared = _load_type(value.pop("type"), where, trusted)
    if isinstance(declared, type) and dataclasses.is_dataclass(declared):
        if not isinstance(value, dict):
            raise UserError(f"{where}: a mapping of the fields of {declared.__name__} is needed, not {value!r}")
        hints = get_type_hints(declared)
        known = [f.name for f in dataclasses.fields(declared)]
        for key in value:
            if key not in known:
                raise UserError(f"{_join(where, key)}: unknown key{nearest(key, known)}")
        for f in dataclasses.fields(declared):
            if f.name not in value and f.default is f.default_factory is dataclasses.MISSING:
                raise UserError(f"{_join(where, f.name)} is missing")
        parts = {key: from_json(item, hints[key], _join(where, key), trusted) for key, item in value.items()}
        try:
            return declared(**parts)
        except (ValueError, TypeError) as error:
            raise UserError(_join(where, str(error))) from None
    if get_origin(declared) is tuple and dataclasses.is_dataclass(get_args(declared)[0]) and isinstance(value, list):
        return tuple(from_json(item, get_args(declared)[0], f"{where}[{i}]", trusted) for i, item in enumerate(value))
    return _checked(value, declared, where)


def _checked(value: Any, declared: Any, where: str) -> Any:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(declared).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise UserError(f"{where}: {error.errors()[0]['msg']}, not {value!r}") from None


def _load_type(path: str, where: str, trusted: tuple[str, ...]) -> type:
    if not isinstance(path, str):
        raise UserError(f'{where}.type: "MODULE:CLASS" is needed, not {path!r}')
    module, _, name = path.partition(":")
    if module.split(".")[0] not in (*PACKAGES, *trusted) and module not in trusted:
        raise UserError(f"{where}: {path} is not of this project; if you trust it, name its file: --import PATH/TO/{module}.py")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise UserError(f"{where}: there is no {name} in {module}") from None
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise UserError(f"{where}: {path} is not a dataclass")
    return found


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def leaves(value: Any, where: str = "", is_how: bool = False) -> Iterator[tuple[str, Any, bool]]:
    """(dotted name, value, whether it says how) of every field of an experiment, the types of its parts among them."""
    if not dataclasses.is_dataclass(value):
        yield where, value, is_how
        return
    if where:
        yield f"{where}.type", f"{type(value).__module__}:{type(value).__qualname__}", is_how
    for f in dataclasses.fields(value):
        yield from leaves(getattr(value, f.name), _join(where, f.name), is_how or f.metadata.get("how", f.type is Mesh))


def fields(experiment: Experiment) -> dict[str, str]:
    """The value of every field by its dotted name, as processes tell each other."""
    return {name: repr(value) for name, value, _ in leaves(experiment)}


def differences(a: Experiment, b: Experiment) -> list[str]:
    """`field: a's value, b's value` of every field that changes what is learned."""
    of_a, of_b = ({name: value for name, value, is_how in leaves(e) if not is_how} for e in (a, b))
    absent = object()
    return [
        f"{name}: {of_a.get(name, 'absent')!r}, {of_b.get(name, 'absent')!r}"
        for name in sorted(of_a.keys() | of_b.keys())
        if of_a.get(name, absent) != of_b.get(name, absent)
    ]
