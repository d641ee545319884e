import csv
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest

from minisatm.errors import InputError
from minisatm.metrics import interval
from minisatm.results import figures
from minisatm.results.figures import COLOURS, lookup
from minisatm.results.page import figure_curves, figure_pairs, figure_results, main, report, write
from minisatm.results.screen import results_table
from minisatm.results.tables import networks_of, read_rows

NETWORKS = ("vgg<16>", "resnet50")
GROUPS = ("(0, 2)", "(4, 6)", "(8, 12)", "(15, 20)", "<25>", "(38, 43)", "(48, 53)", "(60, 100)")
COLUMNS = ("method", "network", "condition", "source", "n", "rate", "rate_low", "rate_high", "one_off", "one_off_low",
           "one_off_high")  # fmt: skip
RATES = {
    "undefended": (0.610, 0.022, 0.425, None, 0.408),
    "control": (0.660, 0.025, 0.451, 0.390, 0.422),
    "ensemble": (0.642, 0.020, 0.570, 0.585, 0.512),
    "satm": (0.653, 0.024, 0.545, 0.662, 0.501),
}
CONDITIONS = ("clean", "white-box", "partner old", "partner new", "hold-out")


def result(method, network, condition, rate, near, source=""):
    return dict(zip(COLUMNS, [method, network, condition, source, 800, rate, *interval(rate, 800), near,
                              *interval(near, 800)]))  # fmt: skip


def result_rows():
    rows = []
    for method, rates in RATES.items():
        for shift, network in enumerate(NETWORKS):
            for condition, rate in zip(CONDITIONS, rates):
                if rate is not None:
                    source = (
                        "undefended/resnet101" if condition == "hold-out" else "" if condition == "clean" else "x/y"
                    )
                    rows.append(result(method, network, condition, rate - 0.01 * shift, rate + 0.25, source))
    rows.append(result("undefended", "resnet101", "clean", 0.601, 0.85))
    return [*rows, result("always (15, 20)", "", "clean", 0.29, 0.51)]


def compared(other="control", condition="hold-out", **ends):
    ends = ends or {"difference": 0.079, "low": 0.051, "high": 0.107}
    return {"method": "satm", "other": other, "condition": condition, "network": "vgg<16>", "n": 800, **ends}


COMPARED = [compared(), compared("ensemble", difference="-0.011", low="-0.03", high="0.008"),
            compared("ensemble", "clean", difference=-0.1, low=-0.14, high=-0.06)]  # fmt: skip
CONFIG = {"networks": list(NETWORKS), "holdout": "resnet101", "epsilon": 0.125}


def save_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def make_run(folder, seed=0):
    rng = np.random.default_rng(seed)
    config = {"networks": list(NETWORKS), "holdout": "resnet101", "epsilon": 0.125, "epsilon_text": "32/256",
              "method": "all", "seed": 7, "data": "drawn <faces>", "n_test": 800}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = (*NETWORKS, "resnet101")
    terms = ("loss", "clean", "adversarial", "domain")
    kinds = ("train_clean", "train_adversarial", "validation_clean", "validation_adversarial", "validation_loss")
    log, epochs = [], []
    for phase, steps in (("clean", 400), ("control", 250), ("ensemble", 250), ("satm", 250)):
        both, domain = phase in ("ensemble", "satm"), phase == "satm"
        for i in range(1, steps + 1):
            row = [phase, i, 0.1 * i, 0.05]
            for name in names:
                if name == "resnet101" and phase != "clean":
                    row += [""] * 4
                    continue
                clean = (2.1 if phase == "clean" else 1.1) * np.exp(-i / 200) + 0.6 + 0.1 * rng.normal()
                adversarial = 1.4 * np.exp(-i / 120) + 0.8 + 0.1 * rng.normal()
                row += [clean + both * adversarial, clean, adversarial if both else "", 0.69 if domain else ""]
            log.append(row)
            if i == 1 or i % 25 == 0:
                rate = 0.62 - (0.45 if phase == "clean" else 0.05) * np.exp(-i / 100) + 0.01 * rng.normal()
                near = rate - (0.2 if phase in ("clean", "control") else 0.2 * np.exp(-i / 60))
                cells = ("" if phase == "clean" else near, rate - 0.02, near - 0.02, 1.1)
                epochs.append([phase, i, i / 200] + [rate, *cells] * len(names))
    save_csv(folder / "log.csv", ["phase", "iteration", "seconds", "learning_rate"]
             + [f"{n}.{t}" for n in names for t in terms], log)  # fmt: skip
    save_csv(
        folder / "epochs.csv", ["phase", "iteration", "epoch"] + [f"{n}.{k}" for n in names for k in kinds], epochs
    )
    save_csv(folder / "tables" / "results.csv", COLUMNS, [row.values() for row in result_rows()])
    save_csv(folder / "tables" / "differences.csv", COMPARED[0], [row.values() for row in COMPARED])
    leak = result("satm", "vgg<16>", "partner new", 0.588, 0.8, "x/y")
    save_csv(folder / "tables" / "predicted_labels.csv", COLUMNS, [leak.values()])
    distance = abs(np.subtract.outer(np.arange(8), np.arange(8)))
    for method in ("undefended", "satm"):
        counts = rng.poisson(60 * np.exp(-distance))
        save_csv(folder / "tables" / f"confusion_{method}_resnet50.csv", GROUPS, counts.tolist())
    return folder


