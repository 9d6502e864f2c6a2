"""An LSTM that reads digits row by row, packed whole, 28 steps: python examples/own_models/lstm.py"""

import torch
from torch import Tensor, nn

import onebit

data = onebit.load_dataset("mnist-sample")
splits = data.train[:3000], data.test[:1000]
train, test = ((split.images.squeeze(1).astype("float32") / 255, split.labels) for split in splits)


class Reader(nn.Module):
    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.lstm, self.norm = nn.LSTM(28, width, batch_first=True), nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 10)

    def forward(self, rows: Tensor) -> Tensor:
        found, _ = self.lstm(rows)
        return self.head(self.norm(found[:, -1]))


torch.manual_seed(0)
model = Reader()
print(onebit.binarize_(model, weight_quantizer="xnor", where=lambda name, module: name == "lstm"))
print(onebit.check(model, train[0][:2]).line)
optimizer = onebit.clip_latents_(torch.optim.Adam(onebit.latent_groups(model, lr=0.005)))
onebit.fit(model, train, optimizer, epochs=3, batch_size=50, verbose=False)
score = onebit.evaluate(model, test, weights="binary", verbose=False)
print(f"binary weights: {score.correct} of {score.count} test digits correct")

packed = onebit.pack(model, test[0], data=test)
print(packed.statement)
