"""For an environment in which torchvision lies beside a CPU build of torch (`make test-timm`)."""

import importlib.util

from benchmarks.torch_loaders import declare_operators

if importlib.util.find_spec('torchvision'):
  declare_operators()
