// The studio: what is asked, who is asked, and what came of it.

import { Refusal, adapters, ask, follow, json, useKey } from "/studio/api.js";
import { Stage } from "/studio/stage.js";

const $ = (id) => document.getElementById(id);
const COLOURS = ["#d1495b", "#00798c", "#8a6d00", "#6a4c93", "#2e7d32", "#c05621"];
const PAST = 24;
const state = {
  photo: null, places: [], chosen: null, takes: null, base: 64, methods: [], adapters: [], past: [],
  job: null, counter: 0, shown: null,
};
const stage = new Stage($("canvas"), {
  drawn: (box) => addPlace({ box }),
  moved: (id, box) => { of(id).box = box; choose(id); },
  chosen: (id) => choose(id),
  stroke: (tool) => stroke(tool),
  stroked: () => redraw(),
});
const of = (id) => state.places.find((place) => place.id === id);
const has = (what) => state.takes && (state.takes.needs.includes(what) || state.takes.takes.includes(what));
const most = () => (state.takes ? state.takes.placements[1] : 0);

// --- the picture

async function usePhoto(blob) {
  const url = URL.createObjectURL(blob);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    return say({ given: "A file was given as the photo.", why: "It is no picture that can be shown.",
      "to do": "Choose a PNG, JPEG or WebP." });
  }
  begin({ blob, url, image, width: image.naturalWidth, height: image.naturalHeight });
}

function begin(photo) {
  state.photo = photo;
  state.places = state.places.filter((place) => !place.mask); // masks fit the photo before
  $("empty").hidden = true;
  stage.show(photo.image, photo.width, photo.height);
  quiet();
  redraw();
}

function blank() {
  const [width, height] = [Number($("width").value), Number($("height").value)];
  if (!(width >= 16 && height >= 16)) {
    return say({ given: `A picture of ${width} × ${height} pixels was asked for.`,
      why: "That is too small to paint anything.", "to do": "Give both sides at least 16 pixels." });
  }
  document.querySelector('[name="background"][value="free"]').checked = true;
  begin({ blob: null, url: null, image: null, width, height });
}

// --- places

function addPlace(more) {
  if (!state.photo) return say({ given: "A place was to be added.", why: "There is no picture yet.", "to do": "Give a photo first." });
  if (state.places.length >= most()) {
    return say({ given: `Place ${state.places.length + 1} was to be added.`,
      why: `${$("adapter").value} takes ${most()}.`, "to do": "Change one that is there, or choose another adapter." });
  }
  const id = `place-${++state.counter}`;
  const used = new Set(state.places.map((place) => place.colour));
  const colour = COLOURS.find((one) => !used.has(one)) || COLOURS[0];
  const place = { id, colour, box: [0.3, 0.3, 0.7, 0.75], mask: null, reference: null, prompt: "", ...more };
  state.places.push(place);
  quiet();
  choose(id);
  return place;
}

function stroke(tool) {
  let place = of(state.chosen);
  if (tool === "erase") return place && place.mask ? place : null;
  if (!place || !place.mask) place = state.places.find((one) => one.mask && state.places.length >= most()) || addPlace({ box: null, mask: blankMask() });
  return place;
}

function blankMask() {
  const mask = document.createElement("canvas");
  mask.width = state.photo.width;
  mask.height = state.photo.height;
  return mask;
}

function choose(id) {
  state.chosen = id;
  redraw();
}

function remove(id) {
  state.places = state.places.filter((place) => place.id !== id);
  if (state.chosen === id) state.chosen = null;
  redraw();
  $("add").focus();
}

function redraw() {
  state.places.forEach((place, k) => { place.name = String(k + 1); });
  stage.draw(state.places, state.chosen);
  listPlaces();
  offer();
}

function listPlaces() {
  const list = $("places");
  const kept = document.activeElement && document.activeElement.dataset.field;
  list.replaceChildren(...state.places.map(card));
  if (kept) list.querySelector(`[data-field="${kept}"]`)?.focus();
}

