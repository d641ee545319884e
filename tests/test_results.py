"""What the rows of a run say: reading and writing them, queries, and the table on the screen."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from run_folders import COMPARED, CONDITIONS, CONFIG, LEAKS, compared, leak, make_run, result, result_rows

from minisatm.errors import InputError
from minisatm.metrics import interval
from minisatm.results.readings import leak_sentences
from minisatm.results.rows import Difference, Leak, Row
from minisatm.results.screen import results_table
from minisatm.results.tables import Results, cells, read_rows, write_rows


def table(rows, settings=CONFIG, *more):
    return results_table(Results(settings, rows, *more))


def test_table_text():
    text = table(result_rows(), CONFIG, COMPARED)
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
    line = next(line for line in table(rows, {}).splitlines() if line.startswith("  undefended"))
    assert line.split("  ")[2:] == [" 99.5 [98.7, 99.8]", *["99.5 [98.7, 99.8]"] * 4]
    assert "100 [99.5, 100]  100 [" in re.sub(" {3,}", "  ", table(rows, {}))


def test_paired_differences_are_printed_when_given():
    text = table(result_rows(), CONFIG, COMPARED)
    assert "paired, same test images (n = 800)" in text
    assert re.search(r"SATM - control, hold-out +vgg<16> +\+7\.9 \[\+5\.1, \+10\.7\] +above\n", text)
    assert re.search(r"SATM - ensemble, hold-out +vgg<16> +-1\.1 \[-3\.0, \+0\.8\] +no clear difference", text)
    assert re.search(r"SATM - ensemble, clean +vgg<16> +-10\.0 \[-14\.0, -6\.0\] +below", text)
    for nothing in ([], [compared(difference=math.nan, low=math.nan, high=math.nan)]):
        text = table(result_rows(), CONFIG, nothing)
        assert "paired" not in text and "SATM - " not in text


def lines_of(*arguments):
    return table(*arguments).replace("\n  ", " ").splitlines()


def warnings_of(*arguments):
    return [line for line in lines_of(*arguments) if line.startswith("WARNING")]


def test_leak_warnings():
    (sure,) = warnings_of(result_rows(), CONFIG, (), LEAKS)
    assert sure == (
        "WARNING: satm/vgg<16> on examples of x/y: 66.2 % beats clean 65.3 %; crafted from predicted labels, which "
        "cannot leak the true one, it is 58.8 %."
    )
    by_chance = [line for line in lines_of(result_rows(), CONFIG, (), LEAKS) if line.startswith("Chance can explain")]
    assert by_chance == ["Chance can explain this: satm/resnet50 on examples of x/y: 65.2 % beats clean 64.3 %."]
    (unknown,) = warnings_of(result_rows(), CONFIG, (), [leak(predicted=None)])
    assert unknown.endswith("66.2 % beats clean 65.3 %; the true label may have leaked.")
    rows = [row for row in result_rows() if (row.method, row.condition) != ("satm", "partner new")]
    assert not [line for line in lines_of(rows) if "clean one" in line or "Chance" in line or "leak" in line]
    for attack, count in (("step_ll", 0), ("r_step_ll", 0), ("fgsm", 1)):
        lines = lines_of(result_rows(), {**CONFIG, "attack": attack}, (), LEAKS)
        assert len([line for line in lines if "WARNING" in line]) == count
        assert len([line for line in lines if "Chance can" in line]) == count
    twice = [leak(), leak(source="x/z")]
    assert "vgg<16> on examples of x/z: 66.2 % beats" in warnings_of(result_rows(), CONFIG, (), twice)[1]


def test_only_an_interval_above_zero_is_a_warning():
    def said(*lows):
        return leak_sentences([leak(low=low) for low in lows])

    assert [line[:12] for line in said(0.001, 0.0, 0.002, -0.1)] == ["WARNING: sat", "WARNING: sat", "Chance can e"]
    assert said() == said(math.nan) == []
    assert (
        said(-0.1, -0.1, -0.1)[0].count(
            "satm/vgg<16> on examples of x/y: 66.2 % beats clean 65.3 %; crafted from predicted labels"
        )
        == 3
    )
    assert said(-0.1, -0.1, -0.1, 0.0) == [
        "4 rates beat the clean one, but chance can explain it (tables/leaks.csv has them)."
    ]


def test_an_old_folder_says_that_leaks_were_not_compared(tmp_path):
    folder = make_run(tmp_path)
    (folder / "tables" / "leaks.csv").rename(folder / "tables" / "predicted_labels.csv")
    results = Results.read(folder)
    assert results.leaks == [] and "there is no tables/leaks.csv to say whether" in results_table(results)
    assert "tables/leaks.csv" not in table(results.rows, {**CONFIG, "attack": "step_ll"})


def test_what_rounding_costs_is_one_sentence():
    def said(rows):
        return [line for line in lines_of(rows) if line.startswith("Examples are rounded")]

    before = (0.61, 0.020, 0.425, 0.41)  # clean, white-box, partner old, hold-out
    undefended = [row for row in result_rows() if (row.method, row.network) == ("undefended", "vgg<16>")]
    rows = [replace(r, rate_before_rounding=b, epsilon=0.1) for r, b in zip(undefended, before)]
    rows[0] = replace(rows[0], rate_before_rounding=0.1)  # clean images have no attack
    assert said(rows) == [
        "Examples are rounded to 8-bit pixels inside the ball of radius epsilon. This changes the rates under attack by"
        " +0.0 points on average (-0.2 to +0.2; where it is positive, rounding has weakened the attack)."
    ]
    rows[2] = replace(rows[2], rate_before_rounding=0.4)
    assert "by +0.8 points on average (-0.2 to +2.5;" in said(rows)[0]
    assert "pixels. This" in said([replace(row, epsilon=None) for row in rows])[0]
    assert said(result_rows()) == []


def test_white_box_is_read_honestly():
    text = table(result_rows()).replace("\n  ", " ")
    assert "White-box attacks still break both networks after SATM (2.4 %, 1.4 %): it is not a defence against" in text
    rows = [result("satm", "cnn", "clean", 0.6, 0.9), result("satm", "cnn", "white-box", 0.4, 0.8)]
    assert "White-box attacks after SATM: cnn 40.0 % (clean 60.0 %)." in table(rows, {})
    broken = [result("satm", "dnn", "clean", 0.6, 0.9), result("satm", "dnn", "white-box", 0.1, 0.8)]
    said = "White-box attacks after SATM: cnn 40.0 % (clean 60.0 %), dnn 10.0 % (clean 60.0 %)."
    assert said in lines_of([*rows, *broken], {})
    assert any(
        line.startswith("White-box attacks still break dnn after SATM (10.0 %)") for line in lines_of(broken, {})
    )


def test_holdout_is_no_network_whatever_it_is_called():
    rows = [result("satm", "a", "hold-out", 0.5, 0.6, "undefended/hold-out-a"), result("satm", "a", "clean", 0.5, 0.6),
            result("undefended", "hold-out-a", "clean", 0.4, 0.6)]  # fmt: skip
    assert Results({}, rows).networks == ["a"]
    assert "\nhold-out a, clean: 40.0 [" in table(rows, {"networks": ["a"], "holdout": "a"})
    assert Results({"networks": ["x=a", "a"], "holdout": "a"}, rows[1:]).networks == ["x", "a"]
    assert Results({"networks": ["a"], "holdout": "none"}, rows[1:2]).networks == ["a"]
    assert "hold-out: none in this run" in table(rows[1:2], {"holdout": "none"})


def test_table_of_one_method_and_unknown_settings():
    text = table([result("undefended", "cnn", "clean", 0.5, 1.0)], {})
    assert "cnn: classification rate\n  undefended   50.0 [46.5, 53.5]" in text
    assert "epsilon unknown" in text
    with pytest.raises(InputError, match="evaluate the networks first"):
        table([])


def test_several_sources_are_averaged_without_a_smaller_interval():
    rows = [result("satm", "a", "partner new", rate, rate, source) for rate, source in ((0.4, "b"), (0.6, "c"))]
    cell = Results({}, rows).cell("satm", "a", "partner new")
    assert (cell.source, cell.n, cell.rate_before_rounding) == ("", 800, None)
    assert cell.rate == pytest.approx(0.5)
    assert cell.rate_high - cell.rate_low == pytest.approx(np.diff(interval(0.4, 800))[0], rel=1e-6)


def test_missing_table_is_empty(tmp_path):
    assert read_rows(tmp_path / "none.csv", Row) == []
    write_rows(tmp_path / "none.csv", [])
    assert not (tmp_path / "none.csv").exists()


@pytest.mark.parametrize("rows", [[*result_rows(), result("satm", "a,b", 'quoted "x"', 0.5, 0.75, "x/y", epsilon=0.0625,
                                  norm="linf", rate_before_rounding=0.25)], COMPARED, LEAKS])  # fmt: skip
def test_rows_are_read_as_they_were_written(tmp_path, rows):
    def rounded(row):
        values = vars(row).items()
        return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in values}

    write_rows(tmp_path / "rows.csv", rows)
    back = read_rows(tmp_path / "rows.csv", type(rows[0]))
    assert [vars(row) for row in back] == [rounded(row) for row in rows]
    assert {k: type(v) for k, v in vars(back[0]).items()} == {k: type(v) for k, v in vars(rows[0]).items()}


def test_cells_are_text_of_six_digits():
    row = result("satm", "a", "clean", 2 / 3, 1.0)
    assert list(cells(row))[:6] == ["method", "network", "condition", "source", "n", "rate"]
    assert [cells(row)[name] for name in ("method", "source", "n", "rate", "one_off", "epsilon", "norm")] == [
        "satm", "", "800", "0.666667", "1", "", ""]  # fmt: skip


def test_foreign_and_damaged_tables_are_read_without_a_traceback(tmp_path):
    """Columns of another order, unknown ones, none, cells that are no number, lines that are cut off, zero bytes."""
    path = tmp_path / "rows.csv"
    path.write_text("rate,colour,method,network,condition,n\n0.5,red,satm,a,clean,8,9,10\nx,,satm,a,clean,inf\n0.25,blue\n"
                    "1e999,,satm\n\n")  # fmt: skip
    rows = read_rows(path, Row)
    assert [(r.method, r.network, r.condition, r.n) for r in rows] == [
        ("satm", "a", "clean", 8), ("satm", "a", "clean", 0), ("satm", "", "", 0)]  # fmt: skip
    assert rows[0].rate == 0.5 and all(math.isnan(row.rate) for row in rows[1:])
    assert math.isnan(rows[0].rate_low) and rows[0].epsilon is None and rows[0].attack == ""
    assert re.search(
        r"n = 8 test images(.|\n)*a: classification rate\n  SATM +50.0( +-){4}\na: one-off\n  SATM( +-){5}",
        table(rows, {}),
    )
    for text in (b"", b"\0\0\0", b"\xff\xfe,\n,,\n", b"method\n\0\0", b'"'):
        path.write_bytes(text)
        assert read_rows(path, Row) == read_rows(path, Difference) == read_rows(path, Leak) == []


def test_a_folder_says_what_its_rows_in_memory_say(tmp_path):
    read = Results.read(make_run(tmp_path))
    assert results_table(read) == table(result_rows(), CONFIG, COMPARED, LEAKS)
    assert list(read.log) == list(read.epochs) == ["clean", "control", "ensemble", "satm"]
    assert len(read.log["satm"]["vgg<16>.loss"]) == 250 and np.isnan(read.log["clean"]["vgg<16>.domain"]).all()
    assert list(read.confusions) == [("undefended", "resnet50"), ("satm", "resnet50")]
    assert np.shape(read.confusions["satm", "resnet50"][1]) == (8, 8)
    assert read.methods == ["undefended", "control", "ensemble", "satm"] and read.epsilon == "32/256"
    assert [row.method for row in read.baselines] == ["always (15, 20)"]
    assert read.cell("satm", "resnet50", "clean").rate == pytest.approx(0.643)
    assert read.cell("undefended", "resnet50", "partner new") is None
