"""The report of a run: data to one HTML page that needs nothing beside it, neither script nor address.

Each function returns a piece of HTML, made of what it was given and nothing else; `page` puts pieces together, and `of_run` does
so for a run directory. Figures are drawn in the colours of the light theme, which become CSS variables and follow the reader's.
"""

import base64
import dataclasses
import hashlib
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from train.rundir import read_metrics

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
PANELS = (  # of a run
    *("loss", "masked_lm_accuracy", "next_sentence_accuracy", "accuracy", "learning_rate"),
    *("tokens_per_second", "examples_per_second"),
)
TEXT_SHOWN = 480  # characters of a passage

Runs = Mapping[str, Sequence[Mapping[str, Any]]]
"name of a run: its logged steps, as `rundir.read_metrics` reads them"


def of_run(path: Path, labels: Sequence[str], samples: Sequence[Mapping[str, Any]]) -> str:
    """The page of a run directory. `labels` names the classes, if there are any; `samples` are rows for `predictions`."""
    files = [path / f"{name}.json" for name in ("experiment", "environment", "result")]
    experiment, environment, results = (json.loads(file.read_text("utf-8")) if file.exists() else {} for file in files)
    log = read_metrics(path)
    logged = sorted({name for row in log for name in row}, key=lambda name: (not name.startswith("train/"), name))
    names = [name for metric in PANELS for name in logged if name.rpartition("/")[2] == metric]
    training = curves({path.name: log}, names) if names else _note("Nothing is logged: metrics.jsonl is empty.")
    sections = [("Training", training)]
    for split, result in results.items():
        sections.insert(0, (f"Result on the {split} split", headline(result)))
        if "per_class" in result:
            found = beside(confusion(result["confusion"], labels), per_class(result, labels))
            sections.append((f"Classes of the {split} split", found))
    sections += [("Predictions", predictions(samples))] * bool(samples) + [("Settings", details(experiment, environment))]
    parts = [_type(experiment.get(name)) for name in ("objective", "model")] + [_type(experiment.get("data", {}).get("source"))]
    if (steps := experiment.get("run", {}).get("steps")) is not None:
        parts.append(f"step {log[-1]['step'] if log else 0:,} of {steps:,}")
    parts.append("" if results else "not finished")
    return page(path.name, " · ".join(filter(None, parts)), sections)


def page(title: str, summary: str, sections: Sequence[tuple[str, str]]) -> str:
    """A whole page. `title`, `summary` and the sections' titles are text; what the sections hold is HTML."""
    links = "".join(f'<a href="#section-{i}">{escape(name)}</a>' for i, (name, _) in enumerate(sections))
    body = "\n".join(
        f'<section id="section-{i}" aria-labelledby="title-{i}"><h2 id="title-{i}">{escape(name)}</h2>\n{html}\n</section>'
        for i, (name, html) in enumerate(sections)
    )
    light, dark = (";".join(f"--{name}:{pair[i]}" for name, pair in THEME.items()) for i in (0, 1))
    style = f":root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{CSS}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{escape(title)}</h1><p>{escape(summary)}</p><nav>{links}</nav></header>
