// The study's page. The address's fragment says where the voter is: nothing, an item's number, end.

import * as zoom from "/zoom.js";

const PAUSE_MS = 350; // a choice is seen before the next item comes
const NAME = "insitu-study-name";
const find = (id) => document.getElementById(id);
let study, now = 0, active = 0, timer = 0, saving = Promise.resolve();

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const answersOf = (item) => (study.answers[item.token] ??= {});
const isAnswered = (item, question) => answersOf(item)[question.token] !== undefined;
const firstOpen = (item) => study.questions.findIndex((question) => !isAnswered(item, question));
const total = () => study.items.length * study.questions.length;
const answered = () =>
  study.items.flatMap((item) => study.questions.filter((q) => isAnswered(item, q))).length;
const openItem = () => study.items.findIndex((item) => firstOpen(item) >= 0);
const count = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
const letter = (index) => String.fromCharCode(65 + index);

/** The voter's name; a browser that keeps nothing has none. */
function named(name) {
  try {
    if (name !== undefined) localStorage.setItem(NAME, name);
    return localStorage.getItem(NAME) ?? "";
  } catch {
    return name ?? "";
  }
}

function complain(text) {
  find("alert").hidden = !text;
  find("alert").textContent = text;
}

// Where the voter is

function go(place) {
  history.pushState(null, "", `#${place}`);
  show();
}

const move = (step) =>
  now + step >= study.items.length ? go("end") : now + step >= 0 && go(now + step + 1);

function show() {
  clearTimeout(timer);
  const place = location.hash.slice(1);
  const item = study.items[Number(place) - 1];
  find("start").hidden = Boolean(item) || place === "end";
  find("vote").hidden = !item;
  find("end").hidden = place !== "end";
  complain("");
  if (item) showItem(Number(place) - 1);
  else if (place === "end") showEnd();
  else showStart();
  scrollTo(0, 0);
}

function showStart() {
  const ways = study.items[0].outputs.length;
  find("about").textContent =
    `You will see ${count(study.items.length, "comparison")} of ${ways} pictures, with ` +
    `${count(study.questions.length, "question")} each. Nothing is right or wrong: say what you ` +
    "see. You can stop and come back, and change your answers.";
  find("letters").hidden = study.questions.length < 2;
  find("begin").lastElementChild.textContent = answered() ? "Continue" : "Start";
}

function showEnd() {
  const open = total() - answered();
  find("summary").textContent = open
    ? `You answered ${answered()} of ${count(total(), "question")}. ${open} are still open.`
    : `You answered ${total() === 1 ? "the question" : `all ${total()} questions`}. ` +
      "You can close this page.";
  find("open").hidden = !open;
  find("end").querySelector("h1").focus();
}

function showItem(index) {
  now = index;
  const item = study.items[index];
  active = Math.max(0, firstOpen(item));
  const ways = item.outputs.length, many = ways > 5;
  const columns = many ? Math.ceil(ways / 2) : ways;
  document.documentElement.style.setProperty("--columns", columns);
  find("vote").classList.toggle("many", many);
  find("where").textContent = `Comparison ${index + 1} of ${study.items.length}`;
  find("last").textContent = ways;
  find("prompt").hidden = !item.prompt;
  find("prompt").replaceChildren(make("small", { textContent: "Asked for" }), item.prompt);
  find("context").hidden = !item.context.length;
  find("given").hidden = !item.prompt && !item.context.length;
  const pictures = picturesOf(item).map((picture, place) => figure(item, picture, place));
  find("context").replaceChildren(...pictures.slice(0, item.context.length));
  find("outputs").replaceChildren(...pictures.slice(item.context.length));
  find("questions").replaceChildren(...study.questions.map((q, place) => fieldset(item, q, place)));
  find("back").disabled = index === 0;
  find("next").textContent = index + 1 < study.items.length ? "Next →" : "Finish →";
  mark();
  fitAll();
  find("where").focus({ preventScroll: true });
  for (const { address } of picturesOf(study.items[index + 1])) new Image().src = address;
}

// An item's parts

const picturesOf = (item) =>
  item
    ? [...item.context, ...item.outputs.map((o, i) => ({ ...o, label: `Picture ${i + 1}` }))]
    : [];

function figure(item, picture, place) {
  const image = make("img", { src: picture.address, alt: picture.label, draggable: false });
  Object.assign(image.dataset, { width: picture.width, height: picture.height });
  const button = make("button", { type: "button", className: "picture" }, image);
  button.dataset.place = place;
  button.setAttribute("aria-label", `Enlarge: ${picture.label}`);
  button.addEventListener("click", () => zoom.open(picturesOf(item), place));
  const output = place - item.context.length;
  const caption = output < 0 ? picture.label : String(output + 1);
  return make("figure", {}, button, make("figcaption", { textContent: caption }));
}

