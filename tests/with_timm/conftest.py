"""For an environment in which torchvision lies beside a CPU build of torch (`make test-timm`)."""

import importlib.util

if importlib.util.find_spec('torchvision'):
  from torch import library

  # torchvision's compiled operators do not load there, and importing it asks for these; no test here calls them.
  for operator in ('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
                   'qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'):
    library.define(f'torchvision::{operator.partition("(")[0]}', f'({operator.partition("(")[2]}')
