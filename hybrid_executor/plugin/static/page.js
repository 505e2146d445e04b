// Keeps the page live, in Airflow's theme, and its links to Airflow outside its frame. Without it the page
// is complete as it was loaded.
"use strict";

const EVERY_MS = 3000, HIDDEN_MS = 30000, LATE_MS = 15000;
const live = document.getElementById("live");

// Airflow keeps its theme under this name for its whole origin: light, dark or system.
function dress() {
  let theme = null;
  try { theme = localStorage.getItem("theme"); } catch { /* storage is closed to us: the system's theme it is */ }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

function inWords(seconds) {
  const all = Math.max(0, Math.floor(seconds));
  const parts = [[Math.floor(all / 86400), "d"], [Math.floor(all / 3600) % 24, "h"], [Math.floor(all / 60) % 60, "m"], [all % 60, "s"]];
  const first = parts.findIndex(([number]) => number);
  if (first < 0) return "0s";
  return parts.slice(first, first + 2).filter(([number]) => number).map(([number, unit]) => number + unit).join("");
}

// By the server's clock: this one may be wrong.
let ahead = 0;
function setClock(response) {
  const date = Date.parse(response.headers.get("Date") ?? "");
  if (date) ahead = Date.now() - date;
}
function tellAges() {
  for (const time of document.querySelectorAll("time[data-ago]")) {
    time.textContent = inWords((Date.now() - ahead - Date.parse(time.dateTime)) / 1000);
  }
}

// What a reader is in the middle of stays: a scrolled table keeps its place, and a focused link its focus.
function replace(old, fresh) {
  if (old.innerHTML === fresh.innerHTML) return;
  const places = [...old.querySelectorAll(".scrolls")].map((one) => one.scrollLeft);
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  const href = focused?.getAttribute("href"), label = focused?.getAttribute("aria-label");
  old.replaceChildren(...fresh.childNodes);
  old.querySelectorAll(".scrolls").forEach((one, number) => { one.scrollLeft = places[number] ?? 0; });
  const again = [...old.querySelectorAll("a[href], [tabindex]")]
    .find((one) => (href && one.getAttribute("href") === href) || (label && one.getAttribute("aria-label") === label));
  if (focused && again) again.focus({ preventScroll: true });
}

let tag = document.getElementById("main").dataset.tag || null, answeredAt = Date.now();
async function look() {
  const headers = tag ? { "If-None-Match": tag } : {};
  const response = await fetch(location.href, { headers, cache: "no-store", credentials: "same-origin" });
  if (response.status !== 304 && !response.ok) throw new Error(String(response.status));
  answeredAt = Date.now();
  setClock(response);
  live.classList.remove("late");
  if (response.status === 304) return;
  tag = response.headers.get("ETag");
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const now = fresh.getElementById(part.id);
    if (now) replace(part, now);
  }
  if (!document.querySelector("[data-live]")) location.reload();
  live.textContent = fresh.getElementById("live").textContent;
}

let timer = 0;
async function tick() {
  clearTimeout(timer);
  try {
    await look();
  } catch (error) {
    live.classList.add("late");
    if (error.message === "401" || error.message === "403") {
      live.textContent = "Airflow has logged you out, or taken a right from you: load this page again.";
      return;
    }
    if (Date.now() - answeredAt > LATE_MS) live.textContent = `No answer for ${inWords((Date.now() - answeredAt) / 1000)}; asking again.`;
  }
  tellAges();
  timer = setTimeout(tick, document.hidden ? HIDDEN_MS : EVERY_MS);
}

// Airflow shows this page in a frame that may not open windows or move the window it is in; Airflow's own
// document may.
function leave(event) {
  const link = event.target.closest?.("a[data-top]");
  if (!link || window.parent === window) return;
  try {
    const outside = window.parent.document.createElement("a");
    outside.href = link.href;
    if (event.ctrlKey || event.metaKey || event.button === 1) outside.target = "_blank";
    event.preventDefault();
    outside.click();
  } catch { /* the frame is of another origin: the link opens here */ }
}

dress();
addEventListener("storage", dress);
addEventListener("click", leave);
addEventListener("auxclick", leave);
document.addEventListener("visibilitychange", () => { if (!document.hidden) tick(); });
const told = document.querySelector('meta[name="status"]')?.content;
if (!told || told === "503") timer = setTimeout(tick, EVERY_MS);
