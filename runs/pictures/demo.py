"""Milliseconds that one image takes on the static page of the demo, in Chromium: results/demo.json.

    make site                   # for onnxruntime-web
    python runs/pictures/demo.py                 # needs Chromium, and the extras [export] and [browser]
    python runs/pictures/demo.py --photographs   # the page of photographs alone: "photographs" of the file
    python runs/pictures/demo.py --live          # the page of live images alone: "live" of the file
    python runs/pictures/demo.py --pictures      # docs/images/demo*.webp: the pages, on a desk and on a phone

Every model looks at 20 images like those it was trained on, `ROUNDS` times over, after some that are not
counted: a PNG in memory to slots and attention of every iteration (`look` in engine-browser.js), the painting
of the last (`decode`), and the image put together (`compose`). Wall time is that of the page's clock, told
in quantiles, as other programs may run; processor time is Chromium's own count for the thread of the page, on
which all of it runs at the first visit; from the second on onnxruntime-web may take threads (`isolate.js`).
"""

from __future__ import annotations

import base64
import io
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from objecthood.demo.server import build_app
from objecthood.demo.shown import LIVE, load_shown, png_of
from objecthood.demo.site import build_site
from objecthood.export.examples import example_images
from objecthood.runtime import environment

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from browser import DONE, Visit, chromium, serving_folder  # noqa: E402
from serving import serving  # noqa: E402

PICTURES, ROUNDS = 20, 5
VISITS = 5
READY = """new MutationObserver(() => {
  if (document.body?.dataset.state === "ready") globalThis.readyAt ??= performance.now();
}).observe(document, { subtree: true, attributes: true, attributeFilter: ["data-state"] });"""
DIVIDE = """async (number) => {
  globalThis.engine ??= await import("./engine-browser.js");
  const { segmentsAtSize } = await import("./segments.js");
  const { models: [model] } = await (await fetch("config.json")).json(), times = [];
  for (let index = 0; index < number; index++) {
    const file = await (await fetch(model.samples[index % model.samples.length])).blob();
    const begun = performance.now(), bitmap = await createImageBitmap(file);
    const found = await engine.divide(model, file, bitmap, 0);
    segmentsAtSize(found, bitmap.width, bitmap.height);
    const divided = performance.now();
    if (number > 1) segmentsAtSize(await engine.divide(model, file, bitmap, 8), bitmap.width, bitmap.height);
    times.push([divided - begun, performance.now() - divided]);
  }
  return times;
}"""
AGAIN = """async (number) => {
  const { models: [model] } = await (await fetch("config.json")).json();
  const file = await (await fetch(model.samples[0])).blob(), bitmap = await createImageBitmap(file);
  for (let index = 0; index < number; index++) await engine.divide(model, file, bitmap, index % 2 ? 8 : 0);
}"""
SEGMENT = """async (number) => {
  globalThis.engine ??= await import("./engine-browser.js");
  const { drawLayer, segmentsAtSize } = await import("./segments.js");
  const { models: [model] } = await (await fetch("config.json")).json(), times = [];
  const bitmap = await createImageBitmap(await (await fetch(model.samples[0])).blob());
  const frame = new OffscreenCanvas(480, 360), context = frame.getContext("2d");
  for (let index = 0; index < number; index++) {
    context.drawImage(bitmap, 4 * index, 0, 240, 180, 0, 0, 480, 360);
    const begun = performance.now(), found = await engine.segment(model, frame);
    const segments = { number: found.number, ...segmentsAtSize(found, 480, 360) };
    drawLayer(new OffscreenCanvas(480, 360), segments, new Set());
    times.push(performance.now() - begun);
  }
  return times;
}"""
THREADS = 'import("./runtime/ort.wasm.bundle.min.mjs").then((ort) => ort.env.wasm.numThreads)'
QUANTILES = {"least": 0.0, "tenth": 0.1, "median": 0.5, "nine tenths": 0.9}
MEASURE = """async ([name, images, iterations, rounds]) => {
  const engine = await import("./engine-browser.js");
  const { compose } = await import("./compose.js");
  const { models } = await (await fetch("config.json")).json();
  const model = models.find((one) => one.name === name), size = model.resolution ** 2;
  iterations ||= model.iterations;
  const options = { numSlots: model.num_slots, iterations, seed: 0, spread: 0 };
  const bytes = (text) => Uint8Array.from(atob(text), (at) => at.charCodeAt(0));
  const blobs = images.map((text) => new Blob([bytes(text)]));
  const see = async (blob) => {
    const begun = performance.now();
    const { slots, attention } = await engine.look(model, blob, options);
    const looked = performance.now();
    const { appearance, logits } = await engine.decode(model, slots.at(-1), attention.at(-1));
    const painted = performance.now();
    compose(Array.from({ length: model.num_slots }, (_, index) => ({
      appearance: appearance.subarray(3 * size * index, 3 * size * (index + 1)),
      logits: logits.subarray(size * index, size * (index + 1)),
    })), size);
    const composed = performance.now();
    return [looked - begun, painted - looked, composed - painted, composed - begun];
  };
  for (const blob of blobs.slice(0, rounds ? 3 : 1)) await see(blob);
  const times = [];
  for (let round = 0; round < rounds; round++) for (const blob of blobs) times.push(await see(blob));
  return times;
}"""