<main>
{body}
</main>
</body>
</html>
"""


def headline(result: Mapping[str, Any]) -> str:
    """The single figures of a result in large type; one that is the `loss` by another name, its only term, once."""
    numbers = {name: value for name, value in result.items() if isinstance(value, int | float)}
    shown = {name: value for name, value in numbers.items() if name == "loss" or value != numbers.get("loss")}
    tiles = (f"<div><dt>{escape(name.replace('_', ' '))}</dt><dd>{_number(value)}</dd></div>" for name, value in shown.items())
    return f'<dl class="headline">{"".join(tiles)}</dl>'


def beside(*pieces: str) -> str:
    """Pieces side by side where the screen is wide enough."""
    return f'<div class="beside">{"".join(pieces)}</div>'


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], emphasised: int | None = None) -> str:
    """The first column labels the rows. Text stays as it is; columns of numbers, also written as text, are aligned right."""
    numeric = [j > 0 and all(_is_number(row[j]) for row in rows) for j in range(len(header))]
    mark = [' class="n"' if n else "" for n in numeric]
    head = "".join(f'<th scope="col"{mark[j]}>{escape(name)}</th>' for j, name in enumerate(header))
    body = []
    for i, row in enumerate(rows):
        first, *rest = (escape(cell) if isinstance(cell, str) else _number(cell) for cell in row)
        cells = "".join(f"<td{m}>{cell}</td>" for m, cell in zip(mark[1:], rest, strict=True))
        best = ' class="best"' if i == emphasised else ""
        body.append(f'<tr{best}><th scope="row">{first}</th>{cells}</tr>')
    return _scroll(f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>", ", ".join(header))


def confusion(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """A heat map of counts [C, C], rows labels and columns predictions; the deeper a cell, the larger its share of the row."""
    labels = _named(labels, len(matrix))
    head = "".join(f'<th scope="col"><span>{escape(label)}</span></th>' for label in labels)
    body = []
    for i, (label, counts) in enumerate(zip(labels, matrix, strict=True)):
        cells = []
        for j, count in enumerate(counts):
            depth = 0.15 + 0.85 * math.sqrt(count / max(sum(counts), 1))  # so that a rare mistake is seen
            kind = ("hit" if i == j else "miss") + (" deep" if depth > 0.75 else "") if count else "none"
            cells.append(f'<td class="{kind}" style="--depth:{depth:.0%}">{count}</td>')
        body.append(f'<tr><th scope="row">{escape(label)}</th>{"".join(cells)}</tr>')
    kind = "heat long" if max(map(len, labels)) > 3 else "heat"
    heat = f'<table class="{kind}"><thead><tr><td class="corner"></td>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    total, right = sum(map(sum, matrix)), sum(row[i] for i, row in enumerate(matrix))
    key = '<b class="key hit deep">right</b> <b class="key miss deep">wrong</b>'
    caption = f"{right:,} of {total:,} right. A row is a label, a column a prediction. Deeper: a larger share of the row. {key}"
    return f"<figure>{_scroll(heat, 'confusion matrix')}<figcaption>{caption}</figcaption></figure>"


def per_class(result: Mapping[str, Any], labels: Sequence[str]) -> str:
    """Precision, recall, F1 and support from the `per_class` of a classification's result."""
    columns = [result["per_class"][name] for name in ("precision", "recall", "f1", "support")]
    named = _named(labels, len(columns[0]))
    rows = [(label, f"{p:.3f}", f"{r:.3f}", f"{f:.3f}", f"{n:,.0f}") for label, p, r, f, n in zip(named, *columns, strict=True)]
    return table(("label", "precision", "recall", "F1", "support"), rows)


def predictions(rows: Sequence[Mapping[str, Any]]) -> str:
    """A card a row. It has `text`, or `image` [H, W, 1 or 3], and `prediction`, and maybe `probability` and the true `label`."""
    cards, verdicts = [], []
    for row in rows:
        label, prediction, probability = (row.get(name) for name in ("label", "prediction", "probability"))
        sure = f' <span class="muted">{probability:.1%}</span>' if probability is not None else ""
        lines = [f"<span><em>predicted</em> <b>{escape(str(prediction))}</b>{sure}</span>"]
        kind = ""
        if label is not None:
            verdicts.append(str(label) == str(prediction))
            kind = "right" if verdicts[-1] else "wrong"
            lines.insert(0, f'<span class="verdict">{"✓" if verdicts[-1] else "✗"} {kind}</span>')
            lines.append(f"<span><em>label</em> <b>{escape(str(label))}</b></span>")
        shown = _image(row["image"], label) if "image" in row else _passage(str(row["text"]))
        cards.append(f'<li class="{kind}">{shown}<p class="facts">{"".join(lines)}</p></li>')
    count = f"<figcaption>{sum(verdicts)} of these {len(verdicts)} are right.</figcaption>" if verdicts else ""
    kind = "images" if rows and "image" in rows[0] else "texts"
    return f'<figure><ul class="cards {kind}">{"".join(cards)}</ul>{count}</figure>'


def details(experiment_json: Mapping[str, Any], environment_json: Mapping[str, Any]) -> str:
    """Both folded, a line a value, named as the command line names them."""
    folded = []
    for name, values in (("experiment.json", experiment_json), ("environment.json", environment_json)):
        lines = "".join(f'<tr><th scope="row">{escape(key)}</th><td>{escape(value)}</td></tr>' for key, value in _flat(values))
        table = f'<table class="settings"><tbody>{lines}</tbody></table>'
        folded.append(f"<details><summary>{name}</summary>{table}</details>" if lines else "")
    return "".join(folded)


