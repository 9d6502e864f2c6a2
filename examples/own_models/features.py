"""Features: a binary MLP on scikit-learn's breast cancer data: python examples/own_models/features.py"""

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import nn

import onebit

features, labels = load_breast_cancer(return_X_y=True)
train_x, test_x, train_y, test_y = train_test_split(
    features.astype("float32"), labels, test_size=0.3, random_state=0, stratify=labels
)

torch.manual_seed(0)
model = nn.Sequential(
    nn.BatchNorm1d(30),  # brings the features to one scale
    nn.Linear(30, 64, bias=False),
    nn.BatchNorm1d(64),
    nn.Linear(64, 64, bias=False),
    nn.BatchNorm1d(64),
    nn.Linear(64, 2, bias=False),
    nn.BatchNorm1d(2),
)
print(onebit.binarize_(model, weight_quantizer="ste_sign", input_quantizer="ste_sign"))
print(onebit.check(model, train_x[:2]).line)

optimizer = onebit.clip_latents_(torch.optim.Adam(onebit.latent_groups(model, lr=0.01)))
onebit.fit(model, (train_x, train_y), optimizer, epochs=15, batch_size=32, verbose=False)
score = onebit.evaluate(model, (test_x, test_y), weights="binary", verbose=False)
print(f"binary weights: {score.correct} of {score.count} test samples correct")

packed = onebit.pack(model, train_x[:2], data=(test_x, test_y), classes=("malignant", "benign"))
print(packed.statement)
found = onebit.run(packed, test_x)  # numpy arrays in, logits out; needs no torch
print(f"packed: {(found.argmax(axis=1) == test_y).sum()} of {len(test_y)} test samples correct")