def main() -> None:
    shown = load_shown([])
    if "--pictures" in sys.argv:
        return take_images(shown)
    if "--photographs" in sys.argv:
        return measure_photographs()
    if "--live" in sys.argv:
        return measure_live()
    shown = [one for one in shown if one.kind == "slots"]
    with tempfile.TemporaryDirectory() as folder:
        runtime = ROOT / "web" / "node_modules" / "onnxruntime-web" / "dist"
        site = build_site(shown, Path(folder) / "site", runtime)
        with chromium() as browser, serving_folder(site) as port:
            known = environment.describe() | {"browser": f"Chromium {browser.version}, headless"}
            asked = [(again, iterations) for again in (False, True) for iterations in (0, 3)]
            found = {one.name: [measure(browser, port, one, *how) for how in asked] for one in shown}
    result = {
        "name": "demo",
        "environment": known,
        "load": os.getloadavg()[0],
        "protocol": f"{PICTURES} test images of each model's data, {ROUNDS} times each, in the "
        "static page, in milliseconds: wall time in quantiles, processor time of the page's thread in the "
        "mean; load is the machine's mean number of running programs in the last minute, at the end",
        "models": found,
    }
    target = ROOT / "results" / "demo.json"
    if target.exists():
        before = json.loads(target.read_text())
        result |= {part: before[part] for part in ("photographs", "live") if part in before}
    target.write_text(json.dumps(result, indent=1) + "\n")


