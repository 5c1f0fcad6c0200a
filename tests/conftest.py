"""Shapes checked at every call, one thread, fixed seeds, a scoreboard, and where shared measurements lie."""

import os
from pathlib import Path

import hypothesis
import jaxtyping
import pytest
import torch
from _pytest.runner import runtestprotocol
from jaxtyping import install_import_hook
from places import ROOT
from scoreboard import Note, Scoreboard, note_of
from undrawn import leave_out_images

# From here on every function of the package checks the shapes in its signature. An int passes for a float, as
# for every type checker; the default of beartype is stricter.
install_import_hook("objecthood", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

TRAINING = {
    *("benchmarks", "checkpoint", "cli", "demo", "hub", "inference", "recipes", "runs", "runtime"),
    *("test_docs.py", "test_examples.py", "test_files.py", "test_strangers.py", "test_train.py", "training"),
}
"""Tests that train models and run commands call the same functions over and over. There, shapes are checked
by `make test-long` alone: they took a quarter of the time of `make test`."""

TESTS = ROOT / "tests"
SHARED_DATA = ROOT.parent / "shared" / "data"

torch.set_num_threads(1)
# Some tests fork. An autograd engine that starts after an export of a CUDA build without a GPU sees a device
# that is none, and then refuses to work in forks; one that has started before does not.
torch.ones((), requires_grad=True).backward()
# A machine that is busy with other work is no fault of what is tested.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--scoreboard", metavar="FILE", help="write there what the tests tried, and how often")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--scoreboard") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Scoreboard(Path(config.getoption("--scoreboard"))))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    everywhere = item.config.option.markexpr != "not long"
    trains = item.path.is_relative_to(TESTS) and item.path.relative_to(TESTS).parts[0] in TRAINING
    jaxtyping.config.update("jaxtyping_disable", trains and not everywhere)


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """A test marked `timed` that fails while the machine has more to do than cores is tried again, twice at
    most; how often is told on the scoreboard."""
    if not item.get_closest_marker("timed"):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    tries, failed = 0, True
    while failed and tries < 3:
        tries += 1
        item.user_properties.clear()
        item._initrequest()  # fixtures anew
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        failed = any(report.failed for report in reports)
        if os.getloadavg()[0] <= (os.cpu_count() or 1):
            break
    for report in reports:
        report.user_properties.append(("tries", tries))
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.fixture
def scoreboard(request, record_property) -> Note:
    """`scoreboard(area, what, tried, survived, measured)`: what a test tried, how often, and how often it
    ended as promised, which must be as often; `measured` is a figure in words."""
    return note_of(request, record_property)


@pytest.fixture(autouse=True)
def alike():
    """The same random numbers and arithmetic in every test, in whatever order tests run."""
    torch.manual_seed(0)
    torch.set_flush_denormal(False)  # training switches it on for the whole process


@pytest.fixture
def unchecked(monkeypatch):
    """Without checked shapes: what a user meets, whose wrong shapes must end in our own errors."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def undrawn(monkeypatch):
    """Runs without images, for tests that look at something else. A fixture that trains a whole run is named
    before this one."""
    leave_out_images(monkeypatch)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of measurements beside the repository, which a user's clone has not."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs ../shared/data, measurements kept beside the repository and not part of it")
    return SHARED_DATA
