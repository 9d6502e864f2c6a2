"""A small vision transformer, packed whole: python examples/own_models/vit.py"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import onebit

images, labels = map(torch.from_numpy, load_digits(return_X_y=True))
images = images.float().view(-1, 1, 8, 8) / 8 - 1
train, test = (images[:1300], labels[:1300]), (images[1300:], labels[1300:])


class ViT(nn.Module):
    def __init__(self, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)  # 8×8 pixels: 16 tokens
        self.position = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        block = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.blocks(x).mean(1))


torch.manual_seed(0)
model = ViT()
print(onebit.binarize_(model, where=lambda name, module: name.startswith("blocks"), weight_quantizer="xnor"))
print(onebit.check(model, images[:2]).line)
optimizer = onebit.clip_latents_(torch.optim.Adam(onebit.latent_groups(model, lr=0.004)))
onebit.fit(model, train, optimizer, epochs=10, batch_size=50, verbose=False)
score = onebit.evaluate(model, test, weights="binary", verbose=False)
print(f"binary weights: {score.correct} of {score.count} test digits correct")

packed = onebit.pack(model, test[0], data=test)
print(packed.statement)
