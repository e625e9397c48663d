"""The same update in idiomatic PyTorch, for comparison.

  .venv-torch/bin/python benchmarks/torch_reference.py

Reads JSON requests, one per line, and answers each with one line. Benchmarks
run it in a process beside their own, under the same conditions. It imports
nothing of icm_jax.

  {"do": "make", "experts": 10, "batch": 32, "image": [32, 32, 1], "seed": 0}
      -> {"channels_last": ..., "threads": ..., "version": ...}
  {"do": "step"} -> {"seconds": ...}, the time of an update on random images, or
      on `x` and `canonical`, the paths of .npy files [B, H, W, C], if given
  {"do": "copy", "x": ...} -> {"seconds": ..., "errors": [...]}, time and errors
      of an update of the identity start
  {"do": "restore", "x": ..., "y": ...} -> {"winners": [...]}; writes the
      winners' outputs to the path `y`
"""

import json
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Expert(nn.Sequential):
  """The network of icm_jax.models.ConvExpert without normalisation."""

  def __init__(self, channels: int, features: int = 32):
    layers, last = [], channels
    for _ in range(4):
      layers += [nn.Conv2d(last, features, 3, padding=1), nn.ELU()]
      last = features
    super().__init__(
      *layers, nn.Conv2d(last, channels, 3, padding=1), nn.Sigmoid()
    )


class Discriminator(nn.Sequential):
  """The network of icm_jax.models.ConvDiscriminator."""

  def __init__(self, height: int, width: int, channels: int):
    layers, last = [], channels
    for level, convolutions in enumerate((3, 2, 2)):
      for _ in range(convolutions):
        layers += [nn.Conv2d(last, 16 << level, 3, padding=1), nn.ELU()]
        last = 16 << level
      layers.append(nn.AvgPool2d(2))
    size = (height // 8) * (width // 8) * last
    layers += [nn.Flatten(), nn.Linear(size, 1024), nn.ELU()]
    super().__init__(*layers, nn.Linear(1024, 1))


class Reference:
  """Experts, a discriminator, and their optimizers.

  Both memory formats can be used; `channels_last` is faster on the machines
  that were measured.
  """

  def __init__(self, experts, image, *, channels_last=True, seed=0):
    torch.manual_seed(seed)
    height, width, channels = image
    self.format = (
      torch.channels_last if channels_last else torch.contiguous_format
    )
    place = {"memory_format": self.format}
    self.experts = [Expert(channels).to(**place) for _ in range(experts)]
    self.discriminator = Discriminator(height, width, channels).to(**place)
    self.expert_adams = [torch.optim.Adam(e.parameters()) for e in self.experts]
    self.discriminator_adam = torch.optim.Adam(self.discriminator.parameters())

  def score(self, y):
    return self.discriminator(y)[:, 0]

  def gradients(self, x, canonical):
    """Returns the discriminator's and winners' gradients, and the winners."""
    with torch.no_grad():  # Losers do not learn, so they need no graph.
      y = torch.stack([expert(x) for expert in self.experts])
    flat = y.flatten(0, 1).contiguous(memory_format=self.format)
    fake = self.score(flat).unflatten(0, y.shape[:2])
    loss = F.softplus(fake).mean() + F.softplus(-self.score(canonical)).mean()
    winner = fake.argmax(0)
    weights = list(self.discriminator.parameters())
    discriminator = torch.autograd.grad(loss, weights)
    self.discriminator.requires_grad_(False)
    experts = {}
    for index, expert in enumerate(self.experts):
      won = (winner == index).nonzero()[:, 0]
      if len(won):
        score = self.score(expert(x[won]))
        objective = F.softplus(-score).sum() / len(x)
        experts[index] = torch.autograd.grad(
          objective, list(expert.parameters())
        )
    self.discriminator.requires_grad_(True)
    return discriminator, experts, winner

  def step(self, x, canonical):
    """Makes one update and returns the winners."""
    discriminator, experts, winner = self.gradients(x, canonical)
    for index, gradients in experts.items():
      _apply(self.expert_adams[index], self.experts[index], gradients)
    _apply(self.discriminator_adam, self.discriminator, discriminator)
    return winner

  @torch.no_grad()
  def restore(self, x):
    """Returns the winners' outputs and the winners."""
    y = torch.stack([expert(x) for expert in self.experts])
    winner = torch.stack([self.score(each) for each in y]).argmax(0)
    return y[winner, torch.arange(len(x))], winner

  def copy_step(self, x):
    """Makes one update of the identity start; returns the errors before it."""
    errors = []
    for expert, adam in zip(self.experts, self.expert_adams, strict=True):
      error = F.mse_loss(expert(x), x)
      gradients = torch.autograd.grad(error, list(expert.parameters()))
      _apply(adam, expert, gradients)
      errors.append(error.item())
    return errors


def _apply(adam, module, gradients):
  for weight, gradient in zip(module.parameters(), gradients, strict=True):
    weight.grad = gradient
  adam.step()


def to_torch(x_BHWC: np.ndarray) -> torch.Tensor:
  """Converts [B, H, W, C] to a view with channels first."""
  return torch.from_numpy(x_BHWC).permute(0, 3, 1, 2)


def measure_format(experts, batch, image) -> bool:
  """Returns whether channels_last is faster on this machine."""
  seconds = {}
  x = torch.rand(batch, image[2], *image[:2])
  for channels_last in (False, True):
    reference = Reference(experts, image, channels_last=channels_last)
    data = x.contiguous(memory_format=reference.format)
    reference.step(data, data)
    start = time.perf_counter()
    reference.step(data, data)
    seconds[channels_last] = time.perf_counter() - start
  return seconds[True] < seconds[False]


def main() -> None:
  reference, data = None, None

  def load(path):
    return to_torch(np.load(path)).contiguous(memory_format=reference.format)

  for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "make":
      image, batch = tuple(request["image"]), request["batch"]
      channels_last = measure_format(request["experts"], batch, image)
      reference = Reference(
        request["experts"],
        image,
        channels_last=channels_last,
        seed=request.get("seed", 0),
      )
      random = torch.rand(batch, image[2], *image[:2])
      data = [random.contiguous(memory_format=reference.format)] * 2
      answer = {
        "channels_last": channels_last,
        "threads": torch.get_num_threads(),
        "version": torch.__version__,
      }
    elif request["do"] == "step":
      if "x" in request:
        data = [load(request["x"]), load(request["canonical"])]
      start = time.perf_counter()
      reference.step(*data)
      answer = {"seconds": time.perf_counter() - start}
    elif request["do"] == "copy":
      x = load(request["x"])
      start = time.perf_counter()
      errors = reference.copy_step(x)
      answer = {"seconds": time.perf_counter() - start, "errors": errors}
    elif request["do"] == "restore":
      outputs, winner = reference.restore(load(request["x"]))
      np.save(request["y"], outputs.permute(0, 2, 3, 1).numpy())
      answer = {"winners": winner.tolist()}
    else:
      raise ValueError(f"unknown request {request}")
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
  main()
