"""Faults that a person would make in a run, its tables, its figures and its loops, each with the test that must fail."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """name: what is wrong. Text `before` of minisatm/`file`, which occurs once, becomes `after`; then `test` fails."""

    name: str
    file: str
    before: str
    after: str
    test: str


EXPERIMENT, MONITOR, TABLES = "run/experiment.py", "run/monitor.py", "test_table_properties.py"
RUNS, IMAGES = "test_run_properties.py", "test_images_of_runs.py"

MUTANTS = [Mutant(*row) for row in (
    # run/
    ("resumed-from-random-networks", EXPERIMENT, "self.methods[method] = self._read_networks(run, method)",
     "self.methods[method] = networks", RUNS),
    ("phase-starts-at-random", EXPERIMENT, "network.to(s.backend).set_state(start.state())", "network.to(s.backend)",
     RUNS),
    ("phases-share-a-network", EXPERIMENT, 'if phase != "clean":\n            network = ',
     'if phase != "clean":\n            network = start or ', RUNS),
    ("confusion-transposed", EXPERIMENT, '"", len(classes)).tolist()', '"", len(classes)).T.tolist()', RUNS),
    ("da-learning-rate-ignored", EXPERIMENT, "rate if s.da_learning_rate is None else s.da_learning_rate", "rate", RUNS),
    ("da-learning-rate-of-zero-ignored", EXPERIMENT, "rate if s.da_learning_rate is None else s.da_learning_rate",
     "s.da_learning_rate or rate", RUNS),
    ("domain-none-keeps-its-weight", EXPERIMENT, 'if s.domain == "none" or phase not in WITH_DOMAIN:',
     "if phase not in WITH_DOMAIN:", RUNS),
    ("sources-by-place-and-not-by-name", EXPERIMENT, "[shown.get(name) for name in names], rules",
     "[*shown.values(), *[None] * (len(names) - len(shown))], rules", RUNS),
    ("weight-decay-forgotten", EXPERIMENT, "momentum=s.momentum, weight_decay=s.weight_decay", "momentum=s.momentum",
     RUNS),
    ("warm-up-longer-than-the-phase", EXPERIMENT, "warmup=min(s.warmup, steps // 2)", "warmup=s.warmup", RUNS),
    ("hold-out-takes-the-first-rate", EXPERIMENT, "if name != self.holdout else -1, kind)",
     "if name != self.holdout else 0, kind)", RUNS),
    ("early-stopping-keeps-the-last", EXPERIMENT, 'run.load_checkpoint("best.h5", learners)',
     'run.load_checkpoint("last.h5", learners)', "test_run_folder.py"),
    ("resume-checks-no-images", EXPERIMENT, "for line in images.check(out, experiment.dataset, experiment.split):",
     "for line in []:", IMAGES),
    ("weights-not-finite-in-a-checkpoint", MONITOR, 'self._check_finite(array, f"a weight of', '_ = (array, f"a weight of',
     RUNS),
    ("best-not-copied-after-a-cut", MONITOR, "if self.position.best_at == self.position.iteration:", "if False:", RUNS),
    ("hold-out-has-a-say", MONITOR, "loss += value if source is not None else 0.0", "loss += value", RUNS),
    ("ctrl-c-loses-steps", MONITOR, "if validates or interrupted:", "if validates:", RUNS),
    ("ctrl-c-cuts-a-step", MONITOR, "if self._interrupted:\n            raise", "if True:\n            raise", RUNS),
    ("an-equal-loss-is-better", MONITOR, "at.best is None or loss < at.best", "at.best is None or loss <= at.best",
     "test_run_folder.py"),
    ("validation-on-training-images", MONITOR, '("train", self.data.train), ("validation", self.data.validation)',
     '("validation", self.data.train), ("train", self.data.validation)', RUNS),
    ("clean-phase-by-another-loss", MONITOR, '"loss" if at.phase in ADVERSARIAL else "clean"', '"clean"', RUNS),
    ("a-row-twice-after-resuming", "run/folder.py", "int(r[1])) < first", "int(r[1])) <= first", RUNS),
    ("static-networks-not-shown", "run/phases.py", "others = static if phase in ADVERSARIAL and static else learners",
     "others = learners", "test_defences.py"),
    ("test-images-by-name-alone", "run/images.py",
     "lost = [name for name, digest in wanted if (name, digest) not in places]",
     "places |= {entry: k for (name, _), k in list(places.items()) for entry in wanted if entry[0] == name}\n"
     "    lost = [name for name, digest in wanted if (name, digest) not in places]", IMAGES),
    ("test-images-drawn-again", "run/images.py", "return np.array([places[entry] for entry in wanted], np.int64)",
     "return split.test", IMAGES),
    ("order-of-classes-forgotten", "run/images.py", 'if before["classes"] != list(dataset.classes) or not wanted or lost:',
     'if set(before["classes"]) != set(dataset.classes) or not wanted or lost:', IMAGES),
    # evaluation/
    ("pixels-cut-off", "evaluation/crossing.py", "np.rint(255 * pixels).astype", "(255 * pixels).astype", TABLES),
    ("a-tie-is-a-leak", "evaluation/crossing.py", "self.right(t, s).mean() > clean[t]", "self.right(t, s).mean() >= clean[t]",
     TABLES),
    ("rounding-with-the-other-sign", "evaluation/crossing.py",
     "metrics.paired_difference(self.right(*pair)[: len(before)], before)",
     "metrics.paired_difference(before, self.right(*pair)[: len(before)])", TABLES),
    ("chance-of-all-images", "evaluation/session.py", "rows, self.always(self.subset)[1])", "rows, self.always(self.limit)[1])",
     TABLES),
    ("chance-of-equal-classes", "evaluation/session.py", "rows, self.always(self.subset)[1])",
     "rows, 1 / len(self.dataset.classes))", TABLES),
    ("the-weakest-of-the-others", "evaluation/curves.py", "min(rates, key", "max(rates, key", TABLES),
    ("mean-of-batches", "evaluation/validation.py", "value * len(images[b][1]) / count", "value / len(images)", TABLES),
    ("validation-not-rounded", "evaluation/validation.py", "source=name, places=places)[1]", "source=name, places=places)[0]",
     TABLES),
    ("differences-turned-round", "evaluation/main_table.py", "metrics.paired_difference(right[ours], right[other])",
     "metrics.paired_difference(right[other], right[ours])", TABLES),
    ("white-box-differences", "evaluation/main_table.py", "ours in right and condition != WHITE_BOX", "ours in right", TABLES),
    ("small-norm-at-one-end", "evaluation/masking.py", "clean < FELL_TO * before[0] and attacked", "clean < FELL_TO * before[0] or attacked",
     "test_masking.py"),
    ("verdict-without-its-interval", "evaluation/masking.py", "_verdict(low > 0, high < 0 if", "_verdict(difference > 0, high < 0 if",
     "test_masking.py"),
    # results/
    ("figures-3-and-4-exchanged", "results/figures.py", '("figure3", "train"), ("figure4", "validation")',
     '("figure4", "train"), ("figure3", "validation")', TABLES),
    ("error-bars-upside-down", "results/figures.py", "[rate - low, high - rate]", "[high - rate, rate - low]", TABLES),
    ("clean-phase-not-before-zero", "results/figures.py", 'np.nan_to_num(table["epoch"]).max() if phase', "0 if phase", TABLES),
    ("a-column-of-table-4-twice", "results/page.py", "changes(PARTNER_OLD, PARTNER_NEW)", "changes(PARTNER_OLD, PARTNER_OLD)",
     TABLES),
    ("one-off-twice", "results/page.py", 'for f in ("rate", "one_off")]', 'for f in ("one_off", "one_off")]', TABLES),
    ("table-5-in-another-order", "results/page.py", 'TABLE_5 = ("undefended", "control", "ensemble", "satm")',
     'TABLE_5 = ("undefended", "ensemble", "control", "satm")', TABLES),
    ("verdict-of-the-other-end", "results/readings.py", '"above" if row.low > 0', '"above" if row.high > 0', TABLES),
    ("baseline-among-the-methods", "results/tables.py", "if not row.method.startswith(BASELINE))", "if row.method)",
     "test_results.py"),
    # metrics.py
    ("wilson-of-90-percent", "metrics.py", "def interval(rate: float, n: int, z: float = 1.96)",
     "def interval(rate: float, n: int, z: float = 1.645)", "test_metrics.py"),
    ("wilson-not-shrunk", "metrics.py", "half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / shrink",
     "half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))", TABLES),
    ("paired-without-the-square", "metrics.py", "(p + q - (p - q) ** 2)", "(p + q)", TABLES),
    ("one-off-on-one-side", "metrics.py", "for offset in (-1, 0, 1)", "for offset in (0, 1)", TABLES),
    ("one-off-interval-of-the-rate", "metrics.py", "interval(rate, n), interval(near, n)", "interval(rate, n), interval(rate, n)",
     TABLES),
    # satm.py
    ("adversarial-rate-is-the-clean-one", "satm.py", '"adversarial_rate": rate_of(logits_adv, y)',
     '"adversarial_rate": rate_of(logits, y)', TABLES),
    ("half-of-one-term-alone", "satm.py", "share * rules.r_adv * adversarial", "rules.r_adv * adversarial", "test_satm.py"),
    ("classifier-off-schedule", "satm.py", "learner.domain_optimiser.step(factor, rules.clip)",
     "learner.domain_optimiser.step(1.0, rules.clip)", "test_satm.py"),
    ("logged-rate-without-schedule", "satm.py", '= learner.optimiser.learning_rate * factor', "= learner.optimiser.learning_rate",
     TABLES),
    ("own-examples", "satm.py", "(k + 1 + iteration % (len(learners) - 1))", "(k + iteration % len(learners))", "test_satm_loops.py"),
    # defences/
    ("teachers-at-temperature-1", "defences/training.py", "logits_of(teacher.network, x) / temperature",
     "logits_of(teacher.network, x)", "test_defences_losses.py"),
    ("gradient-shrinks-with-temperature", "defences/training.py", "temperature * satm.network_loss(", "satm.network_loss(",
     "test_defences_losses.py"),
    ("one-source-for-all", "defences/training.py", 'stream(rules.seed, learner.name, "source", iteration)',
     'stream(rules.seed, "source", iteration)', "test_satm_loops.py"),
    ("embedding-not-a-mean", "defences/training.py", "(apart * apart).sum() * (1 / len(x))", "(apart * apart).mean()",
     "test_defences.py"),
    ("penalty-not-squared", "defences/training.py", "(slope * slope).mean()", "slope.mean()", "test_defences_losses.py"),
    ("other-units-dropped", "defences/training.py", "    seed_dropout(learner.network, drop)\n", "",
     "test_defences_losses.py"),
    ("penalty-along-eval-gradient", "defences/training.py", 'input_gradient(network, x, y, craft_mode="train")'.replace("network", "learner.network", 1),
     "input_gradient(learner.network, x, y)", "test_defences_losses.py"),
)]  # fmt: skip
