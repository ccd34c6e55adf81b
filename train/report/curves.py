"""Metrics over steps, one panel per metric and one line per run, as SVG in the theme of the page or as a PNG."""

import dataclasses
import hashlib
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THEME = {  # name: (light, dark)
    **{"paper": ("#ffffff", "#0e1116"), "card": ("#f6f7f9", "#171b21"), "line": ("#dde1e6", "#30363e")},
    **{"ink": ("#1d2127", "#e6e9ed"), "muted": ("#5d6570", "#98a1ac"), "link": ("#1a5fb4", "#7cb0f5")},
    **{"right": ("#1a7f37", "#4cc26a"), "wrong": ("#b93327", "#f5776c")},
    **{"hit": ("#1c5cab", "#2a66bd"), "miss": ("#c2410c", "#b34a12")},
    # Lines: at least 3:1 on a card, and distinct with protanopia and deuteranopia (Machado et al. 2009).
    **{"c0": ("#2a78d6", "#4a90e8"), "c1": ("#e2571f", "#ee7440"), "c2": ("#0f9a6c", "#27b585"), "c3": ("#45309c", "#b3a6ff")},
}
COLOURS, DASHES = ("c0", "c1", "c2", "c3"), {"-": "", "--": "6 3", ":": "2 2"}
CHANCE = "chance"
CHANCE_LOOK: dict[str, Any] = {"color": THEME["muted"][0], "linewidth": 1.0, "linestyle": (0, (1.5, 2.5))}
NO_CHANCE: Mapping[str, float] = MappingProxyType({})
Runs = Mapping[str, Sequence[Mapping[str, Any]]]
"{run name: logged rows, as `train.runs.log.read_metrics` returns them}"
STYLE: dict[Any, Any] = {
    **{"font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold", "svg.fonttype": "none", "svg.hashsalt": "fmodels"},
    **dict.fromkeys(("axes.titlecolor", "text.color", "legend.labelcolor"), THEME["ink"][0]),
    **dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), THEME["muted"][0]),
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), THEME["line"][0]),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False),
    **{"axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.linewidth": 0.6, "ytick.major.size": 0},
}


def curves(runs: Runs, names: Sequence[str], caption: str = "", chance: Mapping[str, float] = NO_CHANCE) -> str:
    """Return HTML with one panel per metric over steps: `train/loss` and `validation/loss` share a panel; held-out splits have
    dots.

    Runs named NAME-0, NAME-1, … are seeds of one configuration: thin lines, and a thick line for the mean over common steps.
    None and non-finite values are gaps, also in the mean. `caption` is plain text. `chance` maps metrics to their values without
    learning, drawn as dotted lines.
    """
    panels = _panels(runs, names)
    series = [one for panel in panels.values() for one in panel]
    missing = [name for name in names if name not in {one.name for one in series}]
    notes = [caption] * bool(caption) + [f"Not logged: {', '.join(missing)}."] * bool(missing)
    keys = {one.legend: f"<li>{_swatch(one)}{escape(one.legend)}</li>" for one in series}
    columns = _columns(len(panels))
    svgs = [_svg(metric, panel, chance.get(metric), 4.2 if columns == 2 else 3.1) for metric, panel in panels.items()]
    if chance.keys() & panels.keys():
        keys[CHANCE] = f"<li>{_line('var(--muted)', 1.4, '1.5 2.5')}{CHANCE}</li>"
    figcaption = f"<figcaption>{escape(' '.join(notes))}</figcaption>" if notes else ""
    grid = f'<div class="panels" style="--columns:{columns}">{"".join(svgs)}</div>'
    return (
        f'<figure><ul class="keys">{"".join(keys.values())}</ul>{grid}{figcaption}</figure>' if panels else note(" ".join(notes))
    )