def curves(runs: Runs, names: Sequence[str], caption: str = "") -> str:
    """A panel a metric, over steps: `train/loss` and `validation/loss` share one, held-out splits with dots.

    Runs NAME-0, NAME-1, … of consecutive numbers are seeds of one kind: a thin line each, and their mean at the steps that all
    logged. What is None or not finite is a gap, of the mean too. `caption` is text.
    """
    panels = _panels(runs, names)
    series = [one for panel in panels.values() for one in panel]
    missing = [name for name in names if name not in {one.name for one in series}]
    notes = [caption] * bool(caption) + [f"Not logged: {', '.join(missing)}."] * bool(missing)
    keys = {one.legend: f"<li>{_swatch(one)}{escape(one.legend)}</li>" for one in series}
    columns = _columns(len(panels))
    svgs = [_svg(metric, panel, 4.2 if columns == 2 else 3.1) for metric, panel in panels.items()]
    note = f"<figcaption>{escape(' '.join(notes))}</figcaption>" if notes else ""
    grid = f'<div class="panels" style="--columns:{columns}">{"".join(svgs)}</div>'
    return f'<figure><ul class="keys">{"".join(keys.values())}</ul>{grid}{note}</figure>' if panels else _note(" ".join(notes))


def curves_png(path: Path, runs: Runs, names: Sequence[str]) -> None:
    """The figure of `curves` as a PNG on white. Raises ValueError if no run logged any of the names."""
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
            _draw(figure.add_subplot(rows, columns, i + 1), metric, panel)
        keys = {one.legend: Line2D([], [], **one.look, label=one.legend) for panel in panels.values() for one in panel}
        figure.legend(handles=list(keys.values()), loc="outside upper left", ncols=columns, frameon=False)
        figure.savefig(path, facecolor=THEME["paper"][0])


@dataclasses.dataclass(frozen=True)
class Series:
    """A metric of a run, or of several seeds: `main` is drawn strong, `seeds` thin; NaN is a gap."""

    name: str
    legend: str
    look: Mapping[str, Any]
    main: tuple[np.ndarray, np.ndarray]
    seeds: Sequence[tuple[np.ndarray, np.ndarray]]

    @property
    def described(self) -> str:
        steps, values = (array[np.isfinite(self.main[1])] for array in self.main)
        ends = [f"{_number(float(values[i]))} at step {steps[i]}" for i in dict.fromkeys((0, len(steps) - 1)) if len(steps)]
        return f"{self.legend}: {' to '.join(ends) or 'no finite value'}"


def _panels(runs: Runs, names: Sequence[str]) -> dict[str, list[Series]]:
    """{metric: what is drawn of it}"""
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
            colour = i if len(kinds) > 1 else splits.index(split)  # of the kind; of the split, where there is only one kind
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
    """{kind: its runs}; a lone run needs no name."""
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


def _draw(axes: "Axes", metric: str, panel: Sequence[Series]) -> None:
    from matplotlib.ticker import MaxNLocator

    for i, one in enumerate(panel):
        for steps, values in one.seeds:
            axes.plot(steps, values, **{**one.look, "linewidth": 0.8, "markersize": 2}, markevery=_alone(values), alpha=0.4)
        steps, values = one.main
        marked = slice(None) if one.look["marker"] else _alone(values)
        hidden = sum(np.array_equal(one.main, other.main, equal_nan=True) for other in panel[:i])  # lines under this one
        style = {"linestyle": (4 * hidden, (4, 4 * hidden))} if hidden else {}
        axes.plot(steps, values, **{**one.look, **style, "marker": "o"}, markevery=marked, clip_on=False)
    if not any(np.isfinite(values).any() for one in panel for _, values in (one.main, *one.seeds)):
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", color=THEME["muted"][0])
    if metric.endswith("_per_second"):
        axes.set_ylim(bottom=0)
    axes.set_title(metric.replace("_", " "), loc="left")
    axes.set_xlabel("step", loc="right")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.10g}")


def _alone(values: np.ndarray) -> list[int]:
    """Where a value has no neighbour that a line could join it to."""
    finite = np.concatenate([[False], np.isfinite(values), [False]])
    return np.flatnonzero(finite[1:-1] & ~finite[:-2] & ~finite[2:]).tolist()


