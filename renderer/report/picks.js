// Marks: 1 to 5 stars, x for rejected, u for neither. On a page that is served they are kept; one from disk shows them.
// And the keys of the whole page.
"use strict";

const canMark = Boolean(served.live);
const MARKS = { 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, x: "x", u: null };
const inWords = (mark) => mark === "x" ? "✕" : mark ? "★".repeat(mark) : "";
const told = (mark) => mark === "x" ? "rejected" : mark ? `${mark} of 5 stars` : "not marked";

function badge({ mark, id }) {
  const made = make("span", "badge", inWords(mark));
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", mark === "x" ? `${id} is rejected` : `${id} has ${mark} of 5 stars`);
  return made;
}

function showMark(position) {
  const picture = pictures[position];
  const card = cards[position];
  card.classList.toggle("rejected", picture.mark === "x");
  card.querySelector(".badge")?.remove();
  if (picture.mark) card.append(badge(picture));
}

function showMarks(positions) {  // wherever they are seen
  positions.forEach(showMark);
  if (find("view").open && positions.includes(viewed)) fillView();
  if (find("compare").open) showCompared();
  if (find("best").open) showRow();
}

// ---- to the server: one request at a time, with all that was marked meanwhile, so that the last key wins

let waiting = new Map();  // by position: the mark that it had before, as far as the server knows
let sent = new Map();
let sending = false;

function giveMarks(wanted) {  // by position
  const given = [...wanted].filter(([position]) => pictures[position].file);
  for (const [position, mark] of given) {
    if (!waiting.has(position)) waiting.set(position, sent.has(position) ? sent.get(position) : pictures[position].mark);
    pictures[position].mark = mark ?? undefined;
  }
  if (!given.length) return;
  showMarks(given.map(([position]) => position));
  const [position, mark] = given.at(-1);
  tellMarked(given.length === 1 ? `${pictures[position].id}: ${told(mark)}` : `${given.length} pictures are marked`);
  send();
}

const giveMark = (position, mark) => giveMarks([[position, mark]]);

function tellMarked(text) {
  say(find("marked"), text);
  say(find("best-told"), text);
}

async function send() {
  if (sending) return;
  sending = true;
  while (waiting.size) {
    [sent, waiting] = [waiting, new Map()];
    const given = new Map([...sent.keys()].map((position) => [position, pictures[position].mark]));
    const marks = Object.fromEntries([...sent.keys()].map((position) => [pictures[position].id, pictures[position].mark ?? null]));
    try {
      const answer = await fetch("marks", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ marks }),
      });
      if (!answer.ok) {
        const { message, hint } = (await answer.json()).error;
        throw new Error(hint ? `${message} (${hint})` : message);
      }
      for (const [position, mark] of given) if (waiting.has(position)) waiting.set(position, mark);
    } catch (error) {
      const lost = [...sent.keys()].filter((position) => !waiting.has(position));
      lost.forEach((position) => { pictures[position].mark = sent.get(position); });
      showMarks(lost);
      tellMarked(`${pictures[[...sent.keys()][0]].id} could not be marked: ${error.message}`);
    }
  }
  sent = new Map();
  sending = false;
}

function take(position, picture) {  // what the server says, but for a mark that is on its way to it
  const own = waiting.has(position) || sent.has(position);
  pictures[position] = own ? { ...picture, mark: pictures[position].mark } : picture;
}

// ---- keys

const step = (position, by) => order[(order.indexOf(position) + by + order.length) % order.length];

function goTo(position) {
  const card = cards[position].querySelector(".open");
  card.focus({ preventScroll: true });
  card.scrollIntoView({ block: "nearest", behavior: "instant" });
}

function hideUnfit(positions) {  // what the filters show no more; whether there was any
  const fits = fitting();
  const unfit = new Set(positions.filter((position) => !fits(pictures[position], position)));
  if (!unfit.size) return false;
  order = order.filter((position) => !unfit.has(position));
  for (const position of unfit) {
    cards[position].hidden = true;
    const section = cards[position].closest("section");
    section.hidden = !section.querySelector(".card:not([hidden])");
  }
  tellShown();
  return true;
}

function markHere(position, mark) {
  const next = order.length > 1 ? step(position, 1) : position;
  giveMark(position, mark);
  const open = find("view").open;
  if (!hideUnfit([position])) return;  // else the one behind it takes its place
  if (order.length) { if (open) showView(next); else goTo(next); return; }
  if (open) uncover(find("view"));
  find("mark").focus();
}

function chooseHere(position) {
  if (!pictures[position].file) return;
  choose(position, !chosen.includes(position));
  say(find("marked"), `${pictures[position].id} is ${chosen.includes(position) ? "" : "not "}chosen for comparison`);
  if (chosen.length === 2) {
    find("compare-open").click();
    find("compare").addEventListener("close", () => find("compare-clear").click(), { once: true });
  }
}

function showCompared() {
  ["left", "right"].forEach((side, index) => {
    const picture = pictures[compared[index]];
    say(find(`compare-${side}-mark`), picture ? inWords(picture.mark) : "");
  });
}

function keyInComparison(event, key) {
  const figures = [...find("compare-stage").children];
  if (key === "arrowleft" || key === "arrowright") {
    event.preventDefault();
    figures[key === "arrowleft" ? 0 : 1].focus();
    return;
  }
  const position = compared[figures.indexOf(document.activeElement)];
  if (canMark && key in MARKS && position !== undefined) { event.preventDefault(); giveMark(position, MARKS[key]); }
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input:not([type=checkbox]), select, textarea")) return;
  const key = event.key.toLowerCase();
  if (find("compare").open) { keyInComparison(event, key); return; }
  if (find("best").open) { keyInRow(event, key); return; }
  const open = find("view").open;
  const focused = focusedPlace();
  const position = open ? viewed : focused;
  if (canMark && key in MARKS && position >= 0) {
    event.preventDefault();
    markHere(position, MARKS[key]);
  } else if (key === "c" && position >= 0) {
    chooseHere(position);
  } else if (key === "b" && position >= 0) {
    openRow(position);
  } else if (!open && order.length && (key === "arrowright" || key === "arrowleft")) {
    if (document.activeElement.closest(".scroll, select") && focused < 0) return;
    event.preventDefault();
    goTo(focused < 0 || !order.includes(focused) ? order[0] : step(focused, key === "arrowright" ? 1 : -1));
  }
});

new MutationObserver(showCompared).observe(find("compare"), { attributes: true, attributeFilter: ["open"] });
pictures.forEach((picture, position) => { if (picture.mark) showMark(position); });
find("keys-marks").hidden = !canMark;