def measure_photographs() -> None:
    """Seconds of a photograph on the static page: at its opening, at the first division, and later."""
    target, runtime = (
        ROOT / "results" / "demo.json",
        ROOT / "web" / "node_modules" / "onnxruntime-web" / "dist",
    )
    number, found = 3, []
    with tempfile.TemporaryDirectory() as folder:
        site = build_site(load_shown(["photos"]), Path(folder) / "site", runtime)
        with chromium() as browser, serving_folder(site) as port:
            for _ in range(VISITS):
                opened = measure_opening(browser, port)
                context = browser.new_context()
                page = context.new_page()
                page.goto(f"http://127.0.0.1:{port}/icon.svg")  # a page on which nothing runs
                clock = context.new_cdp_session(page)
                clock.send("Performance.enable", {"timeDomain": "threadTicks"})
                ticks, walls = [busy(clock)], []
                for count in (1, number):
                    walls.append(page.evaluate(DIVIDE, count))
                    ticks.append(busy(clock))
                page.evaluate(AGAIN, 1)
                ticks.append(busy(clock))
                page.evaluate(AGAIN, 1 + number)
                ticks.append(busy(clock))
                context.close()
                again = (ticks[4] - ticks[3] - (ticks[3] - ticks[2])) / number
                found.append(
                    {
                        "page opened": opened,
                        "first": {"wall": walls[0][0][0] / 1000, "cpu": ticks[1] - ticks[0]},
                        "later": {
                            "wall": float(np.median([pair[0] for pair in walls[1]])) / 1000,
                            "cpu": (ticks[2] - ticks[1]) / number - again,
                        },
                        "number of segments changed": {
                            "wall": float(np.median([pair[1] for pair in walls[1]])) / 1000,
                            "cpu": again,
                        },
                    }
                )
            known = environment.describe() | {"browser": f"Chromium {browser.version}, headless"}
    middle = {
        what: {
            kind: round(float(np.median([visit[what][kind] for visit in found])), 3)
            for kind in ("wall", "cpu")
        }
        for what in found[0]
    }
    result = json.loads(target.read_text())
    paired = result.get("photographs", {}).get("paired")
    result["photographs"] = {
        "seconds": middle,
        "environment": known,
        "load": os.getloadavg()[0],
        "threads": 1,
        "protocol": "the sample photographs in the static page, `photos-affinity`, one thread; "
        f"{VISITS} visits (medians), everything fetched from this machine; page opened: from navigation "
        "until the first sample is segmented and drawn, which a visitor's own photograph follows; first: "
        "from a photograph at hand to its segments, with the script of the page loaded and neither "
        "onnxruntime-web nor the graphs; later: from choosing a photograph to its segments, medians of "
        f"{number}; CPU: processor time of the page's thread, beside which the browser compiles on others",
    } | ({"paired": paired} if paired else {})
    target.write_text(json.dumps(result, indent=1) + "\n")
    print(middle)


def measure_opening(browser, port: int) -> dict[str, float]:
    """Seconds from navigation until the first photograph is segmented and drawn."""
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(READY)
    clock = context.new_cdp_session(page)
    clock.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(f"http://127.0.0.1:{port}/")
    page.wait_for_selector(DONE, timeout=60_000)
    seconds = {"wall": page.evaluate("readyAt") / 1000, "cpu": busy(clock)}
    context.close()
    return seconds


def measure_live() -> None:
    """Milliseconds of a frame on the static page, from its pixels to the layer of colours."""
    target = ROOT / "results" / "demo.json"
    runtime = ROOT / "web" / "node_modules" / "onnxruntime-web" / "dist"
    number, found = 20, []
    with tempfile.TemporaryDirectory() as folder:
        site = build_site(load_shown([LIVE]), Path(folder) / "site", runtime)
        with chromium() as browser, serving_folder(site) as port:
            for again in (False, True):
                with Visit(browser, port) as visit:
                    if again:
                        visit.page.evaluate("navigator.serviceWorker.ready")
                        visit.page.reload()
                        visit.page.wait_for_selector(DONE)
                    visit.page.evaluate(SEGMENT, 3)
                    clock = visit.context.new_cdp_session(visit.page)
                    clock.send("Performance.enable", {"timeDomain": "threadTicks"})
                    before = busy(clock)
                    times = visit.page.evaluate(SEGMENT, number)
                    seconds = busy(clock) - before
                    one = {
                        "visit": "second" if again else "first",
                        "threads": visit.page.evaluate(THREADS),
                        "wall": {
                            name: round(float(np.quantile(times, at))) for name, at in QUANTILES.items()
                        },
                        "processor": round(1000 * seconds / number),
                    }
                    print(one, flush=True)
                    found.append(one)
            known = environment.describe() | {"browser": f"Chromium {browser.version}, headless"}
    result = json.loads(target.read_text())
    result["live"] = {
        "milliseconds": found,
        "environment": known,
        "load": os.getloadavg()[0],
        "protocol": f"{number} frames of 480 x 360 pixels in the static page, computed at 320 x 240 "
        "pixels; wall time in quantiles, processor time of the page's thread in the mean, in milliseconds, "
        "from a frame to its layer of colours",
    }
    target.write_text(json.dumps(result, indent=1) + "\n")


