// The model in the browser: the export stages (objecthood/export/export.py), run by onnxruntime-web.

import * as ort from "./runtime/ort.wasm.bundle.min.mjs";
import { normal } from "./noise.js";
import { readPlanes } from "./resize.js";

const MOST_THREADS = 4; // more threads gain little on models of this size
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1) : 1;
navigator.serviceWorker?.register(new URL("./isolate.js", import.meta.url)).catch(() => {}); // active from the next visit on
ort.env.wasm.wasmPaths = { wasm: new URL("./runtime/ort-wasm-simd-threaded.wasm", import.meta.url).href };
ort.env.logLevel = "error";

const PARTS = ["start", "encode", "step", "paint"];
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
export async function paint(model, slots, attention) {
  const run = await load(model);
  const { slot_dim: dim, grid } = model, numSlots = slots.length / dim;
  const decoded = await run.paint({
    slots: tensor(slots, [1, numSlots, dim]),
    attention: tensor(attention, [1, numSlots, ...grid]),
  });
  return { appearance: decoded.appearance.data, logits: decoded.mask_logits.data };
}

const tensor = (data, shape) => new ort.Tensor("float32", data, shape);

/** The stages of a model as functions; fetched once. */
function load(model) {
  if (!sessions.has(model.name)) {
    sessions.set(model.name, fetchParts(model).catch((error) => {
      sessions.delete(model.name); // the next call tries again
      throw error;
    }));
  }
  return sessions.get(model.name);
}

async function fetchParts(model) {
  const run = {};
  for (const name of PARTS) {
    const address = new URL(`models/${model.name}/${name}.onnx`, import.meta.url).href;
    const session = await ort.InferenceSession.create(address, { executionProviders: ["wasm"] });
    run[name] = (inputs) => session.run(inputs);
  }
  return run;
}
