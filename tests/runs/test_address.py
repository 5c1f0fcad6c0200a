"""The release step that gives README and metadata the public address."""

import re
import sys

import pytest
from places import ROOT

sys.path.insert(0, str(ROOT / "runs" / "release"))
import address

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

EXAMPLE = "https://example.org/owner/objecthood"


def test_a_release_has_absolute_links_and_urls_and_changes_nothing_here(tmp_path):
    before = (ROOT / "README.md").read_text()
    assert address.main(EXAMPLE, [str(tmp_path / "release")]) == 0
    readme = (tmp_path / "release" / "README.md").read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", readme)
    assert links and all(link.startswith("https://") for link in links)
    for path in re.findall(rf"{EXAMPLE}/(?:raw|blob|tree)/main/([^)#]+)", readme):
        assert (ROOT / path).exists()
    project = tomllib.loads((tmp_path / "release" / "pyproject.toml").read_text())["project"]
    assert project["urls"]["Homepage"] == EXAMPLE and "scripts" in project
    assert (tmp_path / "release" / "objecthood" / "train.py").exists()
    assert (ROOT / "README.md").read_text() == before


def test_nothing_is_released_without_an_address(tmp_path, capsys):
    assert address.main("", [str(tmp_path / "release")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "release").exists()


def test_a_folder_that_exists_is_left_alone(tmp_path, capsys):
    assert address.main(EXAMPLE, [str(tmp_path)]) == 1
    assert "new folder" in capsys.readouterr().err and not list(tmp_path.iterdir())
