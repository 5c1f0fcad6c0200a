"""Modules and whole models in float64, in 16 bits and on the meta device."""

import numpy as np
import pytest
import torch

from objecthood.inference.predict import predict
from objecthood.models import (
    affinity_slots,
    autoencoder,
    center_votes,
    moving_objects,
    set_contrast,
    set_predictor,
    spectral,
    texture_layers,
    video,
)
from objecthood.models.of_features import FeatureModel
from objecthood.nn import (
    ConvEncoder,
    GaussianSlots,
    Grouping,
    LearnedSlots,
    SlotAttention,
    SlotMLP,
    SoftKMeans,
    SpatialBias,
)
from objecthood.nn.feature_decoders import MLPFeatureDecoder
from objecthood.nn.frozen_features import backbone
from objecthood.nn.objectness import ObjectnessHead
from objecthood.nn.pairwise_affinity import PairwiseAffinity
from objecthood.nn.precision import at_least_float32, without_autocast

MODELS = {
    "clevr": lambda: autoencoder.clevr(resolution=16),
    "sprites": lambda: autoencoder.small_image(16, 4),
    "fast_sprites": lambda: autoencoder.fast_sprites(
        resolution=16, split_slots=True, chromaticity=True, bias_before_attention=True
    ),
    "fast_slot_frames": lambda: autoencoder.fast_slot_frames(resolution=16, chromaticity=True),
    "set_predictor": lambda: set_predictor.fast_clevr(resolution=32),
    "video": lambda: video.moving_sprites(resolution=16),
    "video of motion": lambda: video.moving_sprites(resolution=16, modality="motion", decodes_next=True),
    "set_contrast": lambda: set_contrast.moving_sprites(resolution=16),
}
FROZEN = {
    "features": lambda: features(MLPFeatureDecoder(16, (2, 2), 304, 8)),
    "attention over features": lambda: features(
        MLPFeatureDecoder(16, (2, 2), 304, 8), attention_masks=True, guided_masks=True, context_blocks=1
    ),
    "photographs": lambda: spectral.SpectralSegmenter(sides=(32,)),
    "learned affinity": lambda: learned_affinity(),
}
FLOAT32 = {
    "moving objects": lambda: moving_objects.MovingObjects(ObjectnessHead(304), side=32),
    "center votes": lambda: center_votes.CenterVoteModel(16, 4),
    "textures": lambda: texture_layers.TextureLayers(16, 4),
}
"""Models that take, and hold, float32 alone."""
NARROW = [torch.bfloat16, torch.float16]


def example(name):
    """A model with jittered weights, so that no zero bias hides a mistake, and images or clips for it."""
    model = MODELS[name]().eval()
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    time = (2,) if "video" in name or "contrast" in name else ()
    return model, torch.rand(2, *time, 3, model.resolution, model.resolution)


def features(decoder, **options):
    grouping = Grouping(GaussianSlots(3, 16), SlotAttention(16, 16))
    return FeatureModel(backbone("efficientnet-lite0"), grouping, decoder, (32, 32), **options)


def learned_affinity():
    features = backbone("efficientnet-lite0", final_norm=True)
    return affinity_slots.AffinitySlots(features, PairwiseAffinity(304, 8, 1, 4), (32, 32))


def run(model, images):
    torch.manual_seed(1)
    options = {}
    if not isinstance(model, set_contrast.SetContrast):
        noise = torch.randn(len(images), model.num_slots, model.slot_dim)
        options = {"noise": noise.to(images.dtype).to(images.device)}
    with torch.no_grad():
        return model(images, **options)


