"""What tests of builders share."""

import pytest
import tensorflow_datasets as tfds


@pytest.fixture
def prepare(make):
  """A function that prepares data and returns what a later run reads.

  The module of a test has the fixture `make`, which makes a builder.
  """

  def read():
    make().download_and_prepare()
    builder = make()
    source = builder.as_data_source(
      split="train", decoders={"image": tfds.decode.SkipDecoding()}
    )
    return list(source), [tuple(s) for s in builder.info.metadata["skipped"]]

  return read
