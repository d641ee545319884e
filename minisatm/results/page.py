"""The results of one run folder: the table for the terminal and report.html beside the paper's figures.

Everything comes from the run folder alone; what it lacks is named with the reason. `python -m minisatm.report RUN`
draws the figures and writes the report again.
"""

import base64
import csv
from html import escape
from pathlib import Path

from .figures import figure_curves, figure_results
from .paper import PAPER
from .screen import MEASURES, asides, blocks, caption, cell_text, epsilon_of, holdout_name
from .tables import (
    CONDITIONS,
    METHODS,
    compare_rows,
    compared_text,
    label,
    lookup,
    may_leak,
    methods_of,
    networks_of,
    read_config,
    read_results,
    read_rows,
    readings,
)  # fmt: skip

TITLES = {
    "Table 1": "White-box attacks on undefended networks",
    "Table 2": "White-box attacks before and after SATM",
    "Table 4": "Black-box attacks of the partner before and after SATM",
    "Table 5": "Black-box attacks of a hold-out network",
}
STARTS = "The clean phase ends at 0; every defence starts from there."
TERMS = "Moving means. Ensemble and SATM sum a clean and an adversarial term, so they lie higher than the others."
FIGURES = {
    "figure1": ("Fig. 1. Adversarial examples (left) and clean images (right)", "Red: the network is wrong. The "
                "difference is drawn around grey.", "no example pairs were saved"),
    "figure3": ("Fig. 3. Rates on training images", STARTS, "epochs.csv has no rates of training images"),
    "figure4": ("Fig. 4. Rates on validation images", STARTS, "epochs.csv has no rates of validation images"),
    "losses": ("Losses", TERMS, "log.csv has no losses"),
    "results": ("Results as bars", "The tables above, with 95 % intervals.", "there is no tables/results.csv"),
}  # fmt: skip
TABLE_5 = ("undefended", "control", "ensemble", "satm")
NOT_RUN = "Tables 3 (a third target), 6 (networks of one structure) and 7 (ImageNet, MNIST) need other runs than this."
NOTES = (
    "The intervals (95 %; Wilson for a rate, Bonett and Price for a paired difference) cover the draw of test images "
    "as if these were independent. Several images of one subject are not, so the true interval is wider; and they "
    "cover one training run: only several seeds show how much training itself varies.",
    "Control takes as many further clean steps as the defences take, unless early stopping ended a phase sooner. What "
    "control gains too, longer training explains.",
    "A robust rate means little alone: read it beside the clean rate and beside always answering the same class.",
    "SATM is not a defence against an attacker who holds the network itself (white-box) or takes many steps.",
)
LEAK_NOTE = (
    "Examples are crafted with the true label, so a network can learn to read it from the perturbation: an adversarial "
    "rate above the clean rate is a warning, not a success."
)
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


def write(run_dir):
    """Writes report.html, one self-contained file, from what the run folder holds; returns its path.

    A part that the folder lacks becomes a grey line with the reason. Raises InputError when it is not a run folder.
    """
    run_dir = Path(run_dir)
    config, rows = read_config(run_dir), read_results(run_dir)
    extra = (read_rows(run_dir / "tables" / f"{name}.csv") for name in ("differences", "predicted_labels"))
    parts = [_head(run_dir, config), _results(rows, config, *extra), _image(run_dir, "results")]
    parts += [_section(f"{name}. {title}", _beside(name, rows, config)) for name, title in TITLES.items()]
    parts.append(_missing(NOT_RUN))
    for name in ("figure1", "figure3", "figure4", "losses"):
        parts.append(_section(FIGURES[name][0], _image(run_dir, name)))
    others = sorted(path.stem for path in run_dir.glob("figures/*.png") if path.stem not in FIGURES)
    if others:
        parts.append(_section("Other figures", "".join(_image(run_dir, name) for name in others)))
    parts.append(_section("Confusion matrices, clean test images", _confusions(run_dir)))
    notes = "".join(f"<li>{escape(note)}</li>" for note in (*NOTES, *[LEAK_NOTE] * may_leak(config)))
    parts.append(_section("How to read this", f"<ul>{notes}</ul>"))
    title = escape(f"minisatm report: {run_dir.resolve().name}")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    page = f'<!doctype html>\n<html lang="en"><head>{head}<style>{CSS}</style></head>\n<body><main>\n'
    path = run_dir / "report.html"
    path.write_text(page + "\n".join(parts) + "\n</main></body></html>\n", encoding="utf-8")
    return path


def report(run_dir):
    """Draws the figures of a run folder again, writes report.html and returns its path; Fig. 1 stays as it was saved.

    Raises InputError when it is not a run folder.
    """
    figure_curves(run_dir)
    figure_results(run_dir)
    return write(run_dir)


def _section(title, body):
    return f"<section><h2>{escape(title)}</h2>\n{body}</section>"


def _missing(reason):
    return f'<p class="missing">{escape(reason)}</p>'


def _table(header, rows, caption=""):
    """An HTML table with all cells escaped, a tuple as a line with a smaller one below; SATM is highlighted."""

    def html(cell):
        if isinstance(cell, tuple):
            return f"{escape(cell[0])}<br><small>{escape(cell[1])}</small>"
        return escape(str(cell))

    head = "".join(f"<th>{escape(str(cell))}</th>" for cell in header)
    body = ""
    for row in rows:
        cells = "".join(f"<td>{html(cell)}</td>" for cell in row)
        body += f'<tr class="satm">{cells}</tr>' if row[0] == "SATM" else f"<tr>{cells}</tr>"
    caption = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>\n'


