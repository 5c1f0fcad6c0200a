"""Train a model of this package with Lightning: all data sets are `torch.utils.data.Dataset`s.

pip install lightning; python examples/with_lightning.py [steps]     (accelerator="cuda" uses a GPU)
"""

import sys

import lightning
import torch
from torch.nn import functional
from torch.utils.data import DataLoader

from objecthood.data.generated.sprites import Sprites
from objecthood.metrics import adjusted_rand_index
from objecthood.models import autoencoder


class ObjectDiscovery(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = autoencoder.fast_sprites()  # a `SlotAutoencoder`

    def training_step(self, scenes, batch_index):
        return functional.mse_loss(self.model(scenes["image"]).reconstruction, scenes["image"])

    def validation_step(self, scenes, batch_index):
        output = self.model(scenes["image"])
        self.log("mse", functional.mse_loss(output.reconstruction, scenes["image"]))
        self.log("fg_ari", adjusted_rand_index(scenes["masks"], output.masks, ignore_background=True).mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


if __name__ == "__main__":  # worker processes may import this file
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    module, scenes = ObjectDiscovery(), Sprites("validation", size=64)
    trainer = lightning.Trainer(accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False)
    trainer.fit(module, DataLoader(Sprites("train"), batch_size=32, shuffle=True, num_workers=2))
    print(trainer.validate(module, DataLoader(scenes, batch_size=32), verbose=False)[0])
