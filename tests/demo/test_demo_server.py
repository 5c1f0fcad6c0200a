"""The server of the demo: what it answers, what it refuses, and that nothing is lost or left behind."""

import concurrent.futures
import contextlib
import gc
import io
import json
import os
import random
import resource
import socket
import struct
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("starlette", reason="needs the extra [demo]")
pytest.importorskip("uvicorn", reason="needs the extra [demo]")

from serving import Answer, ask, message, raw, read_all, serving

import objecthood as oh
from objecthood.data.io.images import ImageError, read_image, resize_image
from objecthood.demo import server, work
from objecthood.demo.shown import (
    ABOUT_PHOTOGRAPHS,
    MAX_BYTES,
    Shown,
    describe,
    example_files,
    load_shown,
    png_of,
)
from objecthood.demo.site import in_browser
from objecthood.demo.work import LiveWork, PhotographWork, Settings, Work
from objecthood.nn.guided_filter import guided_masks
from objecthood.runtime import limits

LOOK = "/api/look?model=tetrominoes&slots=4&iterations=3&seed=1&spread=0"
SIZES = (3 * 35 * 35, 3 * 4 * 64, 3 * 4 * 18 * 18)
pytestmark = pytest.mark.xdist_group("demo server")


def png(side: int = 35, seed: int = 0) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def shown() -> list[Shown]:
    return load_shown(["tetrominoes"])


@pytest.fixture(scope="module")
def port(shown):
    with serving(server.build_app(shown)) as port:
        yield port


def resident(collect: bool = True) -> float:
    """Megabytes; to collect garbage takes long in the process of a large suite."""
    if collect:
        gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def numbers(answer: Answer) -> list[np.ndarray]:
    return np.split(np.frombuffer(answer.body, "<f4"), np.cumsum(SIZES)[:-1])


def test_looks_as_the_model_does(port, shown):
    answer = ask(port, LOOK, png())
    assert answer.status == 200 and len(answer.body) == 4 * sum(SIZES)
    planes, slots, attention = numbers(answer)
    image = torch.from_numpy(read_image(png()).astype(np.float32) / 255).permute(2, 0, 1)
    assert np.array_equal(planes, image.flatten().numpy())
    expected = shown[0].model(image[None], num_slots=4, iterations=3)
    assert np.allclose(slots.reshape(3, 4, 64)[-1], expected.slots[0].detach(), atol=1e-5)
    assert np.allclose(attention, expected.attention.flatten().detach(), atol=1e-5)


