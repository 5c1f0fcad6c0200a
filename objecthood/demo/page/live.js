// The page of live images: a webcam, a video, or a walk over a photograph, every frame divided by the same slots.

import { drawLayer, segmentsAtSize } from "./segments.js";
import { get, make, segmentAt, showSamples, sizeStage, takeFiles } from "./stage.js";

const SHOWN = 480; // longest side in pixels of what is drawn
const SHARE = 0.6; // weight of a new frame in the mean of masks over time: less flicker, some delay
const ZOOM = 0.8, PERIOD = 16000; // of the walk: share of the photograph that is seen; milliseconds of a round
const isCalm = matchMedia("(prefers-reduced-motion: reduce)");

/** The view; `page` has { engine, config, say }. */
export class Live {
  constructor(page) {
    Object.assign(this, { page, model: null, source: null, masks: null, found: null, times: [], selected: new Set() });
    this.video = make("video", { muted: true, loop: true, playsInline: true });
    this.base = get("live-base");
    this.over = get("live-over");
    this.listen();
  }

  /** Show the page with a model: a walk over the first sample photograph. */
  async open(model) {
    this.model = model;
    showSamples(get("live-samples"), model.samples, "Walk over photograph", (index) => this.walk(index));
    await this.walk(0);
  }

  /** Stop: the camera is switched off. */
  close() {
    for (const track of this.video.srcObject?.getTracks() ?? []) track.stop();
    if (this.video.src) URL.revokeObjectURL(this.video.src);
    this.video.removeAttribute("src");
    this.video.srcObject = null;
    this.selected.clear();
    Object.assign(this, { source: null, masks: null, found: null, times: [] });
  }

  /** A window that moves over a photograph, as a camera would. */
  async walk(index) {
    const source = this.begin();
    const answer = await fetch(this.model.samples[index]), bitmap = await createImageBitmap(await answer.blob());
    const width = Math.round(bitmap.width * ZOOM), height = Math.round(bitmap.height * ZOOM);
    const draw = (context, size) => {
      const angle = isCalm.matches ? 0.6 : (2 * Math.PI * performance.now()) / PERIOD;
      const left = ((1 + Math.sin(angle)) / 2) * (bitmap.width - width);
      const top = ((1 + Math.sin(2 * angle)) / 2) * (bitmap.height - height);
      context.drawImage(bitmap, left, top, width, height, 0, 0, ...size);
    };
    await this.play(Object.assign(source, { width, height, draw, isStill: isCalm.matches }));
  }

  async camera() {
    const media = navigator.mediaDevices;
    if (!media) return this.page.say("This browser gives no camera to this address; open the page as localhost or over https.");
    let stream;
    try {
      stream = await media.getUserMedia({ video: { width: { ideal: 640 } }, audio: false });
    } catch (error) {
      return this.page.say(`The camera cannot be used: ${error.message}`);
    }
    const source = this.begin();
    this.video.srcObject = stream;
    await this.playVideo(source);
  }

  async file(file) {
    const source = this.begin();
    this.video.src = URL.createObjectURL(file);
    await this.playVideo(source);
  }

  /** A new source, in place of the one before. */
  begin() {
    this.close();
    this.source = {};
    return this.source;
  }

  async playVideo(source) {
    const { video } = this;
    try {
      await video.play();
    } catch {
      if (source !== this.source) return; // another one was chosen meanwhile
      await this.walk(0);
      return this.page.say("This browser cannot play that as a video. MP4 (H.264) and WebM usually work.");
    }
    this.page.say("");
    const draw = (context, size) => context.drawImage(video, 0, 0, ...size);
    await this.play(Object.assign(source, { width: video.videoWidth, height: video.videoHeight, draw }));
  }

  /** Divide the first frame of a source, and then frame after frame until it is replaced. */
  async play(source) {
    if (source !== this.source) return;
    sizeStage(get("live-stage"), [this.base, this.over], source, SHOWN);
    document.body.dataset.state = "busy";
    const frame = new OffscreenCanvas(this.base.width, this.base.height);
    frame.getContext("2d").imageSmoothingQuality = "high";
    await this.divide(source, frame);
    if (!source.isStill) this.follow(source, frame);
  }

  async follow(source, frame) {
    while (source === this.source && document.body.dataset.state === "ready") {
      if (document.hidden) await new Promise((shown) => addEventListener("visibilitychange", shown, { once: true }));
      await this.divide(source, frame);
      await new Promise(requestAnimationFrame);
    }
  }

  async divide(source, frame) {
    try {
      source.draw(frame.getContext("2d"), [frame.width, frame.height]);
      const found = await this.page.engine.segment(this.model, frame);
      if (source !== this.source) return;
      this.show(frame, found);
      document.body.dataset.state = "ready";
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
    drawLayer(this.over, this.found, this.selected, true);
    this.over.classList.toggle("shown", !get("live-plain").checked || this.selected.size > 0);
  }

  listen() {
    get("live-camera").addEventListener("click", () => this.camera());
    get("live-plain").addEventListener("change", () => this.draw());
    takeFiles(get("live-file"), get("live"), (file) => this.file(file));
    this.over.addEventListener("click", (event) => {
      const index = segmentAt(event, this.over, this.found);
      if (index >= 0 && !this.selected.delete(index)) this.selected.add(index);
      this.draw();
    });
  }
}
