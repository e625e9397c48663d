import base64
import io
import json
import re
import xml.etree.ElementTree as ElementTree

import ml_collections
import numpy as np
import PIL.Image
import pytest

from icm_jax import types
from icm_jax.training import atomic_files, run_folder
from icm_jax.viz import charts, letters, report

NAMES = ["right", "<b>down</b>"]  # A name must not become markup.


@pytest.fixture
def finished(tmp_path):
  """The files of a made-up run with three experts and two mechanisms."""
  rng = np.random.default_rng(0)
  accuracy = {"clean": 0.9, "transformed": 0.3, "restored": 0.8}
  result = {
    "config": {"seed": 0, "train": {"steps": 4}},
    "seed": 0,
    "data": {
      "name": "drawn",
      "transformed": 5,
      "canonical": 5,
      "test": 4,
      "evaluated": 20,
    },
    "steps": 4,
    "mechanisms": NAMES,
    "experts": 3,
    "wins": [[0, 10], [0, 0], [10, 0]],
    "coverage": 1.0,
    "matched": 1.0,
    "one_to_one": True,
    "active_experts": 2,
    "found_steps": dict(zip(NAMES, (2, None), strict=True)),
    "classifier": {
      **accuracy,
      "per_mechanism": {name: accuracy for name in NAMES},
    },
    "chains": {
      "by_length": {
        "2": dict(before=0.1, greedy=0.2, beam=0.7, clean=0.9, experts=1.5)
      },
      "pairs": {"right, <b>down</b>": 0.7},
    },
    "detection": {
      name: {
        "transformed": 0.125,
        "restored": restored,
        "oracle": 0.75,
        "gated": 0.25,
        "single_network": None,
        "classical": 0.5,
        "clean": 1.0,
        "clean_gated": 1.0,
        "faces": 8,
        "false_detections": {
          "transformed": 0.0,
          "restored": 0.25,
          "oracle": 0.0,
          "gated": 0.0,
          "single_network": None,
          "classical": 0.0,
          "clean": 0.0,
          "clean_gated": 0.0,
        },
      }
      for name, restored in zip(NAMES, (0.5, 1.0), strict=True)
    },
    "transfer": {
      "data": "letters",
      "skipped_by_reason": {"truncated": ["a.png"]},
      "by_mechanism": {
        name: dict(win_share=0.5, psnr_db=20.0, best_other_psnr_db=other)
        for name, other in zip(NAMES, (11.5, None), strict=True)
      },
      "detection": None,
    },
    "attributes": {
      "probe": {
        name: {
          "accuracy": accuracy,
          "with": accuracy,
          "without": accuracy,
          "images_with": 3,
          "counts": accuracy > 0.8,
        }
        for name, accuracy in zip(NAMES, (0.9, 0.7), strict=True)
      },
      "likeness": {
        "same_person": 0.5,
        "two_people": 0.1,
        "told_apart": 0.625,
      },
      "canonical": {
        "images": 1_234,
        "changed": 0.125,
        "change": 0.0015,
        "kept": 0.9375,
        "change_ungated": 0.02,
      },
      "by_group": {
        NAMES[0]: {
          "images": 7,
          "won_by_own": 0.75,
          "seen": 0.875,
          "restored": {
            "gone": 0.25,
            "others_unchanged": 0.5,
            "all_others_unchanged": 0.375,
            "likeness": 0.3,
            "relative_likeness": 0.5,
          },
          "oracle": {
            "gone": 0.3125,
            "others_unchanged": None,
            "all_others_unchanged": None,
            "likeness": None,
            "relative_likeness": None,
          },
          "gone_by_expert": [0.25, None, 0.3125],
        }
      },
    },
    "recall_curves": {
      "scores": [0.2, 0.5],
      "by_detector": {
        "mtcnn": {
          NAMES[0]: {
            "16": {
              "images": 7,
              "people": 5,
              "before": [0.75, 0.5],
              "after": [1.0, 0.875],
              "low": [0.0, 0.125],
              "high": [0.5, 0.625],
              "elsewhere_before": [0.5, 0.25],
              "elsewhere_after": [0.0, 0.0],
            },
            "8": None,
          }
        },
        "centerface": {NAMES[0]: {"8": None}},
      },
    },
    "psnr_db": dict.fromkeys(NAMES, 17.5),
    "time": {"train_s": 1.0, "total_s": 2.0},
    "versions": {"jax": "0"},
  }
  run_folder.write(tmp_path, ml_collections.ConfigDict(result["config"]), {})
  atomic_files.write_json(tmp_path / run_folder.RESULT, result)
  np.savez(
    tmp_path / run_folder.EXAMPLES,
    clean_MHWC=rng.random((2, 8, 8, 1)),
    mechanism_M=np.arange(2),
    transformed_MHWC=rng.random((2, 8, 8, 1)),
    output_EMHWC=rng.random((3, 2, 8, 8, 1)),
    score_EM=rng.random((3, 2)),
    winner_M=np.array([2, 0]),
  )
  rows = []
  for step in range(5):
    rows.append(
      {
        "step": step,
        "evaluation/wins_EM": [[5, 5], [5, 5], [0, 0]],
        "evaluation/score_EM": rng.random((3, 2)).tolist(),
        "evaluation/accuracy/restored_M": [0.2 * step, 0.1],
      }
    )
    if step:
      rows.append(
        {
          "step": step,
          "competition/wins_E": [3, 1, 4],
          "competition/moved_E": [0, int(step == 2), 0],
        }
      )
  (tmp_path / run_folder.METRICS).write_text(
    "".join(json.dumps(row) + "\n" for row in rows)
  )
  return tmp_path


