"""The graphs of photographs: each step against LAPACK, SciPy or PyTorch, and the whole for any image."""

import dataclasses

import jaxtyping
import numpy as np
import onnx
import pytest
import torch

pytest.importorskip("onnxscript", reason="needs the extra [export]")

from objecthood.export import export as export_module
from objecthood.export import nodes, photographs
from objecthood.export.export import export_onnx, export_parts, session
from objecthood.models.spectral import SpectralSegmenter
from objecthood.nn.consensus_cut import ConsensusCut, View
from objecthood.nn.normalised_cut import affinity, random_walk_vectors
from objecthood.nn.objectness import ObjectnessHead
from objecthood.nn.pairwise_affinity import clusters_of, merged
from objecthood.recipes import RECIPES

pytestmark = [pytest.mark.xdist_group("export"), pytest.mark.timeout(600)]
VIEWS = View(0, 0.05, 0.15, 0.4), View(1, 0.06, 0.12)
CUT = ConsensusCut(views=VIEWS, partitions=((6, 5), (9, 8)), restarts=2)
NAN = np.full((1, 1, 1), np.nan, np.float32)


def model():
    return SpectralSegmenter(cut=CUT, sides=(192, 128)).eval()


def learned():
    """`photos-affinity` at the start of its training, of a smaller network."""
    torch.manual_seed(0)
    settings = {"dim": 16, "context_blocks": 1, "embedding_dim": 8, "resolution": 192, "clusters": 10}
    return dataclasses.replace(RECIPES["photos-affinity"], **settings).build_model().eval()


@pytest.fixture(scope="module")
def learned_files(tmp_path_factory):
    return exported(learned(), tmp_path_factory.mktemp("learned"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return exported(model(), tmp_path_factory.mktemp("graphs"))


def exported(one, folder):
    """The whole graph and the parts, built and compared once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # traced sizes are no int
        made = export_module._photographs(one, one.export_stages(), lambda text: None)
        patch.setattr(export_module, "_photographs", lambda *_: made)
        return export_onnx(one, folder / "whole.onnx"), export_parts(one, folder / "parts")


def step(name, outputs, **arrays):
    """One function of `consensus` on arrays; `outputs` are names, element types and ranks."""
    values = {key: np.asarray(value) for key, value in arrays.items()}
    given = [
        onnx.helper.make_tensor_value_info(
            key, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for key, value in values.items()
    ]
    found = [
        onnx.helper.make_tensor_value_info(key, kind, [None] * rank) for key, (kind, rank) in outputs.items()
    ]
    graph = nodes.model_of([nodes.call(name, list(values), *outputs)], given, found, {})
    return session(graph.SerializeToString())(values)


def embedding(rows, columns, seed=0):
    """Unit vectors of four smooth regions with noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 16, 2, 2, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(rows, columns), mode="bilinear")[0]
    noise = 0.2 * torch.randn(16, rows, columns, generator=generator)
    return torch.nn.functional.normalize((smooth + noise).movedim(0, -1), dim=-1)


def test_affinities_are_those_of_each_view():
    head = ObjectnessHead(16)
    head.weight.copy_(torch.randn(17, generator=torch.Generator().manual_seed(2)))
    scales = [embedding(6, 9), embedding(6, 9, 1)]
    combined = torch.cat(scales, dim=-1) / 2**0.5
    names = ("direction", "constant", "mixing", "temperatures", "reaches", "tolerances")
    for objectness, objects in ((head, head.probability(scales[0])), (None, None)):
        arrays = photographs.constants(CUT, 2, objectness)
        found = step("affinities", {"weights": (1, 3)}, scales=torch.stack(scales).numpy(),
                     **{name: arrays[name] for name in names})["weights"]  # fmt: skip
        for weights, (number, *settings), view in zip(found, VIEWS, (scales[0], combined), strict=True):
            assert (number == 1) == (view is combined)
            torch.testing.assert_close(torch.from_numpy(weights), affinity(view, *settings, objects))


def test_eigenvectors_are_those_of_lapack():
    weights = affinity(embedding(12, 15), 0.5, 0.12)
    values, vectors = random_walk_vectors(weights, 8)
    arrays = photographs.constants(CUT, 1)
    found = step(
        "walk_vectors", {"values": (1, 2), "vectors": (1, 3)}, weights=weights.numpy()[None],
        **{name: arrays[name] for name in ("swap", "order", "parity")},
    )  # fmt: skip
    assert np.abs(found["values"][0, 1:9] - values.numpy()).max() < 1e-4
    scale = weights.sum(dim=1).sqrt()[:, None]
    one, other = (
        torch.linalg.qr(part * scale)[0] for part in (torch.tensor(found["vectors"][0, :, 1:9]), vectors)
    )
    assert torch.linalg.svdvals(one.T @ other).min() > 0.999  # they span the same space
    assert found["values"][0, 0] == pytest.approx(1, abs=1e-5)


def test_jacobi_is_exact():
    matrix = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(0))
    matrix = (matrix + matrix.mT) / 8
    arrays = photographs.constants(CUT, 1)
    found = step(
        "jacobi", {"values": (1, 2), "vectors": (1, 3)}, matrices=matrix.numpy(),
        **{name: arrays[name] for name in ("swap", "order", "parity")},
    )  # fmt: skip
    assert np.abs(np.sort(found["values"]) - torch.linalg.eigvalsh(matrix).numpy()).max() < 1e-4
    turned = matrix.numpy() @ found["vectors"]
    assert np.abs(turned - found["vectors"] * found["values"][:, None]).max() < 1e-3