function card(place) {
  const item = element("li", { className: `place${place.id === state.chosen ? " chosen" : ""}`, tabIndex: 0 });
  item.dataset.field = place.id;
  item.style.setProperty("--own", place.colour);
  item.setAttribute("aria-label", `Place ${place.name}, ${place.mask ? "a mask" : "a box"}`);
  item.addEventListener("focus", () => { if (state.chosen !== place.id) choose(place.id); });
  item.addEventListener("keydown", (event) => { if (event.target === item) keys(event, place); });
  const gone = element("button", { type: "button", className: "remove", textContent: "Remove" });
  gone.setAttribute("aria-label", `Remove place ${place.name}`);
  gone.addEventListener("click", () => remove(place.id));
  const top = element("div", { className: "row" });
  top.append(element("b", { textContent: `${place.name} ${place.mask ? "mask" : "box"}` }), gone);
  item.append(top);
  if (has("prompt")) {
    const words = element("input", { type: "text", value: place.prompt, placeholder: "What goes there: a red mug" });
    words.dataset.field = `${place.id}-prompt`;
    words.setAttribute("aria-label", `What goes into place ${place.name}`);
    words.addEventListener("input", () => { place.prompt = words.value; });
    item.append(words);
  }
  if (has("reference")) item.append(reference(place));
  return item;
}

function reference(place) {
  const row = element("div", { className: "row" });
  const label = element("label", { className: "button reference", textContent: place.reference ? "Another reference" : "Reference: choose or drop" });
  const file = element("input", { type: "file", accept: "image/png,image/jpeg,image/webp" });
  file.dataset.field = `${place.id}-reference`;
  file.setAttribute("aria-label", `Reference for place ${place.name}`);
  file.addEventListener("change", () => { if (file.files[0]) refer(place, file.files[0]); });
  label.append(file);
  receive(label, (blob) => refer(place, blob));
  row.append(label);
  if (place.reference) row.prepend(element("img", { src: place.reference.url, alt: `Reference of place ${place.name}` }));
  return row;
}

function refer(place, blob) {
  place.reference = { blob, url: URL.createObjectURL(blob) };
  quiet();
  redraw();
}

function keys(event, place) {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (event.key === "Delete" || event.key === "Backspace") { event.preventDefault(); return remove(place.id); }
  if (!(event.key in moves) || !place.box) return;
  event.preventDefault();
  const [dx, dy] = moves[event.key].map((v) => v * 0.01);
  const [x0, y0, x1, y1] = place.box;
  const moved = event.shiftKey ? [x0, y0, x1 + dx, y1 + dy] : [x0 + dx, y0 + dy, x1 + dx, y1 + dy];
  const fits = moved.every((v) => v >= 0 && v <= 1) && moved[2] - moved[0] > 0.01 && moved[3] - moved[1] > 0.01;
  if (fits) { place.box = moved.map((v) => Math.round(v * 1e4) / 1e4); redraw(); }
}

// --- who is asked

async function refresh() {
  const [about, found, ready] = await Promise.all([json("/v1/methods"), adapters(), readiness()]);
  $("key-form").hidden = true;
  state.methods = about.methods;
  $("layout").hidden = !about.layout;
  $("steps").max = about.most_steps;
  $("state").textContent = ready;
  if (JSON.stringify(found) === JSON.stringify(state.adapters)) return;
  state.adapters = found;
  const before = $("adapter").value;
  const groups = about.methods.map((method) => {
    const group = element("optgroup", { label: method.name });
    group.append(...found.filter((one) => one.method === method.name && Object.keys(one.aliases).length)
      .map((one) => element("option", { value: one.name, textContent: one.subject || one.name })));
    return group;
  });
  $("adapter").replaceChildren(...groups.filter((group) => group.children.length));
  if (found.some((one) => one.name === before)) $("adapter").value = before;
  await adapterChosen();
}

async function readiness() {
  const answer = await fetch("/readyz");
  const { ready, problems } = await answer.json();
  const bad = Object.entries(problems).map(([part, problem]) => `${part}: ${problem.why}`);
  return (ready ? "" : "The server is not ready. ") + bad.join(" ");
}