@pytest.mark.parametrize("name", MODELS)
def test_float64_models_compute_in_float64(name):
    model, images = example(name)
    narrow = run(model, images)
    wide = run(model.double(), images.double())
    for part in wide:
        assert part.dtype == torch.float64
        assert not torch.equal(part, part.float().double()), "a part was rounded to float32 on the way"
    if name in ("clevr", "sprites", "set_predictor"):  # without discrete steps, rounding stays rounding
        torch.testing.assert_close(wide.attention[:, 0].float(), narrow.attention[:, 0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_models_of_16_bits_see_images_of_32_and_16(name, dtype):
    model, images = example(name)
    model.to(dtype)
    for given in (images, images.to(dtype)):
        output = run(model, given)
        assert output.slots.dtype == dtype and output.attention.dtype == torch.float32
        assert all(part.isfinite().all() for part in output)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", FROZEN)
def test_models_over_frozen_features_take_images_of_any_type(name, dtype):
    model = FROZEN[name]().eval()
    model = model.double() if dtype == torch.float64 else model.to(dtype)
    for given in (torch.float32, dtype):
        with torch.no_grad():
            output = model(torch.rand(1, 3, 32, 32).to(given))
        assert all(part.isfinite().all() for part in output.found().values())


@pytest.mark.parametrize("how", ["double", "half"])
@pytest.mark.parametrize("name", FLOAT32)
def test_other_models_say_that_they_take_float32(name, how):
    side = 32 if name == "moving objects" else 16
    images = torch.rand(1, 3, side, side)
    for model, given in (
        (getattr(FLOAT32[name](), how)(), images),
        (FLOAT32[name](), getattr(images, how)()),
    ):
        with pytest.raises(
            ValueError, match=r"computes in float32; got torch.float(16|64)\. Change .* \.float"
        ):
            model(given)


@pytest.mark.parametrize("name", ["features", "moving objects", "photographs"])
def test_models_over_frozen_features_say_what_they_take(name, unchecked):
    model = (FROZEN | FLOAT32)[name]()
    for images in (
        torch.rand(2, 32, 32, 3),
        torch.rand(3, 32, 32),
        torch.rand(2, 1, 32, 32),
        torch.rand(0, 3, 32, 32),
    ):
        with pytest.raises(
            ValueError, match=r"takes float tensors \[batch, 3, height, width\] in \[0, 1\]; got"
        ):
            model(images)


def test_a_model_without_weights_cannot_predict(unchecked):
    model = MODELS["sprites"]().to("meta")
    with pytest.raises(ValueError, match="a model on the meta device has no weights"):
        predict(model, np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("name", MODELS)
def test_models_on_the_meta_device_give_shapes(name):
    model, images = example(name)
    wanted = [part.shape for part in run(model, images)]
    output = run(model.to("meta"), images.to("meta"))
    assert [part.shape for part in output] == wanted
    assert all(part.device.type == "meta" for part in output)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("options", [{}, {"competition": "inputs", "update": "replace", "mlp": False}])
def test_slot_attention_of_16_bits_computes_in_float32(dtype, options):
    module = SlotAttention(6, 8, hidden_dim=10, **options).to(dtype)
    inputs, slots = torch.randn(2, 11, 6), torch.randn(2, 4, 8)
    wide = SlotAttention(6, 8, hidden_dim=10, **options)
    wide.load_state_dict(module.state_dict())  # the rounded weights, in float32
    wanted, found = wide(inputs, slots), module(inputs, slots)
    assert found.slots.dtype == dtype and found.attention.dtype == torch.float32
    torch.testing.assert_close(found.attention, wanted.attention, rtol=0, atol=1e-6)
    assert torch.equal(found.slots, wanted.slots.to(dtype)), "rounded once, at the end"

    found.slots.float().square().sum().backward()
    wanted.slots.square().sum().backward()
    for ours, theirs in zip(module.parameters(), wide.parameters(), strict=True):
        assert ours.grad.dtype == dtype
        torch.testing.assert_close(ours.grad.float(), theirs.grad, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_the_other_groupings_of_16_bits(dtype):
    inputs = torch.randn(2, 144, 8)
    clusters = (
        SoftKMeans(4, (12, 12), 8, 6, attention_bias=SpatialBias((12, 12), split_slots=True))
        .to(dtype)
        .cluster(inputs)
    )
    assert clusters.slots.dtype == dtype and clusters.attention.dtype == torch.float32
    slots, attention = Grouping(LearnedSlots(4, 6), SlotMLP(4, (12, 12), 8, 6)).to(dtype)(inputs)
    assert slots.dtype == dtype and attention.dtype == torch.float32
    assert clusters.slots.isfinite().all() and slots.isfinite().all()


def test_float32_inputs_of_float64_weights_are_converted():
    module = SlotAttention(6, 8).double()
    inputs, slots = torch.randn(2, 11, 6), torch.randn(2, 4, 8)
    wanted = module(inputs.double(), slots.double()).slots
    assert torch.equal(module(inputs, slots).slots, wanted)
    assert torch.equal(module(inputs.double(), slots).slots, wanted)


def test_float64_inputs_of_narrower_weights_are_refused_in_one_line(unchecked):
    inputs = torch.randn(2, 144, 8).double()
    calls = {
        "SlotAttention": lambda: SlotAttention(8, 6)(inputs, torch.randn(2, 4, 6)),
        "SlotMLP": lambda: SlotMLP(4, (12, 12), 8, 6)(inputs, torch.randn(2, 4, 6)),
        "SoftKMeans": lambda: SoftKMeans(4, (12, 12), 8, 6).cluster(inputs),
        "ConvEncoder": lambda: ConvEncoder(8, 8)(torch.rand(1, 3, 16, 16).double()),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError) as caught:
            call()
        message = str(caught.value)
        assert message.startswith(f"{name} holds torch.float32 weights; got ") and "\n" not in message
        assert "torch.float64" in message and message.endswith("Change them with .to(torch.float32)")


def test_slot_attention_on_the_meta_device():
    group = Grouping(GaussianSlots(4, 8), SlotAttention(6, 8)).to("meta")
    slots, attention = group(torch.empty(2, 11, 6, device="meta"), iterations=5)
    assert (slots.shape, attention.shape) == ((2, 4, 8), (2, 5, 4, 11))
    assert slots.device.type == attention.device.type == "meta"


def test_autocast_is_off_within():
    tensor = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert (tensor @ tensor).dtype == torch.bfloat16
        with without_autocast(tensor):
            assert (tensor @ tensor).dtype == torch.float32


def test_16_bits_become_float32_and_more_stays():
    tensor = torch.ones(2, dtype=torch.bfloat16)
    assert at_least_float32(tensor).dtype == at_least_float32(tensor.half()).dtype == torch.float32
    assert at_least_float32(tensor.double()).dtype == torch.float64
