"""Model cards of published weights: licence, data, scores with protocol and seeds, limitations.

The YAML header follows huggingface.co/docs/hub/model-cards. All content comes from `hub.Pretrained.facts`; a
card with a missing fact is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from objecthood.models.base import ATTENTION, MOST
from objecthood.recipes import RECIPES
from objecthood.recipes.score_names import by_restarts, title

REQUIRED = (
    "licence",
    "data",
    "limits",
    "scores",
    "protocol",
    "seed",
    "recipe",
    "settings",
    "sha256",
    "chosen",
)
"""Facts that a model card needs."""
_MEASURES = {
    MOST: "the 75th percentile of the pixel error",
    ATTENTION: "uncertainty of the attention",
}
"""What a card calls the measures that are stored under these names."""


def missing_facts(facts: Mapping[str, Any]) -> list[str]:
    """The required facts that are missing or empty."""
    return [name for name in REQUIRED if facts.get(name) in (None, "", {}, [])]


def model_card(name: str, facts: Mapping[str, Any], picture: str, load: str) -> str:
    """A model card in Markdown.

    Args:
        name: heading.
        facts: as in `hub.Pretrained`.
        picture: path of the image, relative to the card.
        load: Python expression that loads the weights.

    Raises ValueError if a required fact is missing.

    Example:
        >>> from objecthood.hub import PRETRAINED
        >>> facts = PRETRAINED["sprites"].facts
        >>> model_card("sprites", facts, "sprites.png", 'oh.load("sprites")').splitlines()[:3]
        ['---', 'library_name: objecthood', 'license: apache-2.0']
    """
    gaps = missing_facts(facts)
    if gaps:
        raise ValueError(f"the model card needs {', '.join(gaps)}; add them to the facts of {name!r}")
    fields = {
        key: value for key, value in facts["settings"].items() if key not in ("description", "expected")
    }
    parts = [
        _head(name, facts),
        f"# {name}\n\n{_description(facts)}".strip() + ".",
        f"![Output on held-out data]({picture})",
        f"*{facts['picture']}*" if facts.get("picture") else "",
        _use(load, "video_fg_ari" in facts["scores"]),
        f"## Scores\n\n{_scores(facts)}",
        f"## Seed\n\n{_seeds(facts)}",
        f"## Data\n\n{facts['data']}",
        f"## Limits\n\n{facts['limits']}\n\n{_warnings(facts)}".rstrip(),
        f"## The file\n\n{_file(facts)}",
        f"## Recipe\n\n```json\n{json.dumps(fields, indent=1)}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _description(facts: Mapping[str, Any]) -> str:
    """What the recipe is for, without options and costs; in today's words if it is one of `RECIPES`."""
    settings = facts["settings"]
    recipe = RECIPES.get(settings.get("name", ""))
    text = recipe.description if recipe else settings.get("description", "")
    return re.split(r"; |: --", text)[0]


def _head(name: str, facts: Mapping[str, Any]) -> str:
    """The YAML header; texts are JSON strings, which are valid YAML."""
    kind = "object-detection" if "ap" in facts["scores"] else "image-segmentation"
    metrics = [
        f"          - type: {score}\n            name: {json.dumps(title(score))}\n"
        f"            value: {value:.4f}"
        for score, value in facts["scores"].items()
    ]
    data = json.dumps(f"{facts['settings'].get('data', 'own')} (generated or own images)")
    return "\n".join(
        [
            "---",
            "library_name: objecthood",
            f"license: {facts['licence'].lower()}",
            f"pipeline_tag: {kind}",
            "tags: [slot-attention, object-centric-learning, unsupervised]",
            "model-index:",
            f"  - name: {json.dumps(name)}",
            "    results:",
            f"      - task: {{type: {kind}}}",
            f"        dataset: {{name: {data}, type: {facts['settings'].get('data', 'own')}}}",
            "        metrics:",
            *metrics,
            "---",
        ]
    )


def _use(load: str, is_video: bool) -> str:
    lines = ['(result,) = oh.predict(model, "image.png")', 'result.plot().save("prediction.png")']
    if is_video:
        lines = ['result = oh.predict_video(model, "clip.mp4", "found")', 'result.files["video"]']
    return "\n".join(["```python\nimport objecthood as oh\n", f"model = {load}", *lines, "```"])


def _scores(facts: Mapping[str, Any]) -> str:
    by_row = by_restarts(facts["scores"])
    names = list(next(iter(by_row.values())))
    rows = [
        ["", *(title(name) for name in names)],
        ["---", *["---:"] * len(names)],
        *([row, *(f"{scores[name]:.3f}" for name in names)] for row, scores in by_row.items()),
    ]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    taken = f"Seed {facts['seed']}; {facts['protocol']}."
    return f"{table}\n\n{taken} Not comparable with scores on published data sets."


def _seeds(facts: Mapping[str, Any]) -> str:
    lines = [f"{facts['chosen']}."]
    validation = facts.get("validation")
    if validation:
        each = ", ".join(f"seed {seed}: {score:.3f}" for seed, score in validation["seeds"].items())
        lines.append(f"{title(validation['score'])} on validation scenes: {each}.")
    tests = facts.get("test_by_seed")
    if tests and len(tests) > 1:
        each = ", ".join(f"seed {seed}: {score:.3f}" for seed, score in tests.items())
        lines.append(f"On test scenes: {each}.")
    return " ".join(lines)


def _warnings(facts: Mapping[str, Any]) -> str:
    shares = facts.get("warnings")
    if not shares:
        return ""
    measures = [_MEASURES.get(name, name) for name in facts["calibration"]["quantiles"]]
    each = "; ".join(f"{kind}: {share:.0%}" for kind, share in shares.items())
    return (
        f"`predict` warns of out-of-distribution images by {' and '.join(measures)}. "
        "Share of images with a warning, measured on the kinds of images used to choose the thresholds: "
        f"{each}."
    )


def _file(facts: Mapping[str, Any]) -> str:
    trained = facts.get("trained", {})
    lines = [f"- SHA-256 `{facts['sha256']}`"]
    if "bytes" in facts:
        lines.append(f"- {facts['parameters']:,} parameters, {facts['bytes']:,} bytes, safetensors")
    for part in facts.get("frozen", {}).values():
        revision = f", revision `{part['revision']}`" if part["revision"] else ""
        lines.append(
            f"- frozen weights `{part['name']}`{revision} are not in the file; loading restores them and "
            f"compares the SHA-256 of their tensors, `{part['sha256']}`"
        )
    lines.append(f"- licence {facts['licence']}")
    if trained:
        cpu, wall, machine = (trained[key] for key in ("cpu_seconds", "wall_seconds", "machine"))
        seconds = f"{cpu:.0f} CPU seconds ({wall:.0f} on the clock)"
        lines.append(f"- trained in {seconds} on {machine['processor']}, commit {machine['commit']}")
    return "\n".join(lines)
