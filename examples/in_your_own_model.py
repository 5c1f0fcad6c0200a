"""`SlotAttention` in your own model: count the objects that contain red, green and blue.
Each slot predicts three probabilities; the loss compares their sums with the counts.
"""

import torch
from torch import nn

from objecthood.data.generated.tetrominoes import Tetrominoes
from objecthood.nn import ConvEncoder, LearnedSlots, SlotAttention


class Counter(nn.Module):
    def __init__(self, num_slots: int = 4, dim: int = 32):
        super().__init__()
        self.encoder = ConvEncoder(channels=dim, feature_dim=dim, strides=(2, 2))
        self.start, self.group = LearnedSlots(num_slots, dim), SlotAttention(dim, dim)
        self.head = nn.Linear(dim, 3)

    def forward(self, images):
        features = self.encoder(images * 2 - 1).flatten(1, 2)  # [batch, inputs, dim]
        found = self.group(features, self.start(len(images)))  # slots, and attention of every iteration
        return self.head(found.slots).sigmoid().sum(dim=1)


def batch(scenes, indices):
    got = scenes[indices]
    objects = [(got["masks"] == label)[:, None] * got["image"] for label in (1, 2, 3)]
    return got["image"], sum((one.amax(dim=(2, 3)) > 0.5).float() for one in objects)


torch.manual_seed(0)
model, scenes = Counter(), Tetrominoes("train", seed=0)
optimizer = torch.optim.Adam(model.parameters(), 2e-3)
for step in range(300):
    images, counts = batch(scenes, range(16 * step, 16 * step + 16))
    optimizer.zero_grad()
    nn.functional.mse_loss(model(images), counts).backward()
    optimizer.step()
images, counts = batch(Tetrominoes("test", seed=0), range(200))
print(f"counts right, held out: {(model(images).round() == counts).float().mean():.2f}")
