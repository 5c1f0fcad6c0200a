"""The table of weights in README.md and the pages docs/model-zoo.md and docs/methods/autoencoder.md, from the
facts of objecthood/weights/*.json, results/floors.json, results/photographs.json and results/davis.json;
`runs/pages/tables.py` writes them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from published import as_table, read, spread

from objecthood.hub import PRETRAINED
from objecthood.hub.pretrained import WEIGHTS, Pretrained
from objecthood.recipes import RECIPES, from_dict

SCORES = {"fg_ari": "FG-ARI", "ari": "ARI", "mbo": "mBO"}
FLOORS_OF = {"clevr": "clevr6-like", "sprites": "sprites-grey"}
"""Entry of results/floors.json of weights whose recipe has another name."""
DATA_OF = {
    "clevr": "CLEVR-like scenes, 3 to 6 objects",
    "photos-affinity": "photographs (COCO)",
    "photos-slots": "photographs (COCO)",
    "set-clevr": "CLEVR-like scenes, 3 to 10 objects, properties",
    "sprites": "sprites on grey",
    "tetrominoes": "Tetrominoes-like scenes",
    "tetrominoes-guided": "Tetrominoes-like scenes",
    "tetrominoes-unmodified": "Tetrominoes-like scenes",
    "moving-sprites": "clips of moving sprites",
    "camouflage": "clips of random-dot motion",
}
RENDER = "objecthood data render clevr --objects 3-10 --seed 7 --count 5000 --out scenes"
"""Makes the training scenes of weights for CLEVR-like scenes, as their cards say."""
HEAD = (
    "",
    "data",
    "pixels",
    *SCORES.values(),
    "floor: FG-ARI / ARI",
    "training, CPU s",
    "CPU ms per image",
    "file",
)


def readme() -> str:
    """A row for each bundled weight file for images, in README.md."""
    return table(lambda name: f"docs/weights/{name}.md", "docs/methods/photographs.md")


def zoo_table() -> str:
    """The same rows in docs/model-zoo.md, each a link to its section."""
    return table(lambda name: f"#{name}", "#photographs")


def table(link: Callable[[str], str], photos: str) -> str:
    """Scores of one restart, the better colour floor, costs and sizes; `photos` is the link of that row."""
    rows = [[f"[`photos`]({photos})", *photos_cells()]]
    rows += [[f"[`{name}`]({link(name)})", *cells(name, one)] for name, one in bundled(is_video=False)]
    return as_table(list(HEAD), rows, 2)


def bundled(is_video: bool) -> list[tuple[str, Pretrained]]:
    """Weights for videos, or for images, by name."""
    return [(name, one) for name, one in PRETRAINED.items() if one.is_video is is_video]


def videos() -> str:
    """A row for each model of videos, its main score and the best floor: video FG-ARI, and J of `video`."""
    davis = read("davis.json")
    model, plain = (davis["mean"][davis[row]]["J"] for row in ("method", "best_baseline"))
    size = (WEIGHTS / "efficientnet-lite0.safetensors").stat().st_size
    link = "[`video`](methods/moving-objects.md)"
    rows = [[link, "real videos (DAVIS-2016)", f"J {model:.3f}", f"J {plain:.3f}", "-", megabytes(size)]]
    for name, one in bundled(is_video=True):
        found = read("floors.json")[one.facts["recipe"]]
        best = max(found[kind]["video_fg_ari"] for kind in ("components", "kmeans"))
        score = f"video FG-ARI {one.scores['video_fg_ari']:.3f}"
        costs = [f"{one.facts['trained']['cpu_seconds']:.0f}", megabytes(one.facts["bytes"])]
        rows.append([f"[`{name}`](#{name})", DATA_OF[name], score, f"video FG-ARI {best:.3f}", *costs])
    return as_table(["", "data", "score", "floor", "training, CPU s", "file"], rows, 2)


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}\u00a0MB"


def cells(name: str, one: Pretrained) -> list[str]:
    """The row of a weight file after its name."""
    found = {"mbo": one.scores.get("mbo_i"), **one.scores}
    scores = [f"{found[score]:.3f}" if found.get(score) is not None else "-" for score in SCORES]
    if "ap" in one.scores:
        scores = [f"AP {one.scores['ap']:.3f}", "-", "-"]
    side, trained = one.facts["settings"]["resolution"], one.facts["trained"]
    costs = [f"{trained['cpu_seconds']:.0f}", image_cost(name), megabytes(one.facts["bytes"])]
    pixels = "any" if one.facts.get("any_size") else f"{side}\u00a0x\u00a0{side}"
    return [DATA_OF[name], pixels, *scores, floor(name, one), *costs]


def image_cost(name: str) -> str:
    """CPU milliseconds of `oh.predict` for one image."""
    return f"{read('image-cost.json')['cpu_ms'][name]:.0f}"


def exported_cost() -> str:
    """CPU seconds of an image of the graphs of both models of photographs."""
    facts = read("image-cost.json")
    light, cuts = (facts["onnx"][name] / 1000 for name in ("photos-affinity", "photos"))
    machine = facts["machine"]
    return (
        f"At 640 x 480 pixels the graph of `photos-affinity` takes {light:.2f} CPU s, that of `photos` "
        f"{cuts:.2f} ({machine['processor']}, one thread, medians of 7; commit {machine['commit']}).\n"
    )


def photos_cells() -> list[str]:
    """The row of `photos` after its name: mBO over instances, and nothing that is trained."""
    photos, _ = on_photographs()
    scores = [f"{photos['fg_ari']:.3f}", "-", f"{photos['mbo_i']:.3f}", photographs_floor()]
    size = (WEIGHTS / "efficientnet-lite0.safetensors").stat().st_size
    return ["photographs (COCO)", "any", *scores, "-", image_cost("photos"), megabytes(size)]


def photographs_floor() -> str:
    """FG-ARI of the best floor."""
    return f"{max(row['fg_ari'] for row in on_photographs()[1].values()):.3f}\u00a0/\u00a0-"


def on_photographs() -> tuple[dict, dict[str, dict]]:
    """Scores of `photos` and of its floors, by title, on the photographs used for no choice."""
    rows = read("photographs.json")["report"]["rows"]
    floors = {
        "equal blocks": "blocks",
        "k-means on colour and position": "colour-kmeans",
        "k-means on the same features and position": "feature-kmeans",
        "one normalised cut of the same features": "cut-28",
    }
    return rows["consensus"], {title: rows[name] for title, name in floors.items()}


def floor(name: str, one: Pretrained) -> str:
    """FG-ARI and ARI of colour components or colour k-means, whichever is better; "-" if not measured."""
    if "mbo_i" in one.scores:
        return photographs_floor()
    found = read("floors.json").get(FLOORS_OF.get(name, one.facts["recipe"]), {})
    if "components" not in found:
        return "-"
    best = (max(found[kind][score] for kind in ("components", "kmeans")) for score in ("fg_ari", "ari"))
    return "\u00a0/\u00a0".join(f"{value:.3f}" for value in best)


def zoo(is_video: bool = False) -> str:
    """A section for each bundled weight file: image, data, and commands to use and to train it."""
    return "\n".join(section(name, one) for name, one in bundled(is_video))


def section(name: str, one: Pretrained) -> str:
    recipe, seed = one.facts["recipe"], one.facts["seed"]
    rendered = one.facts["settings"].get("data") == "clevr-like"
    trained, today = from_dict(one.facts["settings"]), RECIPES[recipe]
    train = f"objecthood train {recipe} --seed {seed}"
    for field in ("steps", "restart_step"):
        value = getattr(trained, field, None)
        if value != getattr(today, field, None):
            train += f" --{field.replace('_', '-')} {value}"
    train += " --data-path IMAGES" if one.facts["settings"].get("data") == "folder" else ""
    held_out = "held-out clips" if one.is_video else "a held-out image"
    lines = [f"objecthood predict {'VIDEO' if one.is_video else 'IMAGES'} --weights {name} --out found"]
    lines += [f"{RENDER}    # also --split validation, test"] if rendered else []
    lines += [f"{train} --data-path scenes" if rendered else train]
    code = "\n".join(lines)
    return (
        f"### {name}\n\n![Output of {name} on {held_out}](images/weights-{name}.png)\n\n"
        f"*{one.facts['picture']}*\n\n"
        f"{one.facts['data']} Recipe `{recipe}`, {one.facts['parameters']:,} parameters. "
        f"[Model card](weights/{name}.md): all scores, limits and the recipe.\n\n```sh\n{code}\n```\n"
    )


def photographs() -> str:
    """Scores of `photos` beside its floors, on the photographs used for no choice."""
    photos, floors = on_photographs()
    keys = {"fg_ari": "FG-ARI", "mbo_i": "mBO (instances)", "mbo_c": "mBO (classes)"}
    found = {"`photos`": photos} | {f"floor: {title}": row for title, row in floors.items()}
    rows = [
        [title, *(f"{row[key]:.3f}" for key in keys), f"{row['cpu_seconds']:.2f}"]
        for title, row in found.items()
    ]
    return as_table(["", *keys.values(), "CPU s per image"], rows)


def slots_of_photographs() -> str:
    """Scores of trained slots over seeds, of their floors and of `photos`, on the photographs used for no
    choice."""
    found = read("photographs.json")["report"]
    keys = {"fg_ari": "FG-ARI", "mbo_i": "mBO (instances)", "mbo_c": "mBO (classes)"}
    recipes: dict[str, list[dict]] = {}
    for run in found["runs"]:
        recipes.setdefault(run["recipe"], []).append(run)
    rows = []
    for recipe, runs in recipes.items():
        training, image = (
            statistics.median(run[cost] for run in runs) for cost in ("training_cpu_seconds", "cpu_seconds")
        )
        scores = [spread([run[key] for run in runs]) for key in keys]
        rows.append([f"`{recipe}`, {len(runs)} seeds", *scores, f"{training:.0f}", f"{image:.2f}"])
    photos, floors = on_photographs()
    others = {f"floor: {title}": row for title, row in floors.items()} | {"`photos`": photos}
    for title, row in others.items():
        rows.append([title, *(f"{row[key]:.3f}" for key in keys), "-", f"{row['cpu_seconds']:.2f}"])
    table = as_table(["", *keys.values(), "training, CPU s", "CPU s per image"], rows)
    return f"{table}\n{found['photographs']} photographs of COCO, used for no choice: {found['protocol']}.\n"


def small_objects() -> str:
    """`photos` with small segments of a finer grid, on the photographs used for no choice, in %."""
    found = read("photographs.json")["report"]["fine"]
    scores = {"fg_ari": "FG-ARI", "mbo_i": "mBO_i", "mbo_c": "mBO_c"}
    low, middle, high = (f"{100 * size:.1f}".removesuffix(".0") for size in found["sizes"][1:-1])
    words = (f"below {low} %", f"to {middle} %", f"to {high} %", "above")
    sizes = [f"{size} ({number})" for size, number in zip(words, found["objects"], strict=True)]
    rows = []
    titles = {"plain": "`photos`", "fine": "`--fine`", "as-many": "as many segments, without `--fine`"}
    for method, title in titles.items():
        row = found["rows"][method]
        cells = [f"{100 * value:.1f}" for value in (*(row[name] for name in scores), *row["by_size"])]
        rows += [[title, *cells, f"{row['segments']:.0f}", f"{row['cpu_seconds']:.2f}"]]
    gain = found["rows"]["fine"]
    pairs = [*(gain["difference"][name] for name in scores), *gain["difference_by_size"]]
    cells = [f"{100 * mean:+.1f}\u00a0±\u00a0{100 * error:.1f}" for mean, error in pairs]
    rows += [["`--fine`, paired difference", *cells, "", ""]]
    return as_table(["", *scores.values(), *sizes, "segments", "CPU s per image"], rows)
