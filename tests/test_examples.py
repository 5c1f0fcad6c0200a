"""Examples and the notebook run as they are, in a folder of their own, and reach what they say."""

import importlib.util
import os
import re
from pathlib import Path

import afresh
import numpy as np
import pytest
from PIL import Image
from places import ROOT

import objecthood as oh
from objecthood.data.generated.sprites import Sprites
from objecthood.visualize import figures

EXAMPLES = ROOT / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))
NOTEBOOK = EXAMPLES / "objects.ipynb"


def run(name: str, folder: Path, *arguments: str, warnings: str = "error") -> str:
    """What an example prints."""
    code = (EXAMPLES / name).read_text()
    return afresh.run(code, folder, {}, arguments, strict=warnings == "error")


def test_examples_are_short():
    assert FILES
    for file in FILES:
        assert len(file.read_text().splitlines()) <= 40, file.name


def test_find_objects(tmp_path):
    said = run("find_objects.py", tmp_path)
    assert "7 of 7 slots active" in said and said.count("pixels, box") == 7
    assert "large cyan rubber sphere" in said.splitlines()[-1]
    for name in ("slots.png", "overlay.png", "attention.webp"):
        with Image.open(tmp_path / name) as picture:
            assert picture.size > (100, 100)


def test_in_your_own_model(tmp_path):
    (share,) = re.findall(r"held out: ([\d.]+)", run("in_your_own_model.py", tmp_path))
    assert float(share) > 0.9


def test_property_probe(tmp_path):
    lines = run("property_probe.py", tmp_path).splitlines()
    found = {line.partition(":")[0]: [float(one) for one in re.findall(r"-?\d\.\d+", line)] for line in lines}
    for name in ("sprites", "tetrominoes"):
        assert min(found[f"{name}, its slot"][:3]) > 0.9 > 0.5 > max(found[f"{name}, mean slot"][:3])
    assert min(found["tetrominoes, its slot"]) > 0.9 and max(found["sprites, its slot"][3:]) < 0.3


def test_edit_slots(tmp_path):
    run("edit_slots.py", tmp_path)
    sheet = np.array(Image.open(tmp_path / "edited.png").convert("RGB").resize((5 * 35, 35))).astype(int)
    first, second, again, without, exchanged = np.split(sheet, 5, axis=1)
    yellow, magenta = (np.abs(first - color).sum(-1) < 100 for color in ((255, 255, 0), (255, 0, 255)))
    assert np.abs(again - first).mean() < 10 and yellow.sum() > 80 and not magenta.any()
    assert without[yellow].mean() < 30 and np.abs(without - first)[~yellow].mean() < 10
    came = (np.abs(exchanged - (255, 0, 255)).sum(-1) < 150).sum()
    assert came > 60 and (np.abs(second - (255, 0, 255)).sum(-1) < 100).sum() > came


def test_your_images(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, image in enumerate(Sprites("train", 0, "grey", 64)[range(40)]["image"]):
        figures.to_image(image).save(folder / f"{number}.png")
    said = run("your_pictures.py", tmp_path, str(folder), "20")
    assert "MSE on held-out images:" in said and said.count("of 6 slots active") == 40
    assert (tmp_path / "run" / "weights.safetensors").exists()
    assert len(list((tmp_path / "seen").glob("*-overlay.png"))) == 40


def test_with_lightning(tmp_path):
    if importlib.util.find_spec("lightning") is None:
        pytest.skip("needs Lightning, of the extra `dev`")
    said = run("with_lightning.py", tmp_path, "30", warnings="ignore")
    # 0.078 after one step, 0.038 after 30: the weights that are trained are those that are scored.
    assert float(re.findall(r"'mse': ([\d.]+)", said)[-1]) < 0.055


@pytest.mark.long
def test_the_notebook_runs(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient, of the extra `dev`")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient, of the extra `dev`")
    pytest.importorskip("ipykernel", reason="needs ipykernel, of the extra `dev`")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code), (
        "commit it without outputs"
    )
    environment = {"PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}
    client = nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=os.environ | environment)
    shown = ["".join(str(output) for output in cell.outputs) for cell in code]
    assert "7 of 7 slots active" in shown[0] and "data:image/png;base64," in shown[0]
    assert "data:image/webp;base64," in shown[1] and "torch.Size([7, 64, 64])" in shown[2]
    assert "large cyan rubber sphere" in shown[3] and "of 4 slots active" in shown[4]
    assert "likely out of distribution" in shown[5]
    assert str(oh.PRETRAINED["sprites"].scores["fg_ari"]) in shown[6]
