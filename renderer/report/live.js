// Live: a page that was served asks its server for what changes; one opened from disk asks nobody.
// The last of the scripts: news may come as soon as it asks, and all that shows them must be there by then.
"use strict";

let known = served.happened;

function update(news) {
  if (news.stale) { location.reload(); return; }  // another server, maybe of another manifest
  const focus = document.activeElement;
  const focused = focusedPlace();
  const inList = focus.matches("input") ? ".choose input" : ".open";
  const moved = news.pictures.some(([position, picture]) => differs(pictures[position], picture));
  for (const [position, picture] of news.pictures) { take(position, picture); fillCard(position); }
  showMarks(news.pictures.map(([position]) => position));
  showFlying(news.flying);
  if (news.pictures.length) {
    const top = scrollY;
    fill("state", pictures.map((picture) => picture.state));
    fill("lettering", pictures.map(lettered).filter(Boolean));
    if (find("sort").value && moved) drawnAs = null;  // its place in the order may be another now
    refresh();
    scrollTo({ top, behavior: "instant" });
    if (focused >= 0) cards[focused].querySelector(inList)?.focus({ preventScroll: true });
  }
  if (find("view").open) fillView();
  say(find("counts"), news.counts);
  say(find("live-told"), news.closed ? "The run's page is closed: this is how it ended." : news.told || "No run is on.");
  if (news.happened !== known) { known = news.happened; readHappened(); }
}

function differs(one, other) {  // in more than the mark: nobody's pictures change their places while they are marked
  return JSON.stringify({ ...one, mark: 0 }) !== JSON.stringify({ ...other, mark: 0 });
}

function showFlying(now) {
  const before = flying;
  flying = now;
  for (const id of new Set([...Object.keys(before), ...Object.keys(flying)])) {
    const position = places.get(id);
    if (position === undefined) continue;
    cards[position].classList.toggle("flying", id in flying);
    const missing = cards[position].querySelector(".missing");
    if (missing) say(missing, id in flying ? stepOf(pictures[position]) : pictures[position].state);
  }
}

async function readHappened() {  // the plots and tables are made by the server
  try {
    const text = await (await fetch("happened")).text();
    const fresh = new DOMParser().parseFromString(text, "text/html").getElementById("happened");
    const open = new Set([...find("happened").querySelectorAll("details[open]")].map((each) => each.textContent.slice(0, 40)));
    fresh.querySelectorAll("details").forEach((each) => { each.open = open.has(each.textContent.slice(0, 40)); });
    find("happened").replaceWith(document.adoptNode(fresh));
  } catch { known = ""; }  // the next news tries again
}

if (served.live) {
  const source = new EventSource(`${served.live}?since=${served.mark}`);
  source.addEventListener("message", (event) => {
    const news = JSON.parse(event.data);
    if (news.closed) source.close();
    update(news);
  });
  source.addEventListener("error", () => say(find("live-told"), "The run's page does not answer; trying again."));
}