def curves_png(path: Path, runs: Runs, names: Sequence[str], chance: Mapping[str, float] = NO_CHANCE) -> None:
    """Write the figure of `curves` as a PNG on white. Raises ValueError if no run logged any of the names."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    panels = _panels(runs, names)
    if not panels:
        raise ValueError(f"nothing to draw: no run logged {', '.join(names)}")
    columns = min(len(panels), _columns(len(panels)))
    rows = -(-len(panels) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(10 if columns > 1 else 6, 2.6 * rows + 0.5), layout="constrained", dpi=160)
        for i, (metric, panel) in enumerate(panels.items()):
            _draw(figure.add_subplot(rows, columns, i + 1), metric, panel, chance.get(metric))
        looks = {one.legend: one.look for panel in panels.values() for one in panel}
        looks |= {CHANCE: CHANCE_LOOK} if chance.keys() & panels.keys() else {}
        figure.legend(
            handles=[Line2D([], [], **look, label=name) for name, look in looks.items()],
            loc="outside upper left",
            ncols=columns,
            frameon=False,
        )
        figure.savefig(path, facecolor=THEME["paper"][0])


@dataclasses.dataclass(frozen=True)
class Series:
    """A metric of one run, or of several seeds: `main` is drawn thick, `seeds` thin; NaN is a gap."""

    name: str
    legend: str
    look: Mapping[str, Any]
    main: tuple[np.ndarray, np.ndarray]
    seeds: Sequence[tuple[np.ndarray, np.ndarray]]

    @property
    def description(self) -> str:
        steps, values = (array[np.isfinite(self.main[1])] for array in self.main)
        ends = [f"{number(float(values[i]))} at step {steps[i]}" for i in dict.fromkeys((0, len(steps) - 1)) if len(steps)]
        return f"{self.legend}: {' to '.join(ends) or 'no finite value'}"


def _panels(runs: Runs, names: Sequence[str]) -> dict[str, list[Series]]:
    """Return {metric: its lines}."""
    kinds = _kinds(runs)
    splits = list(dict.fromkeys(sorted((name.rpartition("/")[0] for name in names), key=lambda split: split != "train")))
    panels: dict[str, list[Series]] = {}
    for name in dict.fromkeys(names):
        split, _, metric = name.rpartition("/")
        for i, (kind, members) in enumerate(kinds.items()):
            logs = [{row["step"]: _finite(row[name]) for row in runs[run] if name in row} for run in members]
            logs = [log for log in logs if log]
            if not logs:
                continue
            lines = [(np.array(list(log)), np.array(list(log.values()))) for log in logs]
            common = [step for step in logs[0] if all(step in log for log in logs)]
            mean = np.array(common), np.array([math.fsum(log[step] for log in logs) / len(logs) for step in common])
            colour = i if len(kinds) > 1 else splits.index(split)  # by kind, or by split if there is one kind
            held_out = split not in ("train", "")
            look = {
                "color": THEME[COLOURS[colour % len(COLOURS)]][0],
                "linestyle": list(DASHES)[colour // len(COLOURS) % len(DASHES)],
                "linewidth": 1.3 if held_out else 1.8,
                "marker": "o" if held_out else "",
                "markersize": 3.5,
            }
            legend = f"{kind}, {split}" if kind and split else kind or split or name
            legend += f" (mean of {len(logs)} seeds)" if len(logs) > 1 else ""
            panels.setdefault(metric, []).append(Series(name, legend, look, mean, lines if len(logs) > 1 else ()))
    return panels


def _kinds(runs: Runs) -> dict[str, list[str]]:
    """Group runs that differ only in their seed: {name without seed: run names}. The name is empty if there is one group."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        groups.setdefault(re.sub(r"-\d+$", "", run), []).append(run)
    kinds = {}
    for kind, members in groups.items():
        numbers = sorted(int(run[len(kind) + 1 :] or -1) for run in members)
        seeds = len(numbers) > 1 and numbers[0] >= 0 and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        kinds |= {kind: members} if seeds else {run: [run] for run in members}
    return kinds if len(kinds) != 1 else {"": next(iter(kinds.values()))}


def _columns(panels: int) -> int:
    return 2 if panels in (1, 2, 4) else 3