async function adapterChosen() {
  const chosen = state.adapters.find((one) => one.name === $("adapter").value);
  if (!chosen) {
    $("about").textContent = "No adapter is registered yet.";
    $("generate").disabled = true;
    return;
  }
  const before = $("version").value;
  const order = Object.entries(chosen.aliases).sort(([a], [b]) => b.localeCompare(a));
  $("version").replaceChildren(...order.map(([alias, version]) =>
    element("option", { value: alias, textContent: `${alias} (version ${version})` })));
  if (chosen.aliases[before]) $("version").value = before;
  await versionChosen();
}

async function versionChosen() {
  $("generate").disabled = true; // what it takes is not known yet
  const found = await json(`/v1/adapters/${$("adapter").value}?version=${$("version").value}`);
  const method = state.methods.find((one) => one.name === found.name.split(".")[0]);
  state.takes = found.takes;
  if (state.base !== method.size || !$("width").value) {
    state.base = method.size;
    $("width").value = $("height").value = method.size;
  }
  const known = Object.values(found.attributes || {}).flat();
  $("about").textContent = found.class_word
    ? `A ${[...known, found.class_word].join(" ")}, tuned; ${method.name} on ${method.base}.`
    : `${method.name} on ${method.base}.`;
  $("steps").placeholder = method.steps;
  $("generate").disabled = false;
  while (state.places.length > most()) state.places.pop();
  redraw();
}

// Only what the adapter can take is offered.
function offer() {
  const takes = state.takes;
  if (!takes) return;
  const [least, upper] = takes.placements;
  $("how-many").textContent = least === upper ? `${upper}` : `${least} to ${upper}`;
  const masks = has("mask");
  document.querySelector(".group").hidden = !masks; // one tool is no choice
  $("brush-label").hidden = !masks || stage.tool === "box";
  if (!masks && stage.tool !== "box") useTool("box");
  $("add").disabled = !state.photo || state.places.length >= upper;
  $("negative-label").hidden = !takes.negative_prompt;
  $("style-label").hidden = !takes.style;
  $("free-size").hidden = !takes.free;
  $("background").hidden = !(takes.free && takes.keeps);
  if (!takes.free || !takes.keeps) {
    document.querySelector(`[name="background"][value="${takes.free ? "free" : "keep"}"]`).checked = true;
  }
  $("prompt-hint").textContent = takes.subject ? "{subject} is the subject; empty: the subject alone" : "";
  $("prompt").placeholder = takes.subject ? "a {subject} in the snow" : standing();
}

function standing() {
  if (state.takes.prompt === "a") return "What is to be seen";
  return state.takes.prompt.split(" and ").slice(0, Math.max(1, state.places.length)).join(" and ");
}

// --- asking

const background = () => document.querySelector('[name="background"]:checked').value;

async function wish() {
  const takes = state.takes;
  const files = [];
  const part = (name, blob) => { files.push([name, blob]); return `part:${name}`; };
  const request = {
    adapter: $("adapter").value, version: $("version").value, seed: Number($("seed").value),
    background: background(), placements: [],
  };
  if (state.photo.blob) request.image = part("photo", state.photo.blob);
  else request.size = [state.photo.width, state.photo.height];
  for (const place of state.places) {
    const sent = {};
    if (place.mask) sent.mask = part(`mask-${place.name}`, await white(place.mask));
    else sent.box = takes.places ? place.box : [0, 0, 1, 1];
    if (has("reference") && place.reference) sent.reference = part(`reference-${place.name}`, place.reference.blob);
    if (has("prompt") && place.prompt.trim()) sent.prompt = place.prompt.trim();
    request.placements.push(sent);
  }
  const typed = $("prompt").value.trim();
  if (typed) request.prompt = typed;
  else if (!takes.subject && takes.prompt !== "a") request.prompt = standing();
  if (takes.negative_prompt && $("negative").value.trim()) request.negative_prompt = $("negative").value.trim();
  if (takes.style && $("style").files[0]) request.style = part("style", $("style").files[0]);
  if ($("steps").value) request.steps = Number($("steps").value);
  return { request, files };
}