def test_a_wide_image_is_fitted_as_in_predict(port, shown):
    file, model = io.BytesIO(), shown[0].model
    pixels = np.random.default_rng(0).integers(0, 256, (30, 90, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    planes = numbers(ask(port, LOOK, file.getvalue()))[0]
    assert np.array_equal(planes, oh.predict(model, pixels)[0].image.flatten().numpy())
    assert describe(shown[0])["fit"] == model.fit == "pad"


def test_decoded_slots_give_the_reconstruction(port, shown):
    planes, slots, attention = numbers(ask(port, LOOK, png()))
    body = np.concatenate([slots.reshape(3, -1)[-1], attention.reshape(3, -1)[-1]]).tobytes()
    answer = ask(port, "/api/decode?model=tetrominoes&slots=4", body)
    assert answer.status == 200
    appearance, logits = np.split(np.frombuffer(answer.body, "<f4"), [4 * 3 * 35 * 35])
    masks = torch.from_numpy(logits.copy()).view(4, 1, 35, 35).softmax(dim=0)
    picture = (masks * torch.from_numpy(appearance.copy()).view(4, 3, 35, 35)).sum(dim=0)
    with torch.no_grad():
        expected = shown[0].model(torch.from_numpy(planes.copy()).view(1, 3, 35, 35), 4, 3)
    assert torch.allclose(picture, expected.reconstruction[0], atol=1e-5)


def test_models_of_one_name_are_not_shown_together():
    for names in (["photos", "photos"], ["tetrominoes", "tetrominoes"]):
        with pytest.raises(ValueError, match=f"two models are called '{names[0]}'"):
            load_shown(names)


def test_folders_do_not_hide_bundled_models(tmp_path, monkeypatch):
    bundled = ["photos", "photos-affinity"]
    for name in bundled:
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert [one.about for one in load_shown(bundled)] == list(ABOUT_PHOTOGRAPHS.values())


def test_static_pages_show_the_light_model_of_photographs_once():
    (light,), (slots,) = load_shown(["photos-affinity"]), load_shown(["tetrominoes"])
    photos = Shown("photos", light.model, ABOUT_PHOTOGRAPHS["photos"])
    own = Shown("photos-affinity", slots.model, "Trained here.")
    for shown, names in (
        ([photos], ["photos-affinity"]),
        ([slots, photos, light], ["tetrominoes", "photos-affinity"]),
        ([slots], ["tetrominoes"]),
    ):
        assert [one.name for one in in_browser(shown)] == names
    assert in_browser([own]) == [own]
    with pytest.raises(ValueError, match="two models are called 'photos-affinity'; show one of them"):
        in_browser([photos, own])


def test_every_published_model_is_shown():
    """Without names: all that decode, described, and looking at their own examples as they do elsewhere."""
    photographs, *others = load_shown([])
    assert photographs.name == "photos" and describe(photographs)["kind"] == "photographs"
    named = {name for name, one in oh.PRETRAINED.items() if not one.is_video and "ap" not in one.scores}
    assert {one.name for one in others} == named
    assert {one.kind for one in others} == {"photographs", "live", "slots"}
    for one in others:
        if one.kind != "slots":
            continue
        known, files = describe(one), example_files(one)
        assert known["grid"] == list(
            one.model(torch.rand(1, 3, *2 * [one.model.resolution])).attention.shape[-2:]
        )
        content = next(iter(files.values()), png(one.model.resolution))
        image = resize_image(read_image(content), (one.model.resolution, one.model.resolution))
        planes = torch.from_numpy(image).permute(2, 0, 1)[None].float().div(255)
        noise = torch.from_numpy(work._normal(0, (1, one.model.num_slots, one.model.slot_dim)))
        noise *= not known["is_start_learned"]
        with torch.no_grad():
            expected = one.model(planes, iterations=2, noise=noise)
        answer = Work(one).look(content, Settings(one.model.num_slots, 2, 0, 0.0))
        assert np.allclose(
            np.frombuffer(answer, "<f4")[-expected.attention[0, 1].numel() :],
            expected.attention[0, 1].flatten(),
            atol=1e-4,
        )


@pytest.mark.parametrize("name", ["photos", "photos-affinity"])
def test_a_photograph_is_divided_as_the_package_does(name):
    (shown,) = load_shown([name])
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    answer = PhotographWork(shown).divide(png_of(pixels), 5)
    number, rows, columns = np.frombuffer(answer[:12], "<i4")
    masks = torch.from_numpy(np.frombuffer(answer[12:], "<f4").reshape(1, number, rows, columns).copy())
    expected = shown.model.divide(shown.model.preprocess(pixels)[0], 5).masks
    found = torch.nn.functional.interpolate(masks, size=(96, 144), mode="bilinear")[0]
    assert number == 5 and torch.allclose(found / found.sum(dim=0), expected, atol=1e-4)
    assert PhotographWork(shown).divide(png_of(pixels), 5, lambda: True) == b""


def test_a_frame_is_divided_as_the_export_does():
    """By slots at the start of their training; JPEG, as the page sends it."""
    shown = Shown("slots", oh.RECIPES["photos-slots"].build_model().eval(), "")
    assert describe(shown)["kind"] == "live"
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    Image.fromarray(pixels).save(file, "JPEG")
    answer = LiveWork(shown).segment(file.getvalue())
    masks = np.frombuffer(answer[12:], "<f4").reshape(np.frombuffer(answer[:12], "<i4"))
    image = torch.from_numpy(read_image(file.getvalue())).permute(2, 0, 1).float() / 255
    stages = shown.model.export_stages()
    with torch.no_grad():
        attention = stages.group(stages.features(image))[1][0]
    assert np.allclose(masks, guided_masks(attention, image), atol=1e-6) and len(masks) == 9
    assert LiveWork(shown).segment(file.getvalue(), lambda: True) == b""
    with pytest.raises(ImageError):
        LiveWork(shown).segment(b"no image")


def test_noise_changes_the_initial_slots(port):
    learned, again = (numbers(ask(port, LOOK.replace("seed=1", f"seed={seed}"), png()))[1] for seed in (1, 2))
    assert np.array_equal(learned, again)
    rolled, other = (
        numbers(ask(port, f"/api/look?model=tetrominoes&slots=4&iterations=3&seed={seed}&spread=0.5", png()))[
            1
        ]
        for seed in (1, 2)
    )
    assert not np.allclose(learned, rolled, atol=1e-2) and not np.allclose(rolled, other, atol=1e-2)


def test_more_slots_than_were_learned_depend_on_the_seed(shown):
    work = Work(shown[0])
    one, same, other = (work.look(png(), Settings(6, 1, seed, 0.0)) for seed in (1, 1, 2))
    assert one == same != other


def test_every_answer_is_guarded(port, scoreboard):
    for answer in (
        ask(port, "/"),
        ask(port, "/nothing"),
        ask(port, LOOK, b"x"),
        ask(port, LOOK, png()),
        ask(port, "/", headers={"Host": "evil.example"}),
        ask(port, "/", b"", headers={"Origin": "https://evil.example"}),
    ):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy
        assert "unsafe-inline" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert "server" not in answer.headers
    scoreboard("The demo's server", "answers of every kind: content policy, nosniff, no CORS", 6)


def test_the_page_has_no_script_or_style_of_its_own(port):
    page = ask(port, "/").body.decode()
    assert page == ask(port, "/index.html").body.decode()
    assert " style=" not in page and "<style" not in page and " on" + "click" not in page
    assert page.count("<script") == 1 and '<script type="module" src="main.js"></script>' in page
    assert "http" + "://" not in page and "https://" not in page
    for name in ("main.js", "bench.js", "style.css", "icon.svg", "config.json"):
        assert ask(port, f"/{name}").status == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "169.254.169.254", ""])
