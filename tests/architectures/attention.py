"""Networks of attention: a vision transformer, and an encoder over embedded words."""

from __future__ import annotations

import torch
from torch import nn

from .base import architecture


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width)
        )

    def forward(self, x):
        y = self.norm1(x)
        attended, _ = self.attn(y, y, y, need_weights=False)
        x = x + attended
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches by a convolution, a class token in front, learned positions."""

    def __init__(self, size=8, patch=4, width=8, heads=2, classes=4):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, kernel_size=patch, stride=patch)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.5)
        self.pos_embed = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width) * 0.5)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(2)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        n = x.shape[0]
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(n, -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Encoder(nn.Module):
    """Words are already embedded: [B, T, D]."""

    def __init__(self, width=8, heads=2, classes=3):
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            width, heads, dim_feedforward=16, dropout=0.1, activation="gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x):
        return self.classifier(self.encoder(x).mean(dim=1))


ATTENTION = (
    architecture("vit", VisionTransformer, (3, 8, 8), "blocks.1"),
    architecture("transformer", Encoder, (5, 8), "encoder.layers.1"),
)
