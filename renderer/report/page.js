// The gallery: cards by job, filters, the large view, comparison. Reads the JSON block; asks nobody for anything.
// Texts of prompts and names are only ever set as text, never as markup.
"use strict";

const served = document.documentElement.dataset;  // all undefined in a page from disk
const { pictures, groups } = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
const make = (tag, className = "", text = "") => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) { made.textContent = text; made.dir = "auto"; if (/\p{Script=Han}/u.test(text)) made.lang = "zh"; }
  return made;
};
const say = (element, text) => { element.textContent = text; element.lang = /\p{Script=Han}/u.test(text) ? "zh" : "en"; };
const gib = (bytes) => bytes ? `${(bytes / 2 ** 30).toFixed(2)} GiB` : "";
const seconds = (value) => value == null ? "" : `${value.toFixed(1)} s`;
const size = (picture) => `${picture.width}x${picture.height}`;
const nameOf = (picture) => served.named === "by-prompt" ? picture.prompt : picture.id;  // where nobody has named them
const places = new Map(pictures.map((picture, position) => [picture.id, position]));
let chosen = [];  // positions of the pictures to compare, at most two
let flying = {};  // while a run is on: what is being rendered, by id, as [step, steps]

// ---- cards

const cards = pictures.map(() => {
  const card = make("li", "card");
  card.setAttribute("role", "listitem");
  return card;
});
const placeOf = new Map(cards.map((card, position) => [card, position]));
const focusedPlace = () => placeOf.get(document.activeElement.closest(".card")) ?? -1;
const matches = [];

function fillCard(position) {
  const picture = pictures[position];
  const open = make("button", "open");
  open.type = "button";
  if (picture.thumb) {
    const image = make("img");
    image.loading = "lazy"; image.decoding = "async"; image.alt = picture.prompt; image.src = picture.thumb;
    image.width = picture.width; image.height = picture.height;
    open.append(image);
  } else {
    open.append(make("span", "missing", picture.state));
  }
  open.append(make("span", "name", nameOf(picture)));
  open.append(make("span", "about-it", [size(picture), seconds(picture.seconds)].filter(Boolean).join(" · ")));
  open.addEventListener("click", () => showView(position));
  cards[position].replaceChildren(open);
  if (picture.file) {
    const label = make("label", "choose");
    const box = make("input");
    box.type = "checkbox"; box.setAttribute("aria-label", `choose ${picture.id} for comparison`);
    box.checked = chosen.includes(position);
    box.addEventListener("change", () => choose(position, box.checked));
    label.append(box);
    cards[position].append(label);
  }
  matches[position] = [picture.id, picture.prompt, picture.negative_prompt,
    ...Object.values(picture.matrix), ...loras(picture), picture.note].join("\n").toLowerCase();
}

function grid(group) {
  const table = make("table", "matrix");
  const head = table.createTHead().insertRow();
  const corner = make("th", "quiet", group.corner);
  head.append(corner);
  group.columns.forEach((name) => { const cell = make("th", "", name); cell.scope = "col"; head.append(cell); });
  const body = table.createTBody();
  const rows = group.rows.map((name) => {
    const row = body.insertRow();
    const cell = make("th", "", name); cell.scope = "row"; row.append(cell);
    return group.columns.map(() => { const cell = list([]); row.insertCell().append(cell); return cell; });
  });
  group.positions.forEach((position, index) => rows[group.cells[index][0]][group.cells[index][1]].append(cards[position]));
  rows.flat().filter((cell) => !cell.children.length).forEach((cell) => cell.remove());
  const scroll = make("div", "scroll");
  scroll.tabIndex = 0; scroll.setAttribute("role", "region"); scroll.setAttribute("aria-label", `grid of ${group.title}, line ${group.line}`);
  scroll.append(table);
  return scroll;
}

function list(positions) {
  const made = make("ul", "cards");
  made.setAttribute("role", "list");
  made.append(...positions.map((position) => cards[position]));
  return made;
}

// ---- filters

