"""The model card of a run: a page that Hugging Face's Hub can show."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from icm_jax.data import sources
from icm_jax.evaluation import specialisation
from icm_jax.learned import loading

_USE = """\
## Use

`{program}` is a program for {platforms}, with the parameters in it. It needs
the packages jax and flatbuffers, and nothing else:

```python
import jax, numpy as np

with open("{program}", "rb") as file:
  restore = jax.export.deserialize(bytearray(file.read()))
images = np.zeros((7, {shape}), np.float32)  # in [0, 1]; any number
found = restore.call(images)
```

`found["restored"]` are the images as their winners restored them,
`found["winner"]` is which expert won, `found["score"]` is the discriminator's
logit for the restored image, and `found["change"]` is by how much the winner
raises the logit of the image as it was.

{onnx}`{parameters}` has the parameters alone, and `{networks}` describes the
networks that they belong to.
"""

_ONNX = """\
`{model}` computes the same arrays, in this order, without jax:
`onnxruntime.InferenceSession("{model}").run(None, {{"images": images}})`.

"""

_LIMITS = """\
## Limits

- Experts undo the mechanisms named above, and no others. They saw no other
  data, and images of {shape} only.
- The program changes every image, clean ones too. {margin}
- An expert draws what its training data make likely. Details of a restored
  picture, those of a face among them, may be made up; they are no evidence of
  what was there.
"""


def write(
  learned: loading.Learned,
  *,
  program: str,
  parameters: str,
  networks: str,
  platforms: Sequence[str],
  model: str = "",
) -> str:
  """Writes the card.

  Args:
    learned: the run.
    program: name of the file with the exported program.
    parameters: name of the file with the parameters.
    networks: name of the file that describes the networks.
    platforms: what the program can run on.
    model: name of the program's ONNX file; "" if there is none.
  """
  data = _data_name(learned.config.data.name)
  shape = " x ".join(map(str, learned.shape_HWC))
  return "\n".join(
    [
      _header(learned, data),
      f"# Independent causal mechanisms of {data}\n",
      f"{learned.num_experts} experts competed, without labels, for images "
      f"that {len(learned.mechanisms)} unknown mechanisms distorted, until "
      "each undid one of them (Parascandolo, Kilbertus, Rojas-Carulla and "
      "Schölkopf, *Learning Independent Causal Mechanisms*, ICML 2018). A "
      "discriminator, which learned what undistorted images look like, chooses "
      "the expert for an image.\n",
      _USE.format(
        program=program,
        onnx=_ONNX.format(model=model) if model else "",
        parameters=parameters,
        networks=networks,
        platforms=" and ".join(
          [", ".join(platforms[:-1]), platforms[-1]]
        ).removeprefix(" and "),
        shape=", ".join(map(str, learned.shape_HWC)),
      ),
      _data(learned, data),
      _results(learned),
      _LIMITS.format(shape=shape, margin=_margin(learned)),
    ]
  )


def terms(name: str) -> str:
  """Licence and terms of use of a data set; "" if they are not known."""
  source = sources.SOURCES.get(name)
  return source.builder.TERMS if source else ""


def _data_name(name: str) -> str:
  """A data set's name; of folders of this machine, only the last part."""
  kind, colon, rest = name.partition(":")
  if not colon or kind not in ("folder", "folders"):
    return name
  parts = [pathlib.PurePath(part).name for part in rest.split(",")]
  return f"own pictures ({', '.join(parts)})"


