"""python -m minisatm.doctor: show what minisatm can use on this machine, how fast it is, and how to make it faster."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from timeit import timeit
from typing import Any

from .parallel import cores, one_blas_thread

REQUIRED = ("numpy", "pillow", "h5py", "matplotlib", "tqdm", "threadpoolctl")
DATA_PARTS = ("data/mnist", "data/adience", "weights")

# OpenBLAS's core types by the vector instructions of their kernels. There is no warning for a type that is in no list.
AVX2_CORES = ("haswell", "zen", "excavator")
OLDER_CORES = (
    "katmai", "coppermine", "northwood", "prescott", "banias", "atom", "core2", "penryn", "dunnington", "nehalem",
    "sandybridge", "athlon", "opteron", "opteron_sse3", "barcelona", "bobcat", "bulldozer", "piledriver",
    "steamroller", "nano",
)  # fmt: skip
THREAD_VARIABLES = {
    "openblas": ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_DEFAULT_NUM_THREADS"),
    "mkl": ("MKL_NUM_THREADS", "OMP_NUM_THREADS"),
    "blis": ("BLIS_NUM_THREADS", "OMP_NUM_THREADS"),
}
INSTALL_NUMPY = "install NumPy's own wheel (pip install --force-reinstall numpy)"
MOST_THREADS = 64  # the OpenBLAS in NumPy's wheels never uses more


def vector_unit(flags: Collection[str]) -> str:
    """The widest vector instructions that a processor has by its flags and OpenBLAS has kernels for; "" if none."""
    if {"avx512f", "avx512vl"} <= set(flags):
        return "AVX-512"
    return "AVX2" if {"avx2", "fma"} <= set(flags) else ""


def blas_warnings(
    library: Mapping[str, Any] | None, flags: Collection[str], environment: Mapping[str, str], cores: int
) -> list[str]:
    """One sentence for each thing that makes NumPy's matrix products slow, with what to do about it.

    library: threadpoolctl's entry for NumPy's BLAS, None if there is none. flags: the processor's, from /proc/cpuinfo.
    """
    if library is None:
        return [f"threadpoolctl does not know NumPy's BLAS, so minisatm cannot set its threads: {INSTALL_NUMPY}."]
    warnings, kind, threads = [], library["internal_api"], library["num_threads"] or 1
    if kind == "openblas":
        core, unit = library.get("architecture") or "unknown", vector_unit(flags)
        if (unit == "AVX-512" and core.lower() in AVX2_CORES) or (unit and core.lower() in OLDER_CORES):
            remedy = f"update NumPy, or set OPENBLAS_CORETYPE={'SkylakeX' if unit == 'AVX-512' else 'Haswell'}"
            if environment.get("OPENBLAS_CORETYPE"):
                remedy = f"unset OPENBLAS_CORETYPE (now {environment['OPENBLAS_CORETYPE']})"
            slow = f"OpenBLAS runs its {core} core although this processor has {unit}, up to twice as fast"
            warnings.append(f"{slow}: {remedy}.")
        if environment.get("OPENBLAS_L2_SIZE"):
            warnings.append("OPENBLAS_L2_SIZE hides the real cache size from OpenBLAS: unset OPENBLAS_L2_SIZE.")
    if threads < min(cores, MOST_THREADS):
        names = THREAD_VARIABLES.get(kind, ("OMP_NUM_THREADS",))
        few = [n for n in names if environment.get(n, "").split(",")[0].strip() in map(str, range(1, cores))]
        remedy = f"unset {' and '.join(few)}" if few else INSTALL_NUMPY
        warnings.append(f"BLAS uses {threads} of {cores} cores in products outside minisatm's own kernels: {remedy}.")
    return warnings


def speed_warnings(one: float, every: float, cores: int) -> list[str]:
    """A warning where `every` core together multiplies matrices hardly faster than `one`: other programs use them."""
    if cores < 2 or every >= 1.3 * one:
        return []
    slow = f"{cores} cores multiply matrices only {every / one:.1f} times as fast as one"
    return [f"{slow}: stop the other programs that use them (top shows which), unless they are threads of one core."]


def data_folder(environment: Mapping[str, str]) -> tuple[str, list[str]]:
    """What the folder $MINISATM_DATA holds, and a warning where it is set and holds no data."""
    folder = environment.get("MINISATM_DATA")
    if not folder:
        return "MINISATM_DATA is not set (drawn faces need no data)", []
    held = [part for part in DATA_PARTS if os.path.isdir(os.path.join(folder, part))]
    missing = ", ".join(part for part in DATA_PARTS if part not in held)
    if not held:
        return f"{folder}: none", [f"MINISATM_DATA={folder} holds none of {missing}: set it to the folder that does."]
    return f"{folder}: {', '.join(held)}" + (f"; no {missing}" if missing else ""), []


def drawn_faces() -> str:
    """The sets of faces that training runs in this directory have drawn, in words."""
    names = sorted(path.name for path in Path("runs/data").glob("*") if path.is_dir())
    return f"runs/data: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" if names else "none in runs/data yet"


def version(package: str) -> str:
    """The version of an installed package, or "absent"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def system_file(path: str) -> dict[str, str]:
    """The "name : value" lines of a file under /proc as a dict, empty where there is no such file."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def memory() -> str:
    """The total and the available memory in words, as far as the system knows them."""
    lines = system_file("/proc/meminfo")  # in kB
    if {"MemTotal", "MemAvailable"} <= set(lines):
        total, available = (int(lines[name].split()[0]) / 2**20 for name in ("MemTotal", "MemAvailable"))
        return f"{total:.1f} GiB, {available:.1f} GiB of it available"
    try:
        return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB, available: unknown"
    except (AttributeError, OSError, ValueError):
        return "unknown"


def blas() -> tuple[str, dict[str, Any] | None]:
    """NumPy's BLAS in words, and threadpoolctl's entry for it, None if threadpoolctl does not know it."""
    import numpy as np

    if importlib.util.find_spec("threadpoolctl"):
        from threadpoolctl import threadpool_info

        for entry in threadpool_info():
            if entry["user_api"] == "blas":
                core = f", core type {entry['architecture']}" if entry.get("architecture") else ""
                return f"{entry['internal_api']} {entry['version']}{core}, threads: {entry['num_threads']}", entry
    name = np.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {}).get("name", "unknown")
    return f"{name}, not known to threadpoolctl", None


def shortest(work: Callable[[], Any], seconds: float) -> float:
    """The shortest time of work(), which runs once to warm up and then as often as fits into so many seconds."""
    work()
    times, end = [timeit(work, number=1)], time.perf_counter() + seconds
    while time.perf_counter() < end:
        times.append(timeit(work, number=1))
    return min(times)


def speeds(seconds: float = 2.0) -> tuple[float, float, float, float]:
    """1e9 operations (bytes) a second of: matrix product on one core, on all cores, copying, convolution."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    from . import Tensor, grad, ops

    rng, each = np.random.default_rng(0), seconds / 4.4  # four measurements; the rest is for warming up
    a, product = rng.standard_normal((1024, 1024), np.float32), np.empty((1024, 1024), np.float32)
    multiply = []
    for threads in (1, cores()):
        with threadpool_limits(threads, user_api="blas"):
            multiply.append(shortest(lambda: np.matmul(a, a, out=product), each))
    source, target = np.ones((2, 2**24), np.float32)
    copy = shortest(lambda: np.copyto(target, source), each)

    x = Tensor(rng.standard_normal((8, 56, 56, 64), np.float32), requires_grad=True)
    w = Tensor(rng.standard_normal((3, 3, 64, 64), np.float32), requires_grad=True)
    g = rng.standard_normal(x.shape, np.float32)
    with one_blas_thread:  # as in the training loop
        convolve = shortest(lambda: grad(ops.conv2d(x, w), [x, w], g), each)
    operations = 3 * 2 * g.size * 3 * 3 * 64  # out, gx, gw: kh kw C products and sums for each of g's numbers
    one, every = (2 * 1024**3 / t / 1e9 for t in multiply)
    return one, every, 2 * source.nbytes / copy / 1e9, operations / convolve / 1e9


