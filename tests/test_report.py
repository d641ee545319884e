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
from minisatm.figures import COLOURS, lookup, read_rows
from minisatm.metrics import interval
from minisatm.report import figure_curves, figure_pairs, figure_results, main, report, results_table, write

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
                    rows.append(result(method, network, condition, rate - 0.01 * shift, min(1, rate + 0.25)))
    return [*rows, result("always group 4", "", "clean", 0.2875, 0.5125)]


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
    terms = ("loss", "clean", "adversarial", "domain")
    kinds = ("train_clean", "train_adversarial", "validation_clean", "validation_adversarial", "validation_loss")
    log, epochs = [], []
    for phase, steps in (("clean", 400), ("control", 250), ("ensemble", 250), ("satm", 250)):
        both, domain = phase in ("ensemble", "satm"), phase == "satm"
        for i in range(1, steps + 1):
            row = [phase, i, 0.1 * i, 0.05]
            for _ in NETWORKS:
                clean = (2.1 if phase == "clean" else 1.1) * np.exp(-i / 200) + 0.6 + 0.1 * rng.normal()
                adversarial = 1.4 * np.exp(-i / 120) + 0.8 + 0.1 * rng.normal()
                row += [clean + both * adversarial, clean, adversarial if both else "", 0.69 if domain else ""]
            log.append(row)
            if i == 1 or i % 25 == 0:
                rate = 0.62 - (0.45 if phase == "clean" else 0.05) * np.exp(-i / 100) + 0.01 * rng.normal()
                near = rate - (0.2 if phase in ("clean", "control") else 0.2 * np.exp(-i / 60))
                cells = ("" if phase == "clean" else near, rate - 0.02, near - 0.02, 1.1)
                epochs.append([phase, i, i / 200] + [rate, *cells] * len(NETWORKS))
    save_csv(folder / "log.csv", ["phase", "iteration", "seconds", "learning_rate"]
             + [f"{n}.{t}" for n in NETWORKS for t in terms], log)  # fmt: skip
    save_csv(
        folder / "epochs.csv", ["phase", "iteration", "epoch"] + [f"{n}.{k}" for n in NETWORKS for k in kinds], epochs
    )
    save_csv(folder / "tables" / "results.csv", COLUMNS, [row.values() for row in result_rows()])
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
        if tag not in ("meta", "img"):
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
    text = results_table(result_rows(), {"networks": list(NETWORKS), "holdout": "resnet101", "epsilon": 0.125})
    assert max(map(len, text.splitlines())) <= 110
    caption = " ".join(text.split())
    assert 'n = 800 test images, epsilon 32/256, attack R+FGSM (the paper\'s "R+Step-LL")' in caption
    assert "hold-out: resnet101" in caption
    assert re.search(r"clean +white-box +partner old +partner new +hold-out\n", text)
    assert "\nvgg<16>\n  undefended    61.0±3.4 / 86.0" in text
    assert re.search(r"undefended .* 42\.5±3\.4 / 67\.5 +- +40\.8±3\.4 / 65\.8\n", text)
    assert "always group 4  28.7±3.1 / 51.2" in text or "always group 4  28.8±3.1 / 51.2" in text


def test_table_reads_its_numbers():
    text = results_table(result_rows(), {"networks": list(NETWORKS)})
    assert re.search(r"SATM - control, partner new +vgg<16> +\+27\.2 \[\+22\.\d, \+31\.\d\], above", text)
    assert re.search(r"SATM - control, hold-out +resnet50 +\+7\.9 .* above", text)
    assert re.search(r"SATM - ensemble, hold-out +vgg<16> +-1\.1 .* no clear difference", text)
    assert "White-box stays broken with SATM: vgg<16> 2.4 % beside 65.3 % clean." in text
    warnings = [line for line in text.splitlines() if line.startswith("WARNING")]
    assert [line.split(" (")[0] for line in warnings] == [
        "WARNING: SATM, vgg<16>: partner new 66.2 % beats clean 65.3 %",
        "WARNING: SATM, resnet50: partner new 65.2 % beats clean 64.3 %",
    ]
    rows = [row for row in result_rows() if (row["method"], row["condition"]) != ("satm", "partner new")]
    assert "WARNING" not in results_table(rows)


def test_table_of_one_method_and_unknown_settings():
    text = results_table([result("undefended", "cnn", "clean", 0.5, 1.0)])
    assert "cnn\n  undefended    50.0±3.5 / 100.0" in text
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
        "65.3±3.3 / 90.3",
        "42.5±3.4 / 67.5",
        "35.39 → 52.40",
        "37.40 / 72.16",
        "2.20 → 2.40",
        "always group 4",
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
        assert message in error and error.count("\n") == 1
    (run_dir / "config.json").write_text("{")
    assert main([str(run_dir)]) == 2
    assert "not valid JSON" in capsys.readouterr().err


def test_importing_does_not_load_matplotlib():
    code = "import sys, minisatm.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_table_is_empty(tmp_path):
    assert read_rows(tmp_path / "none.csv") == []
