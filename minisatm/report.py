"""The results of one run folder: the table for the terminal and report.html beside the paper's figures.

Everything comes from the run folder alone; what it lacks is named with the reason. `python -m minisatm.report RUN`
draws the figures and writes the report again.
"""

import argparse
import base64
import csv
import math
import sys
import textwrap
from html import escape
from pathlib import Path

from minisatm.errors import InputError
from minisatm.figures import (
    BASELINE,
    CONDITIONS,
    METHODS,
    epsilon_text,
    figure_curves,
    figure_pairs,
    figure_results,
    label,
    lookup,
    methods_of,
    networks_of,
    number,
    read_config,
    read_results,
)
from minisatm.metrics import unpaired_difference

__all__ = ["figure_curves", "figure_pairs", "figure_results", "main", "report", "results_table", "write"]

WIDTH = 110
COMPARISONS = (("control", "clean"), ("control", "partner new"), ("control", "hold-out"), ("ensemble", "hold-out"))

# The paper's printed figures (version 2), in percent: rate, or rate / one-off; an arrow is before -> after SATM.
PAPER = {
    "Table 1": (
        ("network, undefended", "white-box, ε 32/256", "16/256", "8/256", "4/256", "clean"),
        ("VGG16-Face", "3.95", "4.30", "6.97", "12.13", "56.73"),
        ("ResNet50-Face", "4.29", "8.79", "10.65", "21.80", "59.08"),
    ),
    "Table 2": (
        ("network", "white-box rate, before → after SATM", "one-off"),
        ("VGG16-Face", "4.30 → 7.22", "13.90 → 21.43"),
        ("ResNet50-Face", "8.79 → 12.56", "26.30 → 29.89"),
    ),
    "Table 4": (
        ("network", "partner's examples, before → after SATM", "one-off", "clean after SATM"),
        ("VGG16-Face", "35.39 → 52.40", "66.99 → 88.55", "56.29"),
        ("ResNet50-Face", "16.25 → 43.25", "36.16 → 76.11", "51.77"),
    ),
    "Table 5": (
        ("network", "hold-out", "undefended", "ensemble", "SATM"),
        ("VGG16-Face", "ResNet101-Img, ε 16/256", "31.29 / 62.61", "35.87 / 68.04", "37.40 / 72.16"),
        ("ResNet50-Face", "ResNet101-Img, ε 16/256", "22.59 / 47.57", "25.84 / 54.62", "29.19 / 58.27"),
        ("VGG16-Face", "InceptionResNetV2, ε 32/256", "37.74 / 62.48", "39.61 / 66.31", "42.59 / 67.23"),
        ("ResNet50-Face", "InceptionResNetV2, ε 32/256", "40.23 / 71.09", "43.12 / 78.62", "48.26 / 80.63"),
    ),
}
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
NOT_RUN = "Tables 3 (a third target), 6 (networks of one structure) and 7 (ImageNet, MNIST) need other runs than this."
NOTES = (
    "The intervals (Wilson, 95 %) cover the draw of test images, not the training: only several seeds show its spread.",
    "Control takes as many further clean steps as the defences take. What control gains too, longer training explains.",
    "A robust rate means little alone: read it beside the clean rate and beside always answering the same group.",
    "SATM is not a defence against an attacker who holds the network itself (white-box) or takes many steps.",
    "Examples are crafted with the true label, so a network can learn to read it from the perturbation: an adversarial "
    "rate above the clean rate is a warning, not a success.",
)
CSS = """
:root{--ink:#1d2430;--soft:#5d6675;--line:#d9dee6;--accent:#0b559f}
body{font:16px/1.55 system-ui,"Segoe UI",Roboto,sans-serif;color:var(--ink);background:#f4f6f9;margin:0}
main{max-width:1020px;margin:0 auto;padding:2rem 2.5rem 4rem;background:#fff}h1{margin:.2em 0 0;font-size:1.9rem}
h2{margin:2.4em 0 .6em;padding-bottom:.2em;border-bottom:2px solid var(--accent)}h3{margin:1.5em 0 .4em;font-size:1rem}
p,li{max-width:74ch}.sub,figcaption,caption{color:var(--soft)}summary{cursor:pointer;color:var(--accent)}
.scroll{overflow-x:auto}table{border-collapse:collapse;margin:.5em 0 1em;font-size:.88rem}
th,td{padding:.32em .7em;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child,caption{text-align:left}thead th{border-bottom:2px solid #9aa4b2}
td{font-variant-numeric:tabular-nums}tr.satm td{background:#e9f1fb;font-weight:600}
figure{margin:.5em 0 1.5em}img{max-width:100%;height:auto}.missing{color:#7b8494;font-style:italic}
.banner,.warning{padding:.5em .9em;border-left:4px solid #e69f00;background:#fff6e0;margin:.8em 0}
.warning{border-color:#b3261e;background:#fdecea}.grid{display:flex;flex-wrap:wrap;gap:0 2.5rem}
.confusion td{border:2px solid #fff;text-align:right}.confusion td.band{outline:1.5px solid #1d2430;outline-offset:-3px}
"""