def test_the_page_is_self_contained_and_whole(finished):
  page = report.write(finished).read_text()
  assert not re.search(r'(src|href)="(?!data:)', page)
  assert "2 of 2 mechanisms have an expert of their own; 80.0%" in page
  assert "expert 1 by step 2" in page
  assert "--config.train.steps=4" in page
  assert "<b>down" not in page
  assert "<td>70.0%</td><td>90.0%</td><td>1.50</td>" in page
  assert "<td>50.0%</td><td>20.0</td><td>11.5</td>" in page
  assert "<td>12.5% (0.00)</td><td>50.0% (0.25)</td>" in page
  assert "<td>mean</td><td>12.5% (0.00)</td><td>75.0% (0.25)</td>" in page
  assert "<td>25.0% (0.00)</td><td></td><td>50.0% (0.00)</td>" in page
  assert (
    "<td>7</td><td>75.0%</td><td>90.0%</td><td>87.5%</td><td>25.0%</td>"
    "<td>50.0% (37.5%)</td>"
    "<td>0.50</td><td>31.2%</td><td></td><td></td>"
  ) in page
  assert "in 62.5% of all cases" in page
  assert (
    "<td>16</td><td>7</td><td>5</td><td>50.0%</td><td>87.5%</td>"
    "<td>+12.5% to +62.5%</td><td>0.250, 0.000</td>"
  ) in page
  assert "3  &lt;b&gt;down&lt;/b&gt;, not counted among others" in page
  assert "2 of 3 experts are active" in page
  images = re.findall(r'src="data:image/([a-z+]+);base64,([^"]+)"', page)
  assert [kind for kind, _ in images] == ["png"] + ["svg+xml"] * 5
  for kind, text in images:
    data = base64.b64decode(text)
    if kind == "png":
      assert PIL.Image.open(io.BytesIO(data)).width > 200
    else:
      assert ElementTree.fromstring(data).tag.endswith("svg")
  assert (finished / run_folder.GRID).read_bytes() == base64.b64decode(
    images[0][1]
  )


def test_a_run_without_relocation_has_a_page(finished):
  path = finished / run_folder.METRICS
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  for row in rows:
    row.pop("competition/moved_E", None)
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  assert "No idle expert was moved." in report.write(finished).read_text()


def test_a_page_without_metrics_is_drawn(finished):
  (finished / run_folder.METRICS).unlink()
  page = report.write(finished).read_text()
  assert page.count("data:image") == 2


def test_a_run_without_a_result_gets_instructions(tmp_path):
  with pytest.raises(types.InputError, match="no result.json; finish the run"):
    report.write(tmp_path)


def test_experts_stand_in_the_order_of_their_mechanisms():
  wins_EM = np.array([[0, 9], [0, 0], [8, 1], [0, 0]])
  assert charts.expert_order(wins_EM).tolist() == [2, 0, 1, 3]


def test_the_change_stands_where_clean_images_are_unknown():
  image = np.full((3, 8, 8, 3), 0.5)
  output = np.stack([image, image])
  output[1, 2, :4] = 0.6  # The winner of the last row changes its upper half.
  figure = charts.example_grid(
    None,
    image,
    output,
    np.array([0, 0, 1]),
    np.array([[9, 0], [0, 9]]),
    [NAMES[0], NAMES[0], NAMES[1]],
  )
  (axes,) = figure.axes
  texts = [text.get_text() for text in axes.texts]
  assert "change" in texts
  assert "clean" not in texts
  assert texts.count(NAMES[0]) == 1
  changes = [drawn.get_array() for drawn in axes.images[-3:]]
  assert not changes[0].any()
  assert not changes[1].any()
  np.testing.assert_allclose(changes[2][:4], 0.4, atol=1e-6)
  np.testing.assert_allclose(changes[2][4:], 0.0)


def test_letters_that_the_font_lacks_are_drawn_by_their_codes():
  names = ["gr\u00fcn \U0001f9e0", "\u4e2d"]
  assert list(map(letters.drawable, names)) == [
    "gr\u00fcn [U+1F9E0]",
    "[U+4E2D]",
  ]
  wins_EM, image_MHWC = np.eye(2), np.zeros((2, 8, 8, 1))
  for figure in (
    charts.win_matrices(wins_EM, wins_EM, names),
    charts.scores_over_steps([0, 1], np.zeros((2, 2, 2)), wins_EM, names),
    charts.found_by_variant(names, [[dict.fromkeys(names, 1)]] * 2, 1),
    charts.example_grid(
      None, image_MHWC, np.zeros((2, 2, 8, 8, 1)), np.arange(2), wins_EM, names
    ),
  ):
    charts.png(figure, dpi=20)  # A missing letter would be a warning.


def test_the_winner_is_framed():
  image = np.zeros((2, 8, 8, 1))
  figure = charts.example_grid(
      image, image, np.zeros((3, 2, 8, 8, 1)), [1, 1],
      np.array([[0, 9], [9, 0], [0, 0]]), NAMES,
  )  # fmt: skip
  frames = figure.axes[0].patches
  assert len(frames) == 2
  # Expert 1 owns the first mechanism, so that it stands first.
  assert frames[0].get_x() == pytest.approx(1.2 - 0.47)
