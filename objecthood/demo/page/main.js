// The page: one model, of photographs, of live images, or of slots, with two images and shared controls.

import { Bench } from "./bench.js";
import { Live } from "./live.js";
import { Photograph } from "./photograph.js";
import { fromBlob, fromScene, showPlanes } from "./picture.js";
import { drawSprites } from "./scenes.js";

const SPREAD = 0.5; // noise scale of a restart, in units of the deviation between learned queries
const WALK = 130, PLAY = 450; // milliseconds per iteration: after a change, and on "play"
const isCalm = matchMedia("(prefers-reduced-motion: reduce)");

const get = (id) => document.getElementById(id);
const state = { model: null, view: "look", iteration: 10, numSlots: 6, iterations: 10, seed: 0, spread: 0 };
let photograph, live, engine, config, timer = 0, running = null, isStale = false, sceneSeed = Math.floor(Math.random() * 1e6);

const asks = { newScene, take, toggle, move };
const benches = ["A", "B"].map((name) => new Bench(name, asks));
const otherOf = (bench) => benches[1 - benches.indexOf(bench)];

// Computation and display

/** Recompute and redraw; calls made meanwhile share one further update. */
function refresh() {
  isStale = true;
  running ??= rounds().finally(() => { running = null; });
  return running;
}

async function rounds() {
  document.body.dataset.state = "busy";
  try {
    while (isStale) {
      isStale = false;
      for (const bench of benches) await update(bench);
      if (!isStale) render();
    }
    document.body.dataset.state = "ready";
  } catch (error) {
    document.body.dataset.state = "failed";
    say(error.message);
  }
}

/** Compute what is missing: slots after a change of settings, decoder outputs of a new iteration. */
async function update(bench) {
  const { model, numSlots, iterations, seed, spread, iteration } = state;
  const { picture } = bench, key = [model.name, numSlots, iterations, seed, spread].join();
  if (bench.result?.key !== key || bench.result.picture !== picture) {
    const result = await engine.look(model, picture.blob, { numSlots, iterations, seed, spread });
    showPlanes(picture, result.planes);
    bench.result = { ...result, key, picture, numSlots };
    bench.decoded = new Map();
    for (const changed of [bench.off, bench.away]) {
      for (const index of changed) if (index >= numSlots) changed.delete(index);
    }
  }
  const at = Math.min(iteration, iterations);
  if (!bench.decoded.has(at)) {
    const { slots, attention } = bench.result;
    bench.decoded.set(at, await engine.decode(model, slots[at - 1], attention[at - 1]));
  }
}

function render() {
  const { iteration, iterations, model, view } = state, at = Math.min(iteration, iterations);
  for (const bench of benches) {
    const other = otherOf(bench);
    const guests = other.ownLayers(at).filter(({ index }) => other.away.has(index));
    bench.render({ view, iteration: at, iterations, model, guests, other });
  }
  showIteration(at);
}

function say(text) {
  get("status").textContent = text;
  get("status").hidden = !text;
}

// Images

/** A new scene: generated here, or the next example of the model. */
async function nextPicture() {
  const { model } = state, seed = sceneSeed++;
  if (model.scenes === "sprites") return fromScene(drawSprites(seed, model.background), model.resolution);
  const answer = await fetch(model.examples[seed % model.examples.length]);
  return fromBlob(await answer.blob(), model.fit);
}

async function newScene(bench) {
  document.body.dataset.state = "busy";
  bench.picture = await nextPicture();
  bench.forget();
  walk();
}

/** Show the user's file; the previous image stays if it cannot be read. */
async function take(bench, file) {
  const before = bench.picture;
  if (file.size > config.max_bytes) return say(`That file is too large: at most ${config.max_bytes / 2 ** 20} MB.`);
  document.body.dataset.state = "busy";
  bench.picture = await fromBlob(file, state.model.fit);
  say("");
  bench.forget();
  await walk();
  if (document.body.dataset.state === "failed") {
    bench.picture = before;
    const problem = get("status").textContent;
    await refresh();
    say(problem);
  }
}

// Edits of slots

function toggle(home, index) {
  if (!home.off.delete(index)) home.off.add(index);
  render();
}

function move(home, index) {
  if (!home.away.delete(index)) home.away.add(index);
  render();
  const now = home.away.has(index) ? otherOf(home) : home;
  now.element.querySelector(`[data-key="${home.name}${index}"] .move`)?.focus({ preventScroll: true });
}

// Animation of iterations

/** Animate the iterations; with reduced motion show the last. */
async function walk() {
  stop();
  setIteration(isCalm.matches ? state.iterations : 1);
  if (isCalm.matches) return refresh();
  await refresh();
  if (document.body.dataset.state === "ready") play(WALK);
}

