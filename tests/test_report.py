"""report.html, the figures of a run, and the command that makes them."""

import json
import subprocess
import sys
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest
from run_folders import GROUPS, NETWORKS, make_pairs, make_run

from minisatm.errors import InputError
from minisatm.report import main
from minisatm.results import figures
from minisatm.results.figures import COLOURS, figure_curves, figure_pairs, figure_results
from minisatm.results.page import report, write
from minisatm.results.tables import Results


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
    report(Results.read(folder))
    return folder


def test_only_what_has_data_becomes_a_panel(tmp_path, monkeypatch):
    titles = {}
    monkeypatch.setattr(
        figures, "_save", lambda figure, path: titles.update({path.stem: [a.get_title() for a in figure.axes]})
    )
    run_dir = make_run(tmp_path)
    results = Results.read(run_dir)
    figures.figure_curves(results), figures.figure_results(results)
    assert titles["results"] == list(NETWORKS)
    assert [len(titles[name]) for name in ("figure3", "figure4", "losses")] == [2, 2, 4]
    (run_dir / "config.json").write_text(json.dumps({"method": "satm", "networks": [*NETWORKS, "resnet101"]}))
    (run_dir / "tables" / "results.csv").unlink()  # its rows name the hold-out
    figures.figure_curves(Results.read(run_dir))
    assert titles["losses"] == [f"{n}: loss by phase" for n in (*NETWORKS, "resnet101")] + [
        f"{n}: terms of SATM" for n in NETWORKS
    ]


def test_curves_and_bars_are_drawn(run_dir):
    results = Results.read(run_dir)
    paths = figure_curves(results)
    assert [path.name for path in paths] == ["figure3.png", "figure4.png", "losses.png"]
    for path in [*paths, *figure_results(results)]:
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
    (tmp_path / "config.json").write_text('{"method": "satm"}')
    assert report(Results.read(tmp_path)) == tmp_path / "report.html"
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
    report(Results.read(run_dir))
    for name in ("figure3", "figure4", "losses"):
        pixels(run_dir / "figures" / f"{name}.png")
    assert "confusion_satm_resnet50.csv is not a square table" in (run_dir / "report.html").read_text(encoding="utf-8")


def test_other_figures_are_kept(tmp_path):
    run_dir = make_run(tmp_path)
    figure_pairs(run_dir / "figures" / "transfer.png", make_pairs()[:1])
    assert "transfer</figcaption>" in write(Results.read(run_dir)).read_text(encoding="utf-8")


def test_command(tmp_path, capsys):
    run_dir = make_run(tmp_path / "run")
    assert main([str(run_dir)]) == 0
    assert capsys.readouterr().out == f"{run_dir / 'report.html'}\n"
    for folder, message in ((tmp_path / "none", "There is no folder"), (tmp_path, "is not a run folder")):
        assert main([str(folder)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1
    for settings, message in (("{", "not valid JSON"), ("[]", "does not hold the settings of a run"),
                              ('{"images": 500}', "does not hold the settings of a run (no method)")):  # fmt: skip
        (run_dir / "config.json").write_text(settings)
        assert main([str(run_dir)]) == 2
        assert message in capsys.readouterr().err


def test_an_evaluation_is_not_a_run(tmp_path, capsys):
    run_dir = make_run(tmp_path / "run")
    (run_dir / "evaluation.txt").write_text("images ...\n")
    assert main([str(run_dir)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err == (
        f"error: {run_dir} is an evaluation, not a run: read its evaluation.txt, or give the folder of a run.\n"
    )
    assert not (run_dir / "report.html").exists()


def test_tables_of_other_columns_are_reported(tmp_path):
    run_dir = make_run(tmp_path)
    for path in [*run_dir.glob("tables/*.csv"), run_dir / "log.csv", run_dir / "epochs.csv"]:
        path.write_text("phase,method,vgg16.loss,vgg16.train_clean\nsatm,satm,1.5,0.5\nclean,satm,inf,x\n\0\0,")
    assert main([str(run_dir)]) == 0
    assert "is not a square table" in (run_dir / "report.html").read_text(encoding="utf-8")


def test_importing_does_not_load_matplotlib():
    code = "import sys, minisatm.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