def _svg(metric: str, panel: Sequence[Series], inches: float) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(inches, 2.4), layout="constrained")
        _draw(figure.add_subplot(), metric, panel)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = written.getvalue()
    label = f"{metric.replace('_', ' ')} by step. {'; '.join(one.described for one in panel)}"
    box = re.findall(r'viewBox="[^"]*"', text)[0]
    drawing = re.sub(r"<style.*?</style>", "", text[text.index(">", text.index("<svg")) + 1 :], flags=re.DOTALL)
    for name, (light, _) in THEME.items():
        drawing = drawing.replace(light, f"var(--{name})")
    own = hashlib.sha256(drawing.encode()).hexdigest()[:8]  # ids of several figures share one page
    drawing = re.sub(r'(?<= id=")|(?<=xlink:href="#)|(?<=url\(#)', f"{own}-", drawing).replace("xlink:href", "href")
    return f'<svg {box} role="img" aria-label="{escape(label)}">{drawing}'


def _finite(value: Any) -> float:
    return float(value) if value is not None and math.isfinite(value) else math.nan


def _number(value: Any) -> str:
    """As given where that is short, and with four decimals or three digits where not."""
    if value is None:
        return "-"
    if isinstance(value, int) or 1000 <= abs(value) < math.inf:
        return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}"
    short = f"{value:.4f}" if abs(value) >= 0.001 else f"{value:.2e}"
    return min(repr(float(value)), short, key=len)


def _is_number(cell: Any) -> bool:
    return not isinstance(cell, str) or bool(re.match(r"[+-]?[\d.,]*\d|-?$", cell))


def _type(value: Any) -> str:
    """The class of a part of an experiment, or the part itself where it is a word."""
    return value["type"].rpartition(":")[2] if isinstance(value, dict) else str(value or "")


def _named(labels: Sequence[Any], count: int) -> list[str]:
    if labels and len(labels) != count:
        raise ValueError(f"{len(labels)} labels for {count} classes")
    return [str(label) for label in labels or range(count)]


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif name:
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _note(text: str) -> str:
    return f'<p class="muted">{escape(text)}</p>'


def _scroll(html: str, what: str) -> str:
    return f'<div class="scroll" role="region" aria-label="{escape(what)}" tabindex="0">{html}</div>'


def _passage(text: str) -> str:
    shown = text if len(text) <= TEXT_SHOWN else text[:TEXT_SHOWN].rsplit(maxsplit=1)[0]
    rest = f' <span class="muted">[… {len(text) - len(shown):,} more characters]</span>' if shown != text else ""
    return f"<blockquote>{escape(shown)}{rest}</blockquote>"


def _image(pixels: Any, label: Any) -> str:
    from matplotlib.image import imsave

    array = np.asarray(pixels, np.float32)
    low, high = min(0.0, float(array.min())), float(array.max())
    grey = (array - low) / max(high - low, 1e-9)
    written = io.BytesIO()
    imsave(written, np.broadcast_to(grey, (*array.shape[:2], 3)), format="png")
    data = base64.b64encode(written.getvalue()).decode()
    alt = f"image of {array.shape[0]} by {array.shape[1]} pixels" + (f", labelled {label}" if label is not None else "")
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}">'


def _swatch(one: Series) -> str:
    """The line of a legend."""
    colour = next(f"var(--{name})" for name in COLOURS if THEME[name][0] == one.look["color"])
    dash, width = DASHES[one.look["linestyle"]], one.look["linewidth"] + 0.4
    dot = f'<circle cx="12" cy="5" r="3.2" fill="{colour}"/>' if one.look["marker"] else ""
    line = f'<path d="M0 5H24" stroke="{colour}" stroke-width="{width:.1f}" stroke-dasharray="{dash or "none"}"/>'
    return f'<svg class="swatch" width="24" height="10" viewBox="0 0 24 10" aria-hidden="true">{line}{dot}</svg>'


STYLE: dict[Any, Any] = {
    **{"font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold", "svg.fonttype": "none", "svg.hashsalt": "fmodels"},
    **dict.fromkeys(("axes.titlecolor", "text.color", "legend.labelcolor"), THEME["ink"][0]),
    **dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), THEME["muted"][0]),
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), THEME["line"][0]),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False),
    **{"axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.linewidth": 0.6, "ytick.major.size": 0},
}

