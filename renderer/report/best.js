// The best of a row: what was made of one combination, side by side. One key gives the best five stars, rejects what of
// the row nobody has marked, and goes on to the next row.
"use strict";

const MOST_IN_A_ROW = 24;
let row = [];     // positions of the pictures that are side by side
const passed = new Set();  // all that were in a row since the first was opened
let rowAt = 0;    // which of them has the focus
const rowOf = [];  // by position: the pictures of its row, the same list for all of them

function findRows() {
  for (const group of groups) {
    const byPrompt = Map.groupBy?.(group.positions, (position) => pictures[position].prompt) ?? grouped(group.positions);
    const lines = group.rows.map((_, line) => group.positions.filter((_, index) => group.cells[index][0] === line));
    for (const [index, position] of group.positions.entries()) {
      const same = byPrompt.get(pictures[position].prompt);
      const line = group.rows.length ? lines[group.cells[index][0]] : group.positions;
      rowOf[position] = same.length > 1 ? same : line.length <= MOST_IN_A_ROW ? line : same;
    }
  }
}

function grouped(positions) {  // browsers before 2024 have no Map.groupBy
  const found = new Map();
  for (const position of positions) {
    const { prompt } = pictures[position];
    if (!found.has(prompt)) found.set(prompt, []);
    found.get(prompt).push(position);
  }
  return found;
}

const seen = (positions) => positions.filter((position) => pictures[position].file && !cards[position].hidden).slice(0, MOST_IN_A_ROW);

function openRow(position) {
  if (!rowOf.length) findRows();
  row = seen(rowOf[position]);
  rowAt = Math.max(0, row.indexOf(position));
  row.forEach((each) => passed.add(each));
  if (!row.length) { tellMarked(`${pictures[position].id} is not there yet`); return; }
  say(find("best-title"), row.length > 1 ? `Best of ${row.length}: ${pictures[position].prompt}` : `${pictures[position].id} is alone in its row`);
  find("best-list").replaceChildren(...row.map((each, index) => {
    const item = make("li");
    item.setAttribute("role", "listitem");
    const button = make("button", "open");
    button.type = "button";
    const image = make("img");
    image.src = pictures[each].file; image.alt = ""; image.decoding = "async";
    button.append(image, make("span", "name", pictures[each].id));
    button.addEventListener("click", () => { rowAt = index; if (canMark) takeBest(); });
    button.addEventListener("focus", () => { rowAt = index; });
    item.append(button);
    return item;
  }));
  find("best-list").style.setProperty("--across", Math.min(row.length, row.length > 8 ? 6 : 4));
  if (!find("best").open) cover(find("best"));
  showRow();
  buttonAt(rowAt).focus();
}

const buttonAt = (index) => find("best-list").children[index].querySelector(".open");

function showRow() {
  row.forEach((position, index) => {
    const item = find("best-list").children[index];
    item.classList.toggle("rejected", pictures[position].mark === "x");
    item.querySelector(".badge")?.remove();
    if (pictures[position].mark) item.append(badge(pictures[position]));
  });
}

function nextRow(by) {  // the next in the order of the page; at the end there is none
  const places = row.map((position) => order.indexOf(position)).filter((place) => place >= 0);
  const rest = by > 0 ? order.slice(Math.max(...places) + 1) : order.slice(0, Math.min(...places)).reverse();
  const next = rest.find((position) => pictures[position].file && !row.includes(position));
  if (next === undefined) { tellMarked(by > 0 ? "that was the last row" : "that was the first row"); return; }
  openRow(rowOf[next].find((position) => seen([position]).length) ?? next);
}

function takeBest() {
  const best = row[rowAt];
  const stars = typeof pictures[best].mark === "number" ? pictures[best].mark : 5;
  const others = row.filter((position) => position !== best && !pictures[position].mark);
  giveMarks([...others.map((position) => [position, "x"]), [best, stars]]);
  nextRow(1);
}

function keyInRow(event, key) {
  const by = { arrowleft: -1, arrowright: 1 }[key];
  const line = { arrowup: -1, arrowdown: 1 }[key];
  if (by) buttonAt(rowAt = (rowAt + by + row.length) % row.length).focus();
  else if (line) nextRow(line);
  else if (canMark && (key === "b" || (key === "enter" && event.target.closest("#best-list")))) takeBest();
  else if (canMark && key in MARKS) giveMark(row[rowAt], MARKS[key]);
  else return;
  event.preventDefault();
}

say(find("best-keys"), "Keys: left and right go from one to the other, up and down from row to row"
  + (canMark ? "; b or Enter takes the best: it has 5 stars, what is not marked is rejected, and the next row comes; 1 to 5, x and u mark." : "."));
find("best-close").addEventListener("click", () => uncover(find("best")));
find("best").addEventListener("close", () => {
  const here = row[rowAt];
  const next = order.length > 1 ? step(here, 1) : here;
  hideUnfit([...passed]);
  passed.clear();
  const there = cards[here].hidden ? next : here;
  if (find("view").open) showView(there); else if (order.includes(there)) goTo(there);
});