def _header(learned: loading.Learned, data: str) -> str:
  """The header in YAML, of which JSON is a part."""
  header: dict[str, Any] = {
    "library_name": "icm-jax",
    "pipeline_tag": "image-to-image",
    "tags": ["jax", "independent-causal-mechanisms", "image-restoration"],
    "license": "other",
    "license_name": "terms-of-the-data",
    "license_link": "README.md",
  }
  metrics = _metrics(learned.result) if learned.result else []
  if metrics:
    header["metrics"] = sorted({metric["type"] for metric in metrics})
    result = {
      "task": {"type": "image-to-image"},
      "dataset": {"name": data, "type": data},
      "metrics": metrics,
    }
    name = learned.workdir.resolve().name
    header["model-index"] = [{"name": name, "results": [result]}]
  lines = [
    f"{name}: {json.dumps(value, ensure_ascii=False)}"
    for name, value in header.items()
  ]
  return "\n".join(["---", *lines, "---", ""])


def _metrics(result: Mapping[str, Any]) -> list[dict[str, Any]]:
  owned_M = specialisation.owned(np.array(result["wins"]))
  metrics = [
    {
      "type": "one_to_one",
      "name": "share of mechanisms with an expert of their own",
      "value": float(owned_M.mean()),
    }
  ]
  if result["classifier"]:
    metrics += [
      {
        "type": "accuracy",
        "name": f"accuracy of a classifier on {view} images",
        "value": result["classifier"][view],
      }
      for view in ("restored", "transformed", "clean")
    ]
  if result["psnr_db"]:
    metrics.append(
      {
        "type": "psnr",
        "name": "mean over mechanisms, in dB",
        "value": float(np.mean(list(result["psnr_db"].values()))),
      }
    )
  return metrics


def _data(learned: loading.Learned, data: str) -> str:
  lines = [f"## Data\n\n`{data}`"]
  if learned.result:
    counts = learned.result["data"]
    lines[0] += (
      f": {counts['transformed']:,} images that mechanisms distorted, "
      f"{counts['canonical']:,} canonical ones, {counts['test']:,} for testing."
    )
  found = terms(learned.config.data.name)
  lines += [
    "",
    "Licence of the data, to which what was learned from them may be subject: "
    + (found or "not known; ask whoever made the pictures."),
    "",
  ]
  return "\n".join(lines)


def _results(learned: loading.Learned) -> str:
  if not learned.result:
    return (
      "## Results\n\nNothing was measured at this checkpoint. Mechanisms: "
      f"{', '.join(learned.mechanisms)}.\n"
    )
  wins_EM = np.array(learned.result["wins"])
  share_M = specialisation.main_share(wins_EM)
  psnr, recognised = learned.result["psnr_db"], learned.result["classifier"]
  head = ["mechanism", "expert", "share won"]
  head += ["PSNR, dB"] * bool(psnr)
  head += ["recognised before", "after"] * bool(recognised)
  lines = [head, ["---"] * len(head)]
  for m, name in enumerate(learned.mechanisms):
    line = [name, str(wins_EM[:, m].argmax()), f"{share_M[m]:.0%}"]
    if psnr:
      line.append(f"{psnr[name]:.1f}")
    if recognised:
      accuracy = recognised["per_mechanism"][name]
      line += [f"{accuracy[view]:.1%}" for view in ("transformed", "restored")]
    lines.append(line)
  owned_M = specialisation.owned(wins_EM)
  text = (
    f"{owned_M.sum()} of {len(owned_M)} mechanisms have an expert of their "
    f"own, after {learned.steps:,} updates, on "
    f"{learned.result['data']['evaluated']:,} test images."
  )
  if recognised:
    text += (
      " A classifier that was trained on clean images recognises "
      f"{recognised['restored']:.1%} of restored, "
      f"{recognised['transformed']:.1%} of distorted and "
      f"{recognised['clean']:.1%} of clean ones."
    )
  table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
  return f"## Results\n\n{text}\n\n{table}\n"


def _margin(learned: loading.Learned) -> str:
  if not learned.result or learned.result["margin"] is None:
    return "Keep the original where `change` is small."
  changed = learned.config.gate.changed
  return (
    "Keep the original where `change` is at most "
    f"{learned.result['margin']:.3g}: so, {changed:.1%} of clean images are "
    "changed."
  )