def test_other_hosts_are_not_answered(port, host, scoreboard):
    answer = ask(port, "/config.json", headers={"Host": host})
    assert answer.status == 400 and b"models" not in answer.body
    scoreboard(
        "The demo's server",
        "other hosts' names and other origins (DNS rebinding, forged requests): refused",
        1,
    )


def test_this_machines_names_are(port):
    assert ask(port, "/config.json", headers={"Host": f"localhost:{port}"}).status == 200


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}],
)
def test_pages_of_other_origins_get_nothing(port, headers, scoreboard):
    assert ask(port, LOOK, png(), headers).status == 403
    preflight = ask(port, LOOK, None, headers | {"Access-Control-Request-Method": "POST"}, "OPTIONS")
    assert preflight.status == 403
    scoreboard(
        "The demo's server",
        "other hosts' names and other origins (DNS rebinding, forged requests): refused",
        2,
    )


def test_a_link_from_elsewhere_opens_the_page(port):
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask(port, "/", headers=headers).status == 200


def test_methods(port):
    assert ask(port, "/api/look").status == 405 and ask(port, "/", b"").status == 405
    assert ask(port, "/config.json", method="HEAD").body == b""


STEPS = ("..", "%2e%2e", "..%2f", "%2e%2e%2f", "..%5c", "....//", "%252e%252e", ".%00.", "..;", "~root")
TARGETS = ("etc/passwd", "pyproject.toml", "server.py", "page/main.js", "%2fetc%2fpasswd", "")


