"""What a probe sees in images before and after experts, group by group.

The probe is a classifier that was trained on labels of clean images, for the
evaluation alone: which attributes an image shows and, where it is known who is
seen, which of the training part's people its face is like. It is made anew for
every evaluation, and kept nowhere.
"""

from __future__ import annotations

import functools
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

# Of an attribute, the balanced accuracy on clean test images from which the
# probe's word counts where it should not have changed.
LEAST_ACCURACY = 0.8
# Transformed images after experts, in the order of the page's columns.
VERSIONS = ("restored", "oracle")


class Labels(NamedTuple):
  """What is known of all images of a data set, for a probe.

  Attributes:
    names: K attributes.
    has_NK: bool, whether an image is labelled as having them.
    person_N: int32, numbers of who is seen; None where that is not known.
  """

  names: tuple[str, ...]
  has_NK: np.ndarray
  person_N: np.ndarray | None


def make_labels(
  data: sources.DataSet, problem: problem_lib.Problem, names: Sequence[str]
) -> Labels:
  """Labels of a problem's groups, and of more attributes.

  Args:
    data: the problem's, with all groups that it knows.
    problem: with groups.
    names: of known groups, or rules, beside the problem's own groups.

  Raises:
    InputError: a name is unknown and no rule; or, of the images that a probe
      may be trained on, all have an attribute, or none has.
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
    has_NK: bool, attributes.
    face_NP: float32, of length 1, how like a face is to those of the training
      part's people; None where these are not known.
  """

  has_NK: np.ndarray
  face_NP: np.ndarray | None


# From float32 images in [0, 1] to what is seen in them.
Probe = Callable[[np.ndarray], Seen]


