"""A probe: a classifier that predicts which attributes an image shows.

It is trained on labels of clean images for the evaluation alone. It predicts
which attributes an image shows and, if the data set says who is seen, which of
the training part's people its face resembles. It is trained for every
evaluation, and not stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from icm_jax import models, types
from icm_jax.data import augment, sources
from icm_jax.data import problem as problem_lib
from icm_jax.data import roles as roles_lib
from icm_jax.evaluation import classifier, restoration

# Least balanced accuracy on clean test images with which the probe's judgements
# of an attribute count.
LEAST_ACCURACY = 0.8
# Factor of the loss of people. Attributes are what a probe is for: with a
# factor of 1, it recognises eyeglasses on CelebA in 0.89 instead of 0.94 of
# faces (balanced accuracy, docs/attributes_study.md), and people no better.
_PEOPLE_WEIGHT = 0.1


class Labels(NamedTuple):
  """Labels of all images of a data set, for a probe.

  Attributes:
    names: names of the K attributes.
    has_NK: bool, whether an image is labelled as having an attribute.
    person_N: int32, number of the person in an image; None if the data set does
      not say who is seen.
  """

  names: tuple[str, ...]
  has_NK: np.ndarray
  person_N: np.ndarray | None


def make_labels(
  data: sources.DataSet, problem: problem_lib.Problem, names: Sequence[str]
) -> Labels:
  """Labels of a problem's groups and of further attributes.

  Args:
    data: data set of the problem, with all groups that it knows.
    problem: a problem with groups.
    names: further attributes: names of known groups, or rules.

  Raises:
    InputError: a name is neither a known group nor a rule; or all images on
      which a probe may be trained have an attribute, or none has it.
  """
  names = tuple(dict.fromkeys((*problem.group_names, *names)))
  columns, num_images = data.images.columns, len(data.images.image_NHWC)
  rules = roles_lib.choose(data.roles, names).groups.values()
  has_NK = np.stack(
    [roles_lib.matches(rule, columns, num_images) for rule in rules], axis=1
  )
  ids = problem.judge_ids
  for name, has_N in zip(names, has_NK[ids].T, strict=True):
    if has_N.all() or not has_N.any():
      raise types.InputError(
        f"A probe cannot learn {name}: of the {len(ids)} images of {data.name} "
        f"that it may be trained on, {has_N.sum()} have it. Leave it out of "
        "--config.attributes.names, or choose other groups."
      )
  person_N = None
  if data.roles.person:
    person_N = np.unique(columns[data.roles.person], return_inverse=True)[1]
    person_N = person_N.astype(np.int32)
  return Labels(names, has_NK, person_N)


class Seen(NamedTuple):
  """What a probe sees in images.

  Attributes:
    has_NK: bool, whether it sees an attribute.
    face_NP: float32, unit vectors: resemblance of a face to the training part's
      people; None if the data set does not say who is seen.
  """

  has_NK: np.ndarray
  face_NP: np.ndarray | None


# Function from float32 images in [0, 1] to what a probe sees in them.
Probe = Callable[[np.ndarray], Seen]


def train(
  problem: problem_lib.Problem,
  labels: Labels,
  *,
  augmentation: augment.Augmentation,
  seed: int,
  batch_size: int,
  training: Mapping[str, Any],
) -> Probe:
  """Trains a probe on clean images outside the test part.

  Images with an attribute and images without it have the same total weight. If
  images are mirrored in training, a probe sees the mean of an image and its
  mirror image.

  Args:
    problem: problem whose images are used.
    labels: labels of the problem's images.
    augmentation: range of random variations of the images.
    seed: seed of the training.
    batch_size: number of images in one call of the trained network.
    training: `steps`, `batch_size` and `learning_rate` of `train_classifier`.
  """
  ids, num_attributes = problem.judge_ids, len(labels.names)
  share_K = labels.has_NK[ids].mean(axis=0)
  target_N: dict[str, np.ndarray] = {"has": labels.has_NK.astype(np.float32)}
  people = np.array([])
  if labels.person_N is not None:
    people = np.unique(labels.person_N[ids])
    # Numbers of other people are meaningless, but their images are not drawn.
    target_N["person"] = np.searchsorted(people, labels.person_N)
  network = models.from_linen(
    models.ConvClassifier(num_attributes + len(people), norm="batch"),
    problem.shape_HWC,
  )

  def loss(logit_BK, target_B):
    has_BK = target_B["has"]
    # The expected total weight of images with an attribute, and of images
    # without it, is one half.
    weight_BK = 0.5 * jnp.where(
      has_BK > 0, 1 / share_K[None], 1 / (1 - share_K[None])
    )
    error_BK = optax.sigmoid_binary_cross_entropy(
      logit_BK[:, :num_attributes], has_BK
    )
    value = (weight_BK * error_BK).mean()
    if "person" in target_B:
      value += _PEOPLE_WEIGHT * classifier.cross_entropy(
        logit_BK[:, num_attributes:], target_B["person"]
      )
    return value

  trained = classifier.train_classifier(
    network,
    problem.images.image_NHWC,
    target_N,
    ids,
    loss=loss,
    augmentation=augmentation,
    seed=seed,
    **training,
  )

  @jax.jit
  def look(trained, x_BHWC):
    logit_BK, _ = network.apply(*trained, x_BHWC, train=False)
    if augmentation.flip:
      mirrored_BHWC = x_BHWC[:, :, ::-1]
      logit_BK += network.apply(*trained, mirrored_BHWC, train=False)[0]
    face_BP = None
    if len(people):
      # Only differences between logits of people are meaningful.
      face_BP = logit_BK[:, num_attributes:]
      face_BP -= face_BP.mean(axis=1, keepdims=True)
      face_BP /= jnp.linalg.norm(face_BP, axis=1, keepdims=True)
    return Seen(logit_BK[:, :num_attributes] > 0, face_BP)

  return lambda x_NHWC: restoration.by_batches(
    look, trained, x_NHWC, batch_size=batch_size
  )


class Judge(NamedTuple):
  """A probe, and how far it can be trusted.

  Attributes:
    labels: labels of the problem's images; those of its groups come first, in
      their order.
    look: the probe.
    accuracy: see `accuracies`, on the whole test part.
    likeness: see `likeness`, on the whole test part; None if the data set does
      not say who is seen.
    counts_K: bool, attributes that it judges accurately enough.
  """

  labels: Labels
  look: Probe
  accuracy: dict[str, dict[str, Any]]
  likeness: dict[str, float] | None
  counts_K: np.ndarray


def judge(problem: problem_lib.Problem, labels: Labels, look: Probe) -> Judge:
  """Tests a probe on the clean images of the test part."""
  ids = problem.test_ids
  seen = look(np.asarray(problem_lib.to_float(problem.images.image_NHWC[ids])))
  accuracy = accuracies(seen.has_NK, labels.has_NK[ids], labels.names)
  alike = None
  if seen.face_NP is not None and labels.person_N is not None:
    alike = likeness(seen.face_NP, labels.person_N[ids])
  counts_K = np.array([row["counts"] for row in accuracy.values()])
  return Judge(labels, look, accuracy, alike, counts_K)


def accuracies(
  has_NK: np.ndarray, label_NK: np.ndarray, names: Sequence[str]
) -> dict[str, dict[str, Any]]:
  """Accuracy of a probe on clean images.

  Args:
    has_NK: bool, attributes that the probe sees.
    label_NK: bool, attributes by label.
    names: names of the K attributes.

  Returns:
    By attribute: `with`, the share of correct judgements on images with the
    attribute; `without`, the same on the other images; `accuracy`, the mean of
    both; `images_with`, the number of images with the attribute; `counts`,
    whether the accuracy is at least `LEAST_ACCURACY`. Shares of no images are
    None, and so is an accuracy if one of its shares is None.
  """
  rows = {}
  for name, has_N, label_N in zip(names, has_NK.T, label_NK.T, strict=True):
    found = share(has_N[label_N])
    spared = share(~has_N[~label_N])
    accuracy = None
    if found is not None and spared is not None:
      accuracy = (found + spared) / 2
    rows[name] = {
      "accuracy": accuracy,
      "with": found,
      "without": spared,
      "images_with": int(label_N.sum()),
      "counts": accuracy is not None and accuracy >= LEAST_ACCURACY,
    }
  return rows


def likeness(
  face_NP: np.ndarray, person_N: np.ndarray
) -> dict[str, float] | None:
  """Similarity of photos of one person, and of photos of two people.

  Args:
    face_NP: float32, unit vectors.
    person_N: number of the person in each photo.

  Returns:
    `same_person` and `two_people`, means of the cosine over all pairs of photos
    of one person and of two people; and `told_apart`, how often a pair of one
    person is more similar than a pair of two people, in [0, 1], where chance is
    one half. None if no person is on two photos, or there is only one person.
  """
  first, second = np.triu_indices(len(person_N), 1)
  cosine = (face_NP @ face_NP.T)[first, second]
  same = person_N[first] == person_N[second]
  if same.all() or not same.any():
    return None
  below = np.searchsorted(np.sort(cosine[~same]), cosine[same])
  return {
    "same_person": float(cosine[same].mean()),
    "two_people": float(cosine[~same].mean()),
    "told_apart": float(below.mean() / (~same).sum()),
  }


def share(is_N: np.ndarray) -> float | None:
  """Returns the share of true values; None for an empty array."""
  return float(is_N.mean()) if is_N.size else None
