"""Plain chains: a perceptron, LeNet, VGG, a network for signals, a recurrent classifier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .base import architecture


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)
    )


class LeNet(nn.Module):
    """Activations and pooling are functions; the flattening is a view."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 6, 3)
        self.fc1 = nn.Linear(6 * 2 * 2, 16)
        self.fc2 = nn.Linear(16, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), (2, 2))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(x.size(0), -1)
        x = F.dropout(torch.relu(self.fc1(x)), training=self.training)
        return self.fc2(x)


class VGG(nn.Module):
    """The layers come from a table; activations work in place."""

    def __init__(self, plan=(4, "M", 8, 8, "M"), classes=5):
        super().__init__()
        layers, channels = [], 3
        for width in plan:
            if width == "M":
                layers += [nn.MaxPool2d(kernel_size=2, stride=2)]
            else:
                layers += [
                    nn.Conv2d(channels, width, 3, padding=1),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                channels = width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(
            nn.Linear(channels * 4, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, classes)
        )

    def forward(self, x):
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


class Signals(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(2, 4, 5, padding=2, bias=False)
        self.bn1 = nn.BatchNorm1d(4)
        self.conv2 = nn.Conv1d(4, 6, 3, stride=2)
        self.bn2 = nn.BatchNorm1d(6)
        self.act = nn.LeakyReLU(0.1)
        self.fc = nn.Linear(6 * 3, 3)

    def forward(self, x):
        x = F.max_pool1d(self.act(self.bn1(self.conv1(x))), 2)
        x = F.avg_pool1d(F.leaky_relu(self.bn2(self.conv2(x)), 0.2), kernel_size=1)
        return self.fc(torch.flatten(x, start_dim=1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(5, 6, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(12, 3)

    def forward(self, x):
        _, (hidden, _) = self.lstm(x)
        return self.fc(torch.cat((hidden[-2], hidden[-1]), dim=1))


CLASSIC = (
    architecture("mlp", mlp, (12,)),
    architecture("lenet", LeNet, (1, 12, 12), "conv2"),
    architecture("vgg", VGG, (3, 8, 8), "features.8"),
    architecture("cnn_1d", Signals, (2, 16), "conv2"),
    architecture("lstm", Recurrent, (6, 5)),
)
