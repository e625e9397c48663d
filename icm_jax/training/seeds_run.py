"""Several runs that differ in their seeds alone, as one program.

Small updates leave most of an accelerator idle. The updates of all seeds are
mapped by `jax.vmap`, and divided over devices as far as these divide the seeds;
devices do not communicate. Each seed has a folder as of a run of its own.
"""

from __future__ import annotations

import contextlib
import functools
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from icm_jax import types
from icm_jax.data import problem as problem_lib
from icm_jax.training import (
  build,
  checkpoint,
  identity_start,
  image_run,
  metrics,
  networks,
  run_folder,
  run_result,
  seeds_metrics,
  sharding,
  state_arrays,
  train_loop,
)

if TYPE_CHECKING:
  import ml_collections


class _Member(NamedTuple):
  """The run of one seed."""

  folder: pathlib.Path
  config: ml_collections.ConfigDict
  run: build.Run
  checkpoints: checkpoint.Checkpoints


def folder_of(root: pathlib.Path, seed: int) -> pathlib.Path:
  """Returns the folder of a seed's run."""
  return root / f"seed_{seed}"


def train(
  config: ml_collections.ConfigDict,
  root: pathlib.Path,
  seeds: Sequence[int],
  *,
  resume: Sequence[bool],
  reporter: train_loop.Reporter | None = None,
  started: float | None = None,
) -> list[dict[str, Any]]:
  """Trains and evaluates the runs of several seeds together.

  A loss that is not finite stops all of them. Times in their results are those
  of all together.

  Args:
    config: config of all runs but for its seed.
    root: folder below which every seed has the folder `seed_N`.
    seeds: different seeds, at least one.
    resume: for each seed, whether its folder holds a run to be continued. All
      continue from the newest step of which all have a checkpoint.
    reporter: receives messages and progress.
    started: `time.perf_counter()` at the start of the process; None is now.

  Returns:
    The contents of `result.json`, in the order of the seeds.

  Raises:
    InputError: the user's input is wrong; nothing was trained.
    FloatingPointError: a loss is not finite; names the step.
    Interrupted: SIGINT or SIGTERM came during the updates, and checkpoints are
      saved. At other times, signals keep their meaning.
  """
  started = time.perf_counter() if started is None else started
  reporter = reporter or train_loop.Silent()
  if (config.mesh.data, config.mesh.expert) not in ((0, 1), (1, 1)):
    raise types.InputError(
      "Several seeds at once are divided over devices by seed; leave out "
      "--config.mesh, or train one seed."
    )
  if jax.process_count() > 1:
    raise types.InputError(
      "Several seeds at once are trained by one process; start one for each "
      "host, with seeds of its own."
    )
  config = run_folder.absolute(config)
  configs = [_with_seed(config, seed) for seed in seeds]
  folders = [folder_of(root, seed) for seed in seeds]
  for folder, one, again in zip(folders, configs, resume, strict=True):
    run_folder.claim(folder, one, resume=again)
    checkpoint.check_steps(folder, config.train.steps, "--config.train.steps")
  runs = [build.build(one, progress=reporter.prepare) for one in configs]
  mesh = sharding.seed_mesh(len(seeds))
  reporter.say(
    f"{runs[0].problem.name}: {len(seeds)} seeds at once on "
    f"{1 if mesh is None else mesh.size} devices"
  )
  with contextlib.ExitStack() as stack:
    members = []
    for folder, one, run in zip(folders, configs, runs, strict=True):
      stack.enter_context(run_folder.hold(folder, one, build.saw(one, run)))
      checkpoints = checkpoint.Checkpoints(folder)
      stack.callback(checkpoints.close)
      members.append(_Member(folder, one, run, checkpoints))
    return _train(config, members, mesh, reporter, started)


def _with_seed(config, seed: int) -> ml_collections.ConfigDict:
  config = config.copy_and_resolve_references()
  config.seed = seed
  return config


