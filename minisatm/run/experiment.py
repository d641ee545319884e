"""One run from data to report: fine-tune, train each method from the same start, measure, and write it all down."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import fields
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import attacks, backend, data, models, optim
from ..domain import DOMAINS
from ..errors import InputError
from ..evaluation import main_table
from ..evaluation.crossing import Crossing, cross
from ..evaluation.setting import AttackSetting
from ..models import files
from ..models.network import Network
from ..parallel import Team, cores, in_processes
from ..progress import Progress, bar, duration
from ..results.figures import figure_pairs
from ..results.page import report
from ..results.screen import results_table
from ..results.tables import Results, write_rows
from ..satm import Learner, Rules
from ..streams import stream
from . import gpu_memory, images, phases
from .folder import Position, RunFolder
from .monitor import Monitor
from .phases import ADVERSARIAL, PLANS, STATIC, WITH_DOMAIN
from .settings import Settings

UNROUNDED = 384  # images, of which the table also asks what rounding to 8-bit pixels changes: more would take long
TEST_BATCH = 4  # times the batch: crafting alone keeps less in memory than training does
NARROW = 2**25  # bytes of a batch after the first convolution: about a processor's last cache
FIGURE_1_EPSILONS = (64 / 256, 32 / 256, 16 / 256, 8 / 256)
say = partial(print, flush=True)


class Parts(NamedTuple):
    """The batches of a run: augmented ones to train on, plain ones to validate and test on."""

    train: data.Batches
    validation: data.Batches
    test: data.Batches


def is_narrow(batch: int, size: int, width: float) -> bool:
    """Are networks so narrow that each does better on a core of its own than all cores on one after the other?

    Then their kernels are too small to share out. Wide ones would also need their memory at the same time.
    """
    return batch * size**2 * 64 * width * 4 < NARROW


class Experiment:
    """A run folder being filled. Networks go by name; methods[method][name] is a network after that method."""

    def __init__(self, settings: Settings, dataset: data.Dataset) -> None:
        self.settings, self.dataset = settings, dataset
        self.split = split = dataset.split(fold=settings.fold, seed=settings.seed)
        if len(split.train) < settings.batch:
            raise InputError(
                f"{len(split.train)} training images do not fill one batch of {settings.batch}: use a smaller --batch."
            )
        batches = partial(data.Batches, dataset, size=settings.size, seed=settings.seed, backend=settings.backend)
        self.data = Parts(
            train=batches(split.train, batch=settings.batch, augment=settings.augment),
            validation=batches(split.validation, batch=2 * settings.batch),
            test=batches(split.test, batch=TEST_BATCH * settings.batch),
        )
        self.kinds = settings.named_networks()
        self.names = list(self.kinds)
        self.holdout: str | None = None
        if settings.holdout != "none":
            self.holdout = settings.holdout if settings.holdout not in self.kinds else f"hold-out-{settings.holdout}"
            self.kinds[self.holdout] = settings.holdout
        self.methods: dict[str, dict[str, Network]] = {}
        # Narrow networks go to processes of their own; on a GPU they take turns.
        self.narrow = settings.backend != "cupy" and is_narrow(settings.batch, settings.size, settings.width)
        steps = dict.fromkeys(PLANS[settings.method], settings.iterations) | {"clean": settings.clean_iterations}
        self.plan = {phase: count for phase, count in steps.items() if count}
        self.build = partial(models.build, classes=len(dataset.classes), width=settings.width, size=settings.size,
                             channels=dataset.channels)  # fmt: skip

    def start_networks(self) -> dict[str, Network]:
        """Networks at their random start, or at the weights the user named."""
        s, networks = self.settings, {}
        for k, (name, kind) in enumerate(self.kinds.items()):
            path = s.weights[k] if k < len(s.weights) else None
            variant = files.variant_of(path, kind) if path else {}
            if kind == "vgg16":
                variant["dropout"] = s.dropout
            # Unnamed twins (resnet50,resnet50) share a start, as in Section 5.5; named ones have their own.
            key = kind if re.fullmatch(rf"{kind}-\d+", name) else name
            network = self.build(kind, rng=stream(s.seed, key, "start"), **variant)
            if path:
                say(files.load(network, path, replace_top=True))
            elif s.weights:
                say(f"warning: {name} starts at random: --weights names no file for it, which would be the last one.")
            networks[name] = network
        for a, b in combinations(self.names, 2):
            one, other = networks[a].state(), networks[b].state()
            if self.kinds[a] == self.kinds[b] and all(np.array_equal(one[n], other[n]) for n in one):
                say(f"warning: {a} and {b} have the same structure and start; the paper saw this diverge (5.5).")
        return {name: network.to(s.backend) for name, network in networks.items()}

    def introduce(self, networks: dict[str, Network]) -> None:
        """The screen before the first step."""
        s = self.settings
        for note in self.dataset.notes:
            say(f"  {note}")
        parts = ", ".join(f"{len(b):,} {name}" for name, b in zip(Parts._fields, self.data))
        say(f"images    {self.dataset.name}: {parts}; {s.size}x{s.size}, {len(self.dataset.classes)} classes")
        for name, network in networks.items():
            role = " (hold-out)" if name == self.holdout else ""
            say(f"network   {name}{role}: {network.count_parameters():,} parameters, width {s.width:g}")
        plan = ", then ".join(f"{steps:,} {phase} steps" for phase, steps in self.plan.items())
        say(f"plan      {plan}; batch {s.batch}")
        if s.backend == "cupy":
            say(f"backend   {backend.gpu()}{', convolutions in TF32' if s.tf32 else ''}")
        sizes = {"epsilon": s.epsilon, "alpha": attacks.resolve_alpha(s.epsilon, s.alpha)}
        shown = [f"{name} {256 * size:g}/256" for name, size in sizes.items() if attacks.ATTACKS[s.attack].takes(name)]
        say(f"attack    {', '.join([s.attack, *shown])}")

    def estimate(self, seconds: float) -> None:
        say(f"estimate  about {duration(seconds)} of training on this machine, from the first steps")
        if seconds > 86400:
            say("warning: that is days; a thinner --width or a smaller --size makes it hours.")

    def complete(self, run: RunFolder, networks: dict[str, Network], position: Position | None = None) -> Path:
        """The whole run, or what is left of it after this position; returns the path of its report."""
        self.train(run, networks, position)
        self.measure(run)
        return self.report(run)

    def train(self, run: RunFolder, networks: dict[str, Network], position: Position | None) -> None:
        """Every phase of the plan that is not done yet."""
        self.introduce(networks)
        if self.settings.backend == "cupy":
            self._check_memory(networks)
        plan = list(self.plan)
        done = plan[: plan.index(position.phase)] if position else []
        self.methods["undefended"] = networks  # until they are fine-tuned
        with closing(Progress(list(self.plan.items()), note=self.estimate)) as display:
            for phase in plan:
                method = "undefended" if phase == "clean" else phase
                if phase in done:
                    self.methods[method] = self._read_networks(run, method)
                else:
                    here = position if position and position.phase == phase else Position(phase)
                    self.methods[method] = self._phase(run, here, display)
                    run.save_networks(method, self.methods[method], self.dataset.classes)

    def _check_memory(self, networks: dict[str, Network]) -> None:
        """An InputError if the batch does not fit the GPU says how much it needs and which batch fits."""
        s = self.settings
        crafts = any(phase in (*ADVERSARIAL, "penalty") for phase in self.plan)
        learners = [self._learner(name, network, "satm") for name, network in networks.items()]
        shape = s.size, s.size, self.dataset.channels
        gpu_memory.check_a_step(learners, self._rules("satm", 1), shape, s.batch, crafting=TEST_BATCH,
                                adversarial=self.names if crafts else (), copies=len(self.plan))  # fmt: skip

    def _phase(self, run: RunFolder, position: Position, display: Progress) -> dict[str, Network]:
        """The networks at the end of a phase, from this position of it on."""
        s, names, phase, start = self.settings, self.names, position.phase, self.methods["undefended"]
        if phase == "clean" and self.holdout:
            # the deepest first: networks that share a core end with a shallow one, whose kernels are large enough to be
            # shared out once another core is free
            names = sorted([self.holdout, *names], key=lambda name: -len(start[name].parameters()))
        learners = [self._learner(name, start[name], phase) for name in names]
        frozen = self.methods[STATIC[phase]] if phase in STATIC else {}
        static = [Learner(name, frozen[name], None, frozen=True) for name in self.names if frozen]
        pair = [learner for learner in learners if learner.name != self.holdout]
        shown = {k.name: source for k, source in zip(pair, phases.validation_sources(phase, pair, static))}
        rules, own = self._rules(phase, self.plan[phase]), phases.own_settings(phase, s)

        def train(team: Team) -> bool:
            """Train in one process of the team; did it stop early?"""
            monitor = Monitor(RunFolder(run.path, team), position, self.plan[phase], learners,
                              [shown.get(name) for name in names], rules, phases.validation_loss(phase, own),
                              self.data, s, display)  # fmt: skip
            phases.train(phase, learners, static, rules, monitor, team, own_examples=s.own_examples, **own)
            team.fetch(learners)
            return monitor.stopped_early

        if in_processes(train, len(learners) if self.narrow else 1):
            run.load_checkpoint("best.h5", learners)
            say(f"{phase} stopped early: the validation loss had not fallen in {s.patience} evaluations; "
                "the best weights are kept")  # fmt: skip
        return {learner.name: learner.network for learner in learners}

    def _learner(self, name: str, start: Network, phase: str) -> Learner:
        s, kind = self.settings, self.kinds[name]
        network = start
        if phase != "clean":
            network = models.build(kind, rng=0, **{f: v for f, v in start.definition.items() if f != "name"})
            network.to(s.backend).set_state(start.state())
        rate = s.rate(self.names.index(name) if name != self.holdout else -1, kind)
        make = partial(optim.build, s.optimizer, momentum=s.momentum, weight_decay=s.weight_decay)
        learner = Learner(name, network, make(network.parameters(), rate))
        if phase in WITH_DOMAIN and s.domain in DOMAINS and s.r_da:
            learner.domain = DOMAINS[s.domain](network.feature_width, rng=stream(s.seed, name, "domain")).to(s.backend)
            domain_rate = rate if s.da_learning_rate is None else s.da_learning_rate
            learner.domain_optimiser = make(learner.domain.parameters(), domain_rate)
        return learner

    def _rules(self, phase: str, steps: int) -> Rules:
        s = self.settings
        values = {field.name: getattr(s, field.name) for field in fields(Rules)}  # they have the settings' names
        values["schedule"] = partial(optim.schedule, s.schedule, iterations=steps, warmup=min(s.warmup, steps // 2))
        if s.domain == "none" or phase not in WITH_DOMAIN:
            values["r_da"] = 0.0
        return Rules(**values)

    def _read_networks(self, run: RunFolder, method: str) -> dict[str, Network]:
        names = list(self.kinds) if method == "undefended" else self.names
        files = {name: str(run.network_file(method, name)) for name in names}
        return {name: self.build(self.kinds[name], weights=files[name]).to(self.settings.backend) for name in names}

    def measure(self, run: RunFolder) -> None:
        """The main table on the test images, SATM's paired differences, and what leaks: written to tables/."""
        s, classes = self.settings, self.dataset.classes
        networks = {f"{method}/{name}": n for method, named in self.methods.items() for name, n in named.items()}
        wanted = main_table.cases(self.methods, self.names, self.holdout)
        ask = partial(cross, networks, self.data.test, AttackSetting(s.attack, s.epsilon, s.alpha), seed=s.seed,
                      limit=s.test_images or None)  # fmt: skip
        with bar(len(self.data.test.places(s.test_images or None)), "measuring", "image") as shown:

            def work(team: Team) -> tuple[Crossing, Crossing | None]:
                tick = shown.update if team.leads else None
                crossing = ask(pairs=map(main_table.pair_of, wanted), unrounded=UNROUNDED, tick=tick, team=team)
                above = crossing.above_clean()  # where the true label may have leaked: again from predicted labels
                again = partial(ask, pairs=above, unrounded=0, predicted_labels=True, team=team)
                return crossing, again() if above else None

            crossing, predicted = in_processes(work, cores() if self.narrow else 1)
        tables = run.path / "tables"
        write_rows(tables / "results.csv", main_table.results(crossing, wanted, classes))
        write_rows(tables / "differences.csv", main_table.differences(crossing, wanted))
        write_rows(tables / "leaks.csv", main_table.leaks(crossing, wanted, predicted))
        for target in crossing.targets:
            counts = crossing.confusion(target, "", len(classes)).tolist()
            path = tables / f"confusion_{target.replace('/', '_', 1)}.csv"
            write_rows(path, [dict(zip(classes, row)) for row in counts])

    def pairs(self) -> list[dict[str, Any]]:
        """Fig. 1: test images that the undefended network gets right clean and wrong attacked, one per epsilon."""
        s, test, name = self.settings, self.data.test, self.names[-1]
        source, pairs = f"undefended/{name}", list[dict[str, Any]]()
        for epsilon in FIGURE_1_EPSILONS:
            crossing = cross({source: self.methods["undefended"][name]}, test, AttackSetting(s.attack, epsilon),
                             seed=s.seed, limit=test.batch, unrounded=0, keep=True)  # fmt: skip
            fooled = np.flatnonzero(crossing.right(source, "") & ~crossing.right(source, source))
            choice = next((i for i in fooled if i not in {p["index"] for p in pairs}), None)
            if choice is not None:
                before, after = crossing.answers[source, ""], crossing.answers[source, source]
                clean, adversarial = (crossing.images[images][choice] / 255 for images in ("", source))
                pairs.append(dict(index=choice, clean=clean, adversarial=adversarial, true=int(crossing.true[choice]),
                                  predicted_clean=int(before[choice]), predicted_adversarial=int(after[choice]),
                                  epsilon=epsilon, network=name))  # fmt: skip
        return pairs

    def report(self, run: RunFolder) -> Path:
        """Draw the figures, write report.html and print the table: all of it from what the run folder holds."""
        if pairs := self.pairs():
            figure_pairs(run.path / "figures" / "figure1.png", pairs, list(self.dataset.classes))
        results = Results.read(run.path)
        say()
        say(results_table(results))
        return report(results)


def run_new(settings: Settings, out: Path) -> Path:
    """A run from its beginning, into a new folder; returns the path of its report."""
    RunFolder.check_free(out)  # before the data, which may take a while to draw
    experiment = _prepared(settings)
    networks = experiment.start_networks()
    run = RunFolder.create(out, settings, list(experiment.kinds))
    images.write(run.path, experiment.dataset, experiment.split)
    for name, lines in (("data.txt", experiment.dataset.notes), ("missing_images.txt", experiment.dataset.missing)):
        if lines:
            (run.path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return experiment.complete(run, networks)


def run_on(out: Path, settings: Settings) -> Path:
    """A run that was interrupted, from its last checkpoint to its end."""
    run = RunFolder.open(out)
    position = run.position()
    experiment = _prepared(settings)
    for line in images.check(out, experiment.dataset, experiment.split):
        say(line)
    run.forget_after(position, experiment.plan)
    return experiment.complete(run, experiment.start_networks(), position)


def _prepared(settings: Settings) -> Experiment:
    backend.use(settings.backend, tf32=settings.tf32)
    return Experiment(settings, images.prepare_data(settings))
