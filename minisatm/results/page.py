"""report.html of a run: its results beside the paper's, its figures, and how to read them.

Everything comes from the run folder alone; what it lacks is named with the reason.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from .figures import figure_curves, figure_results
from .paper import PAPER
from .readings import MEASURES, asides, blocks, caption, cell_text, comparisons, comparisons_title, sentences
from .rows import CLEAN, HOLD_OUT, PARTNER_NEW, PARTNER_OLD, WHITE_BOX
from .tables import CONDITIONS, Results, label

Cell = str | tuple[str, str]  # a tuple: a line with a smaller one below

TITLES = {
    "Table 1": "White-box attacks on undefended networks",
    "Table 2": "White-box attacks before and after SATM",
    "Table 4": "Black-box attacks of the partner before and after SATM",
    "Table 5": "Black-box attacks of a hold-out network",
}
STARTS = "The clean phase ends at 0; every defence starts from there."
FIGURES = {  # title, caption, and why it may be missing
    "figure1": ("Fig. 1. Adversarial examples (left) and clean images (right)", "Red: the network is wrong. The "
                "difference is drawn around grey.", "no example pairs were saved"),
    "figure3": ("Fig. 3. Rates on training images", STARTS, "epochs.csv has no rates of training images"),
    "figure4": ("Fig. 4. Rates on validation images", STARTS, "epochs.csv has no rates of validation images"),
    "losses": ("Losses", "Moving means. Ensemble and SATM sum a clean and an adversarial term, so they lie higher than "
               "the others.", "log.csv has no losses"),
    "results": ("Results as bars", "The tables above, with 95 % intervals.", "there is no tables/results.csv"),
}  # fmt: skip
TABLE_5 = ("undefended", "control", "ensemble", "satm")
NOT_RUN = "Tables 3 (a third target), 6 (networks of one structure) and 7 (ImageNet, MNIST) need other runs than this."
BANNER = "Not comparable: one run with its own data, networks and steps; the paper's are means of five Adience folds."
NOTES = (
    "The intervals (95 %; Wilson for a rate, Bonett and Price for a paired difference) cover the draw of test images "
    "as if these were independent. Several images of one subject are not, so the true interval is wider; and they "
    "cover one training run: only several seeds show how much training itself varies.",
    "Control takes as many further clean steps as the defences take, unless early stopping ended a phase sooner. What "
    "control gains too, longer training explains.",
    "A robust rate means little alone: read it beside the clean rate and beside always answering the same class.",
    "SATM is not a defence against an attacker who holds the network itself (white-box) or takes many steps.",
)
LEAK_NOTE = ("Examples are crafted with the true label, so a network can learn to read it from the perturbation: an "
             "adversarial rate above the clean rate is a warning, not a success.")  # fmt: skip
CSS = """
:root{--ink:#1d2430;--soft:#5d6675;--line:#d9dee6;--accent:#0b559f}
body{font:16px/1.55 system-ui,"Segoe UI",Roboto,sans-serif;color:var(--ink);background:#f4f6f9;margin:0}
main{max-width:1020px;margin:0 auto;padding:2rem 2.5rem 4rem;background:#fff}h1{margin:.2em 0 0;font-size:1.9rem}
h2{margin:2.4em 0 .6em;padding-bottom:.2em;border-bottom:2px solid var(--accent)}h3{margin:1.5em 0 .4em;font-size:1rem}
p,li{max-width:74ch}.sub,figcaption,caption,small{color:var(--soft)}summary{cursor:pointer;color:var(--accent)}
.scroll{overflow-x:auto}table{border-collapse:collapse;margin:.5em 0 1em;font-size:.88rem}
th,td{padding:.32em .7em;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child,caption{text-align:left}thead th{border-bottom:2px solid #9aa4b2}
td{font-variant-numeric:tabular-nums}tr.satm td{background:#e9f1fb;font-weight:600}
figure{margin:.5em 0 1.5em}img{max-width:100%;height:auto}.missing{color:#7b8494;font-style:italic}
.banner,.warning{padding:.5em .9em;border-left:4px solid #e69f00;background:#fff6e0;margin:.8em 0}
.warning{border-color:#b3261e;background:#fdecea}.grid{display:flex;flex-wrap:wrap;gap:0 2.5rem}
.confusion td{border:2px solid #fff;text-align:right}.confusion td.band{outline:1.5px solid #1d2430;outline-offset:-3px}
"""


def report(results: Results) -> Path:
    """Draw the figures of a run folder again, write report.html and return its path; Fig. 1 stays as it was saved."""
    figure_curves(results)
    figure_results(results)
    return write(results)


def write(results: Results) -> Path:
    """Write report.html, one self-contained file, into the run folder that was read; return its path.

    A part that the folder lacks becomes a grey line with the reason.
    """
    folder = results.folder
    parts = [_head(results), _results(results), _image(folder, "results")]
    parts += [_section(f"{name}. {title}", _beside(name, results)) for name, title in TITLES.items()]
    parts.append(_missing(NOT_RUN))
    parts += [_section(FIGURES[name][0], _image(folder, name)) for name in ("figure1", "figure3", "figure4", "losses")]
    others = sorted(path.stem for path in folder.glob("figures/*.png") if path.stem not in FIGURES)
    if others:
        parts.append(_section("Other figures", "".join(_image(folder, name) for name in others)))
    parts.append(_section("Confusion matrices, clean test images", _confusions(results)))
    data = folder / "data.txt"
    about = data.read_text(encoding="utf-8").splitlines() if data.is_file() else []
    listed = f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in about)}</ul>"
    parts.append(_section("The data", listed if about else _missing("This folder has no data.txt with notes on it.")))
    notes = "".join(f"<li>{escape(note)}</li>" for note in (*NOTES, *[LEAK_NOTE] * results.may_leak))
    parts.append(_section("How to read this", f"<ul>{notes}</ul>"))
    title = escape(f"minisatm report: {folder.resolve().name}")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    page = f'<!doctype html>\n<html lang="en"><head>{head}<style>{CSS}</style></head>\n<body><main>\n'
    path = folder / "report.html"
    page += "\n".join(parts) + "\n</main></body></html>\n"
    path.write_text(page, encoding="utf-8", errors="backslashreplace")  # a folder's name can hold any bytes
    return path


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{body}</section>"


def _missing(reason: str) -> str:
    return f'<p class="missing">{escape(reason)}</p>'


def _table(header: Iterable[str], rows: Iterable[Sequence[Cell]], caption: str = "") -> str:
    """An HTML table with all cells escaped; SATM is highlighted."""

    def html(cell: Cell) -> str:
        return escape(cell) if isinstance(cell, str) else f"{escape(cell[0])}<br><small>{escape(cell[1])}</small>"

    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = ""
    for row in rows:
        cells = "".join(f"<td>{html(cell)}</td>" for cell in row)
        body += f'<tr class="satm">{cells}</tr>' if row[0] == "SATM" else f"<tr>{cells}</tr>"
    caption = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>\n'


def _head(results: Results) -> str:
    networks = " and ".join(results.networks) or "networks unknown"
    data, seed = (results.settings.get(key, "unknown") for key in ("data", "seed"))
    facts = f"{networks}; data {data}; ε = {results.epsilon}; seed {seed}"
    values = {k: ", ".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in results.settings.items()}
    settings = _table(("setting", "value"), sorted(values.items()))
    title = f"<h1>{escape(results.folder.resolve().name)}</h1>"
    what = '<p class="sub">minisatm: simultaneous adversarial training, one run</p>'
    return f"{title}{what}<p>{escape(facts)}</p><details><summary>All settings</summary>{settings}</details>"


def _results(results: Results) -> str:
    if not results.methods:
        return _section("Results", _missing("Not evaluated: there is no tables/results.csv with results."))
    parts = [f"<p>{escape(caption(results))} Large: classification rate; small: one-off.</p>"]
    rate, near = (field for _, field in MEASURES)
    for network, block in blocks(results):
        lines = [[m, *((cell_text(c, rate), cell_text(c, near)) if c else "-" for c in cells)] for m, cells in block]
        parts += [f"<h3>{escape(network)}</h3>", _table(("method", *CONDITIONS), lines)]
    parts += [f"<p>{escape(line)}</p>" for line in asides(results)]
    header = ("difference", "condition", "network", "points [95 % interval]", "")
    if compared := comparisons(results):
        parts.append(_table(header, compared, comparisons_title(results)))
    for line in sentences(results):
        kind = ' class="warning"' if line.startswith("WARNING") else ""
        parts.append(f"<p{kind}>{escape(line)}</p>")
    return _section("Results", "".join(parts))


def _beside(name: str, results: Results) -> str:
    """One table of the paper next to the same quantities of this run."""
    ours = [_ours(name, results, network) for network in results.networks]
    ours = [line for line in ours if set(line[1:]) - {"-", "- → -"}]
    header = list(PAPER[name][0])
    if name == "Table 1":
        header = [header[0], f"white-box, ε {results.epsilon}", "clean"]
    elif name == "Table 5":
        header.insert(3, "control")
    reason = "This run: not measured, tables/results.csv has no such rows."
    mine = _table(header, ours, "This run, %") if ours else _missing(reason)
    theirs = _table(PAPER[name][0], PAPER[name][1:], "The paper, as printed, %")
    return f'<p class="banner">{escape(BANNER)}</p><div class="grid"><div>{mine}</div><div>{theirs}</div></div>'


def _ours(name: str, results: Results, network: str) -> list[str]:
    """The line of one network in this run's version of a table of the paper."""

    def percent(method: str, condition: str, *fields: str) -> str:
        cell = results.cell(method, network, condition)
        return " / ".join(f"{100 * getattr(cell, field):.2f}" for field in fields) if cell else "-"

    def changes(before: str, after: str) -> list[str]:
        return [f"{percent('undefended', before, f)} → {percent('satm', after, f)}" for f in ("rate", "one_off")]

    both = [percent(method, HOLD_OUT, "rate", "one_off") for method in TABLE_5]
    holdout = f"{results.holdout_name or 'hold-out'}, ε {results.epsilon}"
    lines = {
        "Table 1": [percent("undefended", WHITE_BOX, "rate"), percent("undefended", CLEAN, "rate")],
        "Table 2": changes(WHITE_BOX, WHITE_BOX),
        "Table 4": [*changes(PARTNER_OLD, PARTNER_NEW), percent("satm", CLEAN, "rate")],
        "Table 5": [holdout, *both] if set(both) != {"-"} else [],
    }
    return [network, *lines[name]]


def _image(folder: Path, name: str) -> str:
    path = folder / "figures" / f"{name}.png"
    title, caption, reason = FIGURES.get(name, (name, name, ""))
    if not path.is_file():
        return _missing(f"{title}: not here, {reason}.")
    source = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
    caption = f"<figcaption>{escape(caption)}</figcaption>"
    return f'<figure><img alt="{escape(title)}" src="{source}">{caption}</figure>'


def _confusions(results: Results) -> str:
    if not results.confusions:
        return _missing("Not here: there is no tables/confusion_<method>_<network>.csv.")
    intro = "Rows: true classes, columns: answers. Counts; colour: share of the row; frame: one-off accepts it (Eq. 4)."
    matrices = "".join(_confusion(*key, *matrix) for key, matrix in results.confusions.items())
    return f'<p>{intro}</p><div class="grid">{matrices}</div>'


def _confusion(method: str, network: str, classes: list[str], counts: list[list[int]]) -> str:
    if not counts:
        return _missing(f"confusion_{method}_{network}.csv is not a square table of counts.")
    body = ""
    for i, line in enumerate(counts):
        body += f"<tr><th>{escape(classes[i])}</th>"
        for k, count in enumerate(line):
            share = count / max(1, sum(line))
            style = f"background:rgba(11,85,159,{share:.2f});color:{'#fff' if share > 0.5 else '#1d2430'}"
            body += f'<td{" class=band" if abs(i - k) <= 1 else ""} style="{style}">{count}</td>'
        body += "</tr>"
    head = "".join(f"<th>{escape(name)}</th>" for name in classes)
    title = f"<h3>{escape(label(method))}, {escape(network)}</h3>"
    return f'<div class="scroll">{title}<table class="confusion"><tr><th>true</th>{head}</tr>{body}</table></div>'
