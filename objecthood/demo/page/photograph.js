// The page of photographs: one image, its segments, and what the visitor points at and selects.

import { css, slotColor } from "./palette.js";
import { drawLayer, segmentsAtSize, shareAt } from "./segments.js";
import { get, make, segmentAt, showSamples, sizeStage, takeFiles } from "./stage.js";

const SHOWN = 800; // longest side in pixels of what is drawn
const CARD = 132; // longest side in pixels of a cut-out on a card
const SMALL = 0.002; // share of the image below which a segment has no card

/** The view; `page` has { engine, config, say }. */
export class Photograph {
  constructor(page) {
    Object.assign(this, { page, model: null, blob: null, bitmap: null, found: null, wanted: 0 });
    Object.assign(this, { selected: new Set(), lit: -1, running: null, isStale: false });
    this.base = get("photograph-base");
    this.over = get("photograph-over");
    this.listen();
  }

  /** Show the page with a model: the image there is, or the first sample. */
  async open(model) {
    this.model = model;
    showSamples(get("samples"), model.samples, "Sample photograph", (index) => this.sample(index));
    await (this.blob ? this.take(this.blob) : this.sample(0));
  }

  async sample(index) {
    const answer = await fetch(this.model.samples[index]);
    await this.take(await answer.blob());
  }

  /** Divide a file; the image before stays if it cannot be read. */
  async take(blob) {
    const { config, say } = this.page;
    if (blob.size > config.max_bytes) return say(`That file is too large: at most ${config.max_bytes / 2 ** 20} MB.`);
    let bitmap;
    try {
      bitmap = await createImageBitmap(blob);
    } catch {
      return say("This browser cannot read that file as an image. PNG, JPEG, WebP and GIF always work.");
    }
    say("");
    this.bitmap?.close();
    Object.assign(this, { blob, bitmap, wanted: 0, found: null, lit: -1 });
    this.selected.clear();
    this.drawPhotograph();
    await this.refresh();
  }

  /** Compute and draw; calls made meanwhile share one further update. */
  refresh() {
    this.isStale = true;
    this.running ??= this.rounds().finally(() => { this.running = null; });
    return this.running;
  }

  async rounds() {
    document.body.dataset.state = "busy";
    try {
      while (this.isStale) {
        this.isStale = false;
        const { blob, bitmap, wanted } = this, begun = performance.now();
        const found = await this.page.engine.divide(this.model, blob, bitmap, wanted);
        if (blob !== this.blob) continue; // another image came meanwhile
        const seconds = (performance.now() - begun) / 1000;
        this.found = { ...found, ...segmentsAtSize(found, this.base.width, this.base.height), seconds };
        for (const index of this.selected) if (index >= found.number) this.selected.delete(index);
        this.lit = -1;
        this.drawSegments();
        this.drawCards();
        this.describe();
      }
      document.body.dataset.state = "ready";
    } catch (error) {
      document.body.dataset.state = "failed";
      this.page.say(error.message);
    }
  }

  describe() {
    const { number, seconds } = this.found, { width, height } = this.bitmap;
    get("segments").value = number;
    get("segments-value").textContent = this.wanted ? number : `${number}, found`;
    get("automatic").hidden = !this.wanted;
    const where = this.page.config.engine === "server" ? "on this machine" : "in this browser";
    get("photograph-facts").textContent = `${width} × ${height} pixels · ${seconds.toFixed(2)} s ${where}`;
    this.over.setAttribute("aria-label", `Photograph divided into ${number} segments`);
  }

  drawPhotograph() {
    sizeStage(get("photograph-stage"), [this.base, this.over], this.bitmap, SHOWN);
    const context = this.base.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    context.drawImage(this.bitmap, 0, 0, this.base.width, this.base.height);
    this.over.classList.remove("shown");
    get("cutouts").replaceChildren();
    get("save").hidden = true;
  }

  /** The layer over the photograph: colours and borders, or a shade over all that is not lit. */
  drawSegments() {
    if (!this.found) return;
    const lit = new Set(this.lit < 0 ? this.selected : [...this.selected, this.lit]);
    drawLayer(this.over, this.found, lit);
    this.over.classList.toggle("shown", !get("plain").checked || lit.size > 0);
    for (const card of get("cutouts").children) {
      const index = Number(card.dataset.index);
      card.classList.toggle("lit", index === this.lit);
      card.setAttribute("aria-pressed", this.selected.has(index));
    }
    get("save").hidden = !this.selected.size;
    get("save").textContent = this.selected.size > 1 ? `Save ${this.selected.size} segments as PNG` : "Save cut-out as PNG";
  }

