"""The same update in idiomatic PyTorch, for comparison.

  .venv-torch/bin/python benchmarks/torch_reference.py

Reads JSON requests, one per line, and answers each with one line. Benchmarks
run it in a process beside their own, under the same conditions. It imports
nothing of icm_jax.

  {"do": "make", "experts": 10, "batch": 32, "image": [32, 32, 1], "seed": 0,
      "device": "cuda", "dtype": "bfloat16", "compile": true}
      -> {"channels_last": ..., "threads": ..., "version": ...}; the last three
      are optional: the default is a CPU, float32, and nothing compiled;
      bfloat16 is that of `torch.autocast`
  {"do": "step", "count": 10} -> {"seconds": ..., "peak_gib": ...}, the mean
      time of `count` updates (1 if it is missing) on random images, or on `x`
      and `canonical`, the paths of .npy files [B, H, W, C], if given; and the
      peak memory of a GPU since "make"
  {"do": "copy", "x": ...} -> {"seconds": ..., "errors": [...]}, time and errors
      of an update of the identity start
  {"do": "restore", "x": ..., "y": ...} -> {"winners": [...]}; writes the
      winners' outputs to the path `y`
"""

import contextlib
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

  def __init__(
    self,
    experts,
    image,
    *,
    channels_last=True,
    seed=0,
    device="cpu",
    dtype="float32",
    compile=False,
  ):
    torch.manual_seed(seed)
    height, width, channels = image
    self.format = (
      torch.channels_last if channels_last else torch.contiguous_format
    )
    self.device, self.dtype = device, dtype

    def place(module):
      module = module.to(device=device, memory_format=self.format)
      return torch.compile(module) if compile else module

    self.experts = [place(Expert(channels)) for _ in range(experts)]
    self.discriminator = place(Discriminator(height, width, channels))
    adam = lambda module: torch.optim.Adam(
      module.parameters(), fused=device == "cuda"
    )
    self.expert_adams = [adam(expert) for expert in self.experts]
    self.discriminator_adam = adam(self.discriminator)

  def autocast(self):
    if self.dtype == "float32":
      return contextlib.nullcontext()
    return torch.autocast(self.device, dtype=getattr(torch, self.dtype))

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
    with self.autocast():
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


def measure_format(batch, image, **chosen) -> bool:
  """Returns whether channels_last is faster on this machine."""
  seconds = {}
  for channels_last in (False, True):
    reference = Reference(image=image, channels_last=channels_last, **chosen)
    data = random_images(reference, batch, image)
    # The first updates on a GPU are slower than the others.
    count = 3 if reference.device == "cuda" else 1
    mean_seconds(reference, data, count)
    seconds[channels_last] = mean_seconds(reference, data, count)
  return seconds[True] < seconds[False]


def random_images(reference, batch, image):
  """Returns one batch of random images, twice."""
  random = torch.rand(batch, image[2], *image[:2], device=reference.device)
  return [random.contiguous(memory_format=reference.format)] * 2


def mean_seconds(reference, data, count) -> float:
  """Returns the mean time of updates."""
  wait(reference)
  start = time.perf_counter()
  for _ in range(count):
    reference.step(*data)
  wait(reference)
  return (time.perf_counter() - start) / count


def wait(reference) -> None:
  """Waits until the GPU, if there is one, has finished."""
  if reference.device == "cuda":
    torch.cuda.synchronize()


def make(experts, batch, image, *, seed=0, compile=False, **place):
  """Returns a reference in its faster memory format, and random images."""
  if place.get("device") == "cuda":
    # Products of float32 use the same units as those of jax.
    torch.set_float32_matmul_precision("high")
  if compile:
    # All experts share their programs, but each batch size and dtype has some.
    torch._dynamo.config.recompile_limit = 64
  chosen = {"experts": experts, "seed": seed, **place}
  channels_last = measure_format(batch, image, **chosen)
  chosen |= {"channels_last": channels_last, "compile": compile}
  reference = Reference(image=image, **chosen)
  data = random_images(reference, batch, image)
  if place.get("device") == "cuda":
    mean_seconds(reference, data, 3)
    torch.cuda.reset_peak_memory_stats()
  return reference, data, channels_last


def main() -> None:
  reference, data = None, None

  def load(path):
    return to_torch(np.load(path)).contiguous(memory_format=reference.format)

  for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "make":
      del request["do"]
      reference = data = None  # Frees the memory of the last one.
      request["image"] = tuple(request["image"])
      reference, data, channels_last = make(**request)
      answer = {
        "channels_last": channels_last,
        "threads": torch.get_num_threads(),
        "version": torch.__version__,
      }
    elif request["do"] == "step":
      if "x" in request:
        data = [load(request["x"]), load(request["canonical"])]
      answer = {
        "seconds": mean_seconds(reference, data, request.get("count", 1)),
        "peak_gib": None,
      }
      if reference.device == "cuda":
        answer["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
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
