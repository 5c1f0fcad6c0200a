// What the pages of photographs and of live images share: a stage of two canvases, sample images, and files.

export const get = (id) => document.getElementById(id);
export const make = (tag, properties) => Object.assign(document.createElement(tag), properties);

/** Give the canvases of a stage the aspect ratio of an image, with at most `longest` pixels a side. */
export function sizeStage(stage, canvases, { width, height }, longest) {
  const scale = Math.min(1, longest / Math.max(width, height));
  for (const canvas of canvases) {
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
  }
  stage.style.setProperty("--ratio", canvases[0].width / canvases[0].height);
}

/** Show a button for each sample image, which calls `take` with its number. */
export function showSamples(place, names, title, take) {
  place.replaceChildren(...names.map((name, index) => {
    const button = make("button", { type: "button", className: "sample" });
    button.append(make("img", { src: name, alt: `${title} ${index + 1}` }));
    button.addEventListener("click", () => take(index));
    return button;
  }));
}

/** Call `take` with a file that is chosen in `input` or dropped on `page`. */
export function takeFiles(input, page, take) {
  input.addEventListener("change", () => {
    if (input.files[0]) take(input.files[0]);
    input.value = "";
  });
  const mark = (isOver) => page.classList.toggle("over", isOver);
  page.addEventListener("dragover", (event) => { event.preventDefault(); mark(true); });
  page.addEventListener("dragleave", () => mark(false));
  page.addEventListener("drop", (event) => {
    event.preventDefault();
    mark(false);
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
}

/** The segment under the pointer; -1 where none is known. */
export function segmentAt(event, canvas, found) {
  if (!found) return -1;
  const box = canvas.getBoundingClientRect();
  const column = Math.floor(((event.clientX - box.left) / box.width) * canvas.width);
  const row = Math.floor(((event.clientY - box.top) / box.height) * canvas.height);
  return found.labels[row * canvas.width + column] ?? -1;
}