def _train(config, members, mesh, reporter, started):
  """Trains and evaluates all members."""
  run = members[0].run
  abstract = networks.abstract_state(config, run.setup, run.classifier)
  saved, damaged = _read_common(members, abstract)
  for line in damaged:
    reporter.say(f"warning: {line}")
  clock = train_loop.Clock(
    started, saved[0].progress["seconds"] if saved else {}
  )
  clock.lap("start")
  if saved:
    classifiers = [one.classifier for one in saved]
    state = _place(mesh, _stack([one.state for one in saved]))
    reporter.say(f"resuming at step {int(saved[0].state.step)}")
  else:
    reporter.say("training the evaluation classifiers")
    classifiers = [
      image_run.train_classifier(member.config, member.run)
      for member in members
    ]
    clock.lap("classifier")
    reporter.say("identity start")
    state = _start(config, members, mesh)
    clock.lap("identity")

  def split(state: types.TrainState) -> list[types.TrainState]:
    # On one device first: an index into an array that is divided over devices
    # is a program of all of them, and many such programs at a time can wait for
    # each other for ever on a CPU.
    state = jax.device_put(state, jax.devices()[0])
    return [
      jax.tree.map(lambda a, i=i: a[i], state) for i in range(len(members))
    ]

  scores = {}

  def wait() -> None:
    for member in members:
      member.checkpoints.wait()

  def save(state: types.TrainState) -> None:
    # The files of one seed may take longer than those of the others. Every save
    # removes a seed's oldest checkpoint, so that seeds of which one is two
    # checkpoints ahead would have none of the same step if the process died.
    wait()
    missing = [None] * len(members)
    found = scores.get(_step_of(state), missing)
    for member, own, classifier, score in zip(
      members, split(state), classifiers, found, strict=True
    ):
      progress = {
        "config": run_folder.plain_config(member.config),
        "seconds": dict(clock.seconds),
        checkpoint.SCORE: score,
      }
      try:
        member.checkpoints.save(checkpoint.Saved(own, classifier, progress))
      except FloatingPointError as error:
        raise FloatingPointError(
          f"Seed {member.config.seed}: {error}"
        ) from error

  def evaluate(state: types.TrainState) -> dict[str, np.ndarray]:
    values = [
      member.run.curve.evaluate(own, classifier)
      for member, own, classifier in zip(
        members, split(state), classifiers, strict=True
      )
    ]
    scores[_step_of(state)] = [float(value["matched"]) for value in values]
    return {
      name: np.stack([value[name] for value in values]) for name in values[0]
    }

  def not_finite(state: types.TrainState) -> str:
    found = [state_arrays.not_finite(own) for own in split(state)]
    return "; ".join(
      f"seed {member.config.seed}: {text}"
      for member, text in zip(members, found, strict=True)
      if text
    )

  first, stride = _step_of(state), config.train.updates_per_dispatch
  update = jax.jit(
    sharding.over_seeds(
      functools.partial(image_run.raw_steps, run=run), mesh, out_axes=(0, 1)
    ),
    donate_argnums=0,
  )
  raws = _batches(config, members, mesh, range(first, config.train.steps))
  writer = seeds_metrics.Writers(
    [
      metrics.MetricWriter(member.folder, last_step=first or -1)
      for member in members
    ]
  )
  with (
    contextlib.closing(writer),
    train_loop.saves_before_it_stops(wait, reporter) as stop_requested,
  ):
    save(state)
    loop = train_loop.TrainLoop(
      update=lambda state: update(state, [next(raws) for _ in range(stride)]),
      evaluate=evaluate,
      save=save,
      every=config.every,
      clock=clock,
      writer=writer,
      reporter=seeds_metrics.Means(reporter),
      stop_requested=stop_requested,
      not_finite=not_finite,
    )
    if first == 0 and config.every.evaluate:
      loop.write_evaluation(state, 0)
    state = loop.run(state, first, config.train.steps, stride=stride)
    save(state)
  reporter.say("evaluating")
  measured = [
    run_result.measure(
      member.folder, member.config, member.run, own, classifier
    )
    for member, own, classifier in zip(
      members, split(state), classifiers, strict=True
    )
  ]
  clock.lap("evaluate")
  return [
    run_result.write(member.folder, result, clock.seconds)
    for member, result in zip(members, measured, strict=True)
  ]


