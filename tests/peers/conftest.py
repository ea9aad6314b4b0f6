"""What the libraries that we are compared with need before they can be imported."""

import torch

# PyPI's torchvision is built for another PyTorch: it looks for two operators that are not there, and uses none here.
_operators = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _operators.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