def make_pairs(channels=3, side=48):
    rng = np.random.default_rng(1)
    slope = np.linspace(0.2, 0.8, side)
    pairs = []
    for k, epsilon in enumerate((64 / 256, 32 / 256, 16 / 256, 8 / 256)):
        clean = np.repeat(np.multiply.outer(slope, slope)[..., None], channels, 2).astype(np.float32)
        adversarial = np.clip(clean + epsilon * rng.choice([-1, 1], clean.shape), 0, 1).astype(np.float32)
        pairs.append({"clean": clean, "adversarial": adversarial, "true": k, "predicted_clean": k,
                      "predicted_adversarial": 7 - k, "epsilon": epsilon, "network": "vgg16"})  # fmt: skip
    return pairs


def pixels(path):
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    image = matplotlib.image.imread(path)[..., :3]
    assert image.std() > 0.01
    return image


def shows(image, colour, count=200):
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return (abs(image - rgb).max(axis=2) < 0.02).sum() >= count


class Page(HTMLParser):
    """Collects the text and attributes of a page and checks that what is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.words, self.attributes, self.open = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("runs") / "seed <7>")
    figure_pairs(folder / "figures" / "figure1.png", make_pairs(), GROUPS)
    report(folder)
    return folder


def test_table_text():
    text = results_table(result_rows(), CONFIG, COMPARED)
    assert max(map(len, text.splitlines())) <= 110
    caption = " ".join(text.split())
    assert 'n = 800 test images, epsilon 32/256, attack R+FGSM (the paper\'s "R+Step-LL")' in caption
    assert "hold-out: resnet101." in caption and caption.count("ordered (ages)") == 1
    assert re.search(r"clean +white-box +partner old +partner new +hold-out\n", text)
    assert "\nvgg<16>: classification rate\n  undefended   61.0 [57.6, 64.3]  2.2 [1.4, 3.5]  " in text
    assert "\nvgg<16>: one-off\n  undefended   86.0 [83.4, 88.2]  27.2 [24.2, 30.4]  " in text
    assert re.search(r"undefended .* 42\.5 \[39\.1, 46\.0\] +- +40\.8 \[37\.4, 44\.2\]\n", text)
    assert text.count("resnet50: ") == 2 and "resnet101: " not in text
    assert "\nalways (15, 20): 29.0 [26.0, 32.2]; one-off 51.0 [47.5, 54.5]\nhold-out resnet101, clean: 60.1 [5" in text


def test_widest_cells_stay_apart():
    rows = [result("undefended", "cnn", c, 0.995, 1.0) for c in CONDITIONS]
    line = next(line for line in results_table(rows).splitlines() if line.startswith("  undefended"))
    assert line.split("  ")[2:] == [" 99.5 [98.7, 99.8]", *["99.5 [98.7, 99.8]"] * 4]
    assert "100 [99.5, 100]  100 [" in re.sub(" {3,}", "  ", results_table(rows))


def test_paired_differences_are_printed_when_given():
    text = results_table(result_rows(), CONFIG, COMPARED)
    assert "paired, same test images (n = 800)" in text
    assert re.search(r"SATM - control, hold-out +vgg<16> +\+7\.9 \[\+5\.1, \+10\.7\] +above\n", text)
    assert re.search(r"SATM - ensemble, hold-out +vgg<16> +-1\.1 \[-3\.0, \+0\.8\] +no clear difference", text)
    assert re.search(r"SATM - ensemble, clean +vgg<16> +-10\.0 \[-14\.0, -6\.0\] +below", text)
    for nothing in (None, [], [compared(difference="", low="", high="")]):
        text = results_table(result_rows(), CONFIG, nothing)
        assert "paired" not in text and "SATM - " not in text


def warnings_of(*arguments):
    text = results_table(*arguments).replace("\n  ", " ")
    return [line for line in text.splitlines() if line.startswith("WARNING")]


def test_leak_warnings():
    predicted = [result("satm", "vgg<16>", "partner new", 0.588, 0.8, "x/y")]
    both, alone = warnings_of(result_rows(), CONFIG, None, predicted)
    assert both == (
        "WARNING: SATM vgg<16>, partner new: 66.2 % beats clean 65.3 %; crafted from predicted labels, which cannot "
        "leak the true one, it is 58.8 %."
    )
    assert alone.startswith("WARNING: SATM resnet50, partner new: 65.2 % beats clean 64.3 % (within the intervals)")
    other = [{**predicted[0], "source": "x/z"}]
    assert "58.8" not in "".join(warnings_of(result_rows(), CONFIG, None, other))
    rows = [row for row in result_rows() if (row["method"], row["condition"]) != ("satm", "partner new")]
    assert warnings_of(rows) == []
    for attack, count in (("step_ll", 0), ("r_step_ll", 0), ("fgsm", 2)):
        assert len(warnings_of(result_rows(), {**CONFIG, "attack": attack})) == count
    twice = [*result_rows(), result("satm", "vgg<16>", "partner new", 0.2, 0.3, "x/z")]
    assert "vgg<16>, partner new of x/y: 66.2 % beats" in warnings_of(twice)[0]


def test_white_box_is_read_honestly():
    text = results_table(result_rows(), CONFIG).replace("\n  ", " ")
    assert "White-box attacks still break both networks after SATM (2.4 %, 1.4 %): it is not a defence against" in text
    rows = [result("satm", "cnn", "clean", 0.6, 0.9), result("satm", "cnn", "white-box", 0.4, 0.8)]
    assert "White-box attacks after SATM: cnn 40.0 % (clean 60.0 %)." in results_table(rows)


def test_holdout_is_no_network_whatever_it_is_called():
    rows = [result("satm", "a", "hold-out", 0.5, 0.6, "undefended/hold-out-a"), result("satm", "a", "clean", 0.5, 0.6),
            result("undefended", "hold-out-a", "clean", 0.4, 0.6)]  # fmt: skip
    assert networks_of(rows) == ["a"]
    assert "\nhold-out a, clean: 40.0 [" in results_table(rows, {"networks": ["a"], "holdout": "a"})
    assert networks_of(rows[1:], {"networks": ["x=a", "a"], "holdout": "a"}) == ["x", "a"]
    assert networks_of(rows[1:2], {"networks": ["a"], "holdout": "none"}) == ["a"]
    assert "hold-out: none in this run" in results_table(rows[1:2], {"holdout": "none"})


def test_only_what_has_data_becomes_a_panel(tmp_path, monkeypatch):
    titles = {}
    monkeypatch.setattr(
        figures, "_save", lambda figure, path: titles.update({path.stem: [a.get_title() for a in figure.axes]})
    )
    run_dir = make_run(tmp_path)
    figures.figure_curves(run_dir), figures.figure_results(run_dir)
    assert titles["results"] == list(NETWORKS)
    assert [len(titles[name]) for name in ("figure3", "figure4", "losses")] == [2, 2, 4]
    (run_dir / "config.json").write_text(json.dumps({"networks": [*NETWORKS, "resnet101"]}))
    figures.figure_curves(run_dir)
    assert titles["losses"] == [f"{n}: loss by phase" for n in (*NETWORKS, "resnet101")] + [
        f"{n}: terms of SATM" for n in NETWORKS
    ]


def test_table_of_one_method_and_unknown_settings():
    text = results_table([result("undefended", "cnn", "clean", 0.5, 1.0)])
    assert "cnn: classification rate\n  undefended   50.0 [46.5, 53.5]" in text
    assert "epsilon unknown" in text
    with pytest.raises(InputError, match="evaluate the networks first"):
        results_table([])


def test_several_sources_are_averaged_without_a_smaller_interval():
    rows = [result("satm", "a", "partner new", rate, rate, source) for rate, source in ((0.4, "b"), (0.6, "c"))]
    cell = lookup(rows, "satm", "a", "partner new")
    assert cell["rate"] == pytest.approx(0.5)
    assert cell["rate_high"] - cell["rate_low"] == pytest.approx(np.diff(interval(0.4, 800))[0], rel=1e-6)


def test_curves_and_bars_are_drawn(run_dir):
    paths = figure_curves(run_dir)
    assert [path.name for path in paths] == ["figure3.png", "figure4.png", "losses.png"]
    for path in [*paths, *figure_results(run_dir)]:
        image = pixels(path)
        assert shows(image, COLOURS["satm"]), path.name
        assert shows(image, COLOURS["ensemble"], 50) or path.name.startswith("figure"), path.name


@pytest.mark.parametrize("channels", [1, 3])
def test_pairs_show_the_adversarial_image_left(tmp_path, channels):
    pair = make_pairs(channels)[0]
    pair["adversarial"], pair["clean"] = np.zeros_like(pair["clean"]), np.full_like(pair["clean"], 0.2)
    image = pixels(figure_pairs(tmp_path / "pairs.png", [pair]))
    middle = image[int(0.6 * len(image))].mean(axis=1)
    left, centre, right = (middle[int(len(middle) * where)] for where in (1 / 6, 1 / 2, 5 / 6))
    # epsilon 64/256 is amplified by 2: 0.5 + 2 * (0 - 0.2) = 0.1.
    assert (left, centre, right) == pytest.approx((0.0, 0.2, 0.1), abs=0.01)


def test_pairs_leave_the_images_alone_and_name_mistakes(tmp_path):
    pairs = make_pairs()
    before = pairs[0]["clean"].copy()
    figure_pairs(tmp_path / "figure1.png", pairs, GROUPS)
    assert np.array_equal(pairs[0]["clean"], before)
    with pytest.raises(InputError, match="no pairs"):
        figure_pairs(tmp_path / "none.png", [])
    with pytest.raises(InputError, match="1 or 3 channels"):
        figure_pairs(tmp_path / "none.png", [{**pairs[0], "clean": before[..., :2]}])
    assert not (tmp_path / "none.png").exists()


def test_report_holds_the_numbers_and_is_self_contained(run_dir):
    text = (run_dir / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    words = " ".join(page.words)
    for number in (
        "65.3 [61.9, 68.5] 90.3 [88.1, 92.2]",
        "hold-out resnet101, clean: 60.1 [",
        "+7.9 [+5.1, +10.7]",
        "66.2 % beats clean 65.3 %; crafted from predicted labels, which cannot leak the true one, it is 58.8 %.",
        "the true interval is wider",
        "unless early stopping",
        "35.39 → 52.40",
        "37.40 / 72.16",
        "2.20 → 2.40",
        "always (15, 20): 29.0 [",
    ):
        assert number in words, number
    assert "drawn <faces>" in words and "vgg<16>" in words and "seed <7>" in words
    assert "drawn &lt;faces&gt;" in text and "vgg<16>" not in text
    assert words.count("Not comparable") == 4
    links = [value for _, name, value in page.attributes if name in ("src", "href")]
    assert len(links) == 5 and all(link.startswith("data:image/png;base64,") for link in links)
    assert "<script" not in text and "http" not in text and "url(" not in text
    bands = [value for tag, name, value in page.attributes if (tag, name) == ("td", "class")]
    assert bands.count("band") == 2 * 22
    assert "not here" not in words and "not measured" not in words


def test_report_names_what_is_missing(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert report(tmp_path) == tmp_path / "report.html"
    words = " ".join(Page((tmp_path / "report.html").read_text(encoding="utf-8")).words)
    for reason in ("there is no tables/results.csv", "no example pairs", "rates of training images", "has no losses",
                   "no tables/confusion_", "not measured"):  # fmt: skip
        assert reason in words, reason
    assert not (tmp_path / "figures").exists()


def test_interrupted_run_is_reported(tmp_path):
    run_dir = make_run(tmp_path)
    lines = (run_dir / "log.csv").read_text().splitlines()
    (run_dir / "log.csv").write_text("\n".join(lines[:450])[:-30])
    (run_dir / "epochs.csv").write_text("\n".join((run_dir / "epochs.csv").read_text().splitlines()[:8]))
    (run_dir / "tables" / "results.csv").unlink()
    (run_dir / "tables" / "confusion_satm_resnet50.csv").write_text("a,b\n1,x\n")
    report(run_dir)
    for name in ("figure3", "figure4", "losses"):
        pixels(run_dir / "figures" / f"{name}.png")
    assert "confusion_satm_resnet50.csv is not a square table" in (run_dir / "report.html").read_text(encoding="utf-8")


def test_other_figures_are_kept(tmp_path):
    run_dir = make_run(tmp_path)
    figure_pairs(run_dir / "figures" / "transfer.png", make_pairs()[:1])
    assert "transfer</figcaption>" in write(run_dir).read_text(encoding="utf-8")


def test_command(tmp_path, capsys):
    run_dir = make_run(tmp_path / "run")
    assert main([str(run_dir)]) == 0
    assert capsys.readouterr().out == f"{run_dir / 'report.html'}\n"
    for folder, message in ((tmp_path / "none", "There is no folder"), (tmp_path, "is not a run folder")):
        assert main([str(folder)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1
    (run_dir / "config.json").write_text("{")
    assert main([str(run_dir)]) == 2
    assert "not valid JSON" in capsys.readouterr().err


def test_importing_does_not_load_matplotlib():
    code = "import sys, minisatm.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_table_is_empty(tmp_path):
    assert read_rows(tmp_path / "none.csv") == []