def _read_common(members, abstract) -> tuple[list[checkpoint.Saved], list[str]]:
  """Reads the newest checkpoints of one step that are whole for all seeds.

  Newer checkpoints of single seeds, which a killed process leaves, are dropped
  by the next save.

  Args:
    members: runs of all seeds.
    abstract: abstract state, and classifier, of a run.

  Returns:
    The checkpoints, [] if all seeds are to start; and a line for each damaged
    checkpoint that was passed over.

  Raises:
    InputError: a checkpoint does not fit, or no step is whole for all seeds.
  """
  known = [set(member.checkpoints.steps()) for member in members]
  shared = set.intersection(*known)
  # A process that is killed leaves one newer checkpoint of a seed at most. More
  # are those of a run of its own.
  common = [
    step
    for step in shared
    if all(sum(own > step for own in steps - shared) <= 1 for steps in known)
  ]
  damaged: list[str] = []
  errors: list[checkpoint.Damaged] = []
  for step in sorted(common, reverse=True):
    saved = []
    for member in members:
      try:
        saved.append(member.checkpoints.read_newest(*abstract, steps=step))
      except checkpoint.Damaged as error:
        errors.append(error)
        damaged += [
          f"seed {member.config.seed}: {line}"
          for line in member.checkpoints.passed_over()
        ]
    if len(saved) < len(members):
      continue
    for member in members:
      newer = [own for own in member.checkpoints.steps() if own > step]
      member.checkpoints.damaged = dict.fromkeys(
        newer, "is not one of all seeds"
      )
    return saved, damaged
  if errors:
    raise errors[0]
  if any(map(any, known)):
    raise types.InputError(
      "The seeds have no checkpoint of the same step; resume each of them as a "
      "run of its own."
    )
  return [], []


def _start(config, members, mesh) -> types.TrainState:
  """Draws all states, and trains experts before they compete."""
  run = members[0].run

  def init(key):
    return networks.init_state(key, config, run.setup)

  keys = _stack([jax.random.key(member.config.seed) for member in members])
  state = _place(mesh, jax.jit(jax.vmap(init))(keys))
  c = config.identity
  state = _train_alone(
    config, members, mesh, state, c, c.max_steps, c.mse, paired=False
  )
  c = config.pairs
  state = _train_alone(
    config, members, mesh, state, c, c.steps, 0.0, paired=True
  )

  begin = functools.partial(identity_start.begin_competition, setup=run.setup)
  return jax.jit(sharding.over_seeds(begin, mesh))(state)


def _train_alone(
  config, members, mesh, state, phase, max_steps, bound, *, paired
) -> types.TrainState:
  """Trains experts of all seeds as `image_run` does those of one."""
  if not max_steps:
    return state
  run = members[0].run
  setup = identity_start.setup_of(run.setup, phase)
  one_update = functools.partial(
    identity_start.update, run=run, setup=setup, bound=bound, paired=paired
  )
  update = jax.jit(sharding.over_seeds(one_update, mesh), donate_argnums=0)
  fresh = functools.partial(identity_start.with_optimizer, setup=setup)
  state = jax.jit(sharding.over_seeds(fresh, mesh))(state)
  shape = len(members), networks.num_experts(config)
  learning = _place(mesh, np.ones(shape, bool))
  for step in range(max_steps):
    images = np.stack(
      [
        identity_start.draw_images(member.config, member.run, phase, step)
        for member in members
      ]
    )
    steps = np.full(len(members), step, np.int32)
    state, learning, _ = update(state, learning, *_place(mesh, (images, steps)))
    if not np.asarray(learning).any():
      break
  return state


def _batches(config, members, mesh, steps) -> Iterator[problem_lib.Raw]:
  """Yields the batches of some steps, with a leading axis of seeds."""
  streams = [
    problem_lib.batches(
      member.run.problem,
      seed=member.config.seed,
      steps=steps,
      batch_size=config.train.batch_size,
      place=lambda raw: raw,
    )
    for member in members
  ]
  for raws in zip(*streams, strict=True):
    yield _place(mesh, jax.tree.map(lambda *a: np.stack(a), *raws))


def _step_of(state: types.TrainState) -> int:
  """Number of updates of all seeds, without a program of all devices."""
  return int(np.asarray(state.step)[0])


def _place(mesh, tree):
  return jax.device_put(tree, sharding.of_seeds(mesh))


def _stack(trees):
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
