// The server, as the page asks it. Refusals come in three parts and are thrown as such.

let key = sessionStorage.getItem("insitu-key") || "";

export class Refusal extends Error {
  constructor(status, parts) {
    super([parts.given, parts.why, parts["to do"]].filter(Boolean).join(" "));
    this.status = status;
    this.parts = parts;
  }
}

export function useKey(text) {
  key = text;
  sessionStorage.setItem("insitu-key", text);
}

export async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key) headers.set("Authorization", `Bearer ${key}`);
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, {
      given: "The server was asked.", why: "It does not answer.", "to do": "See that it runs, then try again.",
    });
  }
  if (answer.ok) return answer;
  let parts = { given: `${path} was asked for.`, why: `The answer was ${answer.status}.`, "to do": "" };
  try {
    parts = (await answer.json()).error;
  } catch { /* not one of ours */ }
  throw new Refusal(answer.status, parts);
}

export const json = async (path, options) => (await ask(path, options)).json();

export async function adapters() {
  const found = [];
  let after = "";
  while (after !== null) {
    const page = await json(`/v1/adapters?limit=1000&after=${encodeURIComponent(after)}`);
    found.push(...page.adapters);
    after = page.next;
  }
  return found;
}

// Server-sent events by fetch, which can send a key; calls `tell` with each job that is told.
export async function follow(path, tell, signal) {
  const reader = (await ask(path, { signal })).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value.replaceAll("\r\n", "\n");
    const events = rest.split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data:"));
      if (data.length) tell(JSON.parse(data.map((line) => line.slice(5)).join("\n")));
    }
  }
}
