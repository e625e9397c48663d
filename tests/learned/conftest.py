"""A run that tests of what is learned share."""

import json

import pytest

from experiments.configs import mnist
from icm_jax.training import build, image_run, run_folder

MARGIN = 0.25


@pytest.fixture(scope="session")
def trained(tmp_path_factory, drawn):
  """The folder of a short run of three tiny experts, with a made-up margin."""
  folder = tmp_path_factory.mktemp("learned") / "run"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(build.sources, "load", lambda n, **k: drawn)
    image_run.train(mnist.get_config("smoke"), folder)
  path = folder / run_folder.RESULT
  result = json.loads(path.read_text())
  assert result["margin"] is None
  path.write_text(json.dumps({**result, "margin": MARGIN}))
  return folder
