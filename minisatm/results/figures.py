"""The figures of one run folder: Figs. 1, 3 and 4 of the paper, the losses and the results as bars.

matplotlib is imported where it draws, so that importing minisatm stays fast; no window is ever opened.
"""

import math
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..units import epsilon_text
from .tables import (
    BASELINE,
    CONDITIONS,
    label,
    lookup,
    methods_of,
    networks_of,
    number,
    read_config,
    read_results,
    read_rows,
)  # fmt: skip

COLOURS = {
    "clean": "#777777", "undefended": "#9a9a9a", "control": "#56b4e9", "standard": "#d55e00", "ensemble": "#e69f00",
    "cascade": "#009e73", "teacher": "#b8a1c9", "distillation": "#7b4fa3", "penalty": "#cc79a7", "satm": "#0b559f",
}  # fmt: skip


def figure_curves(run_dir):
    """Draws classification rates against epochs (Figs. 3 and 4 of the paper) and the losses of one run.

    Reads epochs.csv (an epoch counts from the start of its phase) and log.csv. Writes figures/figure3.png (training
    images), figure4.png (validation images) and losses.png; returns the list of paths. What has no data is left out.
    """
    run_dir, config = Path(run_dir), read_config(run_dir)
    epochs, log = _phases(run_dir / "epochs.csv"), _phases(run_dir / "log.csv")
    written = []
    for name, images in (("figure3", "train"), ("figure4", "validation")):
        networks = _drawn(epochs, f"{images}_clean", config)
        if networks:
            written.append(_rates(run_dir / "figures" / f"{name}.png", epochs, networks, images))
    networks = _drawn(log, "loss", config)
    if networks:
        written.append(_losses(run_dir / "figures" / "losses.png", log, networks))
    return written


