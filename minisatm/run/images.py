"""Which images a run is about: its data set, and the parts to train, validate and test on."""

from __future__ import annotations

from pathlib import Path

from .. import data
from ..errors import InputError
from ..progress import bar
from .settings import Settings


def prepare_data(settings: Settings) -> data.Dataset:
    """The data set of the settings; faces are drawn first if they do not exist yet."""
    if settings.data == "faces" and not settings.data_dir:
        from ..data import faces

        wanted = dict(images=settings.faces, size=settings.size, seed=settings.seed)
        directory = Path("runs") / "data" / f"faces-{settings.faces}-{settings.size}px-seed{settings.seed}"
        if not faces.matches(directory, **wanted):
            print(f"drawing {settings.faces:,} faces into {directory}", flush=True)
            with bar(settings.faces, "faces", "face") as shown:
                faces.write(directory, **wanted, progress=lambda done, total: shown.update(done - shown.n))
    elif not settings.data_dir:
        raise InputError(f"--data {settings.data} needs --data-dir, the directory that holds it.")
    else:
        directory = Path(settings.data_dir)
    with bar(0, "checking", "image") as shown:

        def progress(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        return data.load(settings.data, directory, labels=settings.labels, progress=progress)


def test_images(settings: Settings, *, batch: int, backend: str) -> tuple[data.Dataset, data.Batches]:
    """The data set of the settings, and its test part in batches."""
    dataset = prepare_data(settings)
    indices = dataset.split(fold=settings.fold, seed=settings.seed).test
    return dataset, data.Batches(dataset, indices, batch=batch, size=settings.size, seed=settings.seed, backend=backend)
