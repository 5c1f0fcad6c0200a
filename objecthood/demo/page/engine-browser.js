// The model in the browser: the export stages (objecthood/export/export.py), run by onnxruntime-web.

import * as ort from "./runtime/ort.wasm.bundle.min.mjs";
import { normal } from "./noise.js";
import { readPlanes } from "./resize.js";

const MOST_THREADS = 4; // more threads gain little on models of this size
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1) : 1;
navigator.serviceWorker?.register(new URL("./isolate.js", import.meta.url)).catch(() => {}); // active from the next visit on
ort.env.wasm.wasmPaths = { wasm: new URL("./runtime/ort-wasm-simd-threaded.wasm", import.meta.url).href };
ort.env.logLevel = "error";

const PARTS = { slots: ["start", "encode", "step", "decode"], photographs: ["group", "divide"], live: ["segment"] };
const OPTIMIZATION = { slots: "all", photographs: "disabled", live: "all" }; // it takes longer than it saves in a few runs
const sessions = new Map();

/**
 * Slots and attention of an image file.
 *
 * Returns planes [3 * side * side], the preprocessed image, and for each iteration slots [slots * dim] and attention
 * [slots * inputs]. Throws an Error if the file cannot be decoded.
 */
export async function look(model, blob, options) {
  let planes;
  try {
    planes = await readPlanes(blob, model.resolution, model.fit);
  } catch {
    throw new Error("This browser cannot read that file as an image. PNG, JPEG, WebP and GIF always work.");
  }
  return { planes, ...(await group(model, planes, options)) };
}

/** Slots and attention of every iteration, for an image in planes. */
export async function group(model, planes, { numSlots, iterations, seed, spread }) {
  const run = await load(model);
  const { resolution, slot_dim: dim, grid } = model, numInputs = grid[0] * grid[1];
  const { slots: start } = await run.start({
    noise: tensor(normal(seed, numSlots * dim), [1, numSlots, dim]),
    noise_scale: tensor(Float32Array.of(spread), []),
  });
  const { inputs } = await run.encode({ image: tensor(planes, [1, 3, resolution, resolution]) });
  let slots = start, bias = tensor(new Float32Array(numSlots * numInputs), [1, numSlots, numInputs]);
  const found = { slots: [], attention: [] };
  for (let index = 0; index < iterations; index++) {
    const after = await run.step({ slots, inputs, bias });
    [slots, bias] = [after.slots_after, after.bias_after];
    found.slots.push(after.slots_seen.data);
    found.attention.push(after.attention.data);
  }
  return found;
}

/** Decode slots with their attention: appearance [slots * 3 * size], mask logits [slots * size]. */
export async function decode(model, slots, attention) {
  const run = await load(model);
  const { slot_dim: dim, grid } = model, numSlots = slots.length / dim;
  const decoded = await run.decode({
    slots: tensor(slots, [1, numSlots, dim]),
    attention: tensor(attention, [1, numSlots, ...grid]),
  });
  return { appearance: decoded.appearance.data, logits: decoded.mask_logits.data };
}

const grouped = new WeakMap(); // what `group` gave for a file

/**
 * Segments of a photograph: `number`, or as many as the model finds for 0 (objecthood/export/photographs.py).
 *
 * Returns number, and masks [number * rows * columns], of about guide * guide pixels.
 */
export async function divide(model, blob, bitmap, number) {
  const run = await load(model), { sides, stride, guide } = model, { width, height } = bitmap;
  if (!grouped.has(blob)) {
    const scale = sides[0] / Math.sqrt(width * height) / stride;
    const side = (size) => stride * Math.max(1, Math.round(size * scale));
    grouped.set(blob, await run.group({ image: planesOf(bitmap, side(width), side(height)) }));
  }
  const scale = guide / Math.sqrt(width * height);
  const columns = Math.max(1, Math.round(width * scale)), rows = Math.max(1, Math.round(height * scale));
  const { masks } = await run.divide({
    image: planesOf(bitmap, columns, rows),
    num_segments: new ort.Tensor("int64", BigInt64Array.of(BigInt(number)), []),
    ...grouped.get(blob),
  });
  return { masks: masks.data, number: masks.dims[0], rows, columns };
}

/** Slots of a frame on a canvas (objecthood/export/feature_slots.py): as `divide`, without an identity of files. */
export async function segment(model, frame) {
  const run = await load(model), scale = Math.sqrt(model.area / (frame.width * frame.height)) / model.stride;
  const side = (size) => model.stride * Math.max(1, Math.round(size * scale));
  const { masks } = await run.segment({ image: planesOf(frame, side(frame.width), side(frame.height)) });
  return { masks: masks.data, number: masks.dims[0], rows: masks.dims[1], columns: masks.dims[2] };
}

/** A bitmap over white, resized, as a tensor [1, 3, height, width] in [0, 1]. */
function planesOf(bitmap, width, height) {
  const canvas = new OffscreenCanvas(width, height), size = width * height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height), planes = new Float32Array(3 * size);
  for (let at = 0; at < size; at++) {
    for (let channel = 0; channel < 3; channel++) planes[channel * size + at] = data[4 * at + channel] / 255;
  }
  return tensor(planes, [1, 3, height, width]);
}

const tensor = (data, shape) => new ort.Tensor("float32", data, shape);

/** The stages of a model as functions; fetched once. Called early, it shortens the wait for the first image. */
export function load(model) {
  if (!sessions.has(model.name)) {
    sessions.set(model.name, fetchParts(model).catch((error) => {
      sessions.delete(model.name); // the next call tries again
      throw error;
    }));
  }
  return sessions.get(model.name);
}

async function fetchParts(model) {
  const parts = await Promise.all(PARTS[model.kind].map(async (name) => {
    const answer = await fetch(new URL(`models/${model.name}/${name}.onnx`, import.meta.url));
    if (!answer.ok) throw new Error(`${answer.url}: ${answer.status} ${answer.statusText}`);
    const session = await ort.InferenceSession.create(await answer.arrayBuffer(), {
      executionProviders: ["wasm"], logSeverityLevel: 3, // errors
      graphOptimizationLevel: OPTIMIZATION[model.kind],
    });
    return [name, (inputs) => session.run(inputs)];
  }));
  return Object.fromEntries(parts);
}
