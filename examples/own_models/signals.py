"""1-D convolutions: which waveform is in the noise?  python examples/own_models/signals.py"""

import numpy as np
import torch
from torch import nn

import onebit

rng = np.random.default_rng(0)
WAVES = ("sine", "square", "sawtooth")


def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Drawn signals (N, 1, 128) of random frequency, phase and noise, and the number of the waveform of each."""
    labels = rng.integers(0, len(WAVES), count)
    time = np.linspace(0, 2 * np.pi, 128) * rng.uniform(2, 6, (count, 1)) + rng.uniform(0, 6.3, (count, 1))
    signals = np.choose(labels[:, None], [np.sin(time), np.sign(np.sin(time)), (time / np.pi) % 2 - 1])
    return (signals + rng.normal(0, 0.3, signals.shape))[:, None].astype("float32"), labels


train, test = draw(2000), draw(600)
torch.manual_seed(0)
model = nn.Sequential(
    *(nn.Conv1d(1, 32, 7, padding=3, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.MaxPool1d(2)),
    *(nn.Conv1d(32, 32, 5, padding=2, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.MaxPool1d(2)),
    *(nn.Conv1d(32, 64, 5, padding=2, bias=False), nn.BatchNorm1d(64), nn.ReLU(), nn.AdaptiveAvgPool1d(1)),
    *(nn.Flatten(), nn.Linear(64, 3, bias=False), nn.BatchNorm1d(3)),
)
print(onebit.binarize_(model, where=lambda name, module: name != "0"))  # the first layer stays real
optimizer = onebit.clip_latents_(torch.optim.Adam(onebit.latent_groups(model, lr=0.005)))
onebit.fit(model, train, optimizer, epochs=3, batch_size=50, verbose=False)
score = onebit.evaluate(model, test, weights="binary", verbose=False)
print(f"binary weights: {score.correct} of {score.count} test signals correct")

packed = onebit.pack(model, test[0], data=test, classes=WAVES)
print(packed.statement)
agreement = onebit.verify(model, packed, test)
assert agreement.ok, agreement