function white(mask) {
  const plain = document.createElement("canvas");
  [plain.width, plain.height] = [mask.width, mask.height];
  const pen = plain.getContext("2d");
  pen.drawImage(mask, 0, 0);
  const pixels = pen.getImageData(0, 0, plain.width, plain.height);
  for (let k = 0; k < pixels.data.length; k += 4) {
    const value = pixels.data[k + 3] > 127 ? 255 : 0;
    pixels.data.set([value, value, value, 255], k);
  }
  pen.putImageData(pixels, 0, 0);
  return new Promise((done) => plain.toBlob(done, "image/png"));
}

async function generate() {
  if (!state.photo) return say({ given: "A picture was asked for.", why: "There is no photo yet.", "to do": "Drop one, or begin with a whole picture." });
  quiet();
  const { request, files } = await wish();
  const form = new FormData();
  form.append("request", JSON.stringify(request));
  for (const [name, blob] of files) form.append(name, blob, `${name}.png`);
  working(true, "waiting");
  try {
    const job = await json("/v1/jobs", { method: "POST", body: form });
    state.job = job;
    let last = job;
    await follow(job.events, (told) => { last = told; progress(told); });
    if (last.state === "failed") return say(last.error);
    if (last.state === "cancelled") return;
    const blob = await (await ask(job.image)).blob();
    finished({ url: URL.createObjectURL(blob), blob, before: request.background === "keep" ? state.photo.url : null,
      width: state.photo.width, request, files, job: last });
  } finally {
    state.job = null;
    working(false);
  }
}

function progress(job) {
  $("progress").value = job.progress;
  $("progress-text").textContent = job.state === "queued" ? "waiting" : `${Math.round(job.progress * 100)} %`;
}

function working(on, text = "") {
  $("running").hidden = !on;
  $("generate").disabled = on;
  $("progress").value = 0;
  $("progress-text").textContent = text;
}

function finished(made) {
  setTimeout(() => $("result").scrollIntoView({ block: "nearest" }));
  state.past.unshift(made);
  state.past.splice(PAST);
  show(made);
  $("history").hidden = state.past.length < 2;
  $("past").replaceChildren(...state.past.map((one, k) => {
    const item = element("li");
    const button = element("button", { type: "button" });
    button.setAttribute("aria-label", `Picture ${state.past.length - k}, seed ${one.request.seed}`);
    button.append(element("img", { src: one.url, alt: "" }));
    button.addEventListener("click", () => show(one));
    item.append(button);
    return item;
  }));
}

function show(made) {
  state.shown = made;
  $("result").hidden = false;
  $("after").src = made.url;
  for (const id of ["after", "before"]) $(id).classList.toggle("small", made.width < 300);
  $("before").hidden = $("slide-label").hidden = !made.before;
  if (made.before) $("before").src = made.before;
  $("slide").value = 0;
  slide();
  $("download").href = made.url;
  $("download").download = `${made.request.adapter}-${made.request.seed}.png`;
  const { job } = made;
  $("by").textContent = `${job.adapter}, version ${job.version} (${job.digest.slice(0, 12)}), seed ${made.request.seed}, `
    + `${job.painted_s.toFixed(1)} s${job.waited_s > 0.5 ? ` after ${job.waited_s.toFixed(1)} s of waiting` : ""}`;
}

function slide() {
  $("before").style.clipPath = `inset(0 ${100 - $("slide").value}% 0 0)`;
}

// The same request for a shell; files have the names of their parts.
async function curl() {
  const { request, files } = state.shown;
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const parts = files.map(([name]) => `-F ${name}=@${name}.png`);
  const text = [`curl ${location.origin}/v1/place -H 'Accept: image/png' -o placed.png`,
    `-F ${quoted(`request=${JSON.stringify(request)}`)}`, ...parts].join(" \\\n  ");
  state.copied = text;
  await navigator.clipboard.writeText(text);
  $("curl").textContent = "Copied";
  setTimeout(() => { $("curl").textContent = "Copy as curl"; }, 1500);
}

