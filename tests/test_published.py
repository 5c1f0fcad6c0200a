"""What was published: README's tables are those of results/*.json, its images and links are there, and what
earlier releases wrote is still read.
"""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from places import ROOT

from objecthood.checkpoint.run import restore

sys.path.insert(0, str(ROOT / "runs" / "release"))
import keep_release

RELEASES = sorted((ROOT / "tests" / "releases").iterdir())


def test_tables_are_those_of_the_results():
    assert subprocess.run([sys.executable, ROOT / "runs" / "pages" / "tables.py", "--check"]).returncode == 0


@pytest.mark.parametrize("file", sorted((ROOT / "results").glob("*-seed*.json")), ids=lambda file: file.stem)
def test_results_say_how_they_came_about(file):
    result = json.loads(file.read_text())
    needed = ("recipe", "seed", "scores", "protocol", "wall_seconds", "cpu_seconds", "machine", "curve")
    assert set(needed) <= set(result)
    assert result["machine"]["commit"] and not result["machine"]["commit"].endswith("+")
    assert str(ROOT.parent) not in file.read_text()


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))),
    ],
)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    targets = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert all(((ROOT / page).parent / link).exists() for link in targets), targets


@pytest.mark.parametrize("release", RELEASES, ids=lambda folder: folder.name)
def test_weights_of_earlier_releases_see_what_they_saw(release, scoreboard):
    for name in keep_release.NAMES:
        now = keep_release.seen(release / f"{name}.safetensors", release / f"{name}.png")
        before = json.loads((release / f"{name}.json").read_text())
        assert now.keys() == before.keys()
        if "labels" in before:  # a pixel on the border of two slots may fall to either on another processor
            assert np.mean(np.equal(now["labels"], before["labels"])) >= 0.999
        else:
            assert np.allclose(now["properties"], before["properties"], atol=1e-3)
    what = "weights and checkpoints of earlier releases: read, and the same masks and objects seen"
    scoreboard("The same again", what, len(keep_release.NAMES))


@pytest.mark.parametrize("release", RELEASES, ids=lambda folder: folder.name)
def test_checkpoints_of_earlier_releases_are_gone_on_with(release, scoreboard):
    (model, optimizers), (right, _) = keep_release.training(0), keep_release.training(5)
    said: list[str] = []
    assert restore(release / "checkpoints", model, optimizers, say=said.append) == {
        "step": 5,
        "skipped_steps": 1,
    }
    assert not said and torch.allclose(model.weight, right.weight, atol=1e-6)
    model(torch.ones(1, 3)).square().sum().backward()
    optimizers[0].step()
    assert torch.allclose(model.weight, keep_release.training(6)[0].weight, atol=1e-6)
    what = "weights and checkpoints of earlier releases: read, and the same masks and objects seen"
    scoreboard("The same again", what, 1)
