"""Small fast networks: MobileNetV2, MobileNetV3, and one like EfficientNet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .base import architecture


def conv_bn(inner, outer, kernel=3, stride=1, groups=1, activation=nn.ReLU6):
    """Convolution, norm, activation: what torchvision calls ConvNormActivation."""
    layers = [
        nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outer),
    ]
    return nn.Sequential(*layers, *([activation(inplace=True)] if activation else []))


class InvertedResidual(nn.Module):
    def __init__(self, inner, outer, stride, expand):
        super().__init__()
        self.residual = stride == 1 and inner == outer
        hidden = inner * expand
        self.conv = nn.Sequential(
            conv_bn(inner, hidden, 1),
            conv_bn(hidden, hidden, 3, stride, groups=hidden),
            conv_bn(hidden, outer, 1, activation=None),
        )

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.features = nn.Sequential(
            conv_bn(3, 4, 3, 2),
            InvertedResidual(4, 6, 2, 2),
            InvertedResidual(6, 6, 1, 2),
            conv_bn(6, 10, 1),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(10, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean([2, 3]))


class SqueezeExcitation(nn.Module):
    """A gate per channel; `gate` is what squashes it."""

    def __init__(self, channels, squeezed, activation, gate):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation, self.gate = activation, gate

    def forward(self, x):
        scale = F.adaptive_avg_pool2d(x, 1)
        scale = self.fc2(self.activation(self.fc1(scale)))
        return self.gate(scale) * x


class BlockV3(nn.Module):
    def __init__(self, inner, hidden, outer, activation):
        super().__init__()
        self.block = nn.Sequential(
            conv_bn(inner, hidden, 1, activation=activation),
            conv_bn(hidden, hidden, 3, 1, hidden, activation),
            SqueezeExcitation(hidden, 3, F.relu, F.hardsigmoid),
            conv_bn(hidden, outer, 1, activation=None),
        )
        self.use_res_connect = inner == outer

    def forward(self, x):
        result = self.block(x)
        if self.use_res_connect:
            result += x
        return result


class MobileNetV3(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.features = nn.Sequential(
            conv_bn(3, 4, 3, 2, activation=nn.Hardswish),
            BlockV3(4, 6, 4, nn.ReLU),
            BlockV3(4, 8, 6, nn.Hardswish),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Linear(6, 8), nn.Hardswish(inplace=True), nn.Linear(8, classes))

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class MBConv(nn.Module):
    """The gate is a sigmoid, the product a call of torch.mul, the skip is scaled as in stochastic depth."""

    def __init__(self, inner, outer, stride):
        super().__init__()
        hidden = 2 * inner
        self.expand = nn.Conv2d(inner, hidden, 1, bias=False)
        self.bn0 = nn.BatchNorm2d(hidden, eps=1e-3)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden, eps=1e-3)
        self.reduce, self.restore = nn.Conv2d(hidden, 2, 1), nn.Conv2d(2, hidden, 1)
        self.project = nn.Conv2d(hidden, outer, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer, eps=1e-3)

    def forward(self, x):
        h = F.silu(self.bn0(self.expand(x)))
        h = self.bn1(self.depthwise(h))
        h = h * torch.sigmoid(h)
        squeezed = h.mean((-2, -1), keepdim=True)
        h = torch.mul(h, self.restore(F.silu(self.reduce(squeezed))).sigmoid())
        h = self.bn2(self.project(h))
        return h.add(x) if h.shape == x.shape else h


class EfficientNet(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.SiLU(inplace=True)
        )
        self.blocks = nn.ModuleList([MBConv(4, 6, 2), MBConv(6, 6, 1)])
        self.head = nn.Sequential(nn.Conv2d(6, 10, 1, bias=False), nn.BatchNorm2d(10), nn.SiLU())
        self.fc = nn.Linear(10, classes)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = nn.functional.adaptive_avg_pool2d(self.head(x), 1).squeeze(-1).squeeze(-1)
        return self.fc(x)


MOBILE = (
    architecture("mobilenet_v2", MobileNetV2, (3, 12, 12), "features.3"),
    architecture("mobilenet_v3", MobileNetV3, (3, 8, 8), "features.2"),
    architecture("efficientnet", EfficientNet, (3, 12, 12), "head"),
)