const filters = ["text", "job", "size", "seed", "lora", "state", "mark", "lettering", "device", "sort"].map(find);
let placed = [];     // positions of all pictures, as they stand on the page
let order = [];      // of those that are shown
let drawnAs = null;  // how the gallery was drawn last: null, "" (by job) or the name of an order

function fill(id, values) {  // again when values have come: what is there stays
  const options = find(id).options;
  const there = new Set([...options].map((option) => option.value));
  const fresh = [...new Set(values)].filter((value) => !there.has(value));
  fresh.slice(0, 500).forEach((value) => find(id).append(new Option(value, value)));
  find(id).closest("label").hidden = options.length < 3;
}

const heldBy = (net) => `${(net.id || net.file).split("/").at(-1).replace(/\.safetensors$/, "")} ${net.image} ${net.scale}, ${net.start} to ${net.end}`;
const loras = (picture) => (picture.loras || []).map((lora) => lora.file.split("/").at(-1).replace(/\.safetensors$/, ""));

function sorted(by) {
  const positions = pictures.map((_, position) => position);
  const number = {
    seconds: (one) => one.seconds, memory: (one) => one.vram || one.ram,
    lettering: (one) => one.lettering && 1 - one.lettering.score, mark: (one) => stars(one),
  }[by];
  const compare = number
    ? (a, b) => (number(pictures[b]) ?? -1) - (number(pictures[a]) ?? -1)
    : (a, b) => pictures[a].id.localeCompare(pictures[b].id, undefined, { numeric: true });
  return positions.sort((a, b) => compare(a, b) || a - b);
}

const stars = (picture) => picture.mark === "x" ? -2 : picture.mark ?? -1;
const markName = (picture) => !picture.file ? "" : picture.mark === "x" ? "rejected" : picture.mark ? "★".repeat(picture.mark) : "not marked";
const lettered = (picture) => !picture.lettering ? "" : picture.lettering.score >= 1 ? "right" : "wrong";

function together() {  // jobs of one picture each need no heading: neighbours share a section
  const sections = [];
  for (const group of groups) {
    const last = sections.at(-1);
    if (group.positions.length === 1 && !group.rows.length) {
      if (last && !last.title) last.positions.push(...group.positions);
      else sections.push({ title: "", rows: [], positions: [...group.positions] });
    } else sections.push(group);
  }
  return sections;
}

function draw(by) {
  const sections = by ? [{ title: "All pictures", rows: [], positions: sorted(by) }] : together();
  find("gallery").replaceChildren(...sections.map((group) => {
    const section = make("section");
    if (group.title) section.append(make("h2", "", group.title));
    section.append(group.rows.length ? grid(group) : list(group.positions));
    return section;
  }));
  drawnAs = by;
  placed = sections.flatMap((group) => group.positions);
}

function fitting() {  // whether a picture is shown by the filters, as they stand now
  const [text, job, wanted, seed, lora, state, mark, lettering, device] = filters.map((filter) => filter.value);
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return (picture, position) => words.every((word) => matches[position].includes(word)) && (!job || picture.job === job)
    && (!wanted || size(picture) === wanted) && (!seed || picture.seed === seed)
    && (!lora || loras(picture).includes(lora)) && (!device || picture.device === device) && (!state || picture.state === state)
    && (!mark || markName(picture) === mark) && (!lettering || lettered(picture) === lettering);
}

function refresh() {
  const sort = find("sort").value;
  if (drawnAs !== sort) draw(sort);
  const fits = fitting();
  const shown = new Set();
  pictures.forEach((picture, position) => {
    const is = fits(picture, position);
    if (cards[position].hidden === is) cards[position].hidden = !is;
    if (is) shown.add(position);
  });
  for (const section of find("gallery").children) section.hidden = !section.querySelector(".card:not([hidden])");
  order = placed.filter((position) => shown.has(position));
  tellShown();
}

const tellShown = () => say(find("shown"), `${order.length} of ${pictures.length} shown`);