def _head(run_dir, config):
    networks = " and ".join(networks_of([], config)) or "networks unknown"
    data, seed = (config.get(key, "unknown") for key in ("data", "seed"))
    facts = f"{networks}; data {data}; ε = {epsilon_of(config)}; seed {seed}"
    values = [(key, ", ".join(map(str, value)) if isinstance(value, list) else value) for key, value in config.items()]
    settings = _table(("setting", "value"), sorted(values))
    title = f"<h1>{escape(run_dir.resolve().name)}</h1>"
    what = '<p class="sub">minisatm: simultaneous adversarial training, one run</p>'
    return f"{title}{what}<p>{escape(facts)}</p><details><summary>All settings</summary>{settings}</details>"


def _results(rows, config, differences, predicted):
    if not methods_of(rows):
        return _section("Results", _missing("Not evaluated: there is no tables/results.csv with results."))
    parts = [f"<p>{escape(caption(rows, config))} Large: classification rate; small: one-off.</p>"]
    for network, block in blocks(rows, config):
        lines = [
            [m, *(tuple(cell_text(c, f) for _, f in MEASURES) if c else "-" for c in cells)] for m, *cells in block
        ]
        parts += [f"<h3>{escape(network)}</h3>", _table(("method", *CONDITIONS), lines)]
    parts += [f"<p>{escape(line)}</p>" for line in asides(rows, config)]
    compared = compare_rows(differences)
    if compared:
        header = ("difference", "condition", "network", "points [95 % interval]", "")
        parts.append(_table(header, compared, compared_text(differences)))
    for line in readings(rows, config, predicted):
        kind = ' class="warning"' if line.startswith("WARNING") else ""
        parts.append(f"<p{kind}>{escape(line)}</p>")
    return _section("Results", "".join(parts))


def _beside(name, rows, config):
    """One table of the paper next to the same quantities of this run."""
    banner = (
        "Not comparable: one run with its own data, networks and steps; the paper's are means of five Adience folds."
    )
    ours = [_ours(name, rows, config, network) for network in networks_of(rows, config)]
    ours = [line for line in ours if set(line[1:]) - {"-", "- → -"}]
    header = list(PAPER[name][0])
    if name == "Table 1":
        header = [header[0], f"white-box, ε {epsilon_of(config)}", "clean"]
    elif name == "Table 5":
        header.insert(3, "control")
    reason = "This run: not measured, tables/results.csv has no such rows."
    mine = _table(header, ours, "This run, %") if ours else _missing(reason)
    theirs = _table(PAPER[name][0], PAPER[name][1:], "The paper, as printed, %")
    return f'<p class="banner">{escape(banner)}</p><div class="grid"><div>{mine}</div><div>{theirs}</div></div>'


def _ours(name, rows, config, network):
    def percent(method, condition, field="rate"):
        cell = lookup(rows, method, network, condition)
        return f"{100 * cell[field]:.2f}" if cell else "-"

    def change(before, after, field):
        return f"{percent('undefended', before, field)} → {percent('satm', after, field)}"

    if name == "Table 1":
        return [network, percent("undefended", "white-box"), percent("undefended", "clean")]
    if name == "Table 2":
        return [network, *(change("white-box", "white-box", field) for field in ("rate", "one_off"))]
    if name == "Table 4":
        changes = (change("partner old", "partner new", field) for field in ("rate", "one_off"))
        return [network, *changes, percent("satm", "clean")]
    both = [(percent(m, "hold-out"), percent(m, "hold-out", "one_off")) for m in TABLE_5]
    if all(rate == "-" for rate, _ in both):
        return [network]
    hold = f"{holdout_name(rows, config) or 'hold-out'}, ε {epsilon_of(config)}"
    return [network, hold, *("-" if rate == "-" else f"{rate} / {near}" for rate, near in both)]


def _image(run_dir, name):
    path = run_dir / "figures" / f"{name}.png"
    title, caption, reason = FIGURES.get(name, (name, name, ""))
    if not path.is_file():
        return _missing(f"{title}: not here, {reason}.")
    source = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
    caption = f"<figcaption>{escape(caption)}</figcaption>"
    return f'<figure><img alt="{escape(title)}" src="{source}">{caption}</figure>'


def _confusions(run_dir):
    paths = [path for method in METHODS for path in sorted(run_dir.glob(f"tables/confusion_{method}_*.csv"))]
    if not paths:
        return _missing("Not here: there is no tables/confusion_<method>_<network>.csv.")
    intro = (
        "Rows: true groups, columns: answers. Counts; colour: share of the row; framed: what one-off accepts (Eq. 4)."
    )
    return f'<p>{intro}</p><div class="grid">{"".join(_confusion(path) for path in paths)}</div>'


def _confusion(path):
    with open(path, newline="", encoding="utf-8") as file:
        names, *lines = list(csv.reader(file)) or [[]]
    try:
        counts = [[int(cell) for cell in line] for line in lines]
    except ValueError:
        counts = []
    if not counts or any(len(line) != len(names) for line in [names, counts, *counts]):
        return _missing(f"{path.name} is not a square table of counts.")
    body = ""
    for i, line in enumerate(counts):
        body += f"<tr><th>{escape(names[i])}</th>"
        for k, count in enumerate(line):
            share = count / max(1, sum(line))
            style = f"background:rgba(11,85,159,{share:.2f});color:{'#fff' if share > 0.5 else '#1d2430'}"
            body += f'<td{" class=band" if abs(i - k) <= 1 else ""} style="{style}">{count}</td>'
        body += "</tr>"
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    _, method, network = path.stem.split("_", 2)
    title = f"<h3>{escape(label(method))}, {escape(network)}</h3>"
    return f'<div class="scroll">{title}<table class="confusion"><tr><th>true</th>{head}</tr>{body}</table></div>'