def take_images(shown: list) -> None:
    """The page as it is first seen, in light colours; on a phone in dark ones, with a thing moved over."""
    images = ROOT / "docs" / "images"
    windows = {
        "demo-photograph": {"viewport": {"width": 1200, "height": 1330}, "color_scheme": "light"},
        "demo-live": {"viewport": {"width": 1200, "height": 1010}, "color_scheme": "light"},
        "demo": {"viewport": {"width": 1200, "height": 1130}, "color_scheme": "light"},
        "demo-phone": {"viewport": {"width": 390, "height": 1500}, "color_scheme": "dark", "is_mobile": True},
    }
    with chromium() as browser, serving(build_app(shown)) as port:
        for name, window in windows.items():
            with Visit(browser, port, **window) as visit:
                if "photograph" not in name:
                    visit.page.select_option("#model", LIVE if "live" in name else "clevr")
                    visit.settle()
                if "phone" in name:
                    visit.page.locator(".view span").last.click()
                    visit.page.locator(".bench .move").nth(0).click()
                    visit.settle()
                visit.page.mouse.move(1, 1)
                visit.page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
                # Seconds and frames a second of a machine that also drives a browser say nothing.
                for seconds in ("#photograph-facts", "#live-facts"):
                    visit.page.eval_on_selector(
                        seconds, "line => line.style.setProperty('visibility', 'hidden')"
                    )
                file = io.BytesIO(visit.page.screenshot())
                Image.open(file).convert("RGB").save(images / f"{name}.webp", quality=85, method=6)


def measure(browser, port: int, one, again: bool, iterations: int) -> dict:
    """Milliseconds an image, at the first visit or at the next; `iterations` are the model's own where 0."""
    planes = example_images(one.model, PICTURES).permute(0, 2, 3, 1).numpy()
    files = [png_of(np.rint(255 * pixels).astype(np.uint8)) for pixels in planes]
    pictures = [base64.b64encode(file).decode() for file in files]
    given = [one.name, pictures, iterations]
    with Visit(browser, port) as visit:
        if again:
            visit.page.evaluate("navigator.serviceWorker.ready")
            visit.page.reload()
            visit.page.wait_for_selector(DONE)
        threads = visit.page.evaluate(THREADS)
        visit.page.evaluate(MEASURE, [*given, 1])
        clock = visit.context.new_cdp_session(visit.page)
        clock.send("Performance.enable", {"timeDomain": "threadTicks"})
        before = busy(clock)
        times = np.array(visit.page.evaluate(MEASURE, [*given, ROUNDS]))
        seconds = busy(clock) - before
    quantiles = {name: float(np.quantile(times[:, -1], at).round(1)) for name, at in QUANTILES.items()}
    parts = dict(
        zip(("look", "decode", "compose"), np.median(times[:, :-1], axis=0).round(1).tolist(), strict=True)
    )
    facts = {
        "visit": "second" if again else "first",
        "threads": threads,
        "resolution": one.model.resolution,
        "slots": one.model.num_slots,
        "iterations": iterations or one.model.grouping.slot_attention.iterations,
        "pictures": len(times),
        "wall": quantiles,
        "parts (medians)": parts,
        "processor": round(1000 * seconds / (len(times) + 3), 1),
    }
    print(one.name, facts, flush=True)
    return facts


def busy(clock) -> float:
    """Seconds that the page's thread has computed."""
    metrics = {line["name"]: line["value"] for line in clock.send("Performance.getMetrics")["metrics"]}
    return metrics["TaskDuration"]


if __name__ == "__main__":
    main()
