"""One run from data to report: fine-tune, train each method from the same start, measure, and write it all down."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
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
from ..results.rows import Difference, Leak, Row
from ..satm import Learner, Rules, examples, learn_from
from ..streams import stream
from . import gpu_memory, phases
from .folder import RunFolder
from .images import prepare_data
from .monitor import Monitor
from .phases import ADVERSARIAL, PLANS, STATIC, WITH_DOMAIN
from .settings import Settings

TEST_BATCH = 4  # times the batch: crafting alone keeps less in memory than training does
NARROW = 2**25  # bytes of a batch after the first convolution: about a processor's last cache
FIGURE_1_EPSILONS = (64 / 256, 32 / 256, 16 / 256, 8 / 256)


class Parts(NamedTuple):
    """The batches of a run: augmented ones to train on, plain ones to validate and test on."""

    train: data.Batches
    validation: data.Batches
    test: data.Batches


Rows = list[dict[str, Any]]


def say(text: str = "") -> None:
    print(text, flush=True)


def is_narrow(batch: int, size: int, width: float) -> bool:
    """Are networks so narrow that each does better on a core of its own than all cores on one after the other?

    Then their kernels are too small to share out. Wide ones would also need their memory at the same time.
    """
    return batch * size**2 * 64 * width * 4 < NARROW


class Experiment:
    """A run folder being filled. Networks go by name; methods[method][name] is a network after that method."""

    def __init__(self, settings: Settings, dataset: data.Dataset) -> None:
        self.settings, self.dataset = settings, dataset
        split = dataset.split(fold=settings.fold, seed=settings.seed)
        if len(split.train) < settings.batch:
            raise InputError(
                f"{len(split.train)} training images do not fill one batch of {settings.batch}: use a smaller --batch."
            )
        self.data = Parts(
            *(
                data.Batches(dataset, indices, batch=settings.batch * (1, 2, TEST_BATCH)[k], size=settings.size,
                             seed=settings.seed, augment=k == 0 and settings.augment, backend=settings.backend)
                for k, indices in enumerate(split)
            )
        )  # fmt: skip
        self.kinds = settings.named_networks()
        self.names = list(self.kinds)
        self.holdout: str | None = None
        if settings.holdout != "none":
            self.holdout = settings.holdout if settings.holdout not in self.kinds else f"hold-out-{settings.holdout}"
            self.kinds[self.holdout] = settings.holdout
        self.methods: dict[str, dict[str, Network]] = {}
        self.plan = [(phase, self._steps(phase)) for phase in PLANS[settings.method] if self._steps(phase)]

    def _steps(self, phase: str) -> int:
        return self.settings.clean_iterations if phase == "clean" else self.settings.iterations

    def _shape(self) -> dict[str, Any]:
        """What every network of the run has in common, for models.build."""
        s, d = self.settings, self.dataset
        return dict(classes=len(d.classes), width=s.width, size=s.size, channels=d.channels)

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
            network = models.build(kind, rng=stream(s.seed, key, "start"), **self._shape(), **variant)
            if path:
                say(files.load(network, path, replace_top=True))
            elif s.weights:
                say(f"warning: {name} starts at random beside networks that do not: name its file last in --weights.")
            networks[name] = network
        self._warn_of_twins(networks)
        return {name: network.to(s.backend) for name, network in networks.items()}

    def _warn_of_twins(self, networks: dict[str, Network]) -> None:
        for i, a in enumerate(self.names):
            for b in self.names[i + 1 :]:
                one, other = networks[a].state(), networks[b].state()
                if self.kinds[a] == self.kinds[b] and all(np.array_equal(one[n], other[n]) for n in one):
                    say(f"warning: {a} and {b} have the same structure and start; the paper saw this diverge (5.5).")

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
        say(
            "plan      "
            + ", then ".join(f"{steps:,} {phase} steps" for phase, steps in self.plan)
            + f"; batch {s.batch}"
        )
        if s.backend == "cupy":
            say(f"backend   {backend.gpu()}{', convolutions in TF32' if s.tf32 else ''}")
        attack, alpha = attacks.ATTACKS[s.attack], attacks.resolve_alpha(s.epsilon, s.alpha)
        sizes = {"epsilon": s.epsilon, "alpha": alpha}
        shown = [f"{name} {256 * size:g}/256" for name, size in sizes.items() if attack.takes(name)]
        say(f"attack    {', '.join([s.attack, *shown])}")

    def estimate(self, seconds: float) -> None:
        say(f"estimate  about {duration(seconds)} of training on this machine, from the first steps")
        if seconds > 86400:
            say("warning: that is days; a thinner --width or a smaller --size makes it hours.")

    def train(self, run: RunFolder, networks: dict[str, Network], position: dict[str, Any] | None = None) -> None:
        """Every phase of the plan that is not done yet; position: where a resumed run stands."""
        self.introduce(networks)
        self._try_a_step(networks)
        display = Progress(self.plan, note=self.estimate)
        plan = [phase for phase, _ in self.plan]
        if plan[:1] != ["clean"]:
            self.methods["undefended"] = networks
        try:
            for phase, steps in self.plan:
                method = "undefended" if phase == "clean" else phase
                if position and plan.index(phase) < plan.index(position["phase"]):
                    self.methods[method] = self._read_networks(run, method)
                    continue
                here = position if position and position["phase"] == phase else None
                self.methods[method] = self._phase(run, phase, steps, networks, display, here)
                run.save_networks(method, self.methods[method])
        finally:
            display.close()

    def _try_a_step(self, networks: dict[str, Network]) -> None:
        """On a GPU, the most that the run will ask of its memory, with throw-away copies: does the batch fit?

        An InputError says how much it needs and which batch fits.
        """
        s = self.settings
        if s.backend != "cupy":
            return
        hard = any(phase in (*ADVERSARIAL, "penalty") for phase, _ in self.plan)
        copies = [self._learner(name, network, "satm") for name, network in networks.items()]
        rules = self._rules("satm", 1)

        def images(count: int) -> tuple[Any, Any]:
            x = np.zeros((count, s.size, s.size, self.dataset.channels), np.float32)
            return backend.placed(x, s.backend), np.zeros(count, np.int64)

        def step(batch: int) -> None:
            kept = [backend.copied_to(a, a) for _ in self.plan for n in networks.values() for a in n.state().values()]
            for learner in copies:
                examples(learner, *images(batch * TEST_BATCH), rules, 0)
            crafted = [examples(learner, *images(batch), rules, 0) if hard and learner.name != self.holdout else None
                       for learner in copies]  # fmt: skip
            for learner, x_adv in zip(copies, crafted):
                learn_from(learner, *images(batch), x_adv, rules, 0)
            del kept  # the networks after each phase stay in memory

        gpu_memory.check(step, s.batch, f"a step with {s.size}x{s.size} images")

    def _phase(
        self, run: RunFolder, phase: str, steps: int, networks: dict[str, Network], display: Progress, here: Any
    ) -> dict[str, Network]:
        """One phase from its start (the random one, or the fine-tuned networks) to its end."""
        names = self.names
        if phase == "clean" and self.holdout:
            # the deepest first: networks that share a core end with a shallow one, whose kernels are large enough to be
            # shared out once another core is free
            names = sorted([self.holdout, *names], key=lambda name: -len(networks[name].parameters()))
        start = networks if phase == "clean" else self.methods["undefended"]
        learners = [self._learner(name, start[name], phase) for name in names]
        frozen = self.methods[STATIC[phase]] if phase in STATIC else {}
        static = [Learner(name, frozen[name], None, frozen=True) for name in self.names if frozen]
        pair = [learner for learner in learners if learner.name != self.holdout]
        sources: list[Learner | None] = [None] * (len(learners) - len(pair))
        sources += phases.validation_sources(phase, pair, static)
        rules, own = self._rules(phase, steps), phases.own_settings(phase, self.settings)

        def train(team: Team) -> bool:
            """Train in one process of the team; did it stop early?"""
            monitor = Monitor(run, phase, learners, sources, rules, self.data, self.settings, iterations=steps,
                              judged=self.names, adversarial=phase in ADVERSARIAL, team=team, display=display,
                              loss=phases.validation_loss(phase, own))  # fmt: skip
            if here:
                monitor.resume(here)
            examples = dict(own_examples=self.settings.own_examples)
            phases.train(phase, learners, static, rules, monitor, team, **examples, **own)
            team.fetch(learners)
            return monitor.stopped_early

        if in_processes(train, len(learners) if self._narrow() else 1):
            run.load_checkpoint("best.h5", learners)
            say(f"{phase} stopped early: the validation loss had not fallen in {self.settings.patience} evaluations; "
                "the best weights are kept")  # fmt: skip
        return {learner.name: learner.network for learner in learners}

    def _narrow(self) -> bool:
        """Do networks go to processes of their own? On a GPU they take turns."""
        s = self.settings
        return s.backend != "cupy" and is_narrow(s.batch, s.size, s.width)

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
            learner.domain_optimiser = make(
                learner.domain.parameters(), rate if s.da_learning_rate is None else s.da_learning_rate
            )
        return learner

    def _rules(self, phase: str, steps: int) -> Rules:
        s = self.settings
        return Rules(
            epsilon=s.epsilon, alpha=s.alpha, attack=s.attack,
            r_adv=s.r_adv, r_da=s.r_da if s.domain != "none" and phase in WITH_DOMAIN else 0.0,
            loss_norm=s.loss_norm, craft_mode=s.craft_mode, bn_batches=s.bn_batches, clip=s.clip, seed=s.seed,
            schedule=partial(optim.schedule, s.schedule, iterations=steps, warmup=min(s.warmup, steps // 2)),
        )  # fmt: skip

    def _read_networks(self, run: RunFolder, method: str) -> dict[str, Network]:
        names = list(self.kinds) if method == "undefended" else self.names
        files = {name: str(run.network_file(method, name)) for name in names}
        built = {name: models.build(self.kinds[name], weights=file, **self._shape()) for name, file in files.items()}
        return {name: network.to(self.settings.backend) for name, network in built.items()}

    def measure(self, run: RunFolder) -> tuple[list[Row], list[Difference], list[Leak]]:
        """The main table on the test images, SATM's paired differences, and what leaks: written to tables/."""
        s, classes = self.settings, self.dataset.classes
        networks = {f"{method}/{name}": n for method, named in self.methods.items() for name, n in named.items()}
        wanted = main_table.cases(self.methods, self.names, self.holdout)
        ask = partial(cross, networks, self.data.test, AttackSetting(s.attack, s.epsilon, s.alpha), seed=s.seed,
                      limit=s.test_images or None)  # fmt: skip
        with bar(len(self.data.test.places(s.test_images or None)), "measuring", "image") as shown:

            def work(team: Team) -> tuple[Crossing, Crossing | None]:
                pairs, tick = map(main_table.pair_of, wanted), shown.update if team.leads else None
                crossing = ask(pairs=pairs, tick=tick, team=team)
                return crossing, self._from_predicted_labels(crossing, partial(ask, team=team))

            crossing, predicted = in_processes(work, cores() if self._narrow() else 1)
        rows, differences = main_table.results(crossing, wanted, classes), main_table.differences(crossing, wanted)
        leaks = main_table.leaks(crossing, wanted, predicted)
        for name, table in (("results", rows), ("differences", differences), ("leaks", leaks)):
            if table:
                run.table(name, [asdict(row) for row in table])
        self._confusions(run, crossing)
        return rows, differences, leaks

    def _confusions(self, run: RunFolder, crossing: Crossing) -> None:
        for target in crossing.targets:
            matrix = crossing.confusion(target, "", len(self.dataset.classes))
            rows = [dict(zip(self.dataset.classes, row.tolist())) for row in matrix]
            run.table(f"confusion_{target.replace('/', '_', 1)}", rows)

    @staticmethod
    def _from_predicted_labels(crossing: Crossing, ask: Callable[..., Crossing]) -> Crossing | None:
        """The cases in which the true label may have leaked, again from predicted labels; None where there is none."""
        above = crossing.above_clean()
        return ask(pairs=above, unrounded=False, predicted_labels=True) if above else None

    def pairs(self) -> list[dict[str, Any]]:
        """Fig. 1: test images that the undefended network gets right clean and wrong attacked, one per epsilon."""
        s, test, name = self.settings, self.data.test, self.names[-1]
        source, pairs = f"undefended/{name}", list[dict[str, Any]]()
        for epsilon in FIGURE_1_EPSILONS:
            crossing = cross({source: self.methods["undefended"][name]}, test, AttackSetting(s.attack, epsilon),
                             seed=s.seed, limit=test.batch, unrounded=False, keep=True)  # fmt: skip
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
        from ..results.figures import figure_pairs
        from ..results.page import report
        from ..results.screen import results_table
        from ..results.tables import Results

        pairs = self.pairs()
        if pairs:
            figure_pairs(run.path / "figures" / "figure1.png", pairs, list(self.dataset.classes))
        results = Results.read(run.path)
        say()
        say(results_table(results))
        return report(results)


