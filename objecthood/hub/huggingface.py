"""Weights from and to the Hugging Face Hub, through huggingface-hub (extra `hub`); nothing is sent unasked.

A repository holds weights.safetensors, config.json (the facts, with the SHA-256 that a download is compared
with), README.md (the model card) and picture.png.
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
from objecthood.runtime.files import parse_json
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
    """The model of weights by name, file or run folder (as `hub.load`), or of a repository of the Hub.

    "OWNER/NAME" is a repository where there is no such file or folder; its weights are kept in the Hub's own
    cache and compared with the SHA-256 that the repository states. `revision` is a branch, tag or commit,
    `token` for what is private. Weights of a recipe class of your own need that `recipe`.

    Without a connection to the Hub, weights in its cache are loaded; others fail at once, without retries.

    Raises ValueError, in one line, where there is nothing of that name, it cannot be fetched, or it is not
    what was published.

    Example:
        >>> import objecthood as oh
        >>> oh.from_pretrained("clevr").num_slots  # comes with the package: no network
        7
    """
    if str(source) in hub.PRETRAINED or Path(source).exists() or not _REPOSITORY.fullmatch(str(source)):
        return hub.load(source, recipe)
    from_cache = _unreachable(str(source), revision, token)
    sha256 = _stated_sha256(_download(str(source), FACTS, revision, token, from_cache), str(source))
    file = _download(str(source), WEIGHTS, revision, token, from_cache)
    hub.check_sha256(file, sha256, f"weights of {source}", "remove that file and fetch them again")
    return hub.load(file, recipe)


def _stated_sha256(file: Path, source: str) -> str:
    """What config.json says of the weights; ValueError where it says nothing, or is not ours."""
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
    raise ValueError(f"{source} was not published by objecthood ({FACTS} {problem}); name another")


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
    picture: str | Path | None = None,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Publish weights with their card as "OWNER/NAME" on the Hub, and return the address of the commit.

    Args:
        source: a model, a name of `hub.PRETRAINED`, whose facts are known, or a run folder or weight file.
        recipe: of a model that `oh.load` and `oh.from_pretrained` did not give; theirs is `model.recipe`.
        scores: on test scenes, such as `oh.evaluate` returns; those that a weight file states unless given.
        licence, data, limits, chosen: what only you can tell of your own weights: the SPDX identifier of the
            licence, what was trained on, what they cannot do, and how the seed was chosen.
        image: shown in the card as the model sees it; of a run folder its latest.png unless named.
        private: whether a repository that is not there yet is made private.
        token: of your account; unless given, the one that `hf auth login` stored.

    Raises ValueError, in one line, where a fact or the image is missing, or the Hub refuses.
    """
    library = _library()
    if isinstance(source, str | Path):
        if recipe is not None:
            raise ValueError("`recipe` goes with a model; a weight file states its own, so leave it out")
    else:
        with tempfile.TemporaryDirectory() as folder:
            file = _save(source, recipe, Path(folder), scores)
            return push_to_hub(
                file,
                repository,
                scores=scores,
                licence=licence,
                data=data,
                limits=limits,
                chosen=chosen,
                picture=picture,
                private=private,
                token=token,
            )
    api = library.HfApi(token=token)
    told = {
        "scores": dict(scores or {}),
        "licence": licence,
        "data": data,
        "limits": limits,
        "chosen": chosen,
    }
    file, facts = _facts(source, told)
    gaps = missing_facts(facts)
    if gaps:
        example = "scores=oh.evaluate(model, recipe)" if gaps[0] == "scores" else f"{gaps[0]}='...'"
        raise ValueError(
            f"nothing is published without {', '.join(gaps)}; say it: push_to_hub(..., {example})"
        )
    content = io.BytesIO()
    _drawn(source, file, picture).save(content, "PNG")
    card = model_card(repository.rpartition("/")[2], facts, PICTURE, f'oh.from_pretrained("{repository}")')
    files: dict[str, Any] = {
        WEIGHTS: str(file),
        FACTS: (json.dumps(facts, indent=1) + "\n").encode(),
        CARD: card.encode(),
        PICTURE: content.getvalue(),
    }
    add = library.CommitOperationAdd
    operations = [add(path_in_repo=name, path_or_fileobj=source) for name, source in files.items()]
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        said = api.create_commit(repository, operations, commit_message="Weights by objecthood")
    except Exception as error:  # what a network and a foreign library may raise is no short list
        raise ValueError(f"{repository} could not be published: {_one_line(error)}") from error
    return said.commit_url


def _save(model: object, recipe: Recipe | None, folder: Path, scores: Mapping[str, float] | None) -> Path:
    """The weight file, in `folder`, of a model in memory."""
    from torch import nn

    from objecthood.checkpoint.run import save

    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise ValueError(
            f"a {kind} cannot be published; give a model, weights by name, a file or a run folder"
        )
    recipe = recipe or getattr(model, "recipe", None)
    if recipe is None:
        raise ValueError(
            f"this {type(model).__name__} does not state its recipe, from which it is built again; name it: "
            "push_to_hub(model, ..., recipe=oh.RECIPES['...'])"
        )
    return save(model, recipe, folder / WEIGHTS, dict(scores or {}), getattr(model, "calibration", None))


def _facts(source: str | Path, told: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The weight file and all that is known of it; what was told goes first."""
    file = hub.resolve(source)
    told = {name: value for name, value in told.items() if value}
    if str(source) in hub.PRETRAINED:
        return file, {**hub.PRETRAINED[str(source)].facts, **told}
    from objecthood.recipes import from_dict

    description = read_description(file)
    settings = description["recipe"]
    if settings.get("data_path"):  # the folder's name tells the data; where it lies is nobody's concern
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
        "sha256": hub.sha256_of(file),
    }
    if description["frozen"]:
        facts["frozen"] = description["frozen"]
    return file, facts | told


def _drawn(source: str | Path, file: Path, picture: str | Path | None) -> Image.Image:
    """What the model sees in the image; without one, in the weights' own, or a run folder's latest."""
    from PIL import Image

    from objecthood.inference.predict import predict

    if picture is None and (Path(source) / "latest.png").is_file():
        with Image.open(Path(source) / "latest.png") as latest:
            return latest.copy()
    if picture is None and str(source) in hub.PRETRAINED:
        picture = hub.PRETRAINED[str(source)].example
    if picture is None:
        raise ValueError("a card needs an image; name one: push_to_hub(..., image='picture.png')")
    return predict(file, picture)[0].plot()


def _download(repository: str, name: str, revision: str | None, token: str | None, unreachable: str) -> Path:
    """The file in the Hub's cache, fetched unless the Hub is `unreachable` (why, else "")."""
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
            f"{name} of {repository} could not be fetched ({reason}); {remedy}, or take one of "
            f"{', '.join(hub.PRETRAINED)}"
        ) from error


def _unreachable(repository: str, revision: str | None, token: str | None) -> str:
    """Why the Hub cannot be reached, in one line, or "". A download would retry six times, for 25 seconds."""
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