def train_probe(
  problem: problem_lib.Problem,
  labels: Labels,
  *,
  augmentation: augment.Augmentation,
  seed: int,
  batch_size: int,
  training: Mapping[str, Any],
) -> Probe:
  """Trains a probe on clean images that are not of the test part.

  Those with an attribute and those without weigh the same, however many they
  are.

  Args:
    problem: gives images.
    labels: of them.
    augmentation: how far images are varied beforehand.
    seed: of the training.
    batch_size: images at a time when it judges.
    training: `steps`, `batch_size` and `learning_rate` of `train_classifier`.
  """
  ids, num_attributes = problem.judge_ids, len(labels.names)
  share_K = labels.has_NK[ids].mean(axis=0)
  target_N: dict[str, np.ndarray] = {"has": labels.has_NK.astype(np.float32)}
  people = np.array([])
  if labels.person_N is not None:
    people = np.unique(labels.person_N[ids])
    # Other people's numbers mean nothing, and no image of them is drawn.
    target_N["person"] = np.searchsorted(people, labels.person_N)
  network = models.from_linen(
    models.ConvClassifier(num_classes=num_attributes + len(people)),
    problem.shape_HWC,
  )

  def loss(logit_BK, target_B):
    has_BK = target_B["has"]
    # In a batch that is like the whole, both sides weigh one half.
    weight_BK = 0.5 * jnp.where(
      has_BK > 0, 1 / share_K[None], 1 / (1 - share_K[None])
    )
    error_BK = optax.sigmoid_binary_cross_entropy(
      logit_BK[:, :num_attributes], has_BK
    )
    value = (weight_BK * error_BK).mean()
    if "person" in target_B:
      value += classifier.cross_entropy(
        logit_BK[:, num_attributes:], target_B["person"]
      )
    return value

  params = classifier.train_classifier(
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
  def look(params, x_BHWC):
    logit_BK, _ = network.apply(params, {}, x_BHWC, train=False)
    face_BP = None
    if len(people):
      # Only differences between logits of people mean anything.
      face_BP = logit_BK[:, num_attributes:]
      face_BP -= face_BP.mean(axis=1, keepdims=True)
      face_BP /= jnp.linalg.norm(face_BP, axis=1, keepdims=True)
    return Seen(logit_BK[:, :num_attributes] > 0, face_BP)

  return lambda x_NHWC: restoration.by_batches(
    look, params, x_NHWC, batch_size=batch_size
  )


def accuracies(
  has_NK: np.ndarray, label_NK: np.ndarray, names: Sequence[str]
) -> dict[str, dict[str, Any]]:
  """How well a probe judges clean images.

  Args:
    has_NK: bool, what it sees.
    label_NK: bool, what is so.
    names: K attributes.

  Returns:
    By attribute: `with`, the share of images with it that are judged rightly;
    `without`, the same of the others; `accuracy`, the mean of both;
    `images_with`, how many have it; `counts`, whether the accuracy is
    `LEAST_ACCURACY` at least. None for a share of no images, and for an
    accuracy of which one side is missing.
  """
  rows = {}
  for name, has_N, label_N in zip(names, has_NK.T, label_NK.T, strict=True):
    found = _share(has_N[label_N])
    spared = _share(~has_N[~label_N])
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
  """How like photos of one person are, and photos of two people.

  Args:
    face_NP: float32, of length 1.
    person_N: who is seen.

  Returns:
    `same_person` and `two_people`, means of the cosine over all pairs of
    photos; and `told_apart`, how often a pair of one person is more alike than
    one of two people, in [0, 1], where chance is one half. None where nobody is
    on two photos, or only one person is there.
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


def change(
  before: Seen,
  after: Seen,
  attribute: int,
  *,
  names: Sequence[str],
  counts_K: np.ndarray,
) -> dict[str, Any]:
  """What became of images that carry an attribute.

  Args:
    before: N images.
    after: the same after experts.
    attribute: number of the one that should go.
    names: K attributes.
    counts_K: bool, attributes that the probe judges well enough.

  Returns:
    `gone`: of the images in which the attribute was seen, the share in which it
    no longer is; None if it was seen nowhere. `unchanged`: by other attribute,
    the share of its judgements that stay as they were; `others_unchanged`: the
    share of all these judgements; `all_others_unchanged`: the share of images
    in which all do; both None where no other one counts. `likeness`: mean
    cosine of faces before and after; None where people are not known.
  """
  had_N = before.has_NK[:, attribute]
  other_K = counts_K & (np.arange(len(counts_K)) != attribute)
  same_NK = (before.has_NK == after.has_NK)[:, other_K]
  cosine_N = None
  if before.face_NP is not None:
    cosine_N = (before.face_NP * after.face_NP).sum(axis=1)
  return {
    "gone": _share(~after.has_NK[had_N, attribute]),
    "unchanged": {
      names[int(k)]: _share(same_N)
      for k, same_N in zip(np.flatnonzero(other_K), same_NK.T, strict=True)
    },
    "others_unchanged": _share(same_NK),
    "all_others_unchanged": (
      _share(same_NK.all(axis=1)) if other_K.any() else None
    ),
    "likeness": None if cosine_N is None else float(cosine_N.mean()),
  }


def evaluate(
  state: types.TrainState,
  problem: problem_lib.Problem,
  examples: restoration.Examples,
  labels: Labels,
  probe: Probe,
  wins_EM: np.ndarray,
  *,
  setup: types.Setup,
  batch_size: int,
) -> dict[str, Any]:
  """Measures a state's experts by what a probe sees.

  Args:
    state: of a run.
    problem: with M groups.
    examples: test images of the groups.
    labels: their groups' first, in their order.
    probe: see `train_probe`.
    wins_EM: counts on the examples; they say which expert is a group's own.
    setup: of the run.
    batch_size: images at a time for experts.

  Returns:
    `probe`: see `accuracies`, on the whole test part; `likeness`: see the
    function of this name, None where people are not known; `by_group`: number
    of `images`; `seen`, the share of them in which the probe sees the group's
    attribute before any expert; by version, `restored` by the winner and
    `oracle` by the group's own expert, see `change`, with `relative_likeness`,
    0 for photos of two people and 1 for two of one person; and
    `gone_by_expert`, E shares, whoever won.
  """
  test_ids = problem.test_ids
  clean = probe(
    np.asarray(problem_lib.to_float(problem.images.image_NHWC[test_ids]))
  )
  accuracy = accuracies(clean.has_NK, labels.has_NK[test_ids], labels.names)
  counts_K = np.array([row["counts"] for row in accuracy.values()])
  alike = None
  if clean.face_NP is not None and labels.person_N is not None:
    alike = likeness(clean.face_NP, labels.person_N[test_ids])

  @jax.jit
  def restore(state, x_BHWC):
    restored = restoration.restore(state, x_BHWC, setup=setup)
    # The expert axis goes last, so that batches join along the first.
    output_BHWCE = restored.output_EBHWC.transpose(1, 2, 3, 4, 0)
    return restored.restored_BHWC, output_BHWCE

  rows = {}
  for m, name in enumerate(problem.group_names):
    x_NHWC = examples.transformed_NHWC[examples.mechanism_N == m]
    restored_NHWC, output_NHWCE = restoration.by_batches(
      restore, state, x_NHWC, batch_size=batch_size
    )
    before = probe(x_NHWC)
    measure = functools.partial(
      change, before, attribute=m, names=labels.names, counts_K=counts_K
    )
    by_expert = [
      measure(probe(output_NHWC))
      for output_NHWC in np.moveaxis(output_NHWCE, -1, 0)
    ]
    versions = dict(
      zip(
        VERSIONS,
        (measure(probe(restored_NHWC)), by_expert[wins_EM[:, m].argmax()]),
        strict=True,
      )
    )
    for version in versions.values():
      version["relative_likeness"] = _relative(version["likeness"], alike)
    rows[name] = {
      "images": len(x_NHWC),
      "seen": float(before.has_NK[:, m].mean()),
      **versions,
      "gone_by_expert": [version["gone"] for version in by_expert],
    }
  return {"probe": accuracy, "likeness": alike, "by_group": rows}


def _share(is_N: np.ndarray) -> float | None:
  return float(is_N.mean()) if is_N.size else None


def _relative(
  cosine: float | None, alike: Mapping[str, float] | None
) -> float | None:
  if alike is None or cosine is None:
    return None
  distance = alike["same_person"] - alike["two_people"]
  return (cosine - alike["two_people"]) / distance
