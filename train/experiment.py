"""Experiments: trees of frozen dataclasses that define a run completely and convert to and from JSON."""

import dataclasses
import importlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from train import parts
from train.errors import UserError, nearest
from train.optim import Optimizer
from train.sharding import Mesh
from train.step import Guard

PACKAGES = ("fmodels", "train", "data")


def how(default: Any) -> Any:
    """Return a field that does not affect what is learned, so it may change when a run is resumed."""
    return dataclasses.field(default=default, metadata={"how": True})


@dataclass(frozen=True, kw_only=True)
class Run:
    dir: str = how("")
    "run directory (default: runs/RECIPE)"
    steps: int = 1000
    "number of training steps"
    seed: int = 0
    "random seed for initialization, data order, corruption and dropout"
    precision: Literal["f32", "bf16"] = how("f32")
    "compute precision; parameters and optimizer state are always float32"
    accumulation: int = 1
    "microbatches per batch (gradient accumulation); dropout and batch norm work on each microbatch"
    ema_decay: float | None = None
    "decay of a moving average of parameters and batch statistics, which is evaluated and saved as the model (None: no average)"
    log_every: int = how(20)
    "steps between lines of metrics.jsonl"
    evaluate_every: int = how(200)
    "steps between evaluations on the held-out split (0: only after the last step)"
    checkpoint_every: int = how(200)
    "steps between checkpoints; the last step is always saved"
    keep: int = how(2)
    "number of newest checkpoints to keep, besides the best"
    best: str | None = how(None)
    "metric that chooses the best checkpoint, as [min:|max:]SPLIT/METRIC (default: loss of the held-out split)"
    patience: int | None = how(None)
    "stop after this many evaluations without a new best value of run.best's metric (None: train all steps)"
    read_threads: int = how(2)
    "threads that prefetch batches"
    read_workers: int = how(0)
    "reader processes that prefetch batches (0: threads)"
    guard: Guard = Guard()

    def __post_init__(self):
        for name in ("steps", "accumulation", "log_every", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("evaluate_every", "read_threads", "read_workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in (0, 1), or None for no average, not {self.ema_decay}")
        if self.patience is not None and (self.patience < 1 or not self.evaluate_every):
            what = f"{self.patience} with evaluate_every {self.evaluate_every}"
            raise ValueError(f"patience must be at least 1, and needs evaluations; it is {what}")
        if self.best is not None and not re.fullmatch(r"((min|max):)?[^/:]+/.+", self.best):
            raise ValueError(f"best must be SPLIT/METRIC, min:SPLIT/METRIC or max:SPLIT/METRIC, not {self.best!r}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2**32), not {self.seed}")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A complete experiment.

    `model`, `objective`, `data` and `optimizer` may be any dataclass that follows their contract. JSON stores their import path.
    """

    model: Any
    objective: Any
    data: Any
    optimizer: Any = Optimizer()
    mesh: Mesh = Mesh()
    run: Run = Run()
    init_from: str | None = None
    "run directory to load initial parameters from; parameters are matched by name"

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


def with_how(experiment: Experiment, settings: Sequence[str], trusted: tuple[str, ...] = ()) -> Experiment:
    """Return the experiment with `how` fields set by `settings`, each NAME=VALUE, such as `objective.beams=5`.

    Raises UserError for other fields and for invalid values.
    """
    allowed = [name for name, _, is_how in leaves(experiment) if is_how and not name.endswith(".type")]
    body = to_json(experiment, Experiment)
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in allowed:
            raise UserError(
                f"--how {setting}: expected FIELD=VALUE for a field that does not change training{nearest(name, allowed)}"
            )
        *path, last = name.split(".")
        part = body
        for key in path:
            part = part[key]
        try:
            part[last] = None if value == "None" else json.loads(value)
        except ValueError:
            part[last] = value
    return from_json(body, trusted=trusted) if settings else experiment


def to_json(value: Any, declared: Any = Any) -> Any:
    """Convert to JSON values. A dataclass of a type other than `declared` has the key `type`: "module:Class"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = get_type_hints(type(value))
        body = {f.name: to_json(getattr(value, f.name), hints[f.name]) for f in dataclasses.fields(value)}
        return body if declared is type(value) else {"type": f"{type(value).__module__}:{type(value).__qualname__}", **body}
    if isinstance(value, tuple | list):
        inner = (get_args(declared) or (Any,))[0]
        return [to_json(item, inner) for item in value]
    return value


def from_json(value: Any, declared: Any = Experiment, where: str = "", trusted: tuple[str, ...] = ()) -> Any:
    """Convert JSON values to an experiment, the inverse of `to_json`. Import only from this project's packages and `trusted`.

    Raises UserError that names the key: for an unknown or missing key, an invalid value, or a type from another module.
    """
    if declared is Any and isinstance(value, dict) and "type" in value:
        value = dict(value)
        declared = _load_type(value.pop("type"), where, trusted)
    if isinstance(declared, type) and dataclasses.is_dataclass(declared):
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected a mapping of the fields of {declared.__name__}, not {value!r}")
        hints = get_type_hints(declared)
        known = [f.name for f in dataclasses.fields(declared)]
        for key in value:
            if key not in known:
                raise UserError(f"{_join(where, key)}: unknown key{nearest(key, known)}")
        for f in dataclasses.fields(declared):
            if f.name not in value and f.default is f.default_factory is dataclasses.MISSING:
                raise UserError(f"{_join(where, f.name)} is missing")
        values = {key: from_json(item, hints[key], _join(where, key), trusted) for key, item in value.items()}
        try:
            return declared(**values)
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
        raise UserError(f'{where}.type: expected "MODULE:CLASS", not {path!r}')
    module, _, name = path.partition(":")
    if module.split(".")[0] not in (*PACKAGES, *trusted) and module not in trusted:
        raise UserError(f"{where}: {path} is not part of this project; if you trust it, pass --import PATH/TO/{module}.py")
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
    """Yield (dotted name, value, whether it is a `how` field) for every field of an experiment and for the types of its parts."""
    if not dataclasses.is_dataclass(value):
        yield where, value, is_how
        return
    if where:
        yield f"{where}.type", f"{type(value).__module__}:{type(value).__qualname__}", is_how
    for f in dataclasses.fields(value):
        yield from leaves(getattr(value, f.name), _join(where, f.name), is_how or f.metadata.get("how", f.type is Mesh))


def fields(experiment: Experiment) -> dict[str, str]:
    """Return the repr of every field by its dotted name, for comparison between processes."""
    return {name: repr(value) for name, value, _ in leaves(experiment)}


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Return a line `NAME: saved A, requested B` for every field, except `how` fields, that differs between `a` and `b`: two
    experiments, or two parts of them with the name `where`."""
    saved, requested = ({name: value for name, value, is_how in leaves(e, where) if not is_how} for e in (a, b))
    absent = object()
    return [
        f"{name}: saved {saved.get(name, 'absent')!r}, requested {requested.get(name, 'absent')!r}"
        for name in sorted(saved.keys() | requested.keys())
        if saved.get(name, absent) != requested.get(name, absent)
    ]