def _draw(axes: "Axes", metric: str, panel: Sequence[Series], chance: float | None) -> None:
    from matplotlib.ticker import MaxNLocator

    if chance is not None:
        axes.axhline(chance, **CHANCE_LOOK)
    for i, one in enumerate(panel):
        for steps, values in one.seeds:
            axes.plot(steps, values, **{**one.look, "linewidth": 0.8, "markersize": 2}, markevery=_alone(values), alpha=0.4)
        steps, values = one.main
        marked = slice(None) if one.look["marker"] else _alone(values)
        hidden = sum(np.array_equal(one.main, other.main, equal_nan=True) for other in panel[:i])  # equal lines under this one
        style = {"linestyle": (4 * hidden, (4, 4 * hidden))} if hidden else {}
        axes.plot(steps, values, **{**one.look, **style, "marker": "o"}, markevery=marked, clip_on=False)
    if not any(np.isfinite(values).any() for one in panel for _, values in (one.main, *one.seeds)):
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", color=THEME["muted"][0])
    if metric.endswith("_per_second"):
        axes.set_ylim(bottom=0)
    axes.set_title(metric, loc="left")
    axes.set_xlabel("step", loc="right")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.10g}")


def _alone(values: np.ndarray) -> list[int]:
    """Return the indices of finite values without finite neighbours, which a line does not show."""
    finite = np.concatenate([[False], np.isfinite(values), [False]])
    return np.flatnonzero(finite[1:-1] & ~finite[:-2] & ~finite[2:]).tolist()


def _svg(metric: str, panel: Sequence[Series], chance: float | None, inches: float) -> str:
    described = [one.description for one in panel] + ([] if chance is None else [f"{CHANCE}: {number(chance)}"])
    label = f"{metric} by step. {'; '.join(described)}"
    return svg(lambda axes: _draw(axes, metric, panel, chance), label, (inches, 2.4))


def svg(draw: Callable[["Axes"], None], label: str, inches: tuple[float, float]) -> str:
    """Return a figure that `draw` draws. `label` describes it to those who cannot see it."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=inches, layout="constrained")
        draw(figure.add_subplot())
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = written.getvalue()
    box = re.findall(r'viewBox="[^"]*"', text)[0]
    drawing = re.sub(r"<style.*?</style>", "", text[text.index(">", text.index("<svg")) + 1 :], flags=re.DOTALL)
    for name, (light, _) in THEME.items():
        drawing = drawing.replace(light, f"var(--{name})")
    own = hashlib.sha256(drawing.encode()).hexdigest()[:8]  # makes ids unique: several figures share a page
    drawing = re.sub(r'(?<= id=")|(?<=xlink:href="#)|(?<=url\(#)', f"{own}-", drawing).replace("xlink:href", "href")
    return f'<svg {box} role="img" aria-label="{escape(label)}">{drawing}'


def _finite(value: Any) -> float:
    return float(value) if value is not None and math.isfinite(value) else math.nan


def number(value: Any) -> str:
    """Format a number in full if that is short, else with four decimals or three significant digits."""
    if value is None:
        return "-"
    if isinstance(value, int) or 1000 <= abs(value) < math.inf:
        return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}"
    short = f"{value:.4f}" if abs(value) >= 0.001 else f"{value:.2e}"
    return min(repr(float(value)), short, key=len)


def note(text: str) -> str:
    return f'<p class="muted">{escape(text)}</p>'


def _swatch(one: Series) -> str:
    """Return the SVG of a line in the legend."""
    colour = next(f"var(--{name})" for name in COLOURS if THEME[name][0] == one.look["color"])
    dash, width = DASHES[one.look["linestyle"]], one.look["linewidth"] + 0.4
    dot = f'<circle cx="12" cy="5" r="3.2" fill="{colour}"/>' if one.look["marker"] else ""
    return _line(colour, width, dash or "none", dot)


def _line(colour: str, width: float, dashes: str, dot: str = "") -> str:
    line = f'<path d="M0 5H24" stroke="{colour}" stroke-width="{width:.1f}" stroke-dasharray="{dashes}"/>'
    return f'<svg class="swatch" width="24" height="10" viewBox="0 0 24 10" aria-hidden="true">{line}{dot}</svg>'