pictures.forEach((_, position) => fillCard(position));
fill("job", pictures.map((picture) => picture.job));
fill("size", pictures.map(size));
fill("seed", pictures.map((picture) => picture.seed));
fill("lora", pictures.flatMap(loras));
fill("device", pictures.flatMap((picture) => picture.device || []).sort());
fill("state", pictures.map((picture) => picture.state));
fill("lettering", pictures.map(lettered).filter(Boolean));
if (document.documentElement.dataset.live) fill("mark", ["★★★★★", "★★★★", "★★★", "★★", "★", "rejected", "not marked"]);
else fill("mark", pictures.map(markName).filter(Boolean));
filters.forEach((filter) => filter.addEventListener("input", refresh));
find("filters").addEventListener("submit", (event) => event.preventDefault());

// ---- what lies over the gallery: like a modal dialog, whose opening would have all of 5,000 cards styled anew

const dialogs = ["view", "compare", "best"].map(find);
const topDialog = () => dialogs.find((each) => each.open && !each.inert);

function cover(dialog) {
  dialogs.forEach((each) => { each.inert = each !== dialog; });
  dialog.show();
}

function uncover(dialog) {
  const below = dialogs.find((each) => each.open && each !== dialog);
  if (below) below.inert = false;
  dialog.close();
}

dialogs.forEach((dialog) => dialog.addEventListener("wheel", (event) => {  // and the gallery behind it where it was
  const scrolls = dialog.scrollHeight > dialog.clientHeight || event.target.closest(".about");
  if (!scrolls && !event.ctrlKey) event.preventDefault();
}, { passive: false }));
document.addEventListener("focusin", (event) => {  // the focus stays in what is on top
  const dialog = topDialog();
  if (dialog && !dialog.contains(event.target)) dialog.querySelector("button").focus();
});
document.addEventListener("keydown", (event) => {
  const dialog = topDialog();
  if (!dialog) return;
  if (event.key === "Escape") { event.preventDefault(); uncover(dialog); }
  if (event.key !== "Tab") return;
  const all = [...dialog.querySelectorAll("button, a[href], input, [tabindex='0']")].filter((each) => each.checkVisibility() && !each.disabled);
  const [from, to] = event.shiftKey ? [all[0], all.at(-1)] : [all.at(-1), all[0]];
  if (document.activeElement === from) { event.preventDefault(); to.focus(); }
});

// ---- the large view

let viewed = 0;

function facts(picture) {
  const told = {
    "in flight": flying[picture.id] && stepOf(picture), state: picture.state + (picture.note ? `: ${picture.note}` : ""), job: picture.job, model: `${picture.model}, ${picture.precision}`,
    size: size(picture), steps: picture.steps, "CFG scale": picture.cfg_scale, seed: picture.seed,
    ...picture.matrix, image: picture.image, strength: picture.strength, mask: picture.mask, layers: layerLinks(picture),
    context: picture.context_image, regions: (picture.regions || []).map((region) => `${region.mask} ${region.prompt}`).join("; "),
    ControlNets: (picture.controlnets || []).map(heldBy).join(", "),
    LoRAs: (picture.loras || []).map((lora) => `${lora.file} ${lora.weight}`).join(", "), schedule: picture.schedule && JSON.stringify(picture.schedule), lettering: letters(picture), mark: picture.mark && markName(picture), time: seconds(picture.seconds), "GPU memory": gib(picture.vram), "process memory": gib(picture.ram), device: picture.device,
    attempt: picture.attempt > 1 ? picture.attempt : "", rendered: picture.ended && `${picture.ended.slice(0, 16).replace("T", " ")} UTC`, warnings: (picture.warnings || []).join("; "),
  };
  return Object.entries(told).filter(([, value]) => value !== "" && value != null).map(([name, value]) => {
    const pair = make("div"), told = make("dd", "", value instanceof Node ? "" : String(value));
    if (value instanceof Node) told.append(value);
    pair.append(make("dt", "", name), told);
    return pair;
  });
}

