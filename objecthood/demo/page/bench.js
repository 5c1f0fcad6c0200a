// A panel with one image: its canvases, its slots, and the user's edits.

import { compose, countSeen, errors } from "./compose.js";
import { BACKGROUND, cutout, drawCutout, drawDivided, drawPlanes, drawSpotlight } from "./draw.js";
import { css, slotColor } from "./palette.js";
import { SMALL } from "./picture.js";

const IN_FRONT = 3; // added to the mask logits of an object from the other image: slots hold no depth order
const DRAG = 6; // pixels from which a press counts as a drag

/** A panel with an image and its slots; `asks` are callbacks of the page. */
export class Bench {
  constructor(name, asks) {
    Object.assign(this, { name, asks, picture: null, result: null, decoded: new Map() });
    Object.assign(this, { off: new Set(), away: new Set(), focus: -1, layers: [], composed: null });
    const copy = document.getElementById("bench").content.cloneNode(true);
    this.element = copy.querySelector(".bench");
    const find = (query) => this.element.querySelector(query);
    this.parts = {
      picture: find(".picture"), rebuilt: find(".rebuilt"), slots: find(".slots"), facts: find(".facts"),
      file: find("input"),
    };
    find("h2").textContent = `Image ${name}`;
    find(".new").addEventListener("click", () => asks.newScene(this));
    this.parts.file.addEventListener("change", () => {
      if (this.parts.file.files[0]) asks.take(this, this.parts.file.files[0]);
      this.parts.file.value = "";
    });
    this.element.setAttribute("aria-label", `Image ${name}`);
    this.takeDrops();
    this.takePointer();
  }

  /** Reset the user's edits. */
  forget() {
    this.off.clear();
    this.away.clear();
  }

  takeDrops() {
    const mark = (isOver) => this.element.classList.toggle("over", isOver);
    this.element.addEventListener("dragover", (event) => { event.preventDefault(); mark(true); });
    this.element.addEventListener("dragleave", () => mark(false));
    this.element.addEventListener("drop", (event) => {
      event.preventDefault();
      mark(false);
      if (event.dataTransfer.files[0]) this.asks.take(this, event.dataTransfer.files[0]);
    });
  }

