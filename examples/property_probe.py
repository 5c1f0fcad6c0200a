"""Linear probe: predict colour and position of an object from its slot.

Slots were trained without labels. Each true object is matched to the slot with the largest overlap. Least
squares on 400 scenes, R squared on 200 others; the mean slot, which is equal for all objects, for comparison.
"""

import torch

import objecthood as oh
from objecthood.nn.matching import assign


def probe(slots, truth, seen):
    """R squared of each property on held-out scenes, for slots [scenes, objects, dim]."""
    inputs = torch.cat([slots, torch.ones_like(slots[..., :1])], dim=-1)
    early = torch.arange(600)[:, None] < 400
    train, test = early & seen, ~early & seen
    weights = torch.linalg.lstsq(inputs[train], truth[train]).solution
    return 1 - (truth[test] - inputs[test] @ weights).square().mean(dim=0) / truth[test].var(dim=0)


for name in ("sprites", "tetrominoes"):
    model = oh.load(name)
    scenes = model.recipe.dataset("test")[range(600)]
    with torch.no_grad():
        parts = [model(images) for images in scenes["image"].split(50)]
    slots, masks = (torch.cat([getattr(part, field) for part in parts]) for field in ("slots", "masks"))

    objects = torch.stack([scenes["masks"] == label for label in range(1, 4)], dim=1).float()
    size = objects.sum(dim=(2, 3)).clamp(min=1)[..., None]
    steps = torch.linspace(0, 1, model.resolution)
    color = torch.einsum("bohw,bchw->boc", objects, scenes["image"]) / size
    place = torch.stack([objects.sum(dim=3) @ steps, objects.sum(dim=2) @ steps], dim=-1) / size
    which, held = assign(-torch.einsum("bohw,bshw->bos", objects, masks))
    batch = torch.arange(600)[:, None]
    truth, seen = torch.cat([color, place], dim=-1)[batch, which], (size > 20)[batch, which, 0]
    for what, inputs in (("its slot", slots[batch, held]), ("mean slot", slots.mean(dim=1, keepdim=True))):
        values = probe(inputs.expand(-1, 3, -1), truth, seen).tolist()
        named = zip(("red", "green", "blue", "down", "across"), values, strict=True)
        print(f"{name}, {what}:", ", ".join(f"{one} {value:.2f}" for one, value in named))
