"""How long a linear probe's sweep takes on this host: python -m benchmarks.linear_probe [--images=11810].

Features are drawn, correlated, with a spectrum that falls as 1/rank; classes depend on 64 of their directions. Threads
are those of the linear algebra library: OPENBLAS_NUM_THREADS=1 for one.
"""

import time

from absl import app, flags
import numpy as np

from uniemox_jax.eval.linear_probe import LinearProbe, probe_linear

IMAGES = flags.DEFINE_integer('images', 11810, 'Of training; a tenth of EmoSet-118K.', lower_bound=100)
WIDTH = flags.DEFINE_integer('width', 1024, 'Of the features.', lower_bound=64)
CLASSES, DIRECTIONS, VAL = 8, 64, 2000


def main(argv: list[str]) -> None:
  """Draws, fits, and prints every fit's time."""
  del argv
  rng, width = np.random.default_rng(0), WIDTH.value
  mix = rng.standard_normal((width, width)) / np.arange(1, width + 1)[:, None]
  direction = 0.3 * rng.standard_normal((DIRECTIONS, CLASSES))

  def draw(images: int) -> tuple[np.ndarray, np.ndarray]:
    hidden = rng.standard_normal((images, width))
    label = (hidden[:, :DIRECTIONS] @ direction + rng.gumbel(size=(images, CLASSES))).argmax(axis=1)
    return (hidden @ mix).astype(np.float32), label

  train, val = draw(IMAGES.value), draw(VAL)
  started = last = time.perf_counter()

  def score(probe: LinearProbe) -> float:
    nonlocal last
    last, before = time.perf_counter(), last
    print(f'{last - before:.1f} s: ', end='')
    return float(np.mean(probe(val[0]).argmax(axis=1) == val[1]))

  probe_linear(train, [str(index) for index in range(CLASSES)], score)
  print(f'{IMAGES.value} images: {time.perf_counter() - started:.0f} s')


if __name__ == '__main__':
  app.run(main)