def results_table(rows, config=None):
    """Formats the results of a run as one plain-text table, at most 110 columns wide, with readings below it.

    rows are those of tables/results.csv (dicts, fractions of 1); config the run's settings (networks, holdout,
    epsilon_text or epsilon, attack), each of which may be missing. A cell is rate±half-interval / one-off in percent.
    Raises InputError when there are no results.
    """
    config = config or {}
    if not methods_of(rows):
        raise InputError("There are no results to print: evaluate the networks first, then make the table.")
    lines = [*textwrap.wrap(_caption(rows, config), WIDTH), ""]
    lines.append(" " * 16 + "".join(f"{condition:<18}" for condition in CONDITIONS).rstrip())
    for network, block in _blocks(rows, config):
        lines.append(network)
        lines += [f"  {m:<13.13} " + "".join(f"{cell:<18}" for cell in cells).rstrip() for m, *cells in block]
    lines += [f"{row['method']:<15} {_cell(_baseline(row))}" for row in _baselines(rows)]
    differences = _differences(rows, config)
    if differences:
        lines += ["", "SATM against the others: points, 95 % interval over test images, one training run"]
        lines += [f"  {f'SATM - {other}, {condition}':<28.28} {network:<22.22} {points}, {verdict}"
                  for other, condition, network, points, verdict in differences]  # fmt: skip
    for line in _readings(rows, config):
        lines += textwrap.wrap(line, WIDTH, subsequent_indent="  ")
    return "\n".join(lines)


def write(run_dir):
    """Writes report.html, one self-contained file, from what the run folder holds; returns its path.

    A part that the folder lacks becomes a grey line with the reason. Raises InputError when it is not a run folder.
    """
    run_dir = Path(run_dir)
    config, rows = read_config(run_dir), read_results(run_dir)
    parts = [_head(run_dir, config), _results(rows, config), _image(run_dir, "results")]
    parts += [_section(f"{name}. {title}", _beside(name, rows, config)) for name, title in TITLES.items()]
    parts.append(_missing(NOT_RUN))
    for name in ("figure1", "figure3", "figure4", "losses"):
        parts.append(_section(FIGURES[name][0], _image(run_dir, name)))
    others = sorted(path.stem for path in run_dir.glob("figures/*.png") if path.stem not in FIGURES)
    if others:
        parts.append(_section("Other figures", "".join(_image(run_dir, name) for name in others)))
    parts.append(_section("Confusion matrices, clean test images", _confusions(run_dir)))
    notes = "".join(f"<li>{escape(note)}</li>" for note in NOTES)
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


