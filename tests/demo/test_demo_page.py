"""The page in a browser, both ways: with PyTorch behind it, and as plain files that run the model
themselves."""

import contextlib
import io
import itertools
from importlib.util import find_spec

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image
from places import ROOT

pytest.importorskip("starlette", reason="needs the extra [demo]")
pytest.importorskip("uvicorn", reason="needs the extra [demo]")

from browser import DONE, Visit, chromium, serving_folder
from serving import serving

import objecthood as oh
from objecthood.demo.server import build_app
from objecthood.demo.shown import Shown, load_shown
from objecthood.demo.site import RUNTIME, build_site
from objecthood.export.export import _stable_images
from objecthood.models import SlotOutput
from objecthood.models.placement import FITS, place

WEB = ROOT / "web" / "node_modules" / "onnxruntime-web" / "dist"
A, B = ".bench:nth-of-type(1)", ".bench:nth-of-type(2)"
LAST = oh.RECIPES["tetrominoes"].test_iterations
pytestmark = [pytest.mark.xdist_group("demo page"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def served(browser):
    with serving(build_app(load_shown(["tetrominoes", "sprites"]))) as port:
        yield port


@pytest.fixture(scope="module")
def static(browser, tmp_path_factory):
    if not WEB.is_dir():
        pytest.skip("needs onnxruntime-web (npm ci --ignore-scripts --prefix web)")
    for needed in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(needed, reason="needs the extra [export]")
    folder = tmp_path_factory.mktemp("site") / "site"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # traced sizes are no int
        build_site(load_shown(["tetrominoes"]), folder, WEB, say=lambda line: None)
    with serving_folder(folder) as port:
        yield port


@contextlib.contextmanager
def both_ways(shown, folder):
    """Ports of a page: with PyTorch behind it, and as plain files if they can be built."""
    with serving(build_app(shown)) as served:
        if not WEB.is_dir() or find_spec("onnxscript") is None:
            yield [served]
            return
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # traced sizes are no int
            build_site(shown, folder, WEB, say=lambda line: None)
        with serving_folder(folder) as static:
            yield [served, static]


@pytest.fixture(scope="module")
def photographs(browser, tmp_path_factory):
    with both_ways(load_shown(["photos"]), tmp_path_factory.mktemp("photographs") / "site") as ports:
        yield ports


@pytest.fixture(scope="module")
def live(browser, tmp_path_factory):
    """Slots that do not yet know anything."""
    torch.manual_seed(0)
    shown = [Shown("slots", oh.RECIPES["photos-slots"].build_model().eval(), "Untrained.")]
    with both_ways(shown, tmp_path_factory.mktemp("live") / "site") as ports:
        yield ports


@pytest.fixture(params=["served", "static"])
def port(request):
    return request.getfixturevalue(request.param)


server_alone = pytest.mark.parametrize(
    "port", ["served", pytest.param("static", marks=pytest.mark.long)], indirect=True
)
"""Tests of what the page does with what it was given: `make test` runs them with PyTorch behind it alone.
Those of what the browser computes run both ways."""


@pytest.fixture
def visit(browser, port):
    """A window on the page, whose console must stay silent and which must ask no other host."""
    with Visit(browser, port) as visit:
        yield visit
        assert visit.problems == []
        assert visit.foreign == []


def png(side: int = 64, seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def upload(visit: Visit, content: bytes, name: str = "mine.png", kind: str = "image/png") -> str:
    visit.page.set_input_files(f"{A} input[type=file]", {"name": name, "mimeType": kind, "buffer": content})
    return visit.settle()


def test_objects_are_found_and_shown(visit):
    assert visit.page.get_attribute("body", "data-state") == "ready"
    assert visit.page.locator(f"{A} .slot").count() == 4
    for canvas in (".picture", ".rebuilt", ".slot canvas"):
        for bench in (A, B):
            assert visit.count_colours(f"{bench} {canvas}") > 10, f"{bench} {canvas} is blank"
    held = int(visit.page.inner_text(f"{A} .facts").split()[0])
    assert 2 <= held <= 4
    assert visit.page.locator("#status").is_hidden()


def test_the_slider_walks_through_attention_and_painting(visit):
    shown = []
    for iteration in (1, 2, LAST):
        visit.set("iteration", iteration)
        assert visit.page.inner_text("#iteration-value") == f"{iteration} of {LAST}"
        shown.append([visit.pixels(f"{A} {canvas}") for canvas in (".picture", ".slot canvas", ".rebuilt")])
    for earlier, later in zip(shown[:-1], shown[1:], strict=True):
        assert all(one != other for one, other in zip(earlier, later, strict=True))
    visit.set("iteration", 2)
    assert visit.pixels(f"{A} .picture") == shown[1][0]


def test_slots_and_iterations_change_it_at_once(visit):
    visit.set("slots", 9)
    assert visit.page.locator(f"{A} .slot").count() == visit.page.locator(f"{B} .slot").count() == 9
    assert "5 more slots than in training" in visit.page.inner_text("#start-note")
    visit.set("slots", 2)
    assert visit.page.locator(f"{A} .slot").count() == 2
    before = visit.pixels(f"{A} .rebuilt")
    visit.set("iterations", 1)
    assert visit.page.inner_text("#iteration-value") == "1 of 1"
    assert visit.pixels(f"{A} .rebuilt") != before


def test_rolling_says_what_is_rolled_and_can_be_undone(visit):
    learned = visit.pixels(f"{A} .slot canvas")
    assert "learned initial slots" in visit.page.inner_text("#start-note")
    visit.page.click("#roll")
    assert visit.settle() == "ready"
    assert "noise is added" in visit.page.inner_text("#start-note")
    visit.set("iteration", 1)
    rolled = visit.pixels(f"{A} .slot canvas")
    visit.page.click("#roll")
    visit.settle()
    visit.set("iteration", 1)
    assert visit.pixels(f"{A} .slot canvas") != rolled
    visit.page.click("#unroll")
    visit.settle()
    assert visit.pixels(f"{A} .slot canvas") == learned
    assert visit.page.locator("#unroll").is_hidden()


@server_alone
def test_a_slot_is_switched_off_and_on(visit):
    before = visit.pixels(f"{A} .rebuilt")
    # By its place: who is empty changes as others take over what it held.
    key = visit.page.locator(f"{A} .slot:not(.empty)").first.get_attribute("data-key")
    slot = visit.page.locator(f"{A} .slot[data-key={key}] input")
    slot.uncheck()
    assert visit.page.locator(f"{A} .slot.off").count() == 1
    assert visit.pixels(f"{A} .rebuilt") != before
    slot.check()
    assert visit.pixels(f"{A} .rebuilt") == before
    for box in visit.page.locator(f"{A} .slot input").all():
        box.uncheck()
    assert "0 of 0 slots" in visit.page.inner_text(f"{A} .facts")


def object_place(visit: Visit) -> tuple[int, dict[str, float]]:
    """A slot of image A that holds a thing, not the ground: its index, and where (in 0..1) it is seen."""
    return visit.page.evaluate(
        """async () => {
          const rows = [...document.querySelectorAll(".bench")[0].querySelectorAll(".slot")];
          document.querySelector("input[value=decode]").click();
          const areas = rows.map((row) => {
            const canvas = row.querySelector("canvas"), side = canvas.width;
            const data = canvas.getContext("2d").getImageData(0, 0, side, side).data;
            const held = [];
            for (let at = 0; at < side * side; at++) {
              const chequers = [[47, 47, 51], [36, 36, 40]];
              const isFar = (part, channel) => Math.abs(part - data[4 * at + channel]) > 60;
              const far = chequers.every((grey) => grey.some(isFar));
              if (far) held.push(at);
            }
            return { held, side };
          });
          const fits = areas.map(({ held, side }) => (held.length < side * side / 4 ? held.length : 0));
          const best = fits.indexOf(Math.max(...fits)), { held, side } = areas[best];
          const middle = held[Math.floor(held.length / 2)];
          return [best, { x: ((middle % side) + 0.5) / side, y: (Math.floor(middle / side) + 0.5) / side }];
        }"""
    )


@server_alone
def test_a_click_on_a_thing_switches_its_slot(visit):
    index, place = object_place(visit)
    box = visit.page.locator(f"{A} .picture").bounding_box()
    visit.page.mouse.click(box["x"] + place["x"] * box["width"], box["y"] + place["y"] * box["height"])
    assert visit.page.locator(f"{A} .slot").nth(index).get_attribute("class") == "slot off" or (
        visit.page.locator(f"{A} .slot.off").count() == 1
    )


@server_alone
def test_a_thing_is_dragged_to_the_other_image(visit):
    _, place = object_place(visit)
    box, other = (visit.page.locator(f"{bench} .picture").bounding_box() for bench in (A, B))
    visit.page.mouse.move(box["x"] + place["x"] * box["width"], box["y"] + place["y"] * box["height"])
    visit.page.mouse.down()
    visit.page.mouse.move(other["x"] + 50, other["y"] + 50, steps=5)
    assert visit.page.locator(".ghost").count() == 1
    visit.page.mouse.up()
    assert visit.page.locator(".ghost").count() == 0
    assert visit.page.locator(f"{B} .slot.guest").count() == 1
    assert visit.page.locator(f"{A} .slot").count() == 3


@server_alone
def test_a_slot_moves_to_the_other_image_and_back_by_keyboard(visit):
    before = [visit.pixels(f"{bench} .rebuilt") for bench in (A, B)]
    button = visit.page.locator(f"{A} .slot:not(.empty) .move").first
    button.focus()
    visit.page.keyboard.press("Enter")
    assert visit.page.locator(f"{A} .slot").count() == 3 and visit.page.locator(f"{B} .slot").count() == 5
    after = [visit.pixels(f"{bench} .rebuilt") for bench in (A, B)]
    assert after[0] != before[0] and after[1] != before[1]
    assert "guest" in visit.page.evaluate("document.activeElement.closest('.slot').className")
    visit.page.keyboard.press("Enter")
    assert [visit.pixels(f"{bench} .rebuilt") for bench in (A, B)] == before


@server_alone
def test_everything_is_reached_and_named_by_keyboard(visit):
    visit.page.evaluate("document.activeElement.blur()")
    named = []
    for _ in range(80):
        visit.page.keyboard.press("Tab")
        name = visit.page.evaluate(
            """() => {
              const at = document.activeElement;
              if (at === document.body) return "";
              const label = at.labels && [...at.labels].map((one) => one.textContent).join(" ");
              return `${at.tagName} ${at.getAttribute("aria-label") || label || at.textContent}`.trim();
            }"""
        )
        if not name:
            break
        assert len(name.split()) > 1, f"{name} has no name"
        named.append(name)
    text = " | ".join(named)
    for wanted in (
        "Play the iterations", "Iteration", "Slots", "Iterations", "Restart with noise", "New scene",
        "Your image", "Slot 1 of image A, shown", "Move slot 1 of image A to image B",
        "attention",
    ):  # fmt: skip
        assert wanted in text, f"{wanted} cannot be reached; {text}"
    visit.page.focus("#iteration")
    visit.page.keyboard.press("ArrowLeft")
    assert visit.settle() == "ready" and visit.page.inner_text("#iteration-value") == f"{LAST - 1} of {LAST}"


@server_alone
def test_every_control_and_canvas_has_a_label(visit):
    unnamed = visit.page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, canvas")].filter((at) => !(
          at.getAttribute("aria-label") || at.textContent.trim() || (at.labels && at.labels.length)
        )).map((at) => at.outerHTML)"""
    )
    assert unnamed == []
    ids = visit.page.evaluate("[...document.querySelectorAll('[id]')].map((at) => at.id)")
    assert len(ids) == len(set(ids))


@server_alone
def test_a_phone_is_wide_enough(browser, port):
    window = {"width": 360, "height": 740}
    with Visit(browser, port, viewport=window, is_mobile=True, has_touch=True, color_scheme="dark") as visit:
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
        assert visit.page.evaluate("innerWidth") == 360
        visit.page.tap(f"{A} .slot .move")
        assert visit.page.locator(f"{B} .slot.guest").count() == 1
        dark = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        visit.page.tap("#theme")
        assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
        assert visit.problems == [] and visit.foreign == []


def test_a_image_of_ones_own_is_looked_at_and_doubted(visit):
    before = visit.pixels(f"{A} .picture")
    assert upload(visit, png(200)) == "ready"
    assert visit.pixels(f"{A} .picture") != before
    assert "out of distribution" in visit.page.inner_text(f"{A} .facts")
    assert "out of distribution" not in visit.page.inner_text(f"{B} .facts")


@pytest.mark.parametrize("port", ["static"], indirect=True)
def test_what_is_no_image_leaves_the_last_one(visit):
    before = visit.pixels(f"{A} .picture")
    upload(visit, b"<html>", "page.html", "image/png")
    visit.page.wait_for_selector("#status:not([hidden])")
    assert visit.settle() == "ready"
    assert "cannot read that file" in visit.page.inner_text("#status")
    assert visit.pixels(f"{A} .picture") == before


def test_what_is_no_image_is_refused_by_the_server_too(browser, served):
    with Visit(browser, served) as visit:
        before = visit.pixels(f"{A} .picture")
        upload(visit, b"<html>", "page.html", "image/png")
        visit.page.wait_for_selector("#status:not([hidden])")
        assert visit.settle() == "ready"
        assert "not a readable image" in visit.page.inner_text("#status")
        assert visit.pixels(f"{A} .picture") == before
        assert [line for line in visit.problems if "415" not in line] == []
        large = bytes(10 * 2**20 + 1)
        upload(visit, large, "large.png")
        assert "at most 10 MB" in visit.page.inner_text("#status")


def test_the_server_reads_what_the_browser_cannot(browser, served):
    file = io.BytesIO()
    Image.open(io.BytesIO(png())).save(file, "TIFF")
    with Visit(browser, served) as visit:
        before = visit.pixels(f"{A} .picture")
        assert upload(visit, file.getvalue(), "mine.tif", "image/tiff") == "ready"
        assert visit.pixels(f"{A} .picture") != before and visit.problems == []


@pytest.mark.parametrize("port", ["served"], indirect=True)
def test_another_model(visit):
    visit.page.select_option("#model", "sprites")
    assert visit.settle() == "ready"
    assert visit.page.locator(f"{A} .slot").count() == visit.page.locator(f"{B} .slot").count() == 6


@server_alone
def test_a_new_scene_in_one_image(visit):
    before = visit.pixels(f"{A} .picture"), visit.pixels(f"{B} .picture")
    visit.page.click(f"{A} .new")
    visit.settle()
    assert visit.pixels(f"{A} .picture") != before[0] and visit.pixels(f"{B} .picture") == before[1]


def test_the_slider_says_what_is_seen_while_a_image_is_computed(browser, served):
    """An upload that the server has not answered yet still shows the iteration before, and says so; then it
    walks from the first to the last."""
    with Visit(browser, served, reduced_motion="no-preference") as visit:
        visit.page.wait_for_selector("body:not([data-playing])")
        before, held = visit.pixels(f"{A} .picture"), []
        visit.page.route("**/api/look*", lambda route: held.append(route))
        visit.page.set_input_files(
            f"{A} input[type=file]", {"name": "a.png", "mimeType": "image/png", "buffer": png()}
        )
        visit.page.wait_for_selector("body[data-state=busy]")
        for _ in range(50):
            if not held:
                visit.page.wait_for_timeout(100)
        assert visit.pixels(f"{A} .picture") == before
        assert visit.page.inner_text("#iteration-value") == f"{LAST} of {LAST}"
        assert visit.page.input_value("#iteration") == str(LAST)
        held[0].continue_()
        visit.page.unroute("**/api/look*")
        visit.page.wait_for_selector("body[data-playing]")
        visit.page.wait_for_selector("body:not([data-playing])")
        assert visit.page.inner_text("#iteration-value") == f"{LAST} of {LAST}"
        assert visit.pixels(f"{A} .picture") != before


@server_alone
def test_play_walks_to_the_end(browser, port):
    with Visit(browser, port, reduced_motion="no-preference") as visit:
        visit.page.wait_for_selector("body:not([data-playing])")  # the first walk
        for name in ("Pause", "Play the iterations", "Pause"):
            visit.page.click("#play")
            assert visit.page.get_attribute("#play", "aria-label") == name
        visit.page.locator("#iteration-value", has_text=f"{LAST} of {LAST}").wait_for()
        visit.page.wait_for_selector("body:not([data-playing])")
        assert visit.page.get_attribute("#play", "aria-label") == "Play the iterations"
        assert visit.problems == []


def test_inline_scripts_do_not_run(browser, port):
    with Visit(browser, port) as visit:
        ran = visit.page.evaluate(
            """() => {
              const script = document.createElement("script");
              script.textContent = "window.ran = true";
              document.body.append(script);
              return window.ran === true;
            }"""
        )
        assert not ran and any("Content Security Policy" in line for line in visit.problems)


def test_the_browser_computes_what_pytorch_does(browser, static):
    """Attention, masks and reconstruction, for images on which PyTorch does not depend on rounding."""
    model, name = oh.load("tetrominoes"), "tetrominoes"
    unmoved = torch.zeros(1, model.num_slots, model.slot_dim)
    with Visit(browser, static) as visit:
        for image in _stable_images(model, 8, model.num_slots, 4):
            found = visit.page.evaluate(
                """async ([name, planes]) => {
                  const engine = await import("./engine-browser.js");
                  const { compose } = await import("./compose.js");
                  const { models } = await (await fetch("config.json")).json();
                  const model = models.find((one) => one.name === name);
                  const options = { numSlots: model.num_slots, iterations: 4, seed: 0, spread: 0 };
                  const seen = await engine.group(model, Float32Array.from(planes), options);
                  const { slots, attention } = seen;
                  const decoded = await engine.decode(model, slots[3], attention[3]);
                  const size = model.resolution ** 2;
                  const layers = Array.from({ length: model.num_slots }, (_, index) => ({
                    appearance: decoded.appearance.slice(3 * size * index, 3 * size * (index + 1)),
                    logits: decoded.logits.slice(size * index, size * (index + 1)),
                  }));
                  const { reconstruction, masks } = compose(layers, size);
                  const flat = (parts) => parts.flatMap((part) => [...part]);
                  return [attention, masks, [reconstruction]].map(flat);
                }""",
                [name, image.flatten().tolist()],
            )
            with torch.no_grad():
                scene = model(image[None], iterations=4, noise=unmoved)
            expected = scene.attention, scene.masks, scene.reconstruction
            for values, wanted in zip(found, expected, strict=True):
                assert np.abs(np.array(values) - wanted.flatten().numpy()).max() < 1e-4


def test_a_photograph_is_divided_on_the_page(browser, photographs):
    """Both ways: shown, lit where it is pointed at, cut out, divided again by the slider."""
    for port in photographs:
        with Visit(browser, port) as visit:
            page = visit.page
            assert page.get_attribute("body", "data-state") == "ready", page.inner_text("#status")
            assert visit.count_colours("#photograph-over") > 10
            number = int(page.inner_text("#segments-value").split(",")[0])
            assert 2 <= number <= 40 and 2 <= page.locator(".cutout").count() <= number
            before = visit.pixels("#photograph-over")
            page.hover("#photograph-over", position={"x": 200, "y": 200})
            assert visit.pixels("#photograph-over") != before
            page.click("#photograph-over", position={"x": 200, "y": 200})
            page.mouse.move(1, 1)
            assert page.locator(".cutout[aria-pressed=true]").count() <= 1
            with page.expect_download() as download:
                page.click("#save")
            with Image.open(download.value.path()) as cut:
                alpha = np.asarray(cut)[..., 3]  # all of the segment, nothing of the rest
            assert alpha.min() == 0 and alpha.max() == 255
            visit.set("segments", 4)
            assert page.locator(".cutout").count() <= 4 and page.inner_text("#segments-value") == "4"
            page.click("#automatic")
            assert visit.settle() == "ready" and page.inner_text("#segments-value") == f"{number}, found"
            page.set_input_files(
                "#photograph-file", {"name": "a.png", "mimeType": "image/png", "buffer": png(64)}
            )
            assert visit.settle() == "ready" and page.inner_text("#photograph-facts").startswith("64 × 64")
            page.set_input_files(
                "#photograph-file", {"name": "a.png", "mimeType": "image/png", "buffer": b"no image"}
            )
            page.wait_for_selector("#status:not([hidden])")
            assert "cannot read" in page.inner_text("#status")
            assert visit.problems == [] and visit.foreign == []


def test_live_images_are_divided(browser, live):
    """Both ways: a walk over a photograph, a camera, and a file that is no video."""
    for port in live:
        with Visit(browser, port, reduced_motion="no-preference") as visit:
            page = visit.page
            page.wait_for_selector("#live-facts:has-text('frames a second')")
            assert page.inner_text("#status") == ""
            assert " of 9 slots" in page.inner_text("#live-facts") and visit.count_colours("#live-over") > 1
            first = visit.pixels("#live-base")
            for _ in range(100):  # the next frame, on however busy a machine
                page.wait_for_timeout(100)
                if visit.pixels("#live-base") != first:
                    break
            assert visit.pixels("#live-base") != first
            page.click("#live-over", position={"x": 200, "y": 200})
            assert page.evaluate("() => document.querySelector('#live-over').classList.contains('shown')")
            page.click("#live-camera")
            page.wait_for_selector("#live-base[height='360']")  # 4 : 3, where photographs have 3 : 2
            assert page.inner_text("#status") == ""
            broken = {"name": "a.mp4", "mimeType": "video/mp4", "buffer": b"no video"}
            page.set_input_files("#live-file", broken)
            page.wait_for_selector("#status:not([hidden])")
            assert "cannot play that as a video" in page.inner_text("#status")
            page.wait_for_selector("#live-base:not([height='360'])")
            assert visit.problems == [] and visit.foreign == []


def test_the_page_doubts_and_resizes_as_the_package_does(browser, served):
    picture = np.random.default_rng(0).integers(0, 256, (97, 150, 3), np.uint8)
    rgba = np.concatenate([picture, np.full((97, 150, 1), 255, np.uint8)], axis=-1)
    painted, planes = torch.rand(1, 3, 35, 35), torch.rand(1, 3, 35, 35)
    with Visit(browser, served) as visit:
        for side, fit in itertools.product((64, 35, 128), FITS):
            found = visit.page.evaluate(
                """async ([pixels, side, fit]) => {
                  const { readPlanes } = await import("./resize.js");
                  const canvas = new OffscreenCanvas(150, 97);
                  const image = new ImageData(Uint8ClampedArray.from(pixels), 150, 97);
                  canvas.getContext("2d").putImageData(image, 0, 0);
                  return [...await readPlanes(await canvas.convertToBlob(), side, fit)];
                }""",
                [rgba.flatten().tolist(), side, fit],
            )
            wanted = place(picture, (side, side), fit)[0].transpose(2, 0, 1)
            assert np.abs(255 * np.array(found).reshape(3, side, side) - wanted).max() < 1.01
        measures = visit.page.evaluate(
            """async ([painted, planes]) => {
              const { errors } = await import("./compose.js");
              return errors(painted, planes);
            }""",
            [painted.flatten().tolist(), planes.flatten().tolist()],
        )
    output = SlotOutput(torch.zeros(1, 1, 1), torch.ones(1, 1, 1, 1, 1), reconstruction=painted)
    for name, value in oh.load("tetrominoes").anomaly_score(planes, output).items():
        assert measures[name] == pytest.approx(value.item(), rel=5e-3)


def test_the_built_site_is_whole_or_not_there(tmp_path):
    """The first model that is exported is not the one of photographs that computes eigenvectors."""
    shown = load_shown(["photos"])
    with pytest.raises(ValueError, match="has no ort.wasm.bundle.min.mjs; install onnxruntime-web"):
        build_site(shown, tmp_path / "site", tmp_path / "nowhere")
    for name in RUNTIME:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(RuntimeError, match="stopped at photos-affinity: exporting"):
        build_site(shown, tmp_path / "site", tmp_path, say=stop)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(RUNTIME)
    with pytest.raises(ValueError, match="exists and is not replaced"):
        build_site(shown, tmp_path, tmp_path)


def stop(line: str) -> None:
    raise RuntimeError(f"stopped at {line}")


SEEN = """async () => {
  const engine = await import("./engine-browser.js");
  const { models: [model] } = await (await fetch("config.json")).json();
  const planes = Float32Array.from({ length: 3 * model.resolution ** 2 }, (_, index) => (index % 97) / 97);
  const options = { numSlots: model.num_slots, iterations: 2, seed: 0, spread: 0 };
  return Array.from((await engine.group(model, planes, options)).attention.at(-1));
}"""


def test_threads_from_the_second_visit_on(browser, static):
    """The service worker makes the page isolated, which threads need; what is computed stays the same."""
    with Visit(browser, static) as visit:
        once = visit.page.evaluate(SEEN)
        assert visit.page.evaluate("!crossOriginIsolated && navigator.serviceWorker.ready.then(() => true)")
        visit.page.reload()
        visit.page.wait_for_selector(DONE, timeout=60_000)
        assert visit.page.evaluate("crossOriginIsolated && new SharedArrayBuffer(8).byteLength") == 8
        np.testing.assert_allclose(visit.page.evaluate(SEEN), once, atol=1e-3)
        assert visit.problems == [] and visit.foreign == []
