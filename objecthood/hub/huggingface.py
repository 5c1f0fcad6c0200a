"""Download weights from the Hugging Face Hub and publish them (extra `hub`).

A repository holds weights.safetensors, config.json (facts, with the SHA-256 of the weights), README.md (model
card) and picture.png.
"""

from __future__ import annotations

import io
import json
import re
import tempfile
import textwrap
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from objecthood import hub
from objecthood.checkpoint.header import read_description
from objecthood.hub.model_card import missing_facts, model_card
from objecthood.runtime import renamed
from objecthood.runtime.files import parse_json, sha256_of
from objecthood.runtime.limits import HEADER_BYTES

if typing.TYPE_CHECKING:
    from PIL import Image
    from torch import nn

    from objecthood.recipes import Recipe

WEIGHTS, FACTS, CARD, PICTURE = "weights.safetensors", "config.json", "README.md", "picture.png"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def from_pretrained(
    source: str | Path, recipe: Recipe | None = None, *, revision: str | None = None, token: str | None = None
) -> nn.Module:
    """The model of weights by name, file or run folder (as `hub.load`), or from a repository on the Hub.

    "OWNER/NAME" is a repository unless such a file or folder exists; its weights are cached by the Hub's
    library and verified by the SHA-256 in the repository. `revision` is a branch, tag or commit; `token`
    gives access to private repositories. Weights of a custom recipe class need that `recipe`.

    Without a connection, cached weights are loaded and others fail without retries.

    Raises ValueError if the name is unknown, the download fails, or the SHA-256 differs.

    Example:
        >>> import objecthood as oh
        >>> oh.from_pretrained("clevr").num_slots  # bundled: no network access
        7
    """
    if str(source) in hub.PRETRAINED or Path(source).exists() or not _REPOSITORY.fullmatch(str(source)):
        return hub.load(source, recipe)
    from_cache = _unreachable(str(source), revision, token)
    sha256 = _stated_sha256(_download(str(source), FACTS, revision, token, from_cache), str(source))
    file = _download(str(source), WEIGHTS, revision, token, from_cache)
    hub.check_sha256(file, sha256, f"weights of {source}", "remove that file and download them again")
    return hub.load(file, recipe)


def _stated_sha256(file: Path, source: str) -> str:
    """The SHA-256 of the weights in config.json; ValueError if it is missing or config.json is damaged."""
    problem = "states no SHA-256"
    try:
        size = file.stat().st_size
        facts = parse_json(file.read_bytes() if size <= HEADER_BYTES else b"")
    except ValueError as error:
        problem = f"is damaged: {_one_line(error)}"
    else:
        stated = facts.get("sha256") if isinstance(facts, dict) else None
        if isinstance(stated, str) and _SHA256.fullmatch(stated):
            return stated
    raise ValueError(f"{source} was not published by objecthood ({FACTS} {problem}); use another repository")


