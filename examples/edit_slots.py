"""Edit an image through its slots: remove an object, and insert one from another image.

The decoder takes any set of slots. With these weights (`tetrominoes`) a slot holds position and colour. With
attention-conditioned masks (`sprites`, `clevr`) the position is in the attention (see property_probe.py),
which would have to be moved as well.
"""

import torch

import objecthood as oh
from objecthood.data.generated.tetrominoes import Tetrominoes
from objecthood.visualize import figures

model = oh.load("tetrominoes")
images = Tetrominoes("test")[[0, 1]]["image"]
with torch.no_grad():
    scene = model(images)

light = (scene.masks[:, :, None] * scene.appearance).sum(dim=(2, 3, 4))  # the background is black
brightest = light.argmax(dim=1)


def decode(slots):
    """The image of a set of slots, in [0, 1]."""
    with torch.no_grad():
        decoded = model.decoder(slots[None], scene.attention[:1, -1, : len(slots)])
    masks = decoded.mask_logits.softmax(dim=1)[:, :, None]
    return ((masks * decoded.appearance).sum(dim=1)[0] + 1) / 2


kept = [slot for slot in range(model.num_slots) if slot != brightest[0]]
without = decode(scene.slots[0, kept])
guest = scene.slots[1, brightest[1]]
exchanged = decode(torch.cat([scene.slots[0, kept], guest[None]]))

sheet = torch.cat([images[0], images[1], scene.reconstruction[0], without, exchanged], dim=-1)
figures.to_image(figures.enlarge(sheet, 4)).save("edited.png")
print("edited.png: two images; the first reconstructed, without an object, with one of the second instead")
