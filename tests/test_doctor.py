"""The doctor: what it warns of, what its screen shows, and how it ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minisatm import doctor
from minisatm.backend import cupy_problem

AVX2 = ("sse2", "avx", "avx2", "fma")
AVX512 = (*AVX2, "avx512f", "avx512dq", "avx512bw", "avx512vl")
SETTINGS = {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MINISATM_DATA"}.union(*doctor.THREAD_VARIABLES.values())


def library(core: str = "SkylakeX", threads: int | None = 2, kind: str = "openblas") -> dict:
    """An entry of threadpoolctl.threadpool_info()."""
    return {"user_api": "blas", "internal_api": kind, "num_threads": threads, "architecture": core, "version": "1"}


def command(*arguments: str, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """python -m minisatm.doctor without the settings of this process, such as the tests' one BLAS thread."""
    environment = {k: v for k, v in os.environ.items() if k not in SETTINGS} | settings
    base = [sys.executable, "-m", "minisatm.doctor"]
    return subprocess.run([*base, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "blas, flags, environment, cores, expected",
    [
        # the core type: the words that the one warning must hold, or None for no warning
        (library("SkylakeX"), AVX512, {}, 2, None),
        (library("SapphireRapids"), AVX512, {"OPENBLAS_CORETYPE": "SapphireRapids"}, 2, None),
        (library("Haswell"), AVX512, {"OPENBLAS_CORETYPE": "Haswell"}, 2, "Haswell .*AVX-512.* unset OPENBLAS_CORET"),
        (library("Haswell"), AVX512, {}, 2, "Haswell .*AVX-512.* OPENBLAS_CORETYPE=SkylakeX"),
        (library("Zen"), AVX512, {}, 2, "Zen .*AVX-512"),
        (library("Nehalem"), AVX512, {}, 2, "Nehalem .*AVX-512"),
        (library("Haswell"), AVX2, {"OPENBLAS_CORETYPE": "Haswell"}, 2, None),
        (library("Zen"), AVX2, {}, 2, None),
        (library("Sandybridge"), AVX2, {}, 2, "Sandybridge .*AVX2.* OPENBLAS_CORETYPE=Haswell"),
        (library("Sandybridge"), ("sse2", "avx"), {}, 2, None),
        (library("Haswell"), ("avx2", "fma", "avx512f", "avx512er"), {}, 2, None),  # a Xeon Phi: no kernels for it
        (library("Haswell"), (), {}, 2, None),  # not Linux: nothing known
        (library("FutureCore"), AVX512, {}, 2, None),
        (library("haswell", kind="blis"), AVX512, {}, 2, None),
        (library(""), AVX512, {}, 2, None),
        (library(), AVX512, {"OPENBLAS_L2_SIZE": "262144"}, 2, "unset OPENBLAS_L2_SIZE"),
        (library("", kind="mkl"), AVX512, {"OPENBLAS_L2_SIZE": "262144"}, 2, None),
        # threads
        (library(threads=1), AVX512, {"OPENBLAS_NUM_THREADS": "1"}, 2, "1 of 2 cores.* unset OPENBLAS_NUM_THREADS"),
        (library(threads=1), AVX512, {"OMP_NUM_THREADS": "1,2"}, 2, r"1 of 2 cores.* unset OMP_NUM_THREADS\."),
        (library(threads=2), AVX512, {"OMP_NUM_THREADS": "2"}, 4, r"2 of 4 cores.* unset OMP_NUM_THREADS\."),
        (library(threads=2), AVX512, {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "1"}, 2, None),
        (library(threads=1), AVX512, {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "8"}, 2, r"OPENBLAS_NUM_\w+\."),
        (library("", threads=1, kind="mkl"), AVX512, {"MKL_NUM_THREADS": "1"}, 2, "unset MKL_NUM_THREADS"),
        (library(threads=1), AVX512, {"MKL_NUM_THREADS": "1"}, 2, "1 of 2 cores.* install NumPy's own wheel"),
        (library(threads=None), AVX512, {}, 2, "1 of 2 cores.* install NumPy's own wheel"),
        (library(threads=1), AVX512, {"OPENBLAS_NUM_THREADS": "1"}, 1, None),
        (library(threads=64), AVX512, {}, 128, None),  # all that NumPy's wheel is built for
        (None, AVX512, {"OPENBLAS_CORETYPE": "Haswell"}, 2, "threadpoolctl does not know NumPy's BLAS.* install"),
    ],
)  # fmt: skip
def test_blas_warnings(blas, flags, environment, cores, expected):
    found = doctor.blas_warnings(blas, flags, environment, cores)
    if expected is None:
        assert found == []
    else:
        assert len(found) == 1 and re.search(expected, found[0]) and found[0].endswith(".")


def test_each_blas_problem_has_its_own_warning():
    environment = {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_L2_SIZE": "262144", "OPENBLAS_NUM_THREADS": "1"}
    found = doctor.blas_warnings(library("Haswell", threads=1), AVX512, environment, 2)
    assert [re.findall("unset ([A-Z0-9_]+)", sentence) for sentence in found] == [[name] for name in environment]


@pytest.mark.parametrize(
    "one, every, cores, warned",
    [(100, 129, 2, True), (100, 131, 2, False), (100, 70, 8, True), (100, 100, 1, False), (100, 195, 2, False)],
)
def test_speed_warnings(one, every, cores, warned):
    found = doctor.speed_warnings(one, every, cores)
    assert len(found) == warned
    assert not warned or f"only {every / one:.1f} times" in found[0]


def test_data_folder(tmp_path):
    folder = str(tmp_path)
    assert doctor.data_folder({}) == doctor.data_folder({"MINISATM_DATA": ""})
    text, (warning,) = doctor.data_folder({"MINISATM_DATA": folder})
    assert text == f"{folder}: none"
    assert warning.startswith(f"MINISATM_DATA={folder} holds none of data/mnist, data/adience, weights: ")
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    (tmp_path / "weights").mkdir()
    assert doctor.data_folder({"MINISATM_DATA": folder}) == (f"{folder}: data/mnist, weights; no data/adience", [])
    (tmp_path / "data" / "adience").mkdir()
    assert doctor.data_folder({"MINISATM_DATA": folder}) == (f"{folder}: data/mnist, data/adience, weights", [])


def test_drawn_faces(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert doctor.drawn_faces() == "none in runs/data yet"
    for i in range(4):
        (tmp_path / "runs" / "data" / f"faces-{i}").mkdir(parents=True)
    assert doctor.drawn_faces() == "runs/data: faces-0, faces-1, faces-2, ..."


def test_system_files_that_are_not_there(tmp_path, monkeypatch):
    assert doctor.system_file(str(tmp_path / "cpuinfo")) == {}
    (tmp_path / "cpuinfo").write_text("model name\t: A: 1\nflags\t\t: fma avx2\n\n")
    assert doctor.system_file(str(tmp_path / "cpuinfo")) == {"model name": "A: 1", "flags": "fma avx2", "": ""}
    monkeypatch.setattr(doctor, "system_file", lambda path: {"MemTotal": "2097152 kB", "MemAvailable": "1048576 kB"})
    assert doctor.memory() == "2.0 GiB, 1.0 GiB of it available"
    monkeypatch.setattr(doctor, "system_file", lambda path: {})
    assert re.fullmatch(r"[\d.]+ GiB, available: unknown|unknown", doctor.memory())


def test_packages_that_are_absent(monkeypatch, capsys):
    assert doctor.version("numpy")[0].isdigit() and doctor.version("minisatm-no-such-package") == "absent"
    monkeypatch.setattr(doctor, "version", lambda package: "absent" if package == "h5py" else "1.0")
    monkeypatch.setattr(doctor, "speeds", lambda: pytest.fail("the speed test needs all packages"))
    assert doctor.main([]) == 0
    assert re.search(r"^warning +h5py: not installed; run pip install -e \.", capsys.readouterr().out, flags=re.M)


def test_shortest_runs_at_least_once_after_the_warm_up():
    runs = []
    assert doctor.shortest(lambda: runs.append(1), seconds=0) >= 0
    assert len(runs) == 2


def test_screen_with_the_speed_test(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "cores", lambda: 2)
    monkeypatch.setattr(doctor, "blas", lambda: ("openblas", library(threads=2)))
    monkeypatch.setattr(doctor, "speeds", lambda: (100.0, 110.0, 12.34, 150.0))
    assert doctor.main([]) == 0
    out = capsys.readouterr().out
    assert "\nmatrix product  100 GFLOP/s with one BLAS thread" in out
    assert "\n  on all cores  110 GFLOP/s with 2: 1.10 times as fast\n" in out
    assert "\nmemory copy     12.3 GB/s" in out and "\nconvolution     150 GFLOP/s" in out
    assert "\nwarning         2 cores multiply matrices only 1.1 times as fast as one" in out


def test_speeds_are_figures():
    found = doctor.speeds(seconds=0)
    assert len(found) == 4 and all(figure > 0 for figure in found)


def test_quick_screen(tmp_path):
    done = command("--quick", cwd=tmp_path, MINISATM_DATA=str(tmp_path))
    assert done.returncode == 0 and done.stderr == ""
    labels = ["minisatm", "packages", "optional", "system", "processor", "cores", "memory", "BLAS"]
    labels += ["backend numpy", "backend cupy", *([] if cupy_problem() else ["GPU"]), "data", "drawn faces"]
    lines = done.stdout.splitlines()
    assert [line[:15].strip() for line in lines[:12]] == labels
    assert all(line[15] == " " and line[16] != " " for line in lines[:12])
    assert re.search(r"numpy \d.*pillow \d.*h5py \d.*matplotlib \d", lines[1])
    assert re.search(r"^cupy (present|absent), torch (present|absent)$", lines[2][16:])
    assert re.search(r"^\d+ usable of \d+$", lines[5][16:])
    assert lines[12] == "" and all(line.startswith("warning  ") for line in lines[13:])
    assert f"MINISATM_DATA={tmp_path} holds none" in done.stdout and "GFLOP" not in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [("--quik",), ("--quick", "now"), ("--quick=1",)])
def test_bad_arguments(arguments, tmp_path):
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"error: [^\n]*; see --help\.\n", done.stderr)


def test_older_core_type_on_this_machine(tmp_path):
    """The environment's core type really reaches OpenBLAS, and the doctor says so."""
    flags = doctor.system_file("/proc/cpuinfo").get("flags", "").split()
    kind = (doctor.blas()[1] or {}).get("internal_api")
    if not {"avx512f", "avx512vl"} <= set(flags) or kind != "openblas":
        pytest.skip("needs an AVX-512 processor and OpenBLAS to run the Haswell core type in the wrong place")
    done = command("--quick", cwd=tmp_path, OPENBLAS_CORETYPE="Haswell")
    assert done.returncode == 0 and "core type Haswell" in done.stdout
    assert re.search(r"^warning +OpenBLAS runs its Haswell core .* unset OPENBLAS_CORETYPE", done.stdout, flags=re.M)


def test_import_is_light():
    heavy = ("matplotlib", "h5py", "PIL", "cupy", "torch", "threadpoolctl", "minisatm.train")
    code = f"import sys, minisatm.doctor; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