def show(label: str, text: str = "") -> None:
    """Print one aligned line."""
    print(f"{label:<15} {text}".rstrip(), flush=True)


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, also with warnings; 2 for a bad argument."""
    from . import __version__
    from .backend import cupy_problem, gpu
    from .cli import Parser

    parser = Parser(prog="python -m minisatm.doctor", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out the speed test of two seconds")
    quick = parser.parse_args(argv).quick

    about, (library, entry), (data, warnings) = system_file("/proc/cpuinfo"), blas(), data_folder(os.environ)
    name, flags = about.get("model name") or platform.processor() or "unknown", about.get("flags", "").split()
    versions = {package: version(package) for package in REQUIRED}
    absent = [package for package in REQUIRED if versions[package] == "absent"]
    if absent:
        warnings.append(f"{', '.join(absent)}: not installed; run pip install -e . in minisatm's folder.")
    warnings += blas_warnings(entry, flags, os.environ, cores())
    optional = (f"{p} {'present' if importlib.util.find_spec(p) else 'absent'}" for p in ("cupy", "torch"))
    show("minisatm", f"{__version__}, Python {platform.python_version()}")
    show("packages", ", ".join(" ".join(item) for item in versions.items()))
    show("optional", ", ".join(optional))
    show("system", f"{platform.system()} {platform.release()} {platform.machine()}")
    show("processor", f"{name}, {vector_unit(flags)}".rstrip(", "))
    show("cores", f"{cores()} usable of {os.cpu_count()}")
    show("memory", memory())
    show("BLAS", library)
    show("backend numpy", "usable")
    problem = cupy_problem()
    show("backend cupy", problem or "usable")
    if problem is None:
        show("GPU", gpu())
    show("data", data)
    show("drawn faces", drawn_faces())
    if not quick and not absent:
        one, every, copy, convolution = speeds()
        show("matrix product", f"{one:.0f} GFLOP/s with one BLAS thread (1024 square, float32)")
        show("  on all cores", f"{every:.0f} GFLOP/s with {cores()}: {every / one:.2f} times as fast")
        show("memory copy", f"{copy:.1f} GB/s, read and written")
        show("convolution", f"{convolution:.0f} GFLOP/s, forward and backward, counted as the direct convolution")
        show("", "(3x3, 64 to 64 channels, 56x56, batch 8)")
        warnings += speed_warnings(one, every, cores()) if entry else []
    print()
    for sentence in warnings:
        show("warning", sentence)
    if not warnings:
        show("nothing to improve")
    return 0


if __name__ == "__main__":
    sys.exit(main())