def main(argv=None):
    """Runs the command `python -m minisatm.report RUN` and returns its exit status; 2 is a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m minisatm.report", description="Draw the figures and write report.html of a run folder again."
    )
    parser.add_argument(
        "run", metavar="RUN", help="folder of a training run: config.json, log.csv, epochs.csv, tables/"
    )
    try:
        print(report(parser.parse_args(argv).run))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _caption(rows, config):
    counts = sorted({int(n) for n in (number(row.get("n")) for row in rows) if not math.isnan(n)})
    n = "?" if not counts else str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return (
        f"Classification rate / one-off in %; ± = half width of the 95 % interval; n = {n} test images, "
        f"epsilon {_epsilon(config)}, attack {_attack(config)}; partner old / new: examples of the other network "
        f"before / after it was retrained; hold-out: {config.get('holdout') or 'a network none was trained with'}."
    )


def _attack(config):
    attack = str(config.get("attack") or "r_fgsm")
    return 'R+FGSM (the paper\'s "R+Step-LL")' if attack.lower() in ("r_fgsm", "r-fgsm", "r+fgsm") else attack


def _epsilon(config):
    return str(config.get("epsilon_text") or (epsilon_text(config["epsilon"]) if config.get("epsilon") else "unknown"))


def _blocks(rows, config):
    """(network, [[method, cell of each condition]]) of what was measured."""
    for network in networks_of(rows, config):
        block = [[label(m), *(_cell(lookup(rows, m, network, c)) for c in CONDITIONS)] for m in methods_of(rows)]
        block = [line for line in block if set(line[1:]) != {"-"}]
        if block:
            yield network + " (hold-out)" * (network == config.get("holdout")), block


def _baselines(rows):
    return [row for row in rows if row["method"].startswith(BASELINE)]


def _baseline(row):
    return {key: number(row.get(key)) for key in ("rate", "rate_low", "rate_high", "one_off")}


def _cell(values):
    if not values:
        return "-"
    half = 50 * (values["rate_high"] - values["rate_low"])
    spread = "" if math.isnan(half) else f"±{half:.1f}"
    return f"{100 * values['rate']:.1f}{spread} / {100 * values['one_off']:.1f}"


def _differences(rows, config):
    """(other method, condition, network, points with interval, verdict) of SATM against the others."""
    found = []
    for other, condition in COMPARISONS:
        for network in networks_of(rows, config):
            pair = [lookup(rows, method, network, condition) for method in ("satm", other)]
            if all(pair):
                ends = [(cell["rate"], cell["rate_low"], cell["rate_high"]) for cell in pair]
                points, low, high = (100 * value for value in unpaired_difference(*ends))
                verdict = "above" if low > 0 else "below" if high < 0 else "no clear difference"
                found.append((other, condition, network, f"{points:+.1f} [{low:+.1f}, {high:+.1f}]", verdict))
    return found


def _readings(rows, config):
    """Sentences computed from the numbers: white-box beside clean, and a warning at each leak of the label."""
    lines, pairs = [], [(m, network) for m in methods_of(rows) for network in networks_of(rows, config)]
    base = max((number(row.get("rate")) for row in _baselines(rows)), default=math.nan)
    for method, network in pairs:
        clean, attacked = (lookup(rows, method, network, condition) for condition in ("clean", "white-box"))
        if method == "satm" and clean and attacked:
            broken = attacked["rate"] < clean["rate"] / 2 or attacked["rate"] < base
            rates = f"{100 * attacked['rate']:.1f} % beside {100 * clean['rate']:.1f} % clean"
            lines.append(f"White-box {'stays broken' if broken else 'is no aim'} with SATM: {network} {rates}.")
    for method, network in pairs:
        clean = lookup(rows, method, network, "clean")
        for condition in CONDITIONS[1:] if clean else ():
            attacked = lookup(rows, method, network, condition)
            if attacked and attacked["rate"] > clean["rate"]:
                sure = "beyond" if attacked["rate_low"] > clean["rate_high"] else "within"
                lines.append(
                    f"WARNING: {label(method)}, {network}: {condition} {100 * attacked['rate']:.1f} % beats clean "
                    f"{100 * clean['rate']:.1f} % ({sure} the intervals): the attack may leak the true label; "
                    "compare with examples crafted from predicted labels."
                )
    return lines


def _section(title, body):
    return f"<section><h2>{escape(title)}</h2>\n{body}</section>"


def _missing(reason):
    return f'<p class="missing">{escape(reason)}</p>'


def _table(header, rows, caption=""):
    """An HTML table with all cells escaped; the row of SATM is highlighted."""
    head = "".join(f"<th>{escape(str(cell))}</th>" for cell in header)
    body = ""
    for row in rows:
        cells = "".join(f"<td>{escape(str(cell))}</td>" for cell in row)
        body += f'<tr class="satm">{cells}</tr>' if row[0] == "SATM" else f"<tr>{cells}</tr>"
    caption = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>\n'


def _head(run_dir, config):
    networks = " and ".join(networks_of([], config)) or "networks unknown"
    data, seed = (config.get(key, "unknown") for key in ("data", "seed"))
    facts = f"{networks}; data {data}; ε = {_epsilon(config)}; seed {seed}"
    values = [(key, ", ".join(map(str, value)) if isinstance(value, list) else value) for key, value in config.items()]
    settings = _table(("setting", "value"), sorted(values))
    title = f"<h1>{escape(run_dir.resolve().name)}</h1>"
    what = '<p class="sub">minisatm: simultaneous adversarial training, one run</p>'
    return f"{title}{what}<p>{escape(facts)}</p><details><summary>All settings</summary>{settings}</details>"


def _results(rows, config):
    if not methods_of(rows):
        return _section("Results", _missing("Not evaluated: there is no tables/results.csv with results."))
    parts = [f"<p>{escape(_caption(rows, config))}</p>"]
    always = [[row["method"], _cell(_baseline(row)), *[""] * (len(CONDITIONS) - 1)] for row in _baselines(rows)]
    for network, block in _blocks(rows, config):
        parts += [f"<h3>{escape(network)}</h3>", _table(("method", *CONDITIONS), block + always)]
    differences = _differences(rows, config)
    if differences:
        lines = [(f"SATM - {other}", *rest) for other, *rest in differences]
        header = ("difference", "condition", "network", "points [95 % interval]", "")
        parts.append(_table(header, lines, "Over test images, unpaired; one training run."))
    for line in _readings(rows, config):
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
        header = [header[0], f"white-box, ε {_epsilon(config)}", "clean"]
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
    both = [(percent(m, "hold-out"), percent(m, "hold-out", "one_off")) for m in METHODS]
    if all(rate == "-" for rate, _ in both):
        return [network]
    hold = f"{config.get('holdout') or 'hold-out'}, ε {_epsilon(config)}"
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


if __name__ == "__main__":
    sys.exit(main())