@pytest.mark.parametrize("target", TARGETS)
def test_no_path_reaches_the_file_system(port, target, scoreboard):
    for step in STEPS:
        for path in (f"/{step}/{step}/{target}", f"/examples/{step}/{target}"):
            answer = ask(port, path)
            assert answer.status in (400, 404), path
            assert b"root:" not in answer.body and b"import" not in answer.body
    scoreboard("The demo's server", "paths that climb: none reaches a file", 2 * len(STEPS))


def chunked(size: int) -> bytes:
    return b"".join(b"10000\r\n" + bytes(0x10000) + b"\r\n" for _ in range(size // 0x10000)) + b"0\r\n\r\n"


class Peak(threading.Thread):
    """The most memory that this process holds while a block runs, in megabytes above its beginning."""

    def __enter__(self):
        self.begin = self.most = resident()
        self.ended = threading.Event()
        self.start()
        return self

    def run(self):
        while not self.ended.wait(0.005):
            self.most = max(self.most, resident(collect=False))

    def __exit__(self, *problem):
        self.ended.set()
        self.join()
        self.growth = self.most - self.begin


def test_too_large_an_upload_is_refused_as_it_comes(port, scoreboard):
    large = message(port, LOOK, bytes(MAX_BYTES + 1))
    unsaid = message(port, LOOK, chunked(3 * MAX_BYTES), {"Transfer-Encoding": "chunked"})
    # A length that promises a terabyte, from one who then sends nothing.
    promised = message(port, LOOK, b"", {"Content-Length": str(1 << 40)})
    endless = message(port, LOOK, b"", {"Content-Length": "9" * 5000})
    with Peak() as peak:
        answers = [raw(port, content) for content in (large, unsaid, promised)]
    assert [answer.status for answer in answers] == [413, 413, 413]
    assert raw(port, endless).status in (400, 413)
    assert str(MAX_BYTES) in answers[0].error()
    assert peak.growth < 20
    scoreboard(
        "The demo's server",
        "uploads beyond 10 MB (honest, chunked, lying): 413 as they come",
        3,
        measured=f"memory grew by {peak.growth:.0f} MB",
    )


def test_a_length_that_promises_less_is_taken_at_its_word(port):
    """What follows is no part of the upload: here it makes the image a damaged one."""
    answer = raw(port, message(port, LOOK, png(), {"Content-Length": "60"}))
    assert answer.status == 422


def test_an_upload_that_takes_too_long_loses_its_place(port, monkeypatch):
    monkeypatch.setattr(limits, "UPLOAD_SECONDS", 0.3)
    answer = raw(port, message(port, LOOK, png()[:20], {"Content-Length": "1000"}))
    assert answer.status == 408


def chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in few bytes."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 422),
        (b"<html><script>alert(1)</script></html>", 415),
        (b"<svg xmlns='x'><script>alert(1)</script></svg>", 415),
        (b"GIF89a/*<script>alert(1)</script>*/", 422),
        (b"PK\x03\x04" + bytes(100), 415),
        (b"%PDF-1.7\n", 415),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", 415),
        (bytes(1000), 415),
        (png()[:200], 422),
        (bomb(), 413),
    ],
    ids=["empty", "html", "svg", "polyglot", "zip", "pdf", "eps", "zeros", "cut", "bomb"],
)
def test_what_is_no_image_is_refused_in_one_line(port, content, status, scoreboard):
    answer = ask(port, LOOK, content)
    assert answer.status == status
    assert (
        "\n" not in answer.error()
        and "Traceback" not in answer.error()
        and "/" + "home" not in answer.error()
    )
    assert answer.headers["content-type"] == "application/json"
    scoreboard(
        "The demo's server",
        "no images, polyglots, SVG and HTML with scripts, bombs: refused in one line",
        1,
    )


