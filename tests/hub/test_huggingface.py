"""To the Hub and back, against a stand-in server on this machine; never a word to any other."""

import json
import sys

import afresh
import pytest
import yaml
from hub_server import serving
from places import ROOT

import objecthood as oh
from objecthood.hub import huggingface
from objecthood.hub import pretrained as hub

pytest.importorskip("huggingface_hub", reason="needs the extra: pip install 'objecthood[hub]'")


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


@pytest.fixture
def elsewhere(server, tmp_path):
    """Runs Python in a process whose Hub is the stand-in; the last line it prints is what comes back."""

    def run(code: str, token: str = "hf_test") -> str:
        environment = {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": token}
        environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
        environment |= {"HF_HUB_DOWNLOAD_TIMEOUT": "1"}
        return afresh.run("import objecthood as oh\n" + code, ROOT, environment).splitlines()[-1]

    return run


def test_there_and_back(server, elsewhere):
    address = elsewhere("print(oh.push_to_hub('tetrominoes', 'me/blocks'))")
    assert address.startswith(f"{server.address}/me/blocks/commit/")
    files = server.repositories["me/blocks"]
    assert set(files) == {"weights.safetensors", "config.json", "README.md", "picture.png"}
    assert files["weights.safetensors"] == oh.PRETRAINED["tetrominoes"].file.read_bytes()
    assert files["picture.png"].startswith(b"\x89PNG")
    card = files["README.md"].decode()
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "apache-2.0" and head["library_name"] == "objecthood"
    metrics = head["model-index"][0]["results"][0]["metrics"]
    assert {one["type"]: one["value"] for one in metrics}["fg_ari"] == pytest.approx(
        oh.PRETRAINED["tetrominoes"].scores["fg_ari"], abs=1e-4
    )
    assert 'oh.from_pretrained("me/blocks")' in card and "](picture.png)" in card
    said = elsewhere(
        "model = oh.from_pretrained('me/blocks'); print(model.recipe.name, bool(model.calibration))"
    )
    assert said == "tetrominoes True"

    server.repositories["me/blocks"]["weights.safetensors"] = oh.PRETRAINED["sprites"].file.read_bytes()
    wrong = "try: oh.from_pretrained('me/blocks')\nexcept ValueError as error: print(error)"
    assert "are not the published ones" in elsewhere(wrong)
    assert all(key in ("Bearer hf_test", "") for _, _, key in server.asked)


FETCH = """
import json, resource, signal
from huggingface_hub import constants
constants.DOWNLOAD_CHUNK_SIZE = 1 << 16
said = {}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for name in NAMES:
    if name == "full":  # no file may be larger: what comes is the error of a full disk
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    try:
        said[name] = oh.from_pretrained("me/" + name).recipe.name
    except Exception as error:
        said[name] = f"{type(error).__name__}: {error}"
    if name == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
print(json.dumps(said))
"""
TROUBLE = {
    "error": "ValueError: weights.safetensors of me/error could not be downloaded (",
    "elsewhere": "ValueError: weights.safetensors of me/elsewhere could not be downloaded (",
    "short": "ValueError: weights.safetensors of me/short could not be downloaded (Consistency check failed",
    "long": "ValueError: weights.safetensors of me/long could not be downloaded (Consistency check failed",
    "other": "ValueError: weights of me/other are not the published ones: ",
    "full": "ValueError: weights.safetensors of me/full could not be downloaded ([Errno 27] File too large",
    "broken-off": "tetrominoes",
}


@pytest.mark.parametrize(
    "names", [tuple(TROUBLE), pytest.param(("silent",), marks=pytest.mark.long)], ids=["now", "in time"]
)
def test_servers_that_misbehave(server, elsewhere, names, scoreboard):
    """One line, and no half file is ever taken; once the server is well, the same call gives the weights."""
    one = oh.PRETRAINED["tetrominoes"]
    files = {"weights.safetensors": one.file.read_bytes(), "config.json": json.dumps(one.facts).encode()}
    for name in names:
        server.repositories[f"me/{name}"] = files
        server.trouble[f"me/{name}"] = name.replace("-", " ")
    said = json.loads(elsewhere(f"NAMES = {names!r}\n{FETCH}"))
    for name in names:
        told = TROUBLE.get(name, f"ValueError: weights.safetensors of me/{name} could not be downloaded (")
        assert said[name].startswith(told) and "\n" not in said[name], said[name]
    if "broken-off" in names:
        assert [name for name, _ in server.ranges] == ["me/broken-off"], (
            "what had come was not asked for again"
        )
        assert int(server.ranges[0][1].removeprefix("bytes=")[:-1]) >= len(files["weights.safetensors"]) // 3
    server.trouble.clear()
    again = json.loads(elsewhere(f"NAMES = {names!r}\n{FETCH.replace('full', 'nothing')}"))
    assert {name: again[name] for name in names if name != "other"} == {
        name: "tetrominoes" for name in names if name != "other"
    }
    if "other" in names:  # what is refused stays in the Hub's cache until it is removed, as the line says
        assert again["other"] == said["other"] and "remove that file and download them again" in said["other"]
    what = (
        "a server that breaks off, lies, redirects to a file, falls silent; a full disk: one line, or resumed"
    )
    scoreboard("Files of strangers", what, len(names))


def test_refusals_are_one_line(elsewhere):
    code = "try: {}\nexcept ValueError as error: print(error)"
    said = elsewhere(code.format("oh.from_pretrained('me/nothing')"))
    assert said.startswith("config.json of me/nothing could not be downloaded")
    said = elsewhere(code.format("oh.push_to_hub('sprites', 'me/x')"), token="hf_wrong")
    assert said.startswith("me/x could not be published")


OFFLINE = """
import os, socket, time
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{port}"  # nobody listens there
start = time.monotonic()
try:
    print(oh.from_pretrained("me/NAME").recipe.name)
except ValueError as error:
    print(time.monotonic() - start < 10, error)
"""


def test_without_a_connection_it_fails_at_once_in_one_line(elsewhere):
    said = elsewhere(OFFLINE.replace("NAME", "absent"))
    assert said.startswith(
        "True config.json of me/absent could not be downloaded (no connection to the Hub: "
    )
    assert said.endswith("; check the connection, or use one of " + ", ".join(oh.PRETRAINED))
    assert "..." not in said


def test_without_a_connection_the_cache_serves(server, elsewhere):
    one = oh.PRETRAINED["tetrominoes"]
    server.repositories["me/kept"] = {
        "weights.safetensors": one.file.read_bytes(),
        "config.json": json.dumps(one.facts).encode(),
    }
    for code in ("print(oh.from_pretrained('me/kept').recipe.name)", OFFLINE.replace("NAME", "kept")):
        assert elsewhere(code) == "tetrominoes"


def test_a_model_is_published_as_its_weight_file(server, elsewhere):
    told = "licence='MIT', data='Mine.', limits='Many.', chosen='One seed', image=IMAGE"
    told += ", scores={'fg_ari': 0.5}"
    code = (
        "IMAGE = oh.PRETRAINED['tetrominoes'].example\n"
        "model = oh.load('tetrominoes')\n"
        "model.decoder.layers[0].bias.data += 1\n"
        f"oh.push_to_hub(model, 'me/model', {told})\n"
        "again = oh.from_pretrained('me/model')\n"
        "pairs = zip(model.state_dict().values(), again.state_dict().values(), strict=True)\n"
        "same = all((a == b).all() for a, b in pairs)\n"
        "print(again.recipe == model.recipe, again.calibration == model.calibration, same)"
    )
    assert elsewhere(code) == "True True True"
    facts = json.loads(server.repositories["me/model"]["config.json"])
    assert facts["licence"] == "MIT" and facts["scores"] == {"fg_ari": 0.5}
    fresh = "oh.push_to_hub(oh.RECIPES['tetrominoes'].build_model(), 'me/fresh', recipe=RECIPE, " + told + ")"
    fresh = "RECIPE, IMAGE = oh.RECIPES['tetrominoes'], oh.PRETRAINED['tetrominoes'].example\n" + fresh
    elsewhere(fresh + "\nprint()")
    assert "weights.safetensors" in server.repositories["me/fresh"]


def test_models_that_cannot_be_published_are_told(tmp_path):
    import torch

    with pytest.raises(ValueError, match="this Linear has no `recipe`.*recipe=oh.RECIPES"):
        oh.push_to_hub(torch.nn.Linear(2, 2), "me/x")
    with pytest.raises(ValueError, match=r"publishing needs scores; .*scores=oh.evaluate\(model, recipe\)"):
        told = {"licence": "MIT", "data": "Mine.", "limits": "Many.", "chosen": "One seed"}
        oh.push_to_hub(oh.load("tetrominoes"), "me/x", **told)
    with pytest.raises(ValueError, match="cannot be published"):
        oh.push_to_hub(5, "me/x")
    with pytest.raises(ValueError, match="`recipe` is for models only"):
        oh.push_to_hub("sprites", "me/x", recipe=oh.RECIPES["sprites"])


def test_own_weights_need_what_only_their_owner_knows(tmp_path, monkeypatch):
    recipe = oh.RECIPES["tetrominoes"]
    file = oh.save(recipe.build_model(), recipe, tmp_path / "w.safetensors", {"fg_ari": 0.5})
    with pytest.raises(ValueError, match="publishing needs licence, data, limits, chosen; add"):
        oh.push_to_hub(file, "me/mine")
    told = {"licence": "MIT", "data": "Mine.", "limits": "Many.", "chosen": "One seed was trained"}
    with pytest.raises(ValueError, match="the model card needs an image"):
        oh.push_to_hub(file, "me/mine", **told)
    path, facts = huggingface._facts(file, told)
    assert path == file and facts["licence"] == "MIT" and facts["sha256"] == hub.sha256_of(file)
    assert json.dumps(facts) and "4 slots" in facts["protocol"]


def test_names_and_files_ask_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface, "_library", None)
    assert oh.from_pretrained("sprites").num_slots == 6
    assert oh.from_pretrained(oh.PRETRAINED["sprites"].file).num_slots == 6
    with pytest.raises(ValueError, match="did you mean sprites?"):
        oh.from_pretrained("sprits")


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'objecthood\[hub\]'"):
        oh.push_to_hub("sprites", "me/x")