async function layOut() {
  const free = state.takes.free && (background() === "free" || !state.photo);
  if (!free && !(state.photo && state.photo.blob)) return say({ given: "A scene was described.", why: "There is no photo to change.", "to do": "Give one, or paint all of it." });
  const body = { wish: $("described").value, most: most() };
  if (!free) body.image = await base64(state.photo.blob);
  const found = await json("/v1/layouts", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  if (!state.photo) blank();
  state.places = [];
  for (const thing of found.placements) addPlace({ box: thing.box, prompt: thing.prompt });
  $("prompt").value = found.prompt;
}

const base64 = (blob) => new Promise((done) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result.split(",")[1]);
  reader.readAsDataURL(blob);
});

// --- words and wiring

function element(name, more = {}) {
  return Object.assign(document.createElement(name), more);
}

function say(parts) {
  const box = $("alert");
  box.replaceChildren(element("strong", { textContent: parts.given || "" }), `${parts.why || ""} ${parts["to do"] || ""}`);
  box.hidden = false;
  box.scrollIntoView({ block: "nearest" });
}

const quiet = () => { $("alert").hidden = true; };

function attempt(work) {
  return async (event) => {
    if (event && event.preventDefault && event.type === "submit") event.preventDefault();
    try {
      await work(event);
    } catch (error) {
      if (error instanceof Refusal && error.status === 401) $("key-form").hidden = false;
      say(error instanceof Refusal ? error.parts : { given: "The page was asked to do something.", why: String(error), "to do": "Load it again." });
    }
  };
}

function receive(target, take) {
  target.addEventListener("dragover", (event) => { event.preventDefault(); event.stopPropagation(); target.classList.add("over"); });
  target.addEventListener("dragleave", () => target.classList.remove("over"));
  target.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    target.classList.remove("over");
    const file = [...event.dataTransfer.files].find((one) => one.type.startsWith("image/"));
    if (file) take(file);
  });
}

function useTool(tool) {
  stage.tool = tool;
  for (const button of document.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
  redraw();
}

const dice = () => { $("seed").value = Math.floor(Math.random() * 2 ** 31); };

receive($("drop"), attempt(usePhoto));
$("photo").addEventListener("change", attempt(() => $("photo").files[0] && usePhoto($("photo").files[0])));
$("choose").addEventListener("click", () => $("photo").click());
$("blank").addEventListener("click", attempt(blank));
$("add").addEventListener("click", () => addPlace({}));
$("brush").addEventListener("input", () => { stage.brush = $("brush").value / 100; });
for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", () => useTool(button.dataset.tool));
$("adapter").addEventListener("change", attempt(adapterChosen));
$("version").addEventListener("change", attempt(versionChosen));
$("wish").addEventListener("submit", attempt(generate));
$("cancel").addEventListener("click", attempt(() => state.job && ask(`/v1/jobs/${state.job.id}`, { method: "DELETE" })));
$("lay-out").addEventListener("click", attempt(layOut));
$("dice").addEventListener("click", dice);
$("slide").addEventListener("input", slide);
$("curl").addEventListener("click", attempt(curl));
$("reuse").addEventListener("click", attempt(() => usePhoto(state.shown.blob)));
$("key-form").addEventListener("submit", attempt(async () => { useKey($("key").value); quiet(); await refresh(); }));
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); $("wish").requestSubmit(); return; }
  if (event.target.matches("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  const does = { b: () => useTool("box"), m: () => has("mask") && useTool("mask"), e: () => has("mask") && useTool("erase"), r: dice };
  does[event.key.toLowerCase()]?.();
});
window.studio = state; // for those who look, and for tests
attempt(refresh)();
setInterval(() => { if (!document.hidden && $("key-form").hidden) refresh().catch(() => {}); }, 10000);
