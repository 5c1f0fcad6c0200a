"""CPU milliseconds of one image in memory, for all bundled weights: results/image-cost.json.

    python runs/experiments/image_cost.py

`oh.predict`: one thread, one restart, loaded weights, the example image of each weight file (for `photos`
that of `clevr`, enlarged to 480 x 640). "onnx": exported graphs of models of photographs in onnxruntime, for
the enlarged image. The median of 7 calls after one that warms up. CPU time of the process, so that other load
on the machine counts less than in wall time.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import objecthood as oh
from objecthood.export.export import session
from objecthood.export.photographs import graphs
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
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    exported = {name: exported_milliseconds(name, pixels) for name in ("photos", "photos-affinity")}
    protocol = __doc__.split("\n\n")[2].replace("\n", " ")
    facts = {"name": "image-cost", "protocol": protocol, "cpu_ms": found, "onnx": exported}
    facts["machine"] = describe()
    (ROOT / "results" / "image-cost.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(found, exported)


def milliseconds(name: str, image: np.ndarray) -> float:
    model = oh.load(name)
    return median_cost(lambda: oh.predict(model, image, restarts=1)[0].slots)


def exported_milliseconds(name: str, image: torch.Tensor) -> float:
    run = session(graphs(oh.load(name).export_stages())["whole"].SerializeToString())
    return median_cost(lambda: run({"image": image, "num_segments": 0}))


def median_cost(work: Callable[[], object]) -> float:
    costs = []
    for _ in range(CALLS + 1):
        begun = time.process_time()
        assert work() is not None
        costs.append(1000 * (time.process_time() - begun))
    return round(statistics.median(costs[1:]), 1)


if __name__ == "__main__":
    main()
