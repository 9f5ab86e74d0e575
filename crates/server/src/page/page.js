// The page to chat in. Text is shown as text while it comes; when an answer has ended, its Markdown is shown
// as the HTML that /render has sanitized. Nothing else ever becomes HTML.
"use strict";

const words = document.body.dataset;
const at = (id) => document.getElementById(id);
const [list, form, text, send, stop, model] = ["messages", "form", "text", "send", "stop", "model"].map(at);
let messages = [];
let running = null;

async function ask(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = { "content-type": "application/json" };
  if (key) headers.authorization = `Bearer ${key}`;
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) {
    const given = prompt(words.key);
    if (given) {
      sessionStorage.setItem("key", given.trim());
      return ask(path, options);
    }
  }
  if (!response.ok) {
    const body = await response.json().catch(() => null);
    throw new Error(body?.error?.message ?? `${response.status} ${response.statusText}`);
  }
  return response;
}

function post(path, body, signal) {
  return ask(path, { method: "POST", body: JSON.stringify(body), signal });
}

function show(role, name, content) {
  const article = document.createElement("article");
  article.className = role;
  const title = document.createElement("h2");
  title.textContent = name;
  const body = document.createElement("div");
  body.className = "plain";
  body.textContent = content;
  article.append(title, body);
  list.append(article);
  list.scrollTop = list.scrollHeight;
  return body;
}

function note(body, words) {
  const line = document.createElement("p");
  line.className = "note";
  line.textContent = words;
  body.parentElement.append(line);
}

// The values of a stream's `data:` lines, until `[DONE]`.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      if (line === "data: [DONE]") return;
      yield JSON.parse(line.slice(6));
    }
  }
}

async function answer() {
  const body = show("assistant", model.value, "");
  let content = "";
  let end = "";
  running = new AbortController();
  busy(true);
  try {
    const request = { model: model.value, messages, stream: true };
    const response = await post("/v1/chat/completions", request, running.signal);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices[0];
      if (choice?.finish_reason === "length") end = words.cut;
      if (!choice?.delta.content) continue;
      content += choice.delta.content;
      const low = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
      body.textContent = content;
      if (low) list.scrollTop = list.scrollHeight;
    }
  } catch (error) {
    end = error.name === "AbortError" ? words.stopped : `${words.failed}: ${error.message}`;
  }
  busy(false);
  if (end) note(body, end);
  if (!content) return;
  messages.push({ role: "assistant", content });
  try {
    const { html } = await (await post("/render", { markdown: content })).json();
    body.innerHTML = html;
    body.className = "";
  } catch {
    // The text stays as it came.
  }
}

function busy(is) {
  send.hidden = is;
  stop.hidden = !is;
  if (!is) running = null;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const content = text.value.trim();
  if (!content || running || !model.value) return;
  text.value = "";
  messages.push({ role: "user", content });
  show("user", words.you, content);
  answer();
});

text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
  }
});

stop.addEventListener("click", () => running?.abort());

at("new").addEventListener("click", () => {
  running?.abort();
  messages = [];
  list.replaceChildren();
  text.focus();
});

async function begin() {
  try {
    const { data } = await (await ask("/v1/models")).json();
    model.replaceChildren(...data.map(({ id }) => new Option(id, id)));
    if (data.length === 0) show("assistant", "Yushan", words.none);
  } catch (error) {
    show("assistant", "Yushan", `${words.failed}: ${error.message}`);
  }
}

begin();
