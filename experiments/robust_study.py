"""What `experiments.robustness` compares, and how it measures one seed."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from experiments import console, kinds, robust_classifiers, runs
from icm_jax import mechanisms, types
from icm_jax.data import problem as problem_lib
from icm_jax.evaluation import mnist_c, test_time
from icm_jax.learned import loading
from icm_jax.training import atomic_files, build, run_folder
from icm_jax.viz import robustness as viz
from icm_jax.viz import sweep

# Images that adapt a classifier at a time, as published for small images.
_ADAPT_BATCH = 200
_PREDICT_BATCH = 250
# Clean images that find the margin of a gate.
_GATE_EXAMPLES = 2_000
# Logits by which each expert of a chain must raise the score; the share of
# clean images that the result must look more canonical than; and the longest
# chain. All were chosen on corrupted digits of MNIST's training part.
_CAREFUL_MARGIN = 2.0
_CAREFUL_SHARE = 0.5
_MOST_EXPERTS = 3


class Method(NamedTuple):
  """A way to classify distorted images.

  Attributes:
    classifier: key of `robust_classifiers.CLASSIFIERS`.
    front: key of `FRONTS`, the run that restores images first; "" is none.
    adapts: "", "statistics" or "entropy", see `evaluation.test_time`.
  """

  classifier: str
  front: str = ""
  adapts: str = ""


# Methods by the columns of the table.
METHODS = {
  "plain": Method("plain"),
  "AugMix": Method("augmix"),
  "corruptions known": Method("corruptions"),
  "one network": Method("plain", "single"),
  "experts": Method("plain", "experts"),
  "paper's experts": Method("plain", "paper"),
  "normalised": Method("normalised"),
  "AdaBN": Method("normalised", adapts="statistics"),
  "TENT": Method("normalised", adapts="entropy"),
  "one network, normalised": Method("normalised", "single"),
  "experts, normalised": Method("normalised", "experts"),
  "paper's experts, normalised": Method("normalised", "paper"),
  "experts, TENT": Method("normalised", "experts", "entropy"),
}


def _experts(config: ml_collections.ConfigDict) -> None:
  """Leaves the config as it is."""
  del config


def _single(config: ml_collections.ConfigDict) -> None:
  """One network for all corruptions; remedies between experts are left out."""
  config.experts.count = 1
  config.remedies.relocation.every = 0
  config.remedies.balance.weight = 0.0
  config.remedies.signature.weight = 0.0


def _paper(config: ml_collections.ConfigDict) -> None:
  """Experts of the paper's mechanisms, which are no corruptions."""
  config.mechanisms = mechanisms.PRESETS["paper"]
  config.experts.count = len(config.mechanisms.names)
  config.experts.network = "conv"
  config.experts.features *= 2
  config.train.batch_size = max(1, config.train.batch_size // 2)
  config.train.steps = max(1, config.train.steps // 2)


class Front(NamedTuple):
  """A run that restores images.

  Attributes:
    change: changes the config of the experts to that of the run.
    gate: `gate(learned, clean_NHWC) -> restore`, with clean images that the run
      has not seen; `restore(x_NHWC)` gives restored images, and whether each
      was left alone.
  """

  change: Callable[[ml_collections.ConfigDict], None]
  gate: Callable[[loading.Learned, np.ndarray], Callable[..., Any]]


def _gate(learned: loading.Learned, clean_NHWC: np.ndarray):
  """The gate at which 1 % of clean images are changed."""
  margin = learned.find_margin(clean_NHWC)

  def restore(x_NHWC):
    found = learned.restore(x_NHWC, margin=margin)
    return found.restored_BHWC, found.winner_B == loading.LEFT_ALONE

  return restore


def _no_gate(learned: loading.Learned, clean_NHWC: np.ndarray):
  """Restores every image: one network has lower errors without the gate."""
  del clean_NHWC

  def restore(x_NHWC):
    found = learned.restore(x_NHWC)
    return found.restored_BHWC, np.zeros(len(x_NHWC), bool)

  return restore


def _careful_gate(learned: loading.Learned, clean_NHWC: np.ndarray):
  """A gate for corruptions that no expert has learned, and chains behind it.

  What improves an unknown image a little often destroys it. So every expert has
  to raise the score by much, and the result has to look like a clean image.
  """
  floor = learned.find_floor(clean_NHWC, below=_CAREFUL_SHARE)

  def restore(x_NHWC):
    found = learned.chain(
      x_NHWC,
      margin=_CAREFUL_MARGIN,
      floor=floor,
      max_length=_MOST_EXPERTS,
      width=1,
    )
    return found.restored_BHWC, found.expert_BL[:, 0] == loading.LEFT_ALONE

  return restore


FRONTS = {
  "experts": Front(_experts, _gate),
  "single": Front(_single, _no_gate),
  "paper": Front(_paper, _careful_gate),
}


def front_config(
  name: str, config: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
  """Returns the config of a run that restores images.

  Args:
    name: key of `FRONTS`.
    config: config of the experts.
  """
  changed = ml_collections.ConfigDict(config.to_dict())
  # The run's own classifier only draws its curve.
  changed.classifier.steps = max(1, changed.classifier.steps // 3)
  FRONTS[name].change(changed)
  return changed.lock()


def train_front(
  workdir: pathlib.Path,
  config: ml_collections.ConfigDict,
  reporter: console.Plain | console.Bar,
) -> None:
  """Trains a run unless it has finished; resumes it if it was interrupted."""
  planned = runs.Planned(sweep.SweepRun("", 0, workdir), (), config)
  if runs.is_finished(planned):
    return
  kind = kinds.from_config(config)
  result = kind.train(
    config,
    workdir,
    resume=run_folder.holds_run(workdir),
    reporter=reporter,
  )
  kind.write_report(workdir)
  reporter.say(kind.headline(result))


class Measured(NamedTuple):
  """What one seed measured.

  Attributes:
    error: percent of wrong classes, by method and corruption.
    milliseconds: time of a method for an image, restoration included.
    kept: percent of images that the experts leave alone, by front and
      corruption.
  """

  error: dict[str, dict[str, float]]
  milliseconds: dict[str, float]
  kept: dict[str, dict[str, float]]


def measure(
  fronts: Mapping[str, loading.Learned],
  classifiers: Mapping[str, dict[str, types.PyTree]],
  benchmark: mnist_c.Benchmark,
  problem: problem_lib.Problem,
) -> Measured:
  """Classifies the benchmark by every method.

  Args:
    fronts: runs that restore images, by the names of `FRONTS`.
    classifiers: by the names of `robust_classifiers`, `params` and `stats`.
    benchmark: test images.
    problem: digits of which the classifiers were made.
  """
  # Clean images that the fronts' discriminators have not seen.
  gate_ids = problem.clean_ids[:_GATE_EXAMPLES]
  gate_NHWC = np.asarray(problem.images.image_NHWC[gate_ids])
  shown: dict[str, dict[str, np.ndarray]] = {"": {}}
  kept: dict[str, dict[str, float]] = {}
  seconds = {"": 0.0}
  for name, image_NHWC in benchmark.image_NHWC.items():
    shown[""][name] = image_NHWC.astype(np.float32) / 255
  for front, learned in fronts.items():
    restore = FRONTS[front].gate(learned, gate_NHWC)
    restore(shown[""][mnist_c.CLEAN][: loading.BATCH_SIZE])  # Compiles.
    started = time.perf_counter()
    restored = {name: restore(x_NHWC) for name, x_NHWC in shown[""].items()}
    seconds[front] = time.perf_counter() - started
    shown[front] = {name: x_NHWC for name, (x_NHWC, _) in restored.items()}
    kept[front] = {
      name: 100 * float(alone_N.mean())
      for name, (_, alone_N) in restored.items()
    }
  count = sum(map(len, benchmark.label_N.values()))
  error: dict[str, dict[str, float]] = {}
  milliseconds = {}
  for column, method in METHODS.items():
    classify = _classify(method, classifiers[method.classifier], problem)
    classify(shown[method.front][mnist_c.CLEAN])  # Compiles.
    started = time.perf_counter()
    error[column] = {
      name: 100 * float(np.mean(classify(x_NHWC).argmax(-1) != label_N))
      for (name, x_NHWC), label_N in zip(
        shown[method.front].items(), benchmark.label_N.values(), strict=True
      )
    }
    spent = time.perf_counter() - started + seconds[method.front]
    milliseconds[column] = 1_000 * spent / count
  return Measured(error, milliseconds, kept)


def _classify(method, trained, problem) -> test_time.Classify:
  network = robust_classifiers.network(method.classifier, problem)
  parts = (network, trained["params"], trained["stats"])
  if method.adapts == "statistics":
    return test_time.with_batch_statistics(*parts, batch_size=_ADAPT_BATCH)
  if method.adapts == "entropy":
    return test_time.tent(*parts, batch_size=_ADAPT_BATCH)
  return test_time.frozen(*parts, batch_size=_PREDICT_BATCH)


def run_seed(
  workdir: pathlib.Path,
  config: ml_collections.ConfigDict,
  benchmark: str,
  most: int,
  reporter: console.Plain | console.Bar,
) -> Measured:
  """Trains and measures one seed, or reads what it has measured before.

  Args:
    workdir: folder of the seed.
    config: config of the experts, with the seed.
    benchmark: folder or zip of MNIST-C, or "".
    most: largest number of images of each corruption.
    reporter: receives messages and progress.

  Raises:
    InputError: the data are no grey images with classes, or the benchmark
      cannot be read; nothing was trained.
  """
  data = build.load_data(config, progress=reporter.prepare)
  problem = build.make_problem(config, data)
  is_grey = problem.shape_HWC[-1] == 1
  if problem.images.label_N is None or problem.group_names or not is_grey:
    raise types.InputError(
      "experiments.robustness needs grey images with classes and without "
      f"groups, such as mnist or mnist_5k; got --config.data.name={data.name}."
    )
  if benchmark:
    tests = mnist_c.read(
      benchmark,
      image_size=config.data.image_size,
      data_dir=config.data.dir,
      most=most,
    )
  else:
    tests = mnist_c.make(problem, most)
  asked = {
    "config": run_folder.plain_config(run_folder.absolute(config)),
    "benchmark": tests.digest,
  }
  path = workdir / "errors.json"
  if path.exists():
    found = atomic_files.read_json(path)
    if found.pop("asked", None) == asked:
      return Measured(**found)
  for name in FRONTS:
    reporter.say(f"{workdir.name}: {name}")
    train_front(workdir / name, front_config(name, config), reporter)
  classifiers = robust_classifiers.read_or_train(
    workdir, config, problem, reporter.say
  )
  reporter.say(f"{workdir.name}: measuring")
  fronts = {name: loading.load(workdir / name) for name in FRONTS}
  measured = measure(fronts, classifiers, tests, problem)
  atomic_files.write_json(path, {"asked": asked, **measured._asdict()})
  return measured


def run(
  root: pathlib.Path,
  config: ml_collections.ConfigDict,
  seeds: Sequence[int],
  *,
  benchmark: str,
  most: int,
  reporter: console.Plain | console.Bar,
) -> None:
  """Measures all seeds, and writes the table and the figure.

  Args:
    root: folder of the study.
    config: config of the experts.
    seeds: seeds of the study, in place of the config's.
    benchmark: folder or zip of MNIST-C; "" distorts the config's test digits.
    most: largest number of images of each corruption.
    reporter: receives messages and progress.
  """
  measured = []
  for seed in seeds:
    chosen = ml_collections.ConfigDict(config.to_dict())
    chosen.seed = seed
    folder = root / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    measured.append(run_seed(folder, chosen.lock(), benchmark, most, reporter))
  page = viz.write(
    root,
    seeds=seeds,
    errors=[one.error for one in measured],
    milliseconds=[one.milliseconds for one in measured],
    kept=[one.kept for one in measured],
    panels={
      f"normalisation: {norm}": [
        column
        for column, method in METHODS.items()
        if robust_classifiers.CLASSIFIERS[method.classifier] == norm
      ]
      for norm in dict.fromkeys(robust_classifiers.CLASSIFIERS.values())
    },
    clean=mnist_c.CLEAN,
  )
  reporter.say((root / viz.TABLE).read_text())
  reporter.say(f"open {page}")
