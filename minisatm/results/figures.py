"""The figures of a run: Figs. 1, 3 and 4 of the paper, the losses, the results as bars; and an evaluation's curves.

matplotlib is imported where it draws, so that importing minisatm stays fast; no window is ever opened.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..units import epsilon_text
from .tables import CONDITIONS, Phases, Results, label

Array = Any
Figure = Any  # matplotlib's
Axes = Any

COLOURS = defaultdict(lambda: "#555555", {
    "clean": "#777777", "undefended": "#9a9a9a", "control": "#56b4e9", "standard": "#d55e00", "ensemble": "#e69f00",
    "cascade": "#009e73", "teacher": "#b8a1c9", "distillation": "#7b4fa3", "penalty": "#cc79a7", "satm": "#0b559f",
})  # fmt: skip
INK = "#222222"


def figure_curves(results: Results) -> list[Path]:
    """Draw classification rates against epochs (Figs. 3 and 4 of the paper) and the losses of a run.

    An epoch counts from the start of its phase. Writes figures/figure3.png (training images), figure4.png (validation
    images) and losses.png into the run folder and returns their paths. What has no data is left out.
    """
    folder, written = results.folder / "figures", []
    for name, images in (("figure3", "train"), ("figure4", "validation")):
        networks = _drawn(results, results.epochs, f"{images}_clean")
        if networks:
            written.append(_rates(folder / f"{name}.png", results.epochs, networks, images))
    networks = _drawn(results, results.log, "loss")
    if networks:
        written.append(_losses(folder / "losses.png", results.log, networks))
    return written


def figure_pairs(path: Path, pairs: Sequence[Mapping[str, Any]], classes: Sequence[str] | None = None) -> Path:
    """Draw adversarial examples beside their clean images as Fig. 1 of the paper: adversarial left, clean right.

    Above each image stands the network's answer (red where wrong); the third image is their difference, amplified.

    Each pair has clean and adversarial (H, W, C) in [0, 1] with 1 or 3 channels, the class indices true,
    predicted_clean and predicted_adversarial, epsilon (in that pixel range), network (its name); classes names the
    classes. Writes a PNG and returns its path. Raises InputError for no pairs or images of other shapes.
    """
    if not pairs:
        raise InputError("There are no pairs to draw: give at least one clean image with its adversarial example.")
    columns = min(2, len(pairs))
    lines = -(-len(pairs) // columns)
    figure = _figure(6.2 * columns, 2.75 * lines)
    grid = figure.subfigures(lines, columns, squeeze=False).ravel()
    for cell, pair in zip(grid, pairs):
        # The difference is amplified so that -epsilon becomes black and +epsilon white.
        factor = max(1.0, 0.5 / pair["epsilon"]) if pair["epsilon"] > 0 else 1.0
        answers = [pair[key] for key in ("true", "predicted_clean", "predicted_adversarial")]
        true, clean, adversarial = (f"class {k}" if classes is None else str(classes[k]) for k in answers)
        captions = (f"adversarial: {adversarial}", f"clean: {clean}", f"difference × {factor:.3g}")
        wrong = (adversarial != true, clean != true, False)
        for axes, image, caption, red in zip(cell.subplots(1, 3), _pair_images(pair, factor), captions, wrong):
            axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(caption, fontsize=10, color="#b3261e" if red else INK)
            axes.set_axis_off()
        cell.suptitle(f"{pair['network']}, true {true}, ε = {epsilon_text(pair['epsilon'])}", fontsize=11)
    return _save(figure, path)


def figure_results(results: Results) -> list[Path]:
    """Draw the rates of a run as bars: per network and condition one bar for each method, with its 95 % interval.

    A dashed line marks always answering one class. Returns [figures/results.png], or [] when there are no results.
    """
    methods = results.methods
    networks = [n for n in results.networks if any(results.cell(m, n, "clean") for m in methods)]
    if not networks:
        return []
    figure = _figure(9.5, 0.6 + 2.9 * len(networks))
    for axes, network in zip(figure.subplots(len(networks), 1, sharex=True, squeeze=False).ravel(), networks):
        _bars(axes, results, network)
        for row in results.baselines:
            axes.axhline(100 * row.rate, color=INK, ls="--", lw=1, label=f"{row.method} ({100 * row.rate:.1f} %)")
        axes.set(title=network, ylabel="classification rate (%)", ylim=(0, 100))
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    _legend(figure)
    return [_save(figure, results.folder / "figures" / "results.png")]


def figure_epsilons(path: Path, rows: Sequence[Mapping[str, Any]], chance: float) -> Path:
    """Draw rates against epsilon, one panel for each network and one colour for each method.

    rows as evaluation.curves.curve returns them, of one attack: target ("method/name"), epsilon, white_box, transferred
    and their intervals. Solid: the network's own examples; dotted: the strongest of the other networks'; dashed:
    chance, the rate of always one answer. Writes a PNG and returns its path.
    """
    panels: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for row in rows:
        method, _, name = row["target"].rpartition("/")
        run, _, method = method.rpartition(":")
        panels.setdefault(f"{run}:{name}".lstrip(":"), {}).setdefault(method, []).append(row)
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    top = 20 * math.ceil(5 * max(row["white_box_high"] for row in rows))
    last = max(row["epsilon"] for row in rows)
    ticks = [0, *(last / 2**k for k in range(7, -1, -1))]
    names = [epsilon_text(t).removesuffix("/256") if last == 1 else f"{t:.2g}" for t in ticks]
    figure = _figure(max(6.0, 4.6 * columns), 0.7 + 3.5 * lines)
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
    for axes, (name, methods) in zip(grid, panels.items()):
        for method, points in methods.items():
            _rate_line(axes, points, "white_box", "-", COLOURS[method], f"{label(method) or name}: own examples")
            whose = f"{label(method) or name}: strongest transferred"
            _rate_line(axes, points, "transferred", ":", COLOURS[method], whose)
        axes.axhline(100 * chance, color=INK, ls="--", lw=1, label="always one class")
        # An axis that is logarithmic and holds 0: small epsilons get as much room as large ones.
        axes.set_xscale("symlog", base=2, linthresh=last / 128)
        axes.set_xticks(ticks, names)
        axes.minorticks_off()
        axes.set(title=name, xlabel="epsilon, 1/256" if last == 1 else "epsilon (length)", xlim=(0, last * 1.1),
                 ylim=(0, top))  # fmt: skip
        axes.grid(alpha=0.3)
    for axes in grid[len(panels) :]:
        axes.remove()
    for axes in grid[: len(panels) : columns]:
        axes.set_ylabel("classification rate (%)")
    figure.suptitle(f"{rows[0]['attack']}, n = {rows[0]['n']}")
    _legend(figure, columns=min(5, max(len(methods) for methods in panels.values()) + 1))
    return _save(figure, path)


def _bars(axes: Axes, results: Results, network: str) -> None:
    width = 0.8 / len(results.methods)
    for i, method in enumerate(results.methods):
        cells = [(x, results.cell(method, network, condition)) for x, condition in enumerate(CONDITIONS)]
        numbers = [(x, cell.rate, cell.rate_low, cell.rate_high) for x, cell in cells if cell]
        x, rate, low, high = np.array(numbers or np.empty((0, 4))).T
        position, colour = x + (i - (len(results.methods) - 1) / 2) * width, COLOURS[method]
        error = np.nan_to_num(100 * np.array([rate - low, high - rate])).clip(0)
        axes.bar(position, 100 * rate, width * 0.92, color=colour, label=label(method))
        axes.errorbar(position, 100 * rate, error, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    axes.set_xticks(range(len(CONDITIONS)), CONDITIONS)


def _rate_line(axes: Axes, points: Sequence[Mapping[str, Any]], key: str, style: str, colour: str, name: str) -> None:
    """A rate against epsilon; the white-box one with its interval as a band."""
    columns = "epsilon", key, f"{key}_low", f"{key}_high"
    known = [[row[column] for column in columns] for row in points if row[key] is not None]
    if known:
        x, rate, low, high = np.array(known).T
        axes.plot(x, 100 * rate, style, color=colour, marker="o", ms=3, lw=1.6, label=name)
        if key == "white_box":
            axes.fill_between(x, 100 * low, 100 * high, color=colour, alpha=0.12, lw=0)


def _drawn(results: Results, phases: Phases, field: str) -> list[str]:
    """The networks that have a number in column <network>.<field> of some phase."""
    columns = dict.fromkeys(key for table in phases.values() for key in table if _has(table, key))
    names = [key[: -len(field) - 1] for key in columns if key.endswith("." + field)]
    return [n for n in dict.fromkeys([*results.networks, *names]) if n in names and n != results.holdout]


def _has(table: Mapping[str, Array], key: str) -> bool:
    return key in table and not np.isnan(table[key]).all()


def _rates(path: Path, epochs: Phases, networks: Sequence[str], images: str) -> Path:
    main = "satm" if "satm" in epochs else list(epochs)[-1]
    shown = "training" if images == "train" else images
    figure = _figure(5.2 * len(networks), 4.4)
    for axes, network in zip(figure.subplots(1, len(networks), sharey=True, squeeze=False).ravel(), networks):
        for phase, table in epochs.items():
            x = table["epoch"] - (np.nan_to_num(table["epoch"]).max() if phase == "clean" != main else 0)
            weight = {"lw": 2.2, "zorder": 3} if phase == main else {"lw": 1.1, "alpha": 0.55}
            for kind, style, mark in (("clean", "-", "o"), ("adversarial", "--", "s")):
                key = f"{network}.{images}_{kind}"
                if _has(table, key):
                    seen = ~np.isnan(table[key])
                    name = f"{label(phase)}: {kind} images" if phase != "clean" else f"clean phase: {kind} images"
                    axes.plot(x[seen], 100 * table[key][seen], style, marker=mark, ms=3, label=name, **weight,
                              color=COLOURS[phase])  # fmt: skip
        if "clean" in epochs and main != "clean":
            axes.axvline(0, color="#bbbbbb", lw=1)
        epochs_text = "epochs" if main == "clean" else f"epochs ({label(main)} starts at 0)"
        axes.set(title=f"{network}, {shown} images", xlabel=epochs_text, ylim=(0, 100))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("classification rate (%)")
    _legend(figure)
    return _save(figure, path)


def _losses(path: Path, log: Phases, networks: Sequence[str]) -> Path:
    main = "satm" if "satm" in log else list(log)[-1]
    figure = _figure(5.2 * len(networks), 6.2)
    panels = figure.subplots(2, len(networks), sharey="row", squeeze=False)
    terms = {"clean": "#2c7a2c", "adversarial": "#b3261e", "domain": "#8a5fb0", "embedding": "#8a5fb0",
             "penalty": "#8a5fb0"}  # fmt: skip
    for column, network in zip(panels.T, networks):
        for phase, table in log.items():
            before = len(table["iteration"]) if phase == "clean" != main else 0
            _loss_line(column[0], table, f"{network}.loss", before, COLOURS[phase], label(phase))
        for term, colour in terms.items():
            _loss_line(column[1], log[main], f"{network}.{term}", 0, colour, f"{term} term")
        column[0].set(title=f"{network}: loss by phase", ylim=(0, None))
        column[1].set(title=f"{network}: terms of {label(main)}", xlabel=f"iterations ({label(main)} starts at 0)")
    for row, name in zip(panels, ("sum of the terms, smoothed", "term, smoothed")):
        drawn = [axes for axes in row if axes.has_data()]
        for axes in set(row) - set(drawn):
            axes.remove()
        for axes in drawn:
            axes.set_ylabel(name if axes is drawn[0] else "")
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
    return _save(figure, path)


def _loss_line(axes: Axes, table: Mapping[str, Array], key: str, before: int, colour: str, name: str) -> None:
    if not _has(table, key):
        return
    x = np.arange(len(table[key])) + 1 - before
    seen = ~np.isnan(table[key])
    x, y = x[seen], table[key][seen]
    window = max(1, len(y) // 25)
    # Each point is the mean of the last `window` losses, so that the line shows no loss before its step.
    means = np.convolve(y, np.ones(window))[: len(y)] / np.minimum(np.arange(len(y)) + 1, window)
    axes.plot(x, means, color=colour, lw=1.6, label=name)


def _pair_images(pair: Mapping[str, Any], factor: float) -> list[Array]:
    """The adversarial image, the clean one and their difference around grey, amplified; all (H, W, C) in [0, 1]."""
    clean, adversarial = (np.asarray(pair[key], dtype=np.float64) for key in ("clean", "adversarial"))
    if clean.shape != adversarial.shape or clean.ndim != 3 or clean.shape[2] not in (1, 3):
        raise InputError(
            f"A pair has a clean image {clean.shape} and an adversarial one {adversarial.shape}: "
            "both must be (height, width, channels) with 1 or 3 channels."
        )
    return [image.clip(0, 1) for image in (adversarial, clean, 0.5 + factor * (adversarial - clean))]


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _legend(figure: Figure, columns: int | None = None) -> None:
    """One legend below all panels, each name once."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels()):
            entries.setdefault(name, handle)
    columns = columns or (5 if len(entries) == 5 else min(4, len(entries)))
    figure.legend(entries.values(), entries, loc="outside lower center", ncols=columns, fontsize=8)


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, format="png", facecolor="white")
    return path