CSS = """
*{box-sizing:border-box}
body{margin:0 auto;max-width:64rem;padding:2.5rem 1.25rem 4rem;background:var(--paper);color:var(--ink);font:1rem/1.55 system-ui,
  -apple-system,"Segoe UI",Roboto,sans-serif;font-variant-numeric:tabular-nums;-webkit-text-size-adjust:100%}
h1{margin:0;font-size:2rem;line-height:1.2;letter-spacing:-.02em;overflow-wrap:anywhere}h2{margin:0 0 1rem;font-size:1.2rem}
header p{margin:.35rem 0 0;color:var(--muted)}section{padding-top:2.25rem}
nav{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin-top:1.25rem;padding:.6rem 0;border:solid var(--line);border-width:1px 0;
  font-size:.9rem}
a{color:var(--link);text-decoration:none}a:hover{text-decoration:underline}
figure{margin:0}figcaption,.muted{color:var(--muted)}figcaption{margin-top:.75rem;font-size:.9rem}
ul{list-style:none;margin:0;padding:0}
.headline div,.panels svg,.cards li,details{background:var(--card);border:1px solid var(--line);border-radius:.6rem}
.headline{display:flex;flex-wrap:wrap;gap:.75rem;margin:0}.headline div{flex:1 1 8rem;padding:.8rem 1rem}
dt{font-size:.85rem;color:var(--muted)}dd{margin:0;font-size:1.5rem;font-weight:600;line-height:1.3}
.keys{display:flex;flex-wrap:wrap;gap:.25rem 1.5rem;margin-bottom:.75rem;font-size:.9rem}.swatch{margin-right:.5rem;fill:none}
.panels{display:grid;grid-template-columns:repeat(var(--columns),minmax(0,1fr));gap:1rem}
.panels svg{display:block;width:100%;height:auto;padding:.5rem;stroke-linejoin:round}.panels text{font-family:inherit!important}
.scroll{overflow-x:auto}.beside{display:flex;flex-wrap:wrap;gap:2rem 3rem;align-items:flex-start}
.beside>*{min-width:0;max-width:100%}.beside figcaption{width:0;min-width:max(100%,17rem)}
table{border-collapse:collapse;font-size:.92rem}
th,td{padding:.45rem .8rem;text-align:left;border-bottom:1px solid var(--line)}
thead th{color:var(--muted);font-weight:500;vertical-align:bottom}tbody th{font-weight:500}.n{text-align:right;white-space:nowrap}
.best>*{font-weight:700;background:var(--card)}.best>:first-child{box-shadow:inset 3px 0 var(--c0)}
.heat th,.heat td{border:0}.heat thead th{padding:.3rem .4rem;text-align:center}
.heat tbody th{padding-left:0;text-align:right;white-space:nowrap}
.heat td{min-width:2.6rem;padding:.5rem .3rem;text-align:center;border:2px solid var(--paper);border-radius:.4rem}
.heat .corner{min-width:0}.long thead span{writing-mode:vertical-rl;transform:rotate(180deg)}
.hit{background:color-mix(in srgb,var(--hit) var(--depth,100%),var(--card))}
.miss{background:color-mix(in srgb,var(--miss) var(--depth,100%),var(--card))}
.deep{color:#fff}.none{color:var(--muted);background:var(--card)}.key{padding:.1rem .5rem;border-radius:.3rem;font-weight:500}
.cards{display:grid;gap:.75rem}.cards li{padding:.9rem 1rem;border-left-width:4px}
.cards .right{border-left-color:var(--right)}.cards .wrong{border-left-color:var(--wrong)}
.images{grid-template-columns:repeat(auto-fill,minmax(10rem,1fr))}
.images img{display:block;width:100%;max-width:7rem;margin-bottom:.6rem;border-radius:.3rem;image-rendering:pixelated}
blockquote{margin:0 0 .6rem;overflow-wrap:anywhere;white-space:pre-line}
.facts{display:flex;flex-wrap:wrap;gap:.1rem 1.25rem;margin:0;font-size:.9rem}.facts em{font-style:normal;color:var(--muted)}
.right .verdict{color:var(--right)}.wrong .verdict{color:var(--wrong)}.verdict{font-weight:700}
details{margin-bottom:.6rem;padding:.6rem 1rem}summary{cursor:pointer;font-weight:500}
.settings{width:100%;margin-top:.6rem;font-size:.85rem}.settings tr:last-child>*{border:0}
.settings th{width:45%;color:var(--muted)}
.settings th,.settings td{padding:.25rem .5rem .25rem 0;vertical-align:top;overflow-wrap:anywhere}
@media (max-width:48rem){.panels{grid-template-columns:minmax(0,1fr)}}
@media (max-width:30rem){body{padding:1.5rem .9rem 3rem}h1{font-size:1.6rem}th,td{padding:.4rem .5rem}
  .settings th,.settings td{display:block;width:auto}.settings th{border:0;padding-bottom:0}
  .heat td{min-width:1.9rem;padding:.35rem .1rem}.images{grid-template-columns:1fr 1fr}}
@media print{.cards li,svg{break-inside:avoid}}
"""
