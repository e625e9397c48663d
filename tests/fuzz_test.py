"""A few cases of `make fuzz`, the same ones every time."""

import pytest

from tests import fuzz, fuzz_targets


@pytest.mark.filterwarnings("ignore")  # Damaged pictures bring about many.
@pytest.mark.parametrize("name", fuzz_targets.TARGETS)
def test_readers_read_or_refuse_whatever_comes(name, drawn, monkeypatch):
  fuzz.draw_data(drawn, monkeypatch.setattr)
  counts = fuzz.fuzz(name, 12)
  assert counts.total() >= 12


def test_the_shares_of_all_targets_are_whole():
  assert sum(target.share for target in fuzz_targets.TARGETS.values()) == 100