// Of a picture that was taken apart: its layers, the hindmost first, or how many there will be.
function layerLinks(picture) {
  if (!picture.layer_files) return picture.layers;
  const links = picture.layer_files.map(({ file, covered }, place) => {
    const link = make("a", "", `${place + 1}: ${Math.round(100 * covered)} %`);
    link.href = file; link.title = `layer ${place + 1} covers ${Math.round(100 * covered)} % of the picture`;
    return link;
  });
  const all = document.createDocumentFragment();
  links.forEach((link, place) => all.append(place ? ", " : "", link));
  return all;
}

const stepOf = (picture) => `step ${flying[picture.id][0]} of ${flying[picture.id][1]}`;

function letters(picture) {
  if (!picture.lettering) return "";
  const { texts, takes } = picture.lettering;
  const read = texts.map(([text, there, score]) => score >= 1 ? `“${text}” is there` : `${there ? `“${there}” where` : "nothing where"} “${text}” was to stand: ${score.toFixed(2)}`);
  return read.join("; ") + (takes > 1 ? `; the best of ${takes} takes` : "");
}

function showBoxes(picture) {  // drawn over the picture, in its own pixels
  const boxes = find("view-boxes");
  const texts = picture.file && picture.lettering ? picture.lettering.texts.filter(([, , , box]) => box) : [];
  boxes.toggleAttribute("hidden", !texts.length);
  boxes.setAttribute("viewBox", `0 0 ${picture.width} ${picture.height}`);
  boxes.replaceChildren(...texts.map(([, , score, [left, top, right, bottom]]) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const at = { x: left, y: top, width: right - left, height: bottom - top, class: score >= 1 ? "right" : "wrong" };
    for (const [name, value] of Object.entries(at)) made.setAttribute(name, value);
    return made;
  }));
}

new ResizeObserver(() => {  // it lies over the picture, however large that is shown
  const { clientWidth, clientHeight } = find("view-image");
  find("view-boxes").style.width = `${clientWidth}px`;
  find("view-boxes").style.height = `${clientHeight}px`;
}).observe(find("view-image"));

function showView(position) {
  viewed = position;
  fillView();
  say(find("copied"), "");
  if (!find("view").open) { cover(find("view")); find("view-next").focus(); }
}

function fillView() {
  const picture = pictures[viewed];
  say(find("view-title"), nameOf(picture));
  const image = find("view-image");
  image.hidden = !picture.file;
  if (picture.file) {
    if (image.getAttribute("src") !== picture.file) image.src = picture.file;
    image.alt = picture.prompt; find("view-link").href = picture.file;
  }
  else { image.removeAttribute("src"); find("view-link").removeAttribute("href"); }
  showBoxes(picture);
  say(find("view-prompt"), picture.prompt);
  say(find("view-negative"), picture.negative_prompt ? `Not: ${picture.negative_prompt}` : "");
  find("view-facts").replaceChildren(...facts(picture));
  find("view-choose").hidden = !picture.file;
  find("view-before").hidden = !picture.file || !picture.before;
}

function turn(by) {
  const at = order.indexOf(viewed);
  if (order.length) showView(order[(at + by + order.length) % order.length]);
}

find("view").addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by) { event.preventDefault(); turn(by); }
});
find("view-previous").addEventListener("click", () => turn(-1));
find("view-next").addEventListener("click", () => turn(1));
find("view-close").addEventListener("click", () => uncover(find("view")));
find("view").addEventListener("close", () => goTo(viewed));
find("view-choose").addEventListener("click", () => {
  cards[viewed].querySelector(".choose input").checked = true;
  choose(viewed, true);
  say(find("copied"), "chosen");
});

let touchedAt = null;
find("view").addEventListener("touchstart", (event) => {
  touchedAt = event.touches.length === 1 ? event.touches[0].clientX : null;
}, { passive: true });
find("view").addEventListener("touchend", (event) => {
  const moved = touchedAt === null ? 0 : event.changedTouches[0].clientX - touchedAt;
  if (Math.abs(moved) > 60) turn(moved < 0 ? 1 : -1);
  touchedAt = null;
});

