// The chat page: one conversation, sent whole with each question.

import { takeImages, thumbnails } from "./images.js";
import { blocks, make } from "./markdown.js";

const at = (id) => document.getElementById(id);
const log = at("log");
const input = at("input");
const SETTINGS = ["system", "temperature", "top_p", "top_k", "max_tokens", "seed"];

/** @type {{role: string, content: string, images?: {name: string, url: string}[], reasoning?: string}[]} */
let conversation = [];
/** What stops the answer that is being written. */
let running = null;

function remembered(name) {
  try { return localStorage.getItem(`keeve.${name}`); } catch { return null; }
}

function remember(name, value) {
  try { localStorage.setItem(`keeve.${name}`, value); } catch { /* A private window keeps nothing. */ }
}

function say(text) {
  at("status").textContent = text;
}

function button(label, title, act) {
  const element = make("button", "", label);
  element.type = "button";
  element.title = title;
  element.addEventListener("click", act);
  return element;
}

function drawAnswer(body, message, waiting) {
  const text = make("div", waiting && !message.content ? "text waiting" : "text", ...blocks(message.content));
  const parts = [text];
  if (message.reasoning) {
    const thought = make("details", "thought", make("summary", "", "Reasoning"), make("div", "", message.reasoning));
    thought.open = body.querySelector("details")?.open ?? false;
    parts.unshift(thought);
  }
  if (message.error) parts.push(make("p", "error", message.error));
  body.replaceChildren(...parts);
}

function draw() {
  log.replaceChildren();
  if (!conversation.length) {
    log.append(make("p", "welcome", "Ask something. Nothing leaves this server."));
  }
  conversation.forEach((message, index) => {
    const turn = make("article", `turn ${message.role}`);
    if (message.role === "user") {
      const said = make("div", "text", message.content);
      if (message.images?.length) said.prepend(make("div", "images", ...thumbnails(message.images)));
      turn.append(said);
    } else {
      const body = make("div", "");
      drawAnswer(body, message, false);
      const actions = make("div", "actions",
        button("Copy", "Copy the answer", () => navigator.clipboard.writeText(message.content)));
      if (index === conversation.length - 1) {
        actions.append(button("Ask again", "Another answer (Alt+R)", regenerate));
      }
      turn.append(body, actions);
    }
    log.append(turn);
  });
  log.scrollTop = log.scrollHeight;
}

function request() {
  const messages = conversation.map(({ role, content, images }) => {
    if (!images?.length) return { role, content };
    const parts = images.map(({ url }) => ({ type: "image_url", image_url: { url } }));
    if (content) parts.push({ type: "text", text: content });
    return { role, content: parts };
  });
  const system = at("system").value.trim();
  if (system) messages.unshift({ role: "system", content: system });
  const body = { model: at("model").value, messages, stream: true, stream_options: { include_usage: true } };
  for (const name of SETTINGS.slice(1)) {
    const value = at(name).value;
    if (value !== "") body[name] = Number(value);
  }
  return body;
}

// The data of each event of a response.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const pieces = held.split("\n\n");
    held = pieces.pop();
    for (const piece of pieces) {
      if (piece.startsWith("data: ")) yield piece.slice(6);
    }
  }
}

async function answer() {
  const stop = new AbortController();
  running = stop;
  at("stop").hidden = false;
  at("send").hidden = true;
  say("");
  const message = { role: "assistant", content: "", reasoning: "" };
  const body = make("div", "");
  const asked = request();
  drawAnswer(body, message, true);
  log.append(make("article", "turn assistant", body));
  log.scrollTop = log.scrollHeight;
  const begun = performance.now();
  let first = 0;
  let drawn = false;
  const redraw = () => {
    drawn = false;
    const low = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    drawAnswer(body, message, true);
    if (low) log.scrollTop = log.scrollHeight;
  };
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(asked),
      signal: stop.signal,
    });
    if (!response.ok) {
      const problem = await response.json().catch(() => null);
      throw new Error(problem?.error?.message ?? `the server answered ${response.status}`);
    }
    for await (const data of events(response)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      const delta = chunk.choices[0]?.delta;
      message.content += delta?.content ?? "";
      message.reasoning += delta?.reasoning_content ?? "";
      if (!first && (delta?.content || delta?.reasoning_content)) first = performance.now();
      if (chunk.usage) {
        const seconds = (performance.now() - (first || begun)) / 1000;
        const rate = Math.max(0, chunk.usage.completion_tokens - 1) / Math.max(seconds, 1e-3);
        say(`${chunk.usage.completion_tokens} tokens, TTFT ${((first || begun) - begun).toFixed(0)} ms, ${rate.toFixed(1)} tok/s`);
      }
      if (!drawn) {
        drawn = true;
        requestAnimationFrame(redraw);
      }
    }
  } catch (error) {
    if (error.name === "AbortError") say("stopped");
    else message.error = error.message;
  }
  running = null;
  at("stop").hidden = true;
  at("send").hidden = false;
  conversation.push(message);
  draw();
}

function submit(event) {
  event?.preventDefault();
  const text = input.value.trim();
  if ((!text && !images.any()) || running) return;
  conversation.push({ role: "user", content: text, images: images.take() });
  input.value = "";
  fit();
  draw();
  answer();
}

function regenerate() {
  if (running || conversation.at(-1)?.role !== "assistant") return;
  conversation.pop();
  draw();
  answer();
  input.focus();
}

function fresh() {
  running?.abort();
  conversation = [];
  images.take();
  say("");
  draw();
  input.focus();
}

function fit() {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight + 2}px`;
}

function toggleSettings() {
  const settings = at("settings");
  settings.hidden = !settings.hidden;
  at("show-settings").setAttribute("aria-expanded", String(!settings.hidden));
  (settings.hidden ? input : at("system")).focus();
}

function toggleTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  setTheme(now === "dark" ? "light" : "dark");
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  remember("theme", theme);
}

async function loadModels() {
  const response = await fetch("/v1/models");
  const { data } = await response.json();
  at("model").replaceChildren(...data.map(({ id }) => {
    const option = make("option", "", id);
    option.value = id;
    return option;
  }));
}

const images = takeImages({ tray: at("tray"), place: document.querySelector("main"), input, chooser: at("chooser"), say });
at("form").addEventListener("submit", submit);
at("attach").addEventListener("click", () => at("chooser").click());
at("stop").addEventListener("click", () => running?.abort());
at("new").addEventListener("click", fresh);
at("theme").addEventListener("click", toggleTheme);
at("show-settings").addEventListener("click", toggleSettings);
input.addEventListener("input", fit);
input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
  if (!event.altKey || event.ctrlKey || event.metaKey) return;
  const act = { n: fresh, r: regenerate, s: toggleSettings }[event.key.toLowerCase()];
  if (act) {
    event.preventDefault();
    act();
  }
});
for (const name of SETTINGS) {
  at(name).value = remembered(name) ?? "";
  at(name).addEventListener("change", () => remember(name, at(name).value));
}
const theme = remembered("theme");
if (theme === "light" || theme === "dark") setTheme(theme);
draw();
loadModels().catch(() => say("the server does not answer"));