def figure_pairs(path, pairs, classes=None):
    """Draws adversarial examples beside their clean images as Fig. 1 of the paper: adversarial left, clean right.

    Above each stands what the network answered (red where wrong); third comes the difference, its factor printed.

    pairs is a list of dicts: clean and adversarial (H, W, C) in [0, 1] with 1 or 3 channels, the group indices true,
    predicted_clean and predicted_adversarial, epsilon (in that pixel range), network (its name); classes names the
    groups. Writes a PNG and returns its path. Raises InputError for no pairs or images of other shapes.
    """
    if not pairs:
        raise InputError("There are no pairs to draw: give at least one clean image with its adversarial example.")
    names = [_pair_names(pair, classes) for pair in pairs]
    images = [_pair_images(pair) for pair in pairs]
    columns = min(2, len(pairs))
    lines = -(-len(pairs) // columns)
    figure = _figure(6.2 * columns, 2.75 * lines)
    grid = figure.subfigures(lines, columns, squeeze=False).ravel()
    for cell, pair, shown, (true, clean, adversarial) in zip(grid, pairs, images, names):
        factor = _amplification(pair)
        captions = (f"adversarial: {adversarial}", f"clean: {clean}", f"difference × {factor:.3g}")
        wrong = (adversarial != true, clean != true, False)
        for axes, image, caption, red in zip(cell.subplots(1, 3), shown, captions, wrong):
            axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(caption, fontsize=10, color="#b3261e" if red else "#222222")
            axes.set_axis_off()
        cell.suptitle(f"{pair['network']}, true {true}, ε = {epsilon_text(pair['epsilon'])}", fontsize=11)
    return _save(figure, path)


def figure_results(run_dir):
    """Draws tables/results.csv as bars: per network, the conditions with one bar a method and its 95 % interval.

    A dashed line marks always answering one group. Returns [figures/results.png], or [] when there are no results.
    """
    run_dir, config = Path(run_dir), read_config(run_dir)
    rows = read_results(run_dir)
    methods = methods_of(rows)
    networks = [n for n in networks_of(rows, config) if any(lookup(rows, m, n, "clean") for m in methods)]
    if not networks:
        return []
    figure = _figure(9.5, 0.6 + 2.9 * len(networks))
    for axes, network in zip(figure.subplots(len(networks), 1, sharex=True, squeeze=False).ravel(), networks):
        _bars(axes, rows, network, methods)
        for row in rows:
            if row["method"].startswith(BASELINE):
                height = 100 * number(row.get("rate"))
                axes.axhline(height, color="#222222", ls="--", lw=1, label=f"{row['method']} ({height:.1f} %)")
        axes.set(title=network, ylabel="classification rate (%)", ylim=(0, 100))
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    _legend(figure)
    return [_save(figure, run_dir / "figures" / "results.png")]


def figure_epsilons(path, rows, chance):
    """Draws rates against epsilon, a panel a network and a colour a method; chance, the rate of one answer, is dashed.

    rows as evaluation.curves.curve returns them, of one attack: target ("method/name"), epsilon, white_box, transferred
    and their intervals. Solid: the network's own examples; dotted: the strongest of the other networks'. Writes a PNG
    and returns its path.
    """
    panels = {}
    for row in rows:
        method, _, name = row["target"].rpartition("/")
        run, _, method = method.rpartition(":")
        panels.setdefault(f"{run}:{name}".lstrip(":"), {}).setdefault(method, []).append(row)
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    top = 20 * math.ceil(5 * max(row["white_box_high"] for row in rows))
    figure = _figure(max(6.0, 4.6 * columns), 0.7 + 3.5 * lines)
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
    for axes, (name, methods) in zip(grid, panels.items()):
        for method, points in methods.items():
            colour = COLOURS.get(method, "#555555")
            _rate_line(axes, points, "white_box", "-", colour, f"{label(method) or name}: own examples")
            _rate_line(axes, points, "transferred", ":", colour, f"{label(method) or name}: strongest transferred")
        axes.axhline(100 * chance, color="#222222", ls="--", lw=1, label="always one class")
        _epsilon_axis(axes, [row["epsilon"] for row in rows])
        axes.set(title=name, ylim=(0, top))
        axes.grid(alpha=0.3)
    for axes in grid[len(panels) :]:
        axes.remove()
    for axes in grid[: len(panels) : columns]:
        axes.set_ylabel("classification rate (%)")
    figure.suptitle(f"{rows[0]['attack']}, n = {rows[0]['n']}")
    _legend(figure, columns=min(5, max(len(methods) for methods in panels.values()) + 1))
    return _save(figure, path)


def _bars(axes, rows, network, methods):
    width = 0.8 / len(methods)
    for i, method in enumerate(methods):
        cells = [(x, lookup(rows, method, network, condition)) for x, condition in enumerate(CONDITIONS)]
        x, rate, low, high = np.array(
            [(x, cell["rate"], cell["rate_low"], cell["rate_high"]) for x, cell in cells if cell] or np.empty((0, 4))
        ).T
        position, colour = x + (i - (len(methods) - 1) / 2) * width, COLOURS.get(method, "#555555")
        error = np.nan_to_num(100 * np.array([rate - low, high - rate])).clip(0)
        axes.bar(position, 100 * rate, width * 0.92, color=colour, label=label(method))
        axes.errorbar(position, 100 * rate, error, fmt="none", ecolor="#222222", elinewidth=1, capsize=2)
    axes.set_xticks(range(len(CONDITIONS)), CONDITIONS)


def _rate_line(axes, points, key, style, colour, name):
    """A rate against epsilon; the white-box one with its interval as a band."""
    points = [row for row in sorted(points, key=lambda row: row["epsilon"]) if row[key] is not None]
    if not points:
        return
    x, rate, low, high = (np.array([row[field] for row in points]) for field in
                          ("epsilon", key, f"{key}_low", f"{key}_high"))  # fmt: skip
    axes.plot(x, 100 * rate, style, color=colour, marker="o", ms=3, lw=1.6, label=name)
    if key == "white_box":
        axes.fill_between(x, 100 * low, 100 * high, color=colour, alpha=0.12, lw=0)


def _epsilon_axis(axes, epsilons):
    """Epsilon by doubling, from 0 on: the small ones matter as much as the large."""
    last = max(epsilons)
    first = last / 128
    ticks = [0, *(last / 2**k for k in range(7, -1, -1))]
    axes.set_xscale("symlog", base=2, linthresh=first)
    axes.set_xticks(ticks, [epsilon_text(t).removesuffix("/256") if last == 1 else f"{t:.2g}" for t in ticks])
    axes.minorticks_off()
    axes.set_xlim(0, last * 1.1)
    axes.set_xlabel("epsilon, 1/256" if last == 1 else "epsilon (length)")


def _phases(path):
    """{phase: {column: (rows,) floats}} of log.csv or epochs.csv, the phases in the order in which they ran."""
    grouped = {}
    for row in read_rows(path):
        grouped.setdefault(row.get("phase"), []).append(row)
    return {
        phase: {key: np.array([number(row.get(key)) for row in rows]) for key in rows[0] if key not in (None, "phase")}
        for phase, rows in grouped.items()
        if phase
    }


def _drawn(phases, field, config):
    """The networks that have a number in column <network>.<field> of some phase."""
    columns = dict.fromkeys(key for table in phases.values() for key in table if key.endswith("." + field))
    found = [{"network": key[: -len(field) - 1]} for key in columns if any(_has(t, key) for t in phases.values())]
    return [name for name in networks_of(found, config) if {"network": name} in found]


def _has(table, key):
    return key in table and not np.isnan(table[key]).all()


def _rates(path, epochs, networks, images):
    main = "satm" if "satm" in epochs else list(epochs)[-1]
    shown = "training" if images == "train" else images
    figure = _figure(5.2 * len(networks), 4.4)
    for axes, network in zip(figure.subplots(1, len(networks), sharey=True, squeeze=False).ravel(), networks):
        for phase, table in epochs.items():
            x = table["epoch"] - (np.nanmax(table["epoch"]) if phase == "clean" != main else 0)
            look = {"lw": 2.2, "zorder": 3} if phase == main else {"lw": 1.1, "alpha": 0.55}
            for kind, style, mark in (("clean", "-", "o"), ("adversarial", "--", "s")):
                key = f"{network}.{images}_{kind}"
                if _has(table, key):
                    seen = ~np.isnan(table[key])
                    name = f"{label(phase)}: {kind} images" if phase != "clean" else f"clean phase: {kind} images"
                    axes.plot(x[seen], 100 * table[key][seen], style, marker=mark, ms=3, label=name, **look,
                              color=COLOURS.get(phase, "#555555"))  # fmt: skip
        if "clean" in epochs and main != "clean":
            axes.axvline(0, color="#bbbbbb", lw=1)
        axes.set(title=f"{network}, {shown} images", ylim=(0, 100))
        axes.set_xlabel("epochs" if main == "clean" else f"epochs ({label(main)} starts at 0)")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("classification rate (%)")
    _legend(figure)
    return _save(figure, path)


def _losses(path, log, networks):
    main = "satm" if "satm" in log else list(log)[-1]
    figure = _figure(5.2 * len(networks), 6.2)
    panels = figure.subplots(2, len(networks), sharey="row", squeeze=False)
    terms = {"clean": "#2c7a2c", "adversarial": "#b3261e", "domain": "#8a5fb0", "embedding": "#8a5fb0",
             "penalty": "#8a5fb0"}  # fmt: skip
    for column, network in zip(panels.T, networks):
        for phase, table in log.items():
            before = len(table["iteration"]) if phase == "clean" != main else 0
            _loss_line(column[0], table, f"{network}.loss", before, COLOURS.get(phase, "#555555"), label(phase))
        for term, colour in terms.items():
            _loss_line(column[1], log[main], f"{network}.{term}", 0, colour, f"{term} term")
        column[0].set(title=f"{network}: loss by phase", ylim=(0, None))
        column[1].set(title=f"{network}: terms of {label(main)}", xlabel=f"iterations ({label(main)} starts at 0)")
    for row, name in zip(panels, ("sum of the terms, smoothed", "term, smoothed")):
        drawn = [axes for axes in row if axes.has_data()]
        for axes in row:
            axes.grid(alpha=0.3)
            if axes in drawn:
                axes.legend(fontsize=8)
            else:
                axes.remove()
        if drawn:
            drawn[0].set_ylabel(name)
    return _save(figure, path)


def _loss_line(axes, table, key, before, colour, name):
    if not _has(table, key):
        return
    x = np.arange(len(table[key])) + 1 - before
    seen = np.isfinite(table[key])
    x, y = x[seen], table[key][seen]
    window = max(1, len(y) // 25)
    # Each point is the mean of the last `window` losses, so the line never shows what was not yet known.
    sums = np.concatenate([[0.0], np.cumsum(y)])
    ends = np.arange(1, len(y) + 1)
    starts = np.maximum(ends - window, 0)
    axes.plot(x, (sums[ends] - sums[starts]) / (ends - starts), color=colour, lw=1.6, label=name)


def _pair_names(pair, classes):
    groups = (pair["true"], pair["predicted_clean"], pair["predicted_adversarial"])
    return [str(classes[k]) if classes is not None else f"group {k}" for k in groups]


def _pair_images(pair):
    """Adversarial, clean and amplified difference, ready for imshow: (H, W, 3), or (H, W) for one channel."""
    clean, adversarial = (np.asarray(pair[key], dtype=np.float64) for key in ("clean", "adversarial"))
    if clean.shape != adversarial.shape or clean.ndim != 3 or clean.shape[2] not in (1, 3):
        raise InputError(
            f"A pair has a clean image {clean.shape} and an adversarial one {adversarial.shape}: "
            "both must be (height, width, channels) with 1 or 3 channels."
        )
    difference = 0.5 + _amplification(pair) * (adversarial - clean)
    return [np.squeeze(image.clip(0, 1), 2) if image.shape[2] == 1 else image.clip(0, 1)
            for image in (adversarial, clean, difference)]  # fmt: skip


def _amplification(pair):
    """The factor by which a difference of +-epsilon spans black to white; 1 where epsilon is 0."""
    return max(1.0, 0.5 / pair["epsilon"]) if pair["epsilon"] > 0 else 1.0


def _figure(width, height):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _legend(figure, columns=None):
    """One legend below all panels, each name once."""
    entries = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels()):
            entries.setdefault(name, handle)
    figure.legend(
        entries.values(),
        entries,
        loc="outside lower center",
        ncols=columns or (5 if len(entries) == 5 else min(4, len(entries))),
        fontsize=8,
    )


def _save(figure, path):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=130, format="png", facecolor="white")
    return path
