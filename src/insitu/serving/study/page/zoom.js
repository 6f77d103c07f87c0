// Pictures in whole multiples of their pixels, and one of them enlarged.

const find = (id) => document.getElementById(id);
const dialog = find("zoom"), stage = find("stage"), image = stage.firstElementChild;
let shown = [], at = 0;

/** Lay a picture out within width x height CSS pixels. Enlarged twice or more, each of its pixels
 * is a square of whole device pixels, so that nothing is smoothed that a way painted. */
export function fit(picture, width, height) {
  const [w, h] = [Number(picture.dataset.width), Number(picture.dataset.height)];
  const device = window.devicePixelRatio || 1;
  let scale = Math.min(width / w, height / h) * device;
  const squares = scale >= 2;
  if (squares) scale = Math.floor(scale);
  picture.classList.toggle("pixels", squares);
  picture.width = Math.round((w * scale) / device);
  picture.height = Math.round((h * scale) / device);
}

export const isOpen = () => dialog.open;

/** Show pictures, each {address, width, height, label}, from the one at `index`. */
export function open(pictures, index) {
  shown = pictures;
  show(index);
  dialog.showModal();
  find("close").focus();
  refit();
}

/** The keys while a picture is enlarged: arrows and digits change it, z closes. */
export function key(event, outputs) {
  const digit = /^[1-9]$/.test(event.key) ? Number(event.key) : 0;
  if (event.key === "ArrowLeft") show(at - 1);
  else if (event.key === "ArrowRight") show(at + 1);
  else if (event.key.toLowerCase() === "z") dialog.close();
  else if (digit && digit <= outputs) show(shown.length - outputs + digit - 1);
  else return;
  event.preventDefault();
}

export function refit() {
  if (dialog.open) fit(image, stage.clientWidth - 8, stage.clientHeight - 8);
}

function show(index) {
  at = (index + shown.length) % shown.length;
  const picture = shown[at];
  image.src = picture.address;
  image.alt = picture.label;
  image.dataset.width = picture.width;
  image.dataset.height = picture.height;
  find("caption").textContent = picture.label;
  refit();
}

stage.addEventListener("click", () => dialog.close());
find("close").addEventListener("click", () => dialog.close());
find("before").addEventListener("click", () => show(at - 1));
find("after").addEventListener("click", () => show(at + 1));
