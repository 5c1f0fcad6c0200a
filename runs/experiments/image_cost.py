"""CPU milliseconds of `oh.predict` for one image in memory, for all bundled weights: results/image-cost.json.

    python runs/experiments/image_cost.py

One thread, one restart, loaded weights, the example image of each weight file (for `photos` that of `clevr`,
enlarged to 480 x 640); the median of 7 calls after one that warms up. CPU time of the process, so that other
load on the machine counts less than in wall time.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import objecthood as oh
from objecthood.runtime.environment import describe

ROOT = Path(__file__).resolve().parents[2]
CALLS = 7  # as the protocol says
PHOTOGRAPH = (640, 480)


def main() -> None:
    torch.set_num_threads(1)
    found = {name: milliseconds(name, np.array(Image.open(one.example).convert("RGB")))
             for name, one in oh.PRETRAINED.items() if not one.is_video}  # fmt: skip
    image = Image.open(oh.PRETRAINED["clevr"].example).convert("RGB").resize(PHOTOGRAPH)
    found["photos"] = milliseconds("photos", np.array(image))
    protocol = __doc__.split("\n\n")[2].replace("\n", " ")
    facts = {"name": "image-cost", "protocol": protocol, "cpu_ms": found, "machine": describe()}
    (ROOT / "results" / "image-cost.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(found)


def milliseconds(name: str, image: np.ndarray) -> float:
    model = oh.load(name)
    costs = []
    for _ in range(CALLS + 1):
        begun = time.process_time()
        (result,) = oh.predict(model, image, restarts=1)
        assert result.slots is not None
        costs.append(1000 * (time.process_time() - begun))
    return round(statistics.median(costs[1:]), 1)


if __name__ == "__main__":
    main()
