"""The RIM cell in idiomatic PyTorch, for comparison.

  .venv-torch/bin/python benchmarks/torch_rim.py

Reads JSON requests, one per line, and answers each with one line, as
`torch_reference.py` does. It imports nothing of icm_jax.

  {"do": "make", "rims": 6, "active": 3, "size": 100, "batch": 64, "steps": 20,
   "inputs": 100, "embed": 100, "gradient": false} -> {"version": ...}
  {"do": "run"} -> {"seconds": ...}, the time of all steps: forward and, if the
      gradient was requested, backward
"""

import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

KEYS, HEADS = 64, 4
TALK_KEYS, TALK_VALUES, TALK_HEADS = 32, 32, 4


class RIM(nn.Module):
  """The cell icm_jax.rim.RIMCell with its default fields: LSTM, no dropout."""

  def __init__(self, rims, active, size, inputs, embed):
    super().__init__()
    self.rims, self.active, self.size = rims, active, size
    values = 4 * size

    def own(inside, outside):
      return nn.Parameter(torch.randn(rims, inside, outside) / inside**0.5)

    self.embed = nn.Linear(inputs, embed)
    self.key = nn.Linear(embed, HEADS * KEYS, bias=False)
    self.value = nn.Linear(embed, values, bias=False)
    self.query = own(size, HEADS * KEYS)
    self.kernel = own(values + size, 4 * size)
    self.bias = nn.Parameter(torch.zeros(rims, 1, 4 * size))
    self.talk_query = own(size, TALK_HEADS * TALK_KEYS)
    self.talk_key = own(size, TALK_HEADS * TALK_KEYS)
    self.talk_value = own(size, TALK_HEADS * TALK_VALUES)
    self.talk_out = own(TALK_HEADS * TALK_VALUES, size)

  def forward(self, x, c, h):
    """Makes one step; states are [R, B, D]."""
    rims, batch = h.shape[:2]
    x = self.embed(x)
    key = self.key(x).view(1, batch, HEADS, KEYS)
    query = torch.bmm(h, self.query).view(rims, batch, HEADS, KEYS)
    weight = torch.sigmoid((query * key).sum(-1) / KEYS**0.5)
    null = 1 - weight.mean(-1)
    chosen = null.topk(self.active, dim=0, largest=False).indices
    mask = torch.zeros_like(null, dtype=torch.bool).scatter(0, chosen, True)
    mask = mask[..., None]
    value = self.value(x).view(1, batch, HEADS, -1)
    read = (weight[..., None] * value).flatten(2)
    both = torch.cat([read, h], dim=-1)
    gates = torch.baddbmm(self.bias, both, self.kernel)
    i, f, g, o = gates.chunk(4, dim=-1)
    new_c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    new_h = torch.sigmoid(o) * torch.tanh(new_c)
    c, h = torch.where(mask, new_c, c), torch.where(mask, new_h, h)

    def split(kernel):
      out = torch.bmm(h, kernel).view(rims, batch, TALK_HEADS, -1)
      return out.permute(1, 2, 0, 3)  # Batch, heads, RIMs, features.

    heard = F.scaled_dot_product_attention(
      split(self.talk_query), split(self.talk_key), split(self.talk_value)
    )
    heard = heard.permute(2, 0, 1, 3).flatten(2)
    told = h + torch.bmm(heard, self.talk_out)
    return c, torch.where(mask, told, h)


class Reference:
  """A cell that is applied to a sequence."""

  def __init__(self, request):
    torch.manual_seed(0)
    rims, size = request["rims"], request["size"]
    self.cell = RIM(
      rims, request["active"], size, request["inputs"], request["embed"]
    )
    self.gradient = request["gradient"]
    self.x = torch.randn(request["steps"], request["batch"], request["inputs"])
    self.start = torch.zeros(rims, request["batch"], size)

  def run(self):
    with torch.set_grad_enabled(self.gradient):
      c = h = self.start
      total = 0.0
      for x in self.x:
        c, h = self.cell(x, c, h)
        total = total + (h**2).sum()
      if self.gradient:
        torch.autograd.grad(total, list(self.cell.parameters()))


def main() -> None:
  reference = None
  for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "make":
      reference = Reference(request)
      reference.run()  # The first run is slower.
      answer = {
        "threads": torch.get_num_threads(),
        "version": torch.__version__,
      }
    elif request["do"] == "run":
      start = time.perf_counter()
      reference.run()
      answer = {"seconds": time.perf_counter() - start}
    else:
      raise ValueError(f"unknown request {request}")
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
  main()