  /** On the image: hovering highlights a slot, a click toggles it, dragging moves it to the other image. */
  takePointer() {
    const canvas = this.parts.picture;
    let pressed = null, ghost = null;
    const end = () => {
      ghost?.remove();
      pressed = ghost = null;
    };
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerType === "mouse" && !pressed) this.setFocus(this.layerAt(event));
      if (!pressed || event.pointerType === "touch") return;
      if (!ghost && Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) > DRAG) {
        ghost = this.ghost(pressed.layer);
      }
      ghost?.style.setProperty("transform", `translate(${event.clientX - pressed.inX}px, ${event.clientY - pressed.inY}px)`);
    });
    canvas.addEventListener("pointerleave", () => { if (!pressed) this.setFocus(-1); });
    canvas.addEventListener("pointerdown", (event) => {
      const layer = this.layers[this.layerAt(event)];
      if (!layer || event.button) return;
      const box = canvas.getBoundingClientRect();
      pressed = { layer, x: event.clientX, y: event.clientY, inX: event.clientX - box.left, inY: event.clientY - box.top };
      if (event.pointerType !== "touch") canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointerup", (event) => {
      if (!pressed) return;
      const { layer } = pressed, wasDragged = ghost !== null;
      end();
      const over = document.elementFromPoint(event.clientX, event.clientY)?.closest(".bench");
      if (!wasDragged) this.asks.toggle(layer.home, layer.index);
      else if (over && over !== this.element) this.asks.move(layer.home, layer.index);
    });
    canvas.addEventListener("pointercancel", end);
  }

  ghost(layer) {
    const box = this.parts.picture.getBoundingClientRect();
    const canvas = cutout(layer.appearance, this.composed.masks[this.layers.indexOf(layer)]);
    canvas.className = "ghost";
    canvas.style.setProperty("width", `${box.width}px`);
    canvas.style.setProperty("height", `${box.height}px`);
    document.body.append(canvas);
    return canvas;
  }

  /** The index in `layers` of the slot with the largest mask under the pointer, or -1. */
  layerAt(event) {
    if (!this.composed) return -1;
    const box = this.parts.picture.getBoundingClientRect(), side = Math.sqrt(this.composed.owner.length);
    const column = Math.floor(((event.clientX - box.left) / box.width) * side);
    const row = Math.floor(((event.clientY - box.top) / box.height) * side);
    const isInside = Math.min(row, column) >= 0 && Math.max(row, column) < side;
    return isInside ? this.composed.owner[row * side + column] : -1;
  }

  setFocus(index) {
    if (index === this.focus) return;
    this.focus = index;
    this.drawStage();
    const key = this.layers[index] && keyOf(this.layers[index]);
    for (const card of this.parts.slots.children) card.classList.toggle("seen", card.dataset.key === key);
  }

  /**
   * Draw the panel at one iteration. `guests` are slots of the other image: { home, index, ... } as in `ownLayers`.
   */
  render({ view, iteration, iterations, model, guests, other }) {
    this.view = view;
    const all = [...this.ownLayers(iteration).filter(({ index }) => !this.away.has(index)), ...guests.map(inFront)];
    this.layers = all.filter(({ home, index }) => !home.off.has(index));
    this.composed = compose(this.layers, model.resolution ** 2);
    this.focus = -1;
    this.drawStage();
    this.drawCards(all, other);
    const isUntouched = !this.off.size && !this.away.size && !guests.length;
    this.say({ isUntouched, isLast: iteration === iterations, model });
  }

  /** The decoded slots of this image at an iteration, for `compose`. */
  ownLayers(iteration) {
    const { attention } = this.result, decoded = this.decoded.get(iteration);
    const number = this.result.numSlots, size = decoded.logits.length / number;
    const inputs = attention[iteration - 1].length / number;
    return Array.from({ length: number }, (_, index) => ({
      home: this,
      index,
      appearance: decoded.appearance.subarray(3 * size * index, 3 * size * (index + 1)),
      logits: decoded.logits.subarray(size * index, size * (index + 1)),
      attention: attention[iteration - 1].subarray(inputs * index, inputs * (index + 1)),
    }));
  }

  colorOf({ home, index }) {
    return home === this ? index : this.result.numSlots + index;
  }

  drawStage() {
    if (!this.result) return;
    const isSoft = this.view === "look";
    const layers = this.layers.map((layer, index) => ({
      map: isSoft ? layer.attention : this.composed.masks[index], color: this.colorOf(layer),
    }));
    drawDivided(this.parts.picture, this.picture.shown, layers, { isSoft, focus: this.focus });
    drawPlanes(this.parts.rebuilt, this.composed?.reconstruction);
  }

  drawCards(all, other) {
    const keys = all.map(keyOf), list = this.parts.slots;
    if (keys.join() !== Array.from(list.children, (card) => card.dataset.key).join()) {
      list.replaceChildren(...all.map((layer) => this.card(layer, other)));
    }
    all.forEach((layer, place) => {
      const card = list.children[place], isOn = !layer.home.off.has(layer.index);
      const seen = this.layers.indexOf(layer), canvas = card.querySelector("canvas");
      const share = seen < 0 ? 0 : this.composed.masks[seen].reduce((sum, part) => sum + part, 0);
      card.classList.toggle("off", !isOn);
      card.classList.toggle("empty", isOn && share < this.composed.owner.length / 200);
      card.querySelector("input").checked = isOn;
      if (this.view === "look") drawSpotlight(canvas, layer.home.picture.small, layer.attention);
      else if (isOn) drawCutout(canvas, layer.appearance, this.composed.masks[seen]);
      else drawCutout(canvas, layer.appearance, new Float32Array(layer.logits.length));
    });
  }

  card(layer, other) {
    const isGuest = layer.home !== this, name = `Slot ${layer.index + 1} of image ${layer.home.name}`;
    const card = make("li", { className: isGuest ? "slot guest" : "slot" });
    card.dataset.key = keyOf(layer);
    card.style.setProperty("--color", css(slotColor(this.colorOf(layer))));
    const canvas = make("canvas", { width: SMALL, height: SMALL });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", name);
    const label = make("label", { className: "switch" });
    const box = make("input", { type: "checkbox", checked: true });
    box.setAttribute("role", "switch");
    box.setAttribute("aria-label", `${name}, shown`);
    const text = isGuest ? `${layer.home.name}${layer.index + 1}` : `${layer.index + 1}`;
    label.append(box, make("span", { textContent: text }));
    box.addEventListener("change", () => this.asks.toggle(layer.home, layer.index));
    const target = isGuest ? layer.home : other;
    const move = make("button", { type: "button", className: "move", textContent: `to ${target.name}` });
    move.setAttribute("aria-label", `Move slot ${layer.index + 1} of image ${layer.home.name} to image ${target.name}`);
    move.addEventListener("click", () => this.asks.move(layer.home, layer.index));
    card.append(canvas, label, move);
    const find = () => this.layers.findIndex((shown) => keyOf(shown) === card.dataset.key);
    for (const event of ["mouseenter", "focusin"]) card.addEventListener(event, () => this.setFocus(find()));
    for (const event of ["mouseleave", "focusout"]) card.addEventListener(event, () => this.setFocus(-1));
    return card;
  }

  say({ isUntouched, isLast, model }) {
    const number = this.composed ? countSeen(this.composed.owner, this.layers.length) : 0;
    const parts = [`${number} of ${this.layers.length} slots active`];
    let isWarned = false;
    if (isUntouched) {
      const found = errors(this.composed.reconstruction, this.result.planes);
      const median = model.usual_error ? ` (median in validation: ${model.usual_error.toFixed(4)})` : "";
      parts.push(`reconstruction error ${found["reconstruction error"].toFixed(4)}${median}`);
      isWarned = isLast && Object.entries(model.strange_above).some(([name, most]) => found[name] > most);
    }
    this.parts.facts.textContent = parts.join(" · ") + (isWarned
      ? ". This image is likely out of distribution: do not trust the result."
      : "");
    this.parts.facts.classList.toggle("warning", isWarned);
    this.parts.picture.setAttribute("aria-label", `Image ${this.name}, segmented by ${this.layers.length} slots`);
    this.parts.rebuilt.setAttribute("aria-label", `Image ${this.name}, reconstructed from ${this.layers.length} slots`);
  }
}

/** A guest in front of the other layers, unless it is a background. */
function inFront(guest) {
  const area = guest.attention.reduce((sum, share) => sum + share, 0) / guest.attention.length;
  return area > BACKGROUND ? guest : { ...guest, logits: guest.logits.map((logit) => logit + IN_FRONT) };
}

const keyOf = ({ home, index }) => `${home.name}${index}`;

function make(tag, properties) {
  return Object.assign(document.createElement(tag), properties);
}