// ---- copying

// JSON's texts and numbers are YAML's, but for letters that YAML does not print.
const yaml = (text) => JSON.stringify(text).replace(/[\u007f-\u009f\u2028\u2029\ufeff\ufffe\uffff]/g,
  (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`);

function entry(picture) {
  const { prompt, negative_prompt: negative } = picture.written ?? picture;
  const fields = {
    prompt: yaml(prompt), negative_prompt: negative && yaml(negative),
    model: yaml(picture.model), precision: picture.precision, width: picture.width, height: picture.height,
    steps: picture.steps, cfg_scale: picture.cfg_scale, seed: picture.seed,
    image: picture.images ? undefined : picture.image && yaml(picture.image),
    images: picture.images && `[${picture.images.map(yaml).join(", ")}]`, strength: picture.strength, mask: picture.mask && yaml(picture.mask), layers: picture.layers,
    context_image: picture.context_image && yaml(picture.context_image), regions: picture.regions && JSON.stringify(picture.regions), controlnets: picture.controlnets && JSON.stringify(picture.controlnets), loras: picture.loras && JSON.stringify(picture.loras), schedule: picture.schedule && JSON.stringify(picture.schedule),
  };
  return [`- id: ${yaml(picture.id)}`, ...Object.entries(fields).filter(([, value]) => value !== "" && value !== undefined)
    .map(([name, value]) => `  ${name}: ${value}`)].join("\n") + "\n";
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // a page opened from disk may not have the clipboard
    const area = make("textarea");
    area.value = text; area.readOnly = true;
    find("view").append(area);
    area.select(); document.execCommand("copy"); area.remove();
  }
  say(find("copied"), `${what} copied`);
}

find("copy-prompt").addEventListener("click", () => copy(pictures[viewed].prompt, "prompt"));
find("copy-entry").addEventListener("click", () => copy(entry(pictures[viewed]), "entry"));

// ---- comparison

function choose(position, wanted) {
  chosen = chosen.filter((other) => other !== position);
  if (wanted) chosen.push(position);
  for (const dropped of chosen.splice(0, Math.max(0, chosen.length - 2))) mark(dropped, false);
  mark(position, wanted);
  find("chosen").hidden = !chosen.length;
  find("compare-open").disabled = chosen.length < 2;
  say(find("chosen-text"), chosen.length < 2 ? "Choose one more to compare" : "Two pictures chosen");
}

function mark(position, wanted) {
  cards[position].classList.toggle("chosen", wanted);
  cards[position].querySelector(".choose input").checked = wanted;
}

find("compare-clear").addEventListener("click", () => [...chosen].forEach((position) => choose(position, false)));
let compared = [];  // positions of the two that are compared; what went into a picture has none

function compareThese(...two) {
  compared = two.map(([, , name]) => places.get(name));
  ["left", "right"].forEach((side, index) => {
    const [file, alt, name] = two[index];
    find(`compare-${side}`).src = file;
    find(`compare-${side}`).alt = alt;
    say(find(`compare-${side}-name`), name);
  });
  cover(find("compare"));
  find("compare-left").closest("figure").focus();
}

find("compare-open").addEventListener("click", () => {
  compareThese(...chosen.map((position) => pictures[position]).map((picture) => [picture.file, picture.prompt, picture.id]));
});
find("view-before").addEventListener("click", () => {
  const picture = pictures[viewed];
  compareThese([picture.before, "what went in", `before ${picture.id}`], [picture.file, picture.prompt, picture.id]);
});
find("compare-close").addEventListener("click", () => uncover(find("compare")));
find("compare-slide").addEventListener("input", (event) => {
  find("compare-stage").className = event.target.checked ? "sliding" : "beside";
  find("compare-where").hidden = !event.target.checked;
});
find("compare-range").addEventListener("input", (event) => find("compare-stage").style.setProperty("--where", `${event.target.value}%`));

refresh();
