"""Networks whose features meet again: ResNet, DenseNet, U-Net."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .base import architecture


class BasicBlock(nn.Module):
    """One in-place ReLU serves twice, and the sum is written into the branch."""

    def __init__(self, inplanes, planes, stride=1, downsample=None):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample

    def forward(self, x):
        identity = x

        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)

        out = self.conv2(out)
        out = self.bn2(out)

        if self.downsample is not None:
            identity = self.downsample(x)

        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 5, stride=2, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = nn.Sequential(BasicBlock(4, 4))
        down = nn.Sequential(nn.Conv2d(4, 6, 1, 2, bias=False), nn.BatchNorm2d(6))
        self.layer2 = nn.Sequential(BasicBlock(4, 6, 2, down), BasicBlock(6, 6))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(6, classes)

    def forward(self, x):
        x = F.relu_(self.bn1(self.conv1(x)))
        x = self.layer2(self.layer1(self.maxpool(x)))
        x = torch.flatten(self.avgpool(x), 1)
        return self.fc(x)


class DenseLayer(nn.Module):
    """Norm, activation, convolution, in this order; what is new is appended."""

    def __init__(self, channels, growth):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(channels, 2 * growth, kernel_size=1, bias=False)
        self.norm2 = nn.BatchNorm2d(2 * growth)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(2 * growth, growth, kernel_size=3, padding=1, bias=False)

    def forward(self, features):
        bottleneck = self.conv1(self.relu1(self.norm1(torch.cat(features, 1))))
        return self.conv2(self.relu2(self.norm2(bottleneck)))


class DenseNet(nn.Module):
    def __init__(self, growth=3, classes=4):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.block = nn.ModuleList([DenseLayer(4 + i * growth, growth) for i in range(2)])
        channels = 4 + 2 * growth
        self.transition = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, 5, 1, bias=False),
            nn.AvgPool2d(kernel_size=2, stride=2),
        )
        self.last = DenseLayer(5, growth)
        self.norm = nn.BatchNorm2d(5 + growth)
        self.classifier = nn.Linear(5 + growth, classes)

    def forward(self, x):
        features = [self.stem(x)]
        for layer in self.block:
            features.append(layer(features))
        features = [self.transition(torch.cat(features, dim=1))]
        features.append(self.last(features))
        out = F.relu(self.norm(torch.cat(features, 1)), inplace=True)
        out = F.adaptive_avg_pool2d(out, (1, 1))
        return self.classifier(torch.flatten(out, 1))


class DoubleConv(nn.Module):
    def __init__(self, inner, outer):
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(inner, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer), nn.ReLU(inplace=True),
            nn.Conv2d(outer, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer), nn.ReLU(inplace=True),
        )  # fmt: skip

    def forward(self, x):
        return self.double_conv(x)


class UNet(nn.Module):
    """A map of class scores [B, K, H, W], pooled to [B, K]; odd sizes are padded to meet the skip."""

    def __init__(self, classes=3):
        super().__init__()
        self.inc = DoubleConv(1, 4)
        self.down1 = nn.Sequential(nn.MaxPool2d(2), DoubleConv(4, 6))
        self.down2 = nn.Sequential(nn.MaxPool2d(2), DoubleConv(6, 8))
        self.up1 = nn.ConvTranspose2d(8, 6, kernel_size=2, stride=2)
        self.conv1 = DoubleConv(12, 6)
        self.conv2 = DoubleConv(10, 6)
        self.outc = nn.Conv2d(6, classes, kernel_size=1)

    def forward(self, x):
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        up = self.up1(x3)
        high, wide = x2.size(2) - up.size(2), x2.size(3) - up.size(3)
        up = F.pad(up, [wide // 2, wide - wide // 2, high // 2, high - high // 2])
        up = self.conv1(torch.cat([x2, up], dim=1))
        up = F.interpolate(up, size=x1.shape[2:], mode="bilinear", align_corners=True)
        return self.outc(self.conv2(torch.cat([up, x1], dim=1))).mean(dim=(2, 3))


RESIDUAL = (
    architecture("resnet", ResNet, (3, 16, 16), "layer2"),
    architecture("densenet", DenseNet, (3, 8, 8), "norm"),
    architecture("unet", UNet, (1, 10, 10), "conv2"),
)
