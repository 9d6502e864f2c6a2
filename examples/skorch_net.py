"""A net with binary weights as a classifier of scikit-learn, by skorch, and packed: python examples/skorch_net.py"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from skorch import NeuralNetClassifier
from torch import nn

import onebit


def digits_net(units: int = 256) -> nn.Module:
    hidden = nn.Linear(64, units, bias=False), nn.BatchNorm1d(units), nn.ReLU()
    net = nn.Sequential(*hidden, nn.Linear(units, 10, bias=False), nn.BatchNorm1d(10))
    onebit.binarize_(net, weight_quantizer="sign")
    return net


class BinaryNet(NeuralNetClassifier):
    def initialize_optimizer(self, triggered_directly: bool = True) -> "BinaryNet":
        self.optimizer_ = onebit.clip_latents_(torch.optim.Adam(onebit.latent_groups(self.module_, lr=self.lr)))
        return self


images, labels = load_digits(return_X_y=True)
train, test, targets, expected = train_test_split(images.astype(np.float32) / 16, labels, random_state=0)
torch.manual_seed(0)
classifier = BinaryNet(digits_net, criterion=nn.CrossEntropyLoss, lr=0.01, max_epochs=15, train_split=None, verbose=0)
classifier.fit(train, targets)
print(f"binary weights: {classifier.score(test, expected) * len(test):.0f} of {len(test)} test digits correct")

packed = onebit.pack(classifier.module_.eval(), test[:2], data=(test, expected))
print(packed.statement)
