"""Exported graphs give what PyTorch gives, and one that does not is not kept."""

import json
from functools import cache
from pathlib import Path

import jaxtyping
import numpy as np
import onnx
import pytest
import torch

import objecthood as oh
from objecthood.cli import export, main
from objecthood.export import export as export_module
from objecthood.export.examples import example_images
from objecthood.export.export import PARTS, compare_parts, compare_whole, export_onnx, export_parts, session
from objecthood.export.graph import multiply_in_blocks, running_maximum, solve
from objecthood.models import autoencoder
from objecthood.models.set_predictor import fast_clevr
from objecthood.nn import ConvEncoder, Grouping, LearnedSlots, SlotAttention, SpatialBias
from objecthood.nn.slot_frames import SlotCentredPatchDecoder, SlotFrameReadout

pytestmark = [pytest.mark.xdist_group("export"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def guided():
    """All that our variants add: slots that unite and divide, a view without shading, guided masks."""
    torch.manual_seed(0)
    return autoencoder.fast_sprites(4, resolution=16, split_slots=True, chromaticity=True).eval()


@pytest.fixture(scope="module")
def files(guided, tmp_path_factory):
    """The graph and the parts of `guided`; their step is traced once, as that takes longest."""
    folder = tmp_path_factory.mktemp("graphs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # sizes that stay open are no int
        step = export_module._step_graph
        patch.setattr(export_module, "_step_graph", cache_by_model(step))
        return export_onnx(guided, folder / "whole.onnx"), export_parts(guided, folder / "parts")


def cache_by_model(function):
    @cache
    def kept(model):
        return function(model, export_module._example(model))

    return lambda model, example: kept(model)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("num_slots", [1, 2, 4, 7])
def test_batch_and_number_of_slots_are_open(guided, files, batch, num_slots):
    whole, parts = files
    assert compare_whole(guided, whole, batch, num_slots) <= 1e-4
    assert compare_parts(guided, parts, batch, num_slots) <= 1e-4


def test_every_stage_is_told_when_it_begins(guided, tmp_path, monkeypatch):
    """It takes minutes: what is done now is said before it is done."""
    said = []
    monkeypatch.setattr(
        export_module, "whole_graph", lambda model: said.append("traced") or onnx.ModelProto()
    )
    monkeypatch.setattr(export_module, "describe", lambda graph, model: None)
    monkeypatch.setattr(export_module, "compare_whole", lambda *_: said.append("compared"))
    export_onnx(guided, tmp_path / "a.onnx", report=said.append)
    assert said[:2] == ["tracing the model", "traced"] and said[3::2] == ["compared"] * 3
    assert said[2::2] == [
        f"comparing with PyTorch: batch {b}, {s} slots" for b, s in ((1, 4), (4, 4), (2, 6))
    ]


@pytest.mark.parametrize("steady, asked", [(torch.inf, [32]), (0.0, [32, 96])])
def test_more_candidates_are_tried_if_few_are_stable(guided, monkeypatch, steady, asked):
    counts = []
    monkeypatch.setattr(export_module, "_STABLE", steady)
    monkeypatch.setattr(
        export_module, "example_images", lambda model, n: counts.append(n) or example_images(model, n)
    )
    with torch.no_grad():
        assert len(export_module._stable_images(guided, 4, 4, 3)) == 4
    assert counts == asked


@pytest.mark.parametrize("iterations", [1, 2, 10])
def test_the_number_of_iterations_is_an_input(guided, files, iterations):
    assert compare_whole(guided, files[0], 2, 4, iterations) <= 1e-4


def test_what_the_prior_does_is_in_the_graph(guided, files):
    """Without the prior the second iteration's attention is another one, by far more than is allowed."""
    images, noise = example_images(guided, 2), torch.zeros(2, 4, 64)
    with torch.no_grad():
        attention_bias, guided.grouping.slot_attention.attention_bias = (
            guided.grouping.slot_attention.attention_bias,
            None,
        )
        plain = guided(images, 4, 3, noise).attention.numpy()
        guided.grouping.slot_attention.attention_bias = attention_bias
    given = {"image": images, "noise": noise, "iterations": torch.tensor(3)}
    found = session(files[0])(given)["attention"]
    assert found.shape == (2, 3, 4, 8, 8)
    assert np.allclose(found[:, 0], plain[:, 0], atol=1e-4) and np.abs(found[:, 2] - plain[:, 2]).max() > 0.01


def test_start_noise_matters_where_slots_are_not_learned(guided, files):
    run, images = session(files[0]), example_images(guided, 1)
    given = {"image": images, "iterations": torch.tensor(1)}
    one, other = (run(given | {"noise": torch.full((1, 6, 64), value)})["slots"] for value in (0.0, 1.0))
    assert np.abs(one[:, 4:] - other[:, 4:]).max() > 0.01


@pytest.mark.long
def test_slots_told_what_they_hold_are_in_the_graph(tmp_path):
    """Slots seen and painted from their own centre, a prior that acts at once, a start that noise moves."""
    torch.manual_seed(0)
    attention_bias = SpatialBias((8, 8), merge_penalty=0.0, split_slots=True, split_and_merge=True)
    model = autoencoder.SlotAutoencoder(
        ConvEncoder(channels=8, feature_dim=16, strides=(2,), kernel=5),
        Grouping(
            LearnedSlots(3, 16, noise_scale=0.5),
            SlotAttention(16, 16, attention_bias=attention_bias, bias_before_attention=True),
        ),
        SlotCentredPatchDecoder(16, resolution=16, patch=4),
        readout=SlotFrameReadout(16, 16, resolution=16),
    ).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # sizes that stay open are no int
        patch.setattr(export_module, "_step_graph", cache_by_model(export_module._step_graph))
        whole, parts = export_onnx(model, tmp_path / "m.onnx"), export_parts(model, tmp_path / "parts")
    for file in (whole, parts / "step.onnx"):
        assert onnx.load(file).graph.node, "compared with PyTorch before it was kept"
    reading, model.readout = model.readout, None
    with pytest.raises(ValueError, match="differs from PyTorch"):
        compare_parts(model, parts, 1, 3)
    model.readout, model.grouping.slot_attention.bias_before_attention = reading, False
    with pytest.raises(ValueError, match="differs from PyTorch"):
        compare_whole(model, whole, 1, 3)


def test_graphs_say_what_they_are(guided, files):
    whole, parts = files
    properties = {entry.key: entry.value for entry in onnx.load(whole).metadata_props}
    facts = json.loads(properties["objecthood"])
    assert facts["resolution"] == 16 and facts["num_slots"] == 4 and facts["is_start_learned"] is True
    assert facts == json.loads((parts / "model.json").read_text())
    assert {file.name for file in parts.iterdir()} == {*(f"{name}.onnx" for name in PARTS), "model.json"}


def damaged(model, name):
    """The graph with one of its weights a little off."""
    weight = next(item for item in model.graph.initializer if item.name.endswith(name))
    values = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(values + np.float32(1e-2), weight.name))
    return model


def test_a_graph_that_differs_is_not_kept(guided, files, tmp_path, monkeypatch):
    graph = damaged(onnx.load(files[0]), "gru.bias_hh")
    monkeypatch.setattr(export_module, "whole_graph", lambda model: graph)
    with pytest.raises(ValueError, match="differs from PyTorch by .* no file was written"):
        export_onnx(guided, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_part_that_differs_is_not_kept(guided, files, tmp_path, monkeypatch):
    graphs = {name: onnx.load(files[1] / f"{name}.onnx") for name in PARTS}
    graphs["decode"] = damaged(graphs["decode"], "layers.2.bias")
    monkeypatch.setattr(export_module, "part_graphs", lambda model: graphs)
    with pytest.raises(ValueError, match="(reconstruction|appearance|masks) of the exported graph differs"):
        export_parts(guided, tmp_path / "parts")
    assert not list(tmp_path.iterdir())


def test_nothing_is_replaced(guided, tmp_path):
    (tmp_path / "mine.onnx").write_text("mine")
    with pytest.raises(ValueError, match="exists and is not replaced"):
        export_onnx(guided, tmp_path / "mine.onnx")
    with pytest.raises(ValueError, match="exists and is not replaced"):
        export_parts(guided, tmp_path)
    with pytest.raises(ValueError, match="must end in .onnx"):
        export_onnx(guided, tmp_path / "mine.pt")
    with pytest.raises(ValueError, match="does not exist; create it"):
        export_onnx(guided, tmp_path / "no" / "mine.onnx")
    (tmp_path / "link.onnx").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="exists and is not replaced"):
        export_onnx(guided, tmp_path / "link.onnx")
    assert (tmp_path / "mine.onnx").read_text() == "mine"


def test_only_our_models_and_only_at_rest(unchecked):
    with pytest.raises(ValueError, match="a Linear cannot be exported"):
        export_onnx(torch.nn.Linear(2, 2), "linear.onnx")
    with pytest.raises(ValueError, match="eval mode"):
        export_onnx(autoencoder.fast_tetrominoes(), "training.onnx")
    with pytest.raises(ValueError, match=r"must be of float32, not torch.float64; call model.float\(\)"):
        export_onnx(autoencoder.fast_tetrominoes().double().eval(), "double.onnx")
    with pytest.raises(ValueError, match="only a discovery model"):
        export_parts(fast_clevr().eval(), "parts")


def test_the_command_exports_published_weights(tmp_path, monkeypatch, capsys, unchecked):
    monkeypatch.chdir(tmp_path)
    code = main.main(["export", "set-clevr"])
    assert code == 0, capsys.readouterr().err
    assert "set-clevr.onnx: matches PyTorch to 1e-4" in capsys.readouterr().out
    run, model = session(Path("set-clevr.onnx")), oh.load("set-clevr")
    images, noise = example_images(model, 1), torch.zeros(1, 10, 64)
    found = run({"image": images, "noise": noise, "iterations": torch.tensor(3)})
    with torch.no_grad():
        expected = model(images, iterations=3, noise=noise)
    assert np.allclose(found["properties"], expected.properties, atol=1e-4)
    assert main.main(["export", "set-clevr"]) == 1
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["sprites", "--format", "onx"], 2, "did you mean onnx?"),
        (["nothing"], 1, "no weight file at nothing"),
        (["sprites", "--ot", "x"], 2, "--out"),
        (["set-clevr", "--parts"], 1, "only a discovery model"),
    ],
)
def test_mistakes_are_one_line(arguments, code, said, capsys, unchecked):
    assert main.main(["export", *arguments]) == code
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs onnx, onnxscript, onnxruntime; .*'objecthood\[export\]'"):
        export.require(export.NEEDED, "export")


@pytest.mark.parametrize(("shape", "dim"), [((1,), 0), ((5,), 0), ((3, 46), -1), ((2, 9, 4), 1)])
def test_running_maximum(shape, dim):
    tensor = torch.randn(shape)
    assert torch.equal(running_maximum(tensor, dim)[0], tensor.cummax(dim).values)


def test_solve():
    factor, right = torch.randn(5, 6, 6, dtype=torch.float64), torch.randn(5, 6, 2, dtype=torch.float64)
    matrix = factor @ factor.transpose(1, 2) + 0.1 * torch.eye(6)
    assert torch.allclose(solve(matrix, right), torch.linalg.solve(matrix, right))


def test_long_sums_are_taken_in_blocks():
    one, other = torch.rand(2, 3, 4096), torch.rand(4096, 2)
    exact = (one.double() @ other.double()).float()
    assert torch.allclose(multiply_in_blocks(one, other), exact, rtol=1e-6)
    assert multiply_in_blocks(one[..., :100], other[:100]) is NotImplemented