function play(pause) {
  stop();
  document.body.dataset.playing = "";
  get("play").setAttribute("aria-label", "Pause");
  get("play").firstElementChild.textContent = "❚❚";
  timer = setInterval(() => {
    if (running) return;
    if (state.iteration >= state.iterations) return stop();
    setIteration(state.iteration + 1);
    refresh();
  }, pause);
}

function stop() {
  clearInterval(timer);
  delete document.body.dataset.playing;
  get("play").setAttribute("aria-label", "Play the iterations");
  get("play").firstElementChild.textContent = "▶";
}

/** The iteration to show; the slider changes when it is drawn. */
function setIteration(value) {
  state.iteration = value;
}

function showIteration(value) {
  get("iteration").value = value;
  get("iteration-value").textContent = `${value} of ${state.iterations}`;
}

// Controls

function setIterations(value) {
  const wasLast = state.iteration === state.iterations;
  state.iterations = value;
  get("iterations").value = value;
  get("iterations-value").textContent = value;
  get("iteration").max = value;
  setIteration(wasLast ? value : Math.min(state.iteration, value));
}

function setSlots(value) {
  state.numSlots = value;
  get("slots").value = value;
  get("slots-value").textContent = value;
  sayStart();
}

function setStart(seed, spread) {
  Object.assign(state, { seed, spread });
  get("unroll").hidden = !spread;
  sayStart();
}

/** Explain the initial slots; noise on learned queries is an addition of this page. */
function sayStart() {
  const { model, numSlots, spread } = state;
  let text = "Initial slots are samples of one learned Gaussian.";
  if (model.is_start_learned) {
    text = spread
      ? "Restarted: noise is added to the learned initial slots, with half of their standard deviation. "
        + "Training used no such noise."
      : "This model has learned initial slots, the same for every image. A restart adds noise to them.";
    const more = numSlots - model.num_slots;
    if (more > 0) text += ` ${more} more slots than in training: these start at random.`;
  }
  get("start-note").textContent = text;
}

/** Text with `code` in backticks, as nodes. */
function withCode(text) {
  return text.split("`").map((part, index) => {
    if (index % 2 === 0) return part;
    return Object.assign(document.createElement("code"), { textContent: part });
  });
}

async function setModel(name) {
  stop();
  state.model = config.models.find((model) => model.name === name);
  const { model } = state, views = { photographs: photograph, live };
  get("about").replaceChildren(...withCode(model.about));
  get("photograph").hidden = model.kind !== "photographs";
  get("live").hidden = model.kind !== "live";
  get("slot-page").hidden = model.kind !== "slots";
  live.close();
  if (model.kind in views) return views[model.kind].open(model);
  setIterations(model.iterations);
  setIteration(model.iterations);
  setSlots(model.num_slots);
  setStart(0, 0);
  document.body.dataset.state = "busy";
  for (const bench of benches) {
    bench.picture = await nextPicture();
    bench.forget();
  }
  await walk();
}

function listen() {
  const number = (event) => Number(event.target.value);
  get("model").addEventListener("change", (event) => setModel(event.target.value));
  get("iteration").addEventListener("input", (event) => { stop(); setIteration(number(event)); refresh(); });
  get("slots").addEventListener("input", (event) => { stop(); setSlots(number(event)); refresh(); });
  get("iterations").addEventListener("input", (event) => { stop(); setIterations(number(event)); refresh(); });
  get("roll").addEventListener("click", () => { setStart(state.seed + 1, SPREAD); walk(); });
  get("unroll").addEventListener("click", () => { setStart(0, 0); walk(); });
  get("play").addEventListener("click", () => {
    if ("playing" in document.body.dataset) return stop();
    setIteration(1);
    refresh();
    play(PLAY);
  });
  for (const radio of document.querySelectorAll("[name=view]")) {
    radio.addEventListener("change", () => { state.view = radio.value; refresh(); });
  }
  get("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const isDark = (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
    root.dataset.theme = isDark ? "light" : "dark";
  });
  for (const event of ["dragover", "drop"]) addEventListener(event, (happened) => happened.preventDefault());
}

async function begin() {
  config = await (await fetch("config.json")).json();
  engine = await (config.engine === "server" ? import("./engine-server.js") : import("./engine-browser.js"));
  engine.load?.(config.models[0]); // while the page and its first image load
  photograph = new Photograph({ engine, config, say });
  live = new Live({ engine, config, say });
  for (const place of document.querySelectorAll(".where")) {
    place.textContent = config.engine === "server"
      ? "It runs in PyTorch on this machine; your images stay on it."
      : "It runs in this browser; your images stay on this machine.";
  }
  get("model").append(...config.models.map(({ name }) => new Option(name, name)));
  get("model").closest("label").hidden = config.models.length < 2;
  get("benches").append(...benches.map(({ element }) => element));
  listen();
  await setModel(config.models[0].name);
  if (document.body.dataset.state !== "failed") say("");
}

begin().catch((error) => {
  document.body.dataset.state = "failed";
  say(`This page could not start: ${error.message}`);
});