@renamed.arguments
def push_to_hub(
    source: nn.Module | str | Path,
    repository: str,
    *,
    recipe: Recipe | None = None,
    scores: Mapping[str, float] | None = None,
    licence: str = "",
    data: str = "",
    limits: str = "",
    chosen: str = "",
    image: str | Path | None = None,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Publish weights with a model card as "OWNER/NAME" on the Hub; returns the address of the commit.

    Args:
        source: a model, a name in `hub.PRETRAINED`, a run folder or a weight file.
        repository: "OWNER/NAME".
        recipe: of a model without `model.recipe` (which `oh.load` and `oh.from_pretrained` set).
        scores: on test scenes, as `oh.evaluate` returns; those in the weight file by default.
        licence, data, limits, chosen: required for your own weights: SPDX identifier of the licence, training
            data, limitations, and how the seed was chosen.
        image: an image whose prediction is shown in the card; latest.png of a run folder by default.
        private: create a new repository as private.
        token: access token; that of `hf auth login` by default.

    Raises ValueError if a fact or the image is missing, or the Hub refuses.
    """
    library = _library()
    api = library.HfApi(token=token)
    if isinstance(source, str | Path) and recipe is not None:
        raise ValueError("`recipe` is for models only; a weight file holds its own, so omit it")
    given = {
        "scores": dict(scores or {}),
        "licence": licence,
        "data": data,
        "limits": limits,
        "chosen": chosen,
    }
    with tempfile.TemporaryDirectory() as folder:
        if not isinstance(source, str | Path):
            source = _save(source, recipe, Path(folder), scores)
        file, facts = _facts(source, given)
        gaps = missing_facts(facts)
        if gaps:
            example = "scores=oh.evaluate(model, recipe)" if gaps[0] == "scores" else f"{gaps[0]}='...'"
            raise ValueError(f"publishing needs {', '.join(gaps)}; add push_to_hub(..., {example})")
        content = io.BytesIO()
        _drawn(source, file, image).save(content, "PNG")
        name = repository.rpartition("/")[2]
        files: dict[str, Any] = {
            WEIGHTS: str(file),
            FACTS: (json.dumps(facts, indent=1) + "\n").encode(),
            CARD: model_card(name, facts, PICTURE, f'oh.from_pretrained("{repository}")').encode(),
            PICTURE: content.getvalue(),
        }
        add = library.CommitOperationAdd
        operations = [add(path_in_repo=name, path_or_fileobj=part) for name, part in files.items()]
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            commit = api.create_commit(repository, operations, commit_message="Weights by objecthood")
        except Exception as error:  # the network and the library raise many types of errors
            raise ValueError(f"{repository} could not be published: {_one_line(error)}") from error
    return commit.commit_url


def _save(model: object, recipe: Recipe | None, folder: Path, scores: Mapping[str, float] | None) -> Path:
    """Write a model in memory to a weight file in `folder`."""
    from torch import nn

    from objecthood.checkpoint.run import save

    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise ValueError(f"a {kind} cannot be published; pass a model, a name, a weight file or a run folder")
    recipe = recipe or getattr(model, "recipe", None)
    if recipe is None:
        raise ValueError(
            f"this {type(model).__name__} has no `recipe`, which is needed to load it; pass "
            "push_to_hub(model, ..., recipe=oh.RECIPES['...'])"
        )
    return save(model, recipe, folder / WEIGHTS, dict(scores or {}), getattr(model, "calibration", None))


def _facts(source: str | Path, given: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The weight file and its facts; `given` values take precedence."""
    file = hub.resolve(source)
    given = {name: value for name, value in given.items() if value}
    if str(source) in hub.PRETRAINED:
        return file, {**hub.PRETRAINED[str(source)].facts, **given}
    from objecthood.recipes import from_dict

    description = read_description(file)
    settings = description["recipe"]
    if settings.get("data_path"):  # keep the folder's name only: the path is private
        settings["data_path"] = Path(settings["data_path"]).name
    facts = {
        "recipe": settings["name"],
        "settings": settings,
        "seed": settings["seed"],
        "scores": description["scores"],
        "protocol": from_dict(settings).protocol,
        "calibration": description["calibration"],
        "parameters": description["parameters"],
        "bytes": file.stat().st_size,
        "sha256": sha256_of(file),
    }
    if description["frozen"]:
        facts["frozen"] = description["frozen"]
    return file, facts | given


def _drawn(source: str | Path, file: Path, image: str | Path | None) -> Image.Image:
    """The figure of the card: a prediction of `image`, or of the bundled example; latest.png of a run
    folder; validation clips for bundled weights for videos."""
    from PIL import Image

    from objecthood.inference.predict import predict

    if image is None and (Path(source) / "latest.png").is_file():
        with Image.open(Path(source) / "latest.png") as latest:
            return latest.copy()
    if image is None and str(source) in hub.PRETRAINED:
        one = hub.PRETRAINED[str(source)]
        if one.is_video:
            model: Any = hub.load(file)
            return model.recipe.figures(model, {})["clips"]
        image = one.example
    if image is None:
        raise ValueError("the model card needs an image; add push_to_hub(..., image='image.png')")
    return predict(file, image)[0].plot()


def _download(repository: str, name: str, revision: str | None, token: str | None, unreachable: str) -> Path:
    """The file in the Hub's cache, downloaded unless the Hub is `unreachable` (the reason, or "")."""
    try:
        return Path(
            _library().hf_hub_download(
                repository, name, revision=revision, token=token, local_files_only=bool(unreachable)
            )
        )
    except Exception as error:  # as above
        reason = f"no connection to the Hub: {unreachable}" if unreachable else _one_line(error)
        remedy = "check the connection" if unreachable else "check the name"
        raise ValueError(
            f"{name} of {repository} could not be downloaded ({reason}); {remedy}, or use one of "
            f"{', '.join(hub.PRETRAINED)}"
        ) from error


def _unreachable(repository: str, revision: str | None, token: str | None) -> str:
    """Why the Hub is unreachable, or "". A download would retry six times, for 25 seconds."""
    library = _library()
    try:
        address = library.hf_hub_url(repository, FACTS, revision=revision)
        library.get_hf_file_metadata(address, token=token, timeout=10)
    except Exception as error:  # as above
        answered = isinstance(error, library.errors.HfHubHTTPError)
        return "" if answered else _one_line(error)
    return ""


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise ValueError("the Hugging Face Hub needs an extra: pip install 'objecthood[hub]'") from error
    return huggingface_hub


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return textwrap.shorten(text, 200, placeholder=" ...")  # cut between words
