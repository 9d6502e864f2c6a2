"""A CNN behind ToTensor and Normalize, trained with a DataLoader: python examples/own_models/cnn_loader.py"""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import onebit

MEAN, STD = 0.1307, 0.3081  # of MNIST, for pixels from 0 to 1


class Digits(Dataset):  # your own data set: preprocesses each image when it is read
    def __init__(self, split: onebit.data.Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return (torch.from_numpy(self.split.images[index]) / 255 - MEAN) / STD, self.split.labels[index]


data = onebit.load_dataset("mnist-sample")  # 10,000 digits that ship with onebit
loaders = [DataLoader(Digits(split), batch_size=100, shuffle=True) for split in (data.train[:3000], data.test[:1000])]
torch.manual_seed(0)
model = nn.Sequential(
    *(nn.Conv2d(1, 16, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
    *(nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
    *(nn.Flatten(), nn.Linear(32 * 7 * 7, 10, bias=False), nn.BatchNorm1d(10)),
)
print(onebit.binarize_(model))
optimizer = onebit.clip_latents_(torch.optim.Adam(onebit.latent_groups(model, lr=0.01)))
onebit.fit(model, loaders[0], optimizer, epochs=2, validation=loaders[1], verbose=False)
score = onebit.evaluate(model, loaders[1], weights="binary", verbose=False)
print(f"binary weights: {score.correct} of {score.count} test digits correct")

example = next(iter(loaders[1]))[0]  # the packed net takes the raw pixels, and is compared with the loader
normalize, raw = onebit.Normalize(MEAN, STD), data.test[:1000]
packed = onebit.pack(model, example, preprocess=normalize, data=raw, trained=loaders[1])
print(packed.statement)
