"""Train on a folder of your own images, and segment them.

python examples/your_pictures.py FOLDER [steps]
"""

import dataclasses
import sys

import objecthood as oh

folder, steps = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2000
recipe = dataclasses.replace(oh.RECIPES["folder"], data_path=folder, num_slots=6, steps=steps)


class Mirrored(type(recipe)):
    """A recipe of your own: numbers are fields, structure is methods. Half of the images are flipped."""

    def loss(self, model, scenes, step):
        images = scenes["image"]
        half = len(images) // 2
        mirrored = dict(scenes, image=images.clone())
        mirrored["image"][:half] = images[:half].flip(-1)
        return super().loss(model, mirrored, step)


fields = recipe.to_dict()
del fields["task"]
mine = Mirrored(**fields)
result = oh.train(mine, "run")  # Ctrl-C stops it; resume=True continues
print("MSE on held-out images:", round(result["scores"]["mse"], 4))

model = oh.load("run", mine)  # a recipe class of your own must be passed
for seen in oh.predict(model, folder, "seen"):
    print(seen.path.name, seen.summary, seen.warning)
