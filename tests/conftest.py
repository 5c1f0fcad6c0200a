"""Shapes checked at every call, one thread, fixed seeds, a scoreboard, and where shared measurements lie."""

from pathlib import Path

import hypothesis
import jaxtyping
import pytest
import torch
from jaxtyping import install_import_hook
from scoreboard import Note, Scoreboard, note_of

# From here on every function of the package checks the shapes in its signature. An int passes for a float, as
# for every type checker; the default of beartype is stricter.
install_import_hook("objecthood", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

torch.set_num_threads(1)
# A machine that is busy with other work is no fault of what is tested.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--scoreboard", metavar="FILE", help="write there what the tests tried, and how often")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--scoreboard") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Scoreboard(Path(config.getoption("--scoreboard"))))


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


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of measurements beside the repository, which a user's clone has not."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs ../shared/data, measurements kept beside the repository and not part of it")
    return SHARED_DATA