  drawCards() {
    const { number, labels } = this.found, areas = new Array(number).fill(0);
    for (const index of labels) areas[index]++;
    const order = areas.map((_, index) => index).filter((index) => areas[index] > SMALL * labels.length);
    order.sort((one, other) => areas[other] - areas[one]);
    get("cutouts").replaceChildren(...order.map((index) => {
      const card = make("button", { type: "button", className: "cutout" });
      card.dataset.index = index;
      card.style.setProperty("--color", css(slotColor(index)));
      const percent = Math.max(1, Math.round((100 * areas[index]) / labels.length));
      card.setAttribute("aria-label", `Segment of ${percent} % of the photograph`);
      card.setAttribute("aria-pressed", this.selected.has(index));
      card.append(this.cutout(new Set([index]), CARD), make("span", { textContent: `${percent} %` }));
      card.addEventListener("click", () => this.toggle(index));
      for (const event of ["mouseenter", "focus"]) card.addEventListener(event, () => this.light(index));
      for (const event of ["mouseleave", "blur"]) card.addEventListener(event, () => this.light(-1));
      return card;
    }));
  }

  /** The photograph where it belongs to one of `segments`, cropped, on a canvas of at most `side` pixels. */
  cutout(segments, side) {
    const { width, height } = this.base, { labels, second, margin } = this.found;
    const image = this.base.getContext("2d").getImageData(0, 0, width, height), pixels = image.data;
    let [left, top, right, bottom] = [width, height, 0, 0];
    for (let at = 0; at < labels.length; at++) {
      const share = shareAt(margin, at);
      const alpha = (segments.has(labels[at]) ? share : 0) + (segments.has(second[at]) ? 1 - share : 0);
      pixels[4 * at + 3] = 255 * alpha;
      if (alpha < 0.5) continue;
      const x = at % width, y = Math.floor(at / width);
      [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x), Math.max(bottom, y)];
    }
    const whole = make("canvas", { width, height });
    whole.getContext("2d").putImageData(image, 0, 0);
    const across = right - left + 1, down = bottom - top + 1, scale = Math.min(1, side / Math.max(across, down));
    const canvas = make("canvas", {
      width: Math.max(1, Math.round(across * scale)), height: Math.max(1, Math.round(down * scale)),
    });
    canvas.setAttribute("aria-hidden", "true");
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(whole, left, top, across, down, 0, 0, canvas.width, canvas.height);
    return canvas;
  }

  light(index) {
    if (index === this.lit) return;
    this.lit = index;
    this.drawSegments();
  }

  toggle(index) {
    if (!this.selected.delete(index)) this.selected.add(index);
    this.drawSegments();
  }

  listen() {
    this.over.addEventListener("pointermove", (event) => {
      if (event.pointerType === "mouse") this.light(segmentAt(event, this.over, this.found));
    });
    this.over.addEventListener("pointerleave", () => this.light(-1));
    this.over.addEventListener("click", (event) => {
      const index = segmentAt(event, this.over, this.found);
      if (index >= 0) this.toggle(index);
    });
    takeFiles(get("photograph-file"), get("photograph"), (file) => this.take(file));
    get("segments").addEventListener("input", (event) => {
      this.wanted = Number(event.target.value);
      get("segments-value").textContent = this.wanted;
      this.selected.clear();
      this.refresh();
    });
    get("automatic").addEventListener("click", () => {
      this.wanted = 0;
      this.selected.clear();
      this.refresh();
    });
    get("plain").addEventListener("change", () => this.drawSegments());
    get("save").addEventListener("click", () => {
      this.cutout(this.selected, Infinity).toBlob((blob) => {
        const link = make("a", { href: URL.createObjectURL(blob), download: "cut-out.png" });
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 1000);
      });
    });
    addEventListener("paste", (event) => {
      if (!get("photograph").hidden && event.clipboardData.files[0]) this.take(event.clipboardData.files[0]);
    });
  }
}
