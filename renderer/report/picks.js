// Marks: 1 to 5 stars, x for rejected, u for neither. On a page that is served they are kept; one from disk shows them.
"use strict";

const canMark = Boolean(served.live);
const MARKS = { 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, x: "x", u: null };
const inWords = (mark) => mark === "x" ? "rejected" : mark ? "★".repeat(mark) : "";

function showMark(position) {
  const { mark, id } = pictures[position];
  const card = cards[position];
  card.classList.toggle("rejected", mark === "x");
  card.querySelector(".badge")?.remove();
  if (mark) {
    const badge = make("span", "badge", mark === "x" ? "✕" : inWords(mark));
    badge.setAttribute("role", "img");
    badge.setAttribute("aria-label", mark === "x" ? `${id} is rejected` : `${id} has ${mark} of 5 stars`);
    card.append(badge);
  }
}

async function giveMark(position, mark) {
  const picture = pictures[position];
  if (!picture.file) return;
  const before = picture.mark;
  picture.mark = mark ?? undefined;
  showMark(position);
  if (find("view").open && viewed === position) fillView();
  say(find("marked"), mark ? `${picture.id}: ${mark === "x" ? "rejected" : `${mark} of 5 stars`}` : `${picture.id}: not marked`);
  try {
    const answer = await fetch("marks", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ marks: { [picture.id]: mark } }),
    });
    if (!answer.ok) {
      const { message, hint } = (await answer.json()).error;
      throw new Error(hint ? `${message} (${hint})` : message);
    }
  } catch (error) {
    picture.mark = before;
    showMark(position);
    if (find("view").open && viewed === position) fillView();
    say(find("marked"), `${picture.id} could not be marked: ${error.message}`);
  }
}

const step = (position, by) => order[(order.indexOf(position) + by + order.length) % order.length];

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  const open = find("view").open;
  if (find("compare").open) return;
  const focused = cards.findIndex((card) => card.contains(document.activeElement));
  const position = open ? viewed : focused;
  const key = event.key.toLowerCase();
  if (canMark && key in MARKS && position >= 0) {
    event.preventDefault();
    giveMark(position, MARKS[key]);
  } else if (!open && order.length && (key === "arrowright" || key === "arrowleft")) {
    if (document.activeElement.closest(".scroll, select") && focused < 0) return;
    event.preventDefault();
    const next = focused < 0 || !order.includes(focused) ? order[0] : step(focused, key === "arrowright" ? 1 : -1);
    const card = cards[next].querySelector(".open");
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest", behavior: "instant" });
  }
});

pictures.forEach((picture, position) => { if (picture.mark) showMark(position); });
find("keys").hidden = !canMark;
