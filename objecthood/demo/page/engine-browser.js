// The model in the visitor's browser: the exported parts (objecthood/export/export.py), run by onnxruntime-web.

import * as ort from "./runtime/ort.wasm.bundle.min.mjs";
import { normal } from "./noise.js";
import { readPlanes } from "./resize.js";

const MOST_THREADS = 4; // more gain little on models of this size
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1) : 1;
navigator.serviceWorker?.register(new URL("./isolate.js", import.meta.url)).catch(() => {}); // isolated, at the next visit
ort.env.wasm.wasmPaths = { wasm: new URL("./runtime/ort-wasm-simd-threaded.wasm", import.meta.url).href };
ort.env.logLevel = "error";

const PARTS = ["start", "encode", "step", "paint"];
const sessions = new Map();

/**
 * What a model makes of a picture file.
 *
 * Returns planes [3 * side * side], the picture as the model sees it, and for each iteration slots
 * [slots * dim] and attention [slots * inputs]. Raises an Error where the file is no picture.
 */
export async function look(model, blob, options) {
  let planes;
  try {
    planes = await readPlanes(blob, model.resolution, model.fit);
  } catch {
    throw new Error("This browser cannot read that file as a picture; PNG, JPEG, WebP and GIF always work.");
  }
  return { planes, ...(await group(model, planes, options)) };
}

/** Slots and attention of every iteration, for a picture in planes. */
export async function group(model, planes, { numSlots, iterations, seed, spread }) {
  const run = await load(model);
  const { resolution, slot_dim: dim, grid } = model, places = grid[0] * grid[1];
  const { slots: start } = await run.start({
    noise: tensor(normal(seed, numSlots * dim), [1, numSlots, dim]),
    noise_scale: tensor(Float32Array.of(spread), []),
  });
  const { inputs } = await run.encode({ image: tensor(planes, [1, 3, resolution, resolution]) });
  let slots = start, bias = tensor(new Float32Array(numSlots * places), [1, numSlots, places]);
  const seen = { slots: [], attention: [] };
  for (let index = 0; index < iterations; index++) {
    const after = await run.step({ slots, inputs, bias });
    [slots, bias] = [after.slots_after, after.bias_after];
    seen.slots.push(after.slots_seen.data);
    seen.attention.push(after.attention.data);
  }
  return seen;
}

/** What slots, with the attention that made them, look like: appearance [slots * 3 * size], logits [slots * size]. */
export async function paint(model, slots, attention) {
  const run = await load(model);
  const { slot_dim: dim, grid } = model, numSlots = slots.length / dim;
  const painting = await run.paint({
    slots: tensor(slots, [1, numSlots, dim]),
    attention: tensor(attention, [1, numSlots, ...grid]),
  });
  return { appearance: painting.appearance.data, logits: painting.mask_logits.data };
}

const tensor = (data, shape) => new ort.Tensor("float32", data, shape);

/** The parts of a model as functions; fetched once. */
function load(model) {
  if (!sessions.has(model.name)) {
    sessions.set(model.name, fetchParts(model).catch((error) => {
      sessions.delete(model.name); // so that the next call tries again
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
