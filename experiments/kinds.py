"""The kinds of runs, one of which every config names as `config.kind`.

A new kind is an entry of `KINDS`; programs use nothing else to tell kinds
apart.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_collections

from experiments.configs import rim_copying
from experiments.configs.sections import paper
from icm_jax import types
from icm_jax.rim import evaluate as rim_evaluate
from icm_jax.rim import report as rim_report
from icm_jax.rim import run as rim_run
from icm_jax.rim import sweep as rim_sweep
from icm_jax.training import image_run, run_folder, run_result, seeds_run
from icm_jax.viz import report, sweep


class Kind(NamedTuple):
  """The functions by which programs handle runs of one kind.

  Attributes:
    train: `train(config, workdir, *, resume, reporter, started) -> result`,
      where `result` is the content of `result.json`.
    train_seeds: `train_seeds(config, workdir, seeds, *, resume, reporter,
      started) -> results`, all seeds as one program, where `resume` has an
      entry for each seed; None if runs of the kind cannot be trained together.
    evaluate_checkpoint: `evaluate_checkpoint(workdir) -> result`.
    write_report: `write_report(workdir) -> path`, the path of the page.
    headline: `headline(result) -> str`, a sentence without a full stop.
    sweep_layout: how runs appear on the page of a sweep.
    example: makes a config with every key that all configs of the kind have.
  """

  train: Callable[..., dict[str, Any]]
  train_seeds: Callable[..., list[dict[str, Any]]] | None
  evaluate_checkpoint: Callable[[pathlib.Path], dict[str, Any]]
  write_report: Callable[[pathlib.Path], pathlib.Path]
  headline: Callable[[Mapping[str, Any]], str]
  sweep_layout: sweep.Layout
  example: Callable[[], ml_collections.ConfigDict]


KINDS = {
  "images": Kind(
    train=image_run.train,
    train_seeds=seeds_run.train,
    evaluate_checkpoint=run_result.evaluate_checkpoint,
    write_report=report.write,
    headline=report.headline,
    sweep_layout=sweep.IMAGES,
    example=lambda: paper.experiment("smoke"),
  ),
  "rim": Kind(
    train=rim_run.train,
    train_seeds=None,
    evaluate_checkpoint=rim_evaluate.evaluate_checkpoint,
    write_report=rim_report.write,
    headline=rim_report.headline,
    sweep_layout=rim_sweep.LAYOUT,
    example=lambda: rim_copying.get_config("smoke"),
  ),
}


def from_config(config: ml_collections.ConfigDict) -> Kind:
  """Returns the kind that a config names.

  Raises:
    InputError: the config names none, or an unknown one.
  """
  known = ", ".join(KINDS)
  if "kind" not in config:
    raise types.InputError(
      f"The config has no `kind`; it must be one of {known}."
    )
  if config.kind not in KINDS:
    raise types.InputError(
      f"--config.kind must be one of {known}; got {config.kind!r}."
    )
  return KINDS[config.kind]


def check_keys(config: ml_collections.ConfigDict) -> None:
  """Makes sure that a config has all keys of its kind.

  What a mechanism, a task or a model takes is checked where it is made.

  Raises:
    InputError: names the first key that is missing.
  """
  _check_keys(from_config(config).example(), config, "")


def _check_keys(example, config, prefix: str) -> None:
  for name, value in example.items():
    path = f"{prefix}{name}"
    if name not in config:
      raise types.InputError(
        f"The config has no {path}; start from a copy of one in "
        "experiments/configs, and keep all of its keys."
      )
    if not isinstance(value, ml_collections.ConfigDict):
      continue
    if not isinstance(config[name], ml_collections.ConfigDict):
      raise types.InputError(
        f"--config.{path} must be a section with {', '.join(value)}; got "
        f"{config[name]!r}."
      )
    if path not in ("mechanisms", "task", "models"):
      _check_keys(value, config[name], f"{path}.")


def from_workdir(folder: pathlib.Path) -> Kind:
  """Returns the kind of the run in a folder.

  Raises:
    InputError: the folder holds no run, or one without a known kind.
  """
  return from_config(run_folder.read(folder).config)
