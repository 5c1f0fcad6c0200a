// The model in `objecthood demo`: PyTorch behind the local HTTP server.

/** Slots and attention of an image file: see `look` in engine-browser.js. */
export async function look(model, blob, { numSlots, iterations, seed, spread }) {
  const query = new URLSearchParams({ model: model.name, slots: numSlots, iterations, seed, spread });
  const answer = await ask(`api/look?${query}`, blob);
  const { resolution, slot_dim: dim, grid } = model, inputs = grid[0] * grid[1];
  const take = reader(answer);
  const planes = take(3 * resolution * resolution);
  const slots = [], attention = [];
  for (let index = 0; index < iterations; index++) slots.push(take(numSlots * dim));
  for (let index = 0; index < iterations; index++) attention.push(take(numSlots * inputs));
  return { planes, slots, attention };
}

/** Decode slots: see `decode` in engine-browser.js. */
export async function decode(model, slots, attention) {
  const numSlots = slots.length / model.slot_dim, size = model.resolution ** 2;
  const body = new Float32Array(slots.length + attention.length);
  body.set(slots);
  body.set(attention, slots.length);
  const query = new URLSearchParams({ model: model.name, slots: numSlots });
  const take = reader(await ask(`api/decode?${query}`, body.buffer));
  return { appearance: take(numSlots * 3 * size), logits: take(numSlots * size) };
}

/** Segments of a photograph: see `divide` in engine-browser.js. */
export async function divide(model, blob, bitmap, number) {
  const query = new URLSearchParams({ model: model.name, segments: number });
  return readMasks(await ask(`api/divide?${query}`, blob));
}

/** Slots of a frame on a canvas: see `segment` in engine-browser.js. */
export async function segment(model, frame) {
  const blob = await frame.convertToBlob({ type: "image/jpeg", quality: 0.9 });
  return readMasks(await ask(`api/segment?${new URLSearchParams({ model: model.name })}`, blob));
}

function readMasks(answer) {
  const [number, rows, columns] = new Int32Array(answer, 0, 3);
  return { masks: new Float32Array(answer, 12), number, rows, columns };
}

async function ask(address, body) {
  for (let pause = 200; ; pause *= 2) {
    const answer = await fetch(address, {
      method: "POST", body, headers: { "Content-Type": "application/octet-stream" },
    });
    if (answer.ok) return answer.arrayBuffer();
    if (answer.status !== 503 || pause > 2000) throw new Error((await answer.json()).error);
    await new Promise((resolve) => setTimeout(resolve, pause)); // the queue is full
  }
}

/** A function that returns the next numbers of a response. */
function reader(buffer) {
  let offset = 0;
  return (count) => {
    const part = new Float32Array(buffer, offset, count);
    offset += 4 * count;
    return part;
  };
}