def run_new(settings: Settings, out: Path) -> Path:
    """A run from its beginning, into a new folder; returns the path of its report."""
    RunFolder.check_free(out)  # and the backend: before the data, which may take a while to draw
    backend.use(settings.backend, tf32=settings.tf32)
    experiment = Experiment(settings, prepare_data(settings))
    networks = experiment.start_networks()
    run = RunFolder.create(out, settings, list(experiment.kinds))
    for name, lines in (("data.txt", experiment.dataset.notes), ("missing_images.txt", experiment.dataset.missing)):
        if lines:
            (run.path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    experiment.train(run, networks)
    return _finish(experiment, run)


def run_on(out: Path, settings: Settings) -> Path:
    """A run that was interrupted, from its last checkpoint to its end."""
    run = RunFolder.open(out)
    position = run.position()
    backend.use(settings.backend, tf32=settings.tf32)
    experiment = Experiment(settings, prepare_data(settings))
    run.forget_after([phase for phase, _ in experiment.plan], position["phase"], position["iteration"])
    experiment.train(run, experiment.start_networks(), position)
    return _finish(experiment, run)


def _finish(experiment: Experiment, run: RunFolder) -> Path:
    experiment.measure(run)
    return experiment.report(run)


__all__ = ["Experiment", "Parts", "prepare_data", "run_new", "run_on"]
