"use strict";
// Keys, saving that survives a server outage without losing input, and the time for which a question was visible.
// Without this script the page is a plain form.

const form = document.getElementById("rating");
const status = document.getElementById("status");
const SETTLE = 250; // ms after a page appears in which keys are ignored: they were meant for the previous question
const RETRY = 1000; // ms
let saving = false;
let seen = 0; // ms that the page was visible
let since = document.hidden ? null : performance.now();
let ready = false;
setTimeout(() => { ready = true; document.body.dataset.ready = ""; }, SETTLE);

document.addEventListener("visibilitychange", () => {
  if (document.hidden && since !== null) { seen += performance.now() - since; since = null; }
  else if (!document.hidden && since === null) since = performance.now();
});

function say(text, kind) {
  if (!status) return;
  status.textContent = text;
  status.className = kind || "";
}

// Both answers must have been on the screen before one is chosen: on a phone the second begins below the first.
const unread = new Set(document.body.classList.contains("pairwise") && "IntersectionObserver" in window ? document.querySelectorAll(".side .text, .side .empty") : []);
const reading = unread.size ? new IntersectionObserver(entries => entries.forEach(entry => {
  if (!entry.isIntersecting) return;
  reading.unobserve(entry.target);
  unread.delete(entry.target);
  if (status && status.dataset.unread) { delete status.dataset.unread; say(""); }
}), { rootMargin: "0px 0px -120px 0px" }) : null;
unread.forEach(one => reading.observe(one));

function openStep() {
  return Array.from(document.querySelectorAll("[data-step]")).find(step => !step.querySelector("input:checked"));
}

function problemOf(html) {
  const found = new DOMParser().parseFromString(html, "text/html").querySelector(".problem");
  return found ? found.textContent : "Not saved.";
}

async function send(target, submitter) {
  const fields = new URLSearchParams(new FormData(target, submitter));
  if (fields.has("seconds")) fields.set("seconds", ((seen + (since === null ? 0 : performance.now() - since)) / 1000).toFixed(1));
  saving = true;
  document.body.classList.add("saving");
  if (submitter) submitter.classList.add("chosen");
  for (;;) {
    let answer = null;
    // A redirect means that the rating is on the disk; sending it again after a lost response only replaces it.
    try { answer = await fetch(target.action, { method: "POST", body: fields, redirect: "manual", credentials: "same-origin" }); }
    catch { /* not reachable */ }
    if (answer && answer.type === "opaqueredirect") { location.replace("/"); return; }
    if (answer && answer.status < 500) {
      say(problemOf(await answer.text()), "bad");
      break;
    }
    say("Not saved yet: the server is not responding. Trying again …", "bad");
    await new Promise(done => setTimeout(done, RETRY));
  }
  saving = false;
  document.body.classList.remove("saving");
  if (submitter) submitter.classList.remove("chosen");
}

document.addEventListener("submit", event => {
  event.preventDefault();
  if (saving) return;
  const missing = event.target === form && event.submitter && event.submitter.name !== "unable" ? openStep() : null;
  if (missing) {
    missing.classList.add("missing");
    missing.scrollIntoView({ block: "center" });
    say("Answer the question above first.", "bad");
    return;
  }
  const hidden = event.target === form && event.submitter && event.submitter.name === "winner" ? Array.from(unread)[0] : null;
  if (hidden) {
    hidden.closest(".side").scrollIntoView({ block: "start", behavior: "smooth" });
    say(`Read answer ${hidden.closest(".side").querySelector(".letter").textContent} first.`, "bad");
    status.dataset.unread = "1";
    return;
  }
  send(event.target, event.submitter);
});

document.addEventListener("change", event => {
  const step = event.target.closest("[data-step]");
  if (step) { step.classList.remove("missing"); say(""); }
});

function press(target) {
  if (target instanceof HTMLElement && target.tagName === "SUMMARY") {
    const details = target.parentElement;
    const area = details.querySelector("textarea");
    details.open = area ? true : !details.open;
    if (area) area.focus();
  } else target.click();
}

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target instanceof HTMLTextAreaElement) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  // Arrows move within a focused group of options.
  if (event.target.type === "radio" && event.key.startsWith("Arrow")) return;
  // Enter and Space keep their usual effect on a focused element.
  if ((event.key === "Enter" || event.key === " ") && event.target.closest("a, button, summary, input")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const target = Array.from(document.querySelectorAll("[data-keys]")).find(one => one.dataset.keys.split(" ").includes(key));
  if (!target) return;
  event.preventDefault();
  // Holding a key down must not rate one question after another.
  if (event.repeat || !ready || saving) return;
  press(target);
});

// After a click or a tap the keys work as before.
document.addEventListener("click", event => {
  if (event.detail > 0 && event.target instanceof HTMLInputElement) event.target.blur();
});

if (form) document.querySelectorAll("summary[data-keys=c]").forEach(one => one.addEventListener("click", () => {
  const details = one.parentElement;
  setTimeout(() => { if (details.open) details.querySelector("textarea").focus(); });
}));
