"""The graph of slots over frozen features: as PyTorch for images of any shape, else no file."""

import jaxtyping
import numpy as np
import onnx
import pytest
import torch

pytest.importorskip("onnxscript", reason="needs the extra [export]")

import objecthood as oh
from objecthood.export import export as export_module
from objecthood.export import feature_slots
from objecthood.export.export import export_onnx, export_parts, session
from objecthood.nn.guided_filter import masks_at_size

pytestmark = [pytest.mark.xdist_group("export"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def model():
    """`photos-slots` with other weights than at the start, where all slots see the same."""
    torch.manual_seed(0)
    one = oh.RECIPES["photos-slots"].build_model().eval()
    for weight in one.parameters():
        if weight.requires_grad and weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.1)
    return one


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # traced sizes are no int
        return export_onnx(model, tmp_path_factory.mktemp("graph") / "slots.onnx")


def test_one_graph_for_images_of_any_shape(model, file):
    stages, run = model.export_stages(), session(file)
    for height, width in ((100, 250), (333, 222)):
        image = torch.rand(1, 3, 6, 9)
        image = torch.nn.functional.interpolate(image, size=(height, width), mode="bilinear")
        with torch.no_grad():
            slots, attention = stages.group(stages.features(image[0]))
        found = run({"image": image})
        assert np.allclose(found["slots"], slots[0], atol=1e-3)
        assert np.allclose(found["attention"], attention[0], atol=1e-3)
        assert np.allclose(found["masks"], masks_at_size(attention[0], image[0]), atol=1e-3)
        assert found["masks"].shape == (9, height, width)


def test_the_part_for_pages_takes_frames_as_they_are(model, tmp_path):
    """Of any size that the page chooses, and not enlarged to that of training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        folder = export_parts(model, tmp_path / "parts")
    found = session(folder / "segment.onnx")({"image": torch.rand(1, 3, 48, 64)})
    assert found["attention"].shape == (9, 3, 4) and found["masks"].shape == (9, 48, 64)


def test_a_graph_that_differs_is_refused(model, file, monkeypatch, tmp_path):
    right = session(file)

    def wrong(_):
        return lambda given: {name: values + 0.01 for name, values in right(given).items()}

    monkeypatch.setattr(export_module, "session", wrong)
    monkeypatch.setattr(feature_slots, "graph", lambda stages, resizes: onnx.load(str(file)))
    with pytest.raises(ValueError, match=r"slots of the exported graph differs from PyTorch by 1\.\de-02"):
        export_parts(model, tmp_path / "parts")
    assert not (tmp_path / "parts").exists()


def test_other_backbones_and_masks_are_refused(model, monkeypatch, tmp_path):
    monkeypatch.setattr(model, "attention_masks", False)
    with pytest.raises(ValueError, match="with the bundled backbone and masks of their attention"):
        export_onnx(model, tmp_path / "slots.onnx")