@pytest.mark.parametrize("num_segments", [0, 1, 7, 60])
def test_the_tree_is_that_of_average_linkage(num_segments):
    agreement = CUT.agreement([embedding(9, 11)])[0]
    tree = step("linkage", {"parents": (7, 1), "heights": (1, 1)}, agreement=agreement.numpy())
    members = step(
        "divide", {"members": (1, 2)}, **tree, num_segments=[num_segments], distance=np.float32(CUT.distance)
    )["members"]
    assert (members.sum(axis=1) == 1).all() and members.shape[1] == (num_segments or members.shape[1])
    if num_segments != 60:  # SciPy breaks ties of identical cells in another way
        labels = ConsensusCut(num_segments=num_segments or None).labels(agreement)
        own = torch.from_numpy(members.argmax(axis=1))
        assert ((labels[:, None] == labels) != (own[:, None] == own)).float().mean() < 0.01


@pytest.mark.parametrize("num_segments", [0, 1, 4, 30])
def test_the_tree_of_clusters_is_that_of_their_merging(num_segments):
    """At most as many segments as clusters; of two clusters without a cell, neither is a segment."""
    cells = embedding(7, 8).flatten(0, 1)
    cells[20:30] = cells[20]
    clusters = clusters_of(cells, 12)
    affinity = (-torch.cdist(cells, cells)).exp()
    tree = step(
        "clustered", {"parents": (7, 1), "heights": (1, 1)}, embedding=cells.numpy(),
        affinity=affinity.numpy(), draws=np.linspace(0.05, 0.95, 12, dtype=np.float32)[None],
        unused=np.zeros((1, 1, 12), np.float32), iterations=15,
    )  # fmt: skip
    own = np.where(tree["heights"] < 0, tree["parents"], np.arange(len(cells)))
    clusters = torch.from_numpy(own).unique(return_inverse=True)[1]
    assert 6 < len(clusters.unique()) <= 12
    members = step(
        "divide", {"members": (1, 2)}, **tree, num_segments=[num_segments], distance=np.float32(0.7)
    )["members"]
    expected = merged(clusters, affinity, 0.7, num_segments or None)
    found = torch.from_numpy(members.argmax(axis=1))
    assert ((expected[:, None] == expected) == (found[:, None] == found)).all()
    assert (members.sum(axis=0) > 0).all() and (members.sum(axis=1) == 1).all()


@pytest.mark.parametrize("kind", ["files", "learned_files"])
@pytest.mark.parametrize("size", [(60, 90), (200, 100), (33, 500)])
def test_images_of_any_size_and_number_of_segments(request, kind, size):
    whole, folder = request.getfixturevalue(kind)
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    whole, parts = session(whole), [session(folder / f"{name}.onnx") for name in ("group", "divide")]
    grouped = parts[0]({"image": image})
    for number in (0, 5):
        found = whole({"image": image, "num_segments": number})
        assert found["masks"].shape[1:] == size
        assert np.abs(found["masks"].sum(axis=0) - 1).max() < 1e-4
        assert np.abs(found["attention"].sum(axis=0) - 1).max() < 1e-4
        assert np.abs(np.linalg.norm(found["slots"], axis=1) - 1).max() < 1e-4
        assert not number or len(found["slots"]) == number
        again = parts[1]({"image": image, "num_segments": number, **grouped})
        assert np.abs(again["masks"] - found["masks"]).max() < 1e-5
    if kind == "files":
        expected = model().embed(image[0]).scales[0]
    else:
        expected = torch.nn.functional.normalize(learned().features(image[0]), dim=-1)
    assert np.abs(grouped["embedding"] - expected.numpy()).max() < 1e-4


def test_images_of_one_row_of_cells(learned_files):
    found = session(learned_files[0])({"image": torch.rand(1, 3, 1, 400), "num_segments": 5})
    assert found["attention"].shape[:2] == (5, 1) and found["masks"].shape == (5, 1, 400)
    assert all(np.isfinite(values).all() for values in found.values())


def test_a_graph_that_differs_is_not_kept(tmp_path, monkeypatch):
    graphs = photographs.graphs

    def damaged(stages):
        stages.backbone.stem.bias += 0.1
        found = graphs(stages)
        stages.backbone.stem.bias -= 0.1
        return found

    monkeypatch.setattr(photographs, "graphs", damaged)
    with pytest.raises(ValueError, match="embedding of the exported graph differs from PyTorch"):
        export_onnx(SpectralSegmenter(cut=CUT, sides=(128,)).eval(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_masks_of_nan_differ(files):
    whole, parts = files
    runs = {name: session(parts / f"{name}.onnx") for name in ("group", "divide")}
    divide = runs["divide"]
    runs |= {"whole": session(whole), "divide": lambda given: divide(given) | {"masks": NAN}}
    with pytest.raises(ValueError, match="masks of the exported graph differs from PyTorch by nan"):
        photographs.compare(model().export_stages(), runs)


def test_what_cannot_be_exported_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must begin with at least 128 pixels"):
        export_onnx(SpectralSegmenter(sides=(112,)).eval(), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="at most 16 eigenvectors"):
        photographs.constants(ConsensusCut(partitions=((9, 20),)), 1)
