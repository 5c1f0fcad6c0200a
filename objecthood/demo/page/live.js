// The page of live images: a webcam, a video, or a walk over a photograph, every frame divided by the same slots.

import { drawLayer, segmentsAtSize } from "./segments.js";

const SHOWN = 480; // longest side in pixels of what is drawn
const SHARE = 0.6; // weight of a new frame in the mean of masks over time: less flicker, some delay
const ZOOM = 0.8, PERIOD = 16000; // of the walk: share of the photograph that is seen; milliseconds of a round
const isCalm = matchMedia("(prefers-reduced-motion: reduce)");

const get = (id) => document.getElementById(id);

/** The view; `page` has { engine, config, say }. */
export class Live {
  constructor(page) {
    Object.assign(this, { page, model: null, source: null, running: null, masks: null, found: null, times: [] });
    Object.assign(this, { lit: -1, selected: new Set() });
    this.video = Object.assign(document.createElement("video"), { muted: true, loop: true, playsInline: true });
    this.base = get("live-base");
    this.over = get("live-over");
    this.listen();
  }

  /** Show the page with a model: a walk over the first sample photograph. */
  async open(model) {
    this.model = model;
    const thumbnails = model.samples.map((name, index) => {
      const button = Object.assign(document.createElement("button"), { type: "button", className: "sample" });
      button.append(Object.assign(document.createElement("img"), { src: name, alt: `Walk over photograph ${index + 1}` }));
      button.addEventListener("click", () => this.walk(index));
      return button;
    });
    get("live-samples").replaceChildren(...thumbnails);
    await this.walk(0);
  }

  /** Stop: the camera is switched off. */
  close() {
    for (const track of this.video.srcObject?.getTracks() ?? []) track.stop();
    if (this.video.src) URL.revokeObjectURL(this.video.src);
    this.video.removeAttribute("src");
    Object.assign(this.video, { srcObject: null });
    Object.assign(this, { source: null, masks: null, found: null, times: [] });
  }

  /** A window that moves over a photograph, as a camera would. */
  async walk(index) {
    const answer = await fetch(this.model.samples[index]), bitmap = await createImageBitmap(await answer.blob());
    const width = Math.round(bitmap.width * ZOOM), height = Math.round(bitmap.height * ZOOM);
    const draw = (context, size) => {
      const angle = isCalm.matches ? 0.6 : (2 * Math.PI * performance.now()) / PERIOD;
      const left = ((1 + Math.sin(angle)) / 2) * (bitmap.width - width);
      const top = ((1 + Math.sin(2 * angle)) / 2) * (bitmap.height - height);
      context.drawImage(bitmap, left, top, width, height, 0, 0, ...size);
    };
    this.close();
    await this.play({ width, height, draw, isStill: isCalm.matches });
  }

  async camera() {
    const media = navigator.mediaDevices;
    if (!media) return this.page.say("This browser gives no camera to this address; open the page as localhost or over https.");
    try {
      const stream = await media.getUserMedia({ video: { width: { ideal: 640 } }, audio: false });
      this.close();
      this.video.srcObject = stream;
      await this.playVideo();
    } catch (error) {
      this.page.say(`The camera cannot be used: ${error.message}`);
    }
  }

  async file(file) {
    this.close();
    this.video.src = URL.createObjectURL(file);
    try {
      await this.playVideo();
    } catch {
      this.page.say("This browser cannot play that file as a video. MP4 (H.264) and WebM usually work.");
      await this.walk(0);
    }
  }

  async playVideo() {
    const { video } = this;
    await video.play();
    const draw = (context, size) => context.drawImage(video, 0, 0, ...size);
    this.page.say("");
    await this.play({ width: video.videoWidth, height: video.videoHeight, draw, isStill: false });
  }

  /** Divide frame after frame of a source until it is closed or replaced. */
  async play(source) {
    this.source = source;
    const scale = Math.min(1, SHOWN / Math.max(source.width, source.height));
    for (const canvas of [this.base, this.over]) {
      canvas.width = Math.max(1, Math.round(source.width * scale));
      canvas.height = Math.max(1, Math.round(source.height * scale));
    }
    get("live-stage").style.setProperty("--ratio", this.base.width / this.base.height);
    document.body.dataset.state = "busy";
    const frame = new OffscreenCanvas(this.base.width, this.base.height), context = frame.getContext("2d");
    context.imageSmoothingQuality = "high";
    try {
      do {
        if (document.hidden) await new Promise((shown) => addEventListener("visibilitychange", shown, { once: true }));
        source.draw(context, [frame.width, frame.height]);
        const found = await this.page.engine.segment(this.model, frame);
        if (source !== this.source) return;
        this.show(frame, found);
        document.body.dataset.state = "ready";
        await new Promise(requestAnimationFrame);
      } while (source === this.source && !source.isStill);
    } catch (error) {
      if (source !== this.source) return;
      document.body.dataset.state = "failed";
      this.page.say(error.message);
    }
  }

  /** Draw a frame together with its slots, so that neither lags behind the other. */
  show(frame, { masks, number, rows, columns }) {
    if (this.masks?.length === masks.length) {
      for (let at = 0; at < masks.length; at++) masks[at] = SHARE * masks[at] + (1 - SHARE) * this.masks[at];
    }
    this.masks = masks;
    const { width, height } = this.base;
    this.found = { number, ...segmentsAtSize({ masks, number, rows, columns }, width, height) };
    this.base.getContext("2d").drawImage(frame, 0, 0);
    this.draw();
    this.times = [...this.times, performance.now()].slice(-11);
    const { times } = this, passed = (times.at(-1) - times[0]) / 1000;
    const rate = times.length > 1 ? `${((times.length - 1) / passed).toFixed(1)} frames a second` : "";
    const where = this.page.config.engine === "server" ? "on this machine" : "in this browser";
    get("live-facts").textContent = `${new Set(this.found.labels).size} of ${number} slots · ${rate} ${where}`;
  }

  draw() {
    if (!this.found) return;
    const lit = new Set(this.lit < 0 ? this.selected : [...this.selected, this.lit]);
    drawLayer(this.over, this.found, lit, true);
    this.over.classList.toggle("shown", !get("live-plain").checked || lit.size > 0);
  }

  slotAt(event) {
    if (!this.found) return -1;
    const box = this.over.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width) * this.over.width);
    const row = Math.floor(((event.clientY - box.top) / box.height) * this.over.height);
    return this.found.labels[row * this.over.width + column] ?? -1;
  }

  listen() {
    get("live-camera").addEventListener("click", () => this.camera());
    get("live-file").addEventListener("change", (event) => {
      if (event.target.files[0]) this.file(event.target.files[0]);
      event.target.value = "";
    });
    get("live-plain").addEventListener("change", () => this.draw());
    this.over.addEventListener("click", (event) => {
      const index = this.slotAt(event);
      if (index >= 0 && !this.selected.delete(index)) this.selected.add(index);
      this.draw();
    });
    const stage = get("live"), mark = (isOver) => stage.classList.toggle("over", isOver);
    stage.addEventListener("dragover", (event) => { event.preventDefault(); mark(true); });
    stage.addEventListener("dragleave", () => mark(false));
    stage.addEventListener("drop", (event) => {
      event.preventDefault();
      mark(false);
      if (event.dataTransfer.files[0]) this.file(event.dataTransfer.files[0]);
    });
  }
}