@pytest.mark.parametrize(
    "change",
    [
        "model=other", "model=../../x", "slots=0", "slots=33", "slots=", "slots=1e3", "slots=%D9%A3",
        "iterations=0", "iterations=31", "seed=-1", "seed=99999999999", "spread=nan", "spread=5", "spread=x",
    ],
)  # fmt: skip
def test_numbers_out_of_range(port, change, scoreboard):
    name = change.partition("=")[0]
    kept = [part for part in LOOK.partition("?")[2].split("&") if not part.startswith(name)]
    path = "/api/look?" + "&".join([*kept, change])
    answer = raw(port, message(port, path, png()))
    assert answer.status == 422 and name in answer.error()
    scoreboard("The demo's server", "numbers out of range: refused in one line", 1)


def test_slots_to_decode_must_be_finite_and_of_the_right_size(port):
    path = "/api/decode?model=tetrominoes&slots=1"
    right = np.zeros(64 + 18 * 18, np.float32)
    assert ask(port, path, right.tobytes()).status == 200
    assert ask(port, path, right[1:].tobytes()).status == 422
    assert ask(port, path, np.append(right, 0).astype(np.float32).tobytes()).status == 413
    right[3] = np.inf
    assert ask(port, path, right.tobytes()).status == 422


def test_what_goes_wrong_within_is_not_told_outside(shown, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("secret of /srv/model")

    monkeypatch.setattr(Work, "look", fail)
    with serving(server.build_app(shown)) as port:
        answer = ask(port, LOOK, png())
    assert answer.status == 500 and b"secret" not in answer.body and b"Traceback" not in answer.body


def test_a_full_queue_says_so_at_once(shown, monkeypatch):
    held = threading.Event()

    def wait(self, content, settings, left):
        held.wait(20)
        return b"done"

    monkeypatch.setattr(Work, "look", wait)
    with serving(server.build_app(shown)) as port, concurrent.futures.ThreadPoolExecutor(40) as pool:
        asked = [pool.submit(ask, port, LOOK, png()) for _ in range(server.CAPACITY + 8)]
        refused = []
        for done in concurrent.futures.as_completed(asked, timeout=20):
            refused.append(done.result())
            if len(refused) == 8:
                break
        assert {answer.status for answer in refused} == {503}
        assert refused[0].headers["retry-after"] == "1" and "16 requests" in refused[0].error()
        held.set()
        answers = [done.result() for done in asked]
        assert sum(answer.status == 200 for answer in answers) == server.CAPACITY
        assert ask(port, LOOK, png()).status == 200


WRITTEN: list[str] = []
WATCHED = threading.Event()


def watch(event: str, arguments: tuple) -> None:
    """Note every file that is opened to be written, while watched."""
    if WATCHED.is_set() and event == "open":
        path, _, flags = arguments
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            WRITTEN.append(str(path))


def abort(port: int, number: int) -> None:
    """A request whose sender goes away: in the middle of it, or before the answer."""
    content = message(port, LOOK, png(seed=number))
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(content[: len(content) if number % 2 else len(content) // 2])


def ask_until_answered(port: int, number: int, slowly: bool) -> tuple[float, Answer, list[int]]:
    """Seconds that the accepted request took, its answer, and the statuses before it."""
    content, refused = message(port, LOOK, png(seed=number)), []
    while True:
        begun = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(content)
            if slowly:
                time.sleep(0.3)
            answer = Answer(read_all(connection))
        if answer.status == 200:
            return time.perf_counter() - begun, answer, refused
        refused.append(answer.status)
        time.sleep(0.02 + 0.1 * random.random())


@pytest.mark.timed
def test_200_at_once_lose_nothing_and_leave_nothing(shown, scoreboard):
    """50 go away, 20 read slowly; of the others every one is answered in the end, with its own image."""
    sys.addaudithook(watch)
    with serving(server.build_app(shown)) as port, concurrent.futures.ThreadPoolExecutor(200) as pool:
        single = min(ask_until_answered(port, 0, False)[0] for _ in range(5))
        list(
            pool.map(lambda number: ask(port, LOOK, png(seed=number)), range(60))
        )  # what is kept, is kept now
        before, descriptors = resident(), len(os.listdir("/proc/self/fd"))
        WRITTEN.clear()
        WATCHED.set()
        gone = [pool.submit(abort, port, number) for number in range(50)]
        asked = [pool.submit(ask_until_answered, port, number, number < 20) for number in range(150)]
        for done in gone:
            done.result()
        answers = [done.result() for done in asked]
        WATCHED.clear()
        assert {status for _, _, refused in answers for status in refused} <= {503}
        for number, (_, answer, _) in enumerate(answers):
            image = read_image(png(seed=number)).transpose(2, 0, 1).astype(np.float32) / 255
            assert np.array_equal(numbers(answer)[0], image.ravel()), "another's image"
        seconds = sorted(seconds for seconds, _, _ in answers[20:])
        # A full queue is 16 turns long; beyond it one is told so at once.
        assert seconds[int(0.95 * len(seconds))] < 10 * server.CAPACITY * single + 1
        deadline = time.monotonic() + 5
        while len(os.listdir("/proc/self/fd")) > descriptors and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(os.listdir("/proc/self/fd")) <= descriptors
        assert resident() < 1.1 * before
        assert not WRITTEN
        assert ask(port, LOOK, png()).status == 200
    scoreboard(
        "The demo's server",
        "requests at once (50 broken off, 20 slow readers): all others answered, each with its own",
        200,
        measured=f"95 % within {seconds[int(0.95 * len(seconds))]:.2f} s, one alone {single:.2f} s",
    )


@pytest.mark.long
@pytest.mark.timeout(600)
def test_thousands_of_small_uploads_leave_nothing(shown, tmp_path, monkeypatch, scoreboard):
    """No image among them; nothing is written, nothing stays."""
    monkeypatch.chdir(tmp_path)
    sys.addaudithook(watch)
    with serving(server.build_app(shown)) as port:
        for number in range(200):
            ask(port, LOOK, bytes([number % 256]) * 50)
        before, descriptors = resident(), len(os.listdir("/proc/self/fd"))
        WRITTEN.clear()
        WATCHED.set()
        statuses = {ask(port, LOOK, bytes([number % 256]) * (number % 99)).status for number in range(10_000)}
        WATCHED.clear()
        assert statuses <= {415, 422} and not WRITTEN and not list(tmp_path.iterdir())
        grown = resident() - before
        assert grown < 0.1 * before and len(os.listdir("/proc/self/fd")) <= descriptors
    what = "small uploads that are no images: refused, nothing written, nothing kept"
    scoreboard("The demo's server", what, 10_000, measured=f"memory grew by {grown:.0f} MB")


def test_only_discovery_models_can_be_shown():
    with pytest.raises(ValueError, match="cannot show 'set-clevr': only a discovery model"):
        load_shown(["set-clevr"])
    with pytest.raises(ValueError, match="two models are called 'sprites'"):
        load_shown(["sprites", "sprites"])


def test_a_taken_port_is_one_line(shown):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(ValueError, match="cannot listen on .* choose another --port"):
            server.serve(shown, "127.0.0.1", number, lambda address: None)


def test_the_command_serves_until_it_is_stopped(tmp_path):
    import signal
    import subprocess

    environment = os.environ | {"PYTHONPATH": str(Path(oh.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "objecthood", "demo", "tetrominoes", "--no-browser", "--port", "0"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        try:
            line = run.stdout.readline()
            assert line.startswith("the demo is at http://127.0.0.1:"), line
            port = int(line.split("127.0.0.1:")[1].split("/")[0])
            config = json.loads(ask(port, "/config.json").body)
            assert config["engine"] == "server" and [model["name"] for model in config["models"]] == [
                "tetrominoes"
            ]
            assert ask(port, "/examples/tetrominoes-0.png").body.startswith(b"\x89PNG")
            run.send_signal(signal.SIGINT)
            assert run.wait(60) == 130
            assert "Traceback" not in run.stderr.read()
        finally:
            run.kill()  # where it would not stop
    assert not list(tmp_path.iterdir())