function fieldset(item, question, place) {
  const choices = make("div", { className: "choices" });
  for (let position = 0; position < item.outputs.length; position++) {
    choices.append(choice(item, place, position, String(position + 1)));
  }
  choices.append(choice(item, place, null, "No difference"));
  const name = study.questions.length > 1 ? [make("b", { textContent: letter(place) })] : [];
  const legend = make("legend", {}, ...name, question.text);
  const element = make("fieldset", {}, legend, choices);
  element.addEventListener("focusin", () => activate(place));
  return element;
}

function choice(item, place, position, text) {
  const button = make("button", { type: "button", textContent: text });
  if (position === null) button.className = "none";
  else button.setAttribute("aria-label", `Picture ${text}`);
  button.dataset.position = String(position);
  button.addEventListener("click", () => choose(item, place, position));
  return button;
}

function activate(place) {
  active = place;
  mark();
}

/** Show what is chosen, which question the digits answer, and how far the voter is. */
function mark() {
  const item = study.items[now];
  [...find("questions").children].forEach((element, place) => {
    element.classList.toggle("now", place === active && study.questions.length > 1);
    const chosen = answersOf(item)[study.questions[place].token];
    for (const button of element.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.position === String(chosen)));
    }
  });
  find("bar").value = answered() / total();
  find("answered").textContent = `${answered()} of ${total()} answered`;
}

function fitAll() {
  const style = getComputedStyle(document.documentElement);
  const tile = parseFloat(style.getPropertyValue("--tile"));
  const tallest = Math.max(160, Math.min(tile, innerHeight * 0.44));
  for (const [id, height] of [["context", 112], ["outputs", tallest]]) {
    for (const element of find(id).children) {
      zoom.fit(element.querySelector("img"), element.clientWidth, height);
    }
  }
  zoom.refit();
}

// Voting

/** Choices are stored one after another, so that of two quick ones the later one counts. */
function choose(item, place, position) {
  clearTimeout(timer);
  const question = study.questions[place], answers = answersOf(item);
  const wasOpen = firstOpen(item) >= 0, before = answers[question.token];
  answers[question.token] = position;
  const open = firstOpen(item);
  activate(open >= 0 ? open : wasOpen ? place : (place + 1) % study.questions.length);
  find("questions").children[active].scrollIntoView({ block: "nearest" });
  complain("");
  saving = saving
    .then(() => store(item, question, position))
    .then(() => {
      find("status").textContent =
        position === null ? "No difference, stored." : `Picture ${position + 1}, stored.`;
      const complete = wasOpen && firstOpen(item) < 0 && study.items[now] === item;
      if (complete) timer = setTimeout(() => move(1), PAUSE_MS);
    })
    .catch((error) => {
      if (answers[question.token] === position) answers[question.token] = before;
      if (!find("vote").hidden) mark();
      complain(`Your answer was not stored. ${error.message}`);
    });
}

async function store(item, question, position) {
  const name = find("name").value.trim();
  const body = { page: study.page, item: item.token, question: question.token, position, name };
  await ask("/vote", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
}

async function ask(address, options) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    throw new Error("The server does not answer. Try again.");
  }
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const { why = "The server failed.", "to do": todo = "Try again." } = said.error ?? {};
    throw new Error(`${why} ${todo}`);
  }
  return said;
}

// Keys

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "ArrowLeft" && !find("end").hidden) go(study.items.length);
  if (find("vote").hidden) return;
  const item = study.items[now], key = event.key.toLowerCase();
  if (zoom.isOpen()) return zoom.key(event, item.outputs.length);
  const question = key.length === 1 ? key.charCodeAt(0) - 97 : -1;
  if (/^[0-9]$/.test(key) && Number(key) <= item.outputs.length) {
    if (!event.repeat) choose(item, active, key === "0" ? null : Number(key) - 1);
  } else if (key === "arrowleft") move(-1);
  else if (key === "arrowright") move(1);
  else if (key === "z") {
    const focused = document.activeElement.closest(".picture");
    zoom.open(picturesOf(item), focused ? Number(focused.dataset.place) : item.context.length);
  } else if (question >= 0 && question < study.questions.length) activate(question);
  else return;
  event.preventDefault();
}

// Opening

async function start() {
  try {
    study = await ask("/study");
  } catch (error) {
    return complain(error.message);
  }
  document.title = study.title;
  document.querySelector(".title").textContent = study.title;
  find("name").value = named();
  find("begin").addEventListener("submit", (event) => {
    event.preventDefault();
    named(find("name").value.trim());
    go(openItem() >= 0 ? openItem() + 1 : "end");
  });
  find("back").addEventListener("click", () => move(-1));
  find("next").addEventListener("click", () => move(1));
  find("open").addEventListener("click", () => go(openItem() + 1));
  find("review").addEventListener("click", () => go(1));
  addEventListener("popstate", show);
  addEventListener("resize", () => find("vote").hidden || fitAll());
  addEventListener("keydown", press);
  show();
}

start();
