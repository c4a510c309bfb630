// The form: sends a prompt or a manifest, and says how it goes. Every text comes into the page as text.
"use strict";

const find = (id) => document.getElementById(id);
const say = (id, text) => { find(id).textContent = text; };
const json = { "Content-Type": "application/json" };
let asked = null;

async function ask(path, options) {
  const answer = await fetch(path, options);
  const body = answer.headers.get("content-type")?.startsWith("application/json") ? await answer.json() : {};
  return { answer, body };
}

async function showHealth() {
  try {
    const { body } = await ask("/health");
    say("health", `${body.status}: ${body.rendering} rendering, ${body.waiting} waiting`);
  } catch { say("health", "does not answer"); }
  setTimeout(showHealth, document.hidden ? 10000 : 2000);
}

async function listModels() {
  const { body } = await ask("/v1/models");
  for (const model of body.data ?? []) find("model").add(new Option(model.id));
}

function fields() {
  const wanted = { prompt: find("prompt").value, model: find("model").value };
  for (const name of ["negative_prompt", "size"]) if (find(name).value) wanted[name] = find(name).value;
  const text = JSON.stringify(wanted).slice(0, -1);  // a seed may have more digits than a number of this language
  const whole = ["steps", "seed"].filter((name) => find(name).value).map((name) => `, "${name}": ${BigInt(find(name).value)}`);
  return `${text}${whole.join("")}}`;
}

function problemsOf(error) {
  const all = error.problems ?? [error];
  const where = (one) => [one.line && `line ${one.line}`, one.field].filter(Boolean).map((each) => `${each}: `).join("");
  return all.map((one) => where(one) + one.message + (one.hint ? ` (${one.hint})` : ""));
}

function follow(id) {
  asked = id;
  find("cancel").hidden = false;
  const source = new EventSource(`/api/v1/images/${id}/events`);
  source.addEventListener("message", (event) => {
    const news = JSON.parse(event.data);
    if (id !== asked) { source.close(); return; }
    if (news.state === "waiting") say("told", "waiting for its turn");
    else if (news.state === "rendering") say("told", `step ${news.step} of ${news.steps}`);
    else { source.close(); show(id, news); }
  });
  source.addEventListener("error", () => { source.close(); setTimeout(() => look(id), 1000); });
}

async function look(id) {  // the stream broke off: how it stands is asked
  try {
    const { answer, body } = await ask(`/api/v1/images/${id}`);
    if (!answer.ok) show(id, { state: "lost", message: body.error?.message });
    else if (["waiting", "rendering"].includes(body.state)) follow(id);
    else show(id, body);
  } catch { setTimeout(() => look(id), 2000); }
}

async function show(id, news) {
  if (id !== asked) return;  // another one has been asked for since
  find("cancel").hidden = true;
  say("told", news.state);
  if (news.state !== "done") { say("problems", [news.message, news.hint].filter(Boolean).join("; ")); return; }
  find("picture").src = `/api/v1/images/${id}/file`;
  find("picture").alt = find("prompt").value;
  say("facts", "");
  find("shown").hidden = false;
  const { body } = await ask(`/api/v1/images/${id}`).catch(() => ({ body: {} }));
  if (id !== asked || !body.width) return;
  const seed = Number.isSafeInteger(body.seed) ? `, seed ${body.seed}` : "";
  say("facts", `${body.width}x${body.height}, ${body.num_inference_steps} steps${seed}, ${body.model}`);
}

find("one").addEventListener("submit", async (event) => {
  event.preventDefault();
  say("problems", "");
  find("shown").hidden = true;
  say("told", "sending");
  try {
    const options = { method: "POST", headers: { ...json, Prefer: "respond-async" }, body: fields() };
    const { answer, body } = await ask("/api/v1/images/generate", options);
    if (answer.ok) follow(body.id);
    else { say("told", ""); say("problems", problemsOf(body.error ?? { message: answer.statusText }).join("; ")); }
  } catch { say("told", "the server does not answer"); }
});

find("cancel").addEventListener("click", async () => {
  try {
    const { answer, body } = await ask(`/api/v1/images/${asked}`, { method: "DELETE" });
    if (!answer.ok) say("problems", problemsOf(body.error ?? { message: answer.statusText }).join("; "));
  } catch { say("told", "the server does not answer"); }
});

async function followBatch(id) {
  try {
    const { body } = await ask(`/api/v1/batches/${id}`);
    const counts = body.request_counts;
    say("batch-told", `${body.status}: ${counts.completed} of ${counts.total} are there, ${counts.failed} failed`);
    if (["completed", "failed", "cancelled", "expired"].includes(body.status)) return;
  } catch { say("batch-told", "the server does not answer; what it has accepted it goes on with"); }
  setTimeout(() => followBatch(id), 1000);
}

find("many").addEventListener("submit", async (event) => {
  event.preventDefault();
  find("batch-problems").replaceChildren();
  say("batch-told", "checking");
  try {
    const options = { method: "POST", headers: { "Content-Type": "application/yaml" }, body: find("manifest").value };
    const { answer, body } = await ask("/api/v1/batches", options);
    if (answer.ok) { followBatch(body.id); return; }
    say("batch-told", "");
    for (const problem of problemsOf(body.error ?? { message: answer.statusText })) {
      const item = document.createElement("li");
      item.textContent = problem;
      find("batch-problems").append(item);
    }
  } catch { say("batch-told", "the server does not answer"); }
});

listModels();
showHealth();
