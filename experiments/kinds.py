"""The kinds of runs, one of which every config names as `config.kind`.

A new kind is an entry of `KINDS`; programs use nothing else to tell kinds
apart.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_collections

from icm_jax import types
from icm_jax.rim import evaluate as rim_evaluate
from icm_jax.rim import report as rim_report
from icm_jax.rim import run as rim_run
from icm_jax.rim import sweep as rim_sweep
from icm_jax.training import image_run, run_folder, run_result
from icm_jax.viz import report, sweep


class Kind(NamedTuple):
  """The functions by which programs handle runs of one kind.

  Attributes:
    train: `train(config, workdir, *, resume, reporter, started) -> result`,
      where `result` is the content of `result.json`.
    evaluate_checkpoint: `evaluate_checkpoint(workdir) -> result`.
    write_report: `write_report(workdir) -> path`, the path of the page.
    headline: `headline(result) -> str`, a sentence without a full stop.
    sweep_layout: how runs appear on the page of a sweep.
  """

  train: Callable[..., dict[str, Any]]
  evaluate_checkpoint: Callable[[pathlib.Path], dict[str, Any]]
  write_report: Callable[[pathlib.Path], pathlib.Path]
  headline: Callable[[Mapping[str, Any]], str]
  sweep_layout: sweep.Layout


KINDS = {
  "images": Kind(
    train=image_run.train,
    evaluate_checkpoint=run_result.evaluate_checkpoint,
    write_report=report.write,
    headline=report.headline,
    sweep_layout=sweep.IMAGES,
  ),
  "rim": Kind(
    train=rim_run.train,
    evaluate_checkpoint=rim_evaluate.evaluate_checkpoint,
    write_report=rim_report.write,
    headline=rim_report.headline,
    sweep_layout=rim_sweep.LAYOUT,
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


def from_workdir(folder: pathlib.Path) -> Kind:
  """Returns the kind of the run in a folder.

  Raises:
    InputError: the folder holds no run, or one without a known kind.
  """
  return from_config(run_folder.read(folder).config)
