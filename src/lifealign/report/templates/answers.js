// The transcript browser: filters, a list that draws only the rows in view, and the answers to one prompt. All text of
// models and people is put in as text nodes. The order of verdicts and states is that of `data.criteria`.
(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const HEIGHT = 62, AHEAD = 6, LONGEST_DIFF = 600, LIKE = 0.35;
  const LABELS = Object.fromEntries(data.states), MEANS = new Map(data.states.map((s) => [s[0], s[2]]));
  const find = (selector) => document.querySelector(selector);
  const list = find(".list"), rows = find(".rows"), detail = find(".detail"), search = find("#search");
  const chips = find("fieldset.states"), points = find(".points"), help = find("dialog");
  const selects = { task: find("#task"), source: find("#source"), other: find("#other"), criterion: find("#criterion") };
  const both = ["judge", "people"].every((who) => data.threads.some((t) => t.answers.some((a) => a.opinions.some((o) => o.who === who))));
  const silent = data.threads.some((t) => t.states.includes("unknown"));
  const filters = data.criteria.length ? ["all", ...data.states.map((s) => s[0]).filter((s) => silent || s !== "unknown")] : ["all"];
  if (both) filters.push("disagreement");
  let shown = [], chosen = null, criterion = 0, filter = "all", terms = [], changes = false, beside = false, drawn = "";
  const starred = new Set(), start = filters.includes("forgotten") && data.threads.some((t) => t.states[0] === "forgotten") ? "forgotten" : "all";
  const columns = new Map(data.points.map((point, i) => [point, i + 1]));

  const text = (index) => (index === null ? "" : data.texts[index]);
  const key = (thread) => thread.item + " " + thread.source;
  const threads = new Map(data.threads.map((t) => [key(t), t]));
  // The other source's answers to the same prompt, where one is chosen to stand beside.
  const partner = (thread) => (selects.other.value && threads.get(thread.item + " " + selects.other.value)) || null;

  function make(tag, options, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(options || {})) {
      if (name === "class") element.className = value;
      else if (name === "on") for (const [event, call] of Object.entries(value)) element.addEventListener(event, call);
      else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children) if (child !== null) element.append(child);
    return element;
  }

  // --- which threads are shown ---

  function words(thread) {
    // Made once, on the first search.
    if (thread.words === undefined) {
      const all = thread.turns.map((turn) => text(turn[1]));
      all.push(text(thread.reference), text(thread.rejected));
      for (const answer of thread.answers) {
        all.push(text(answer.text));
        for (const one of answer.opinions) all.push(one.words);
      }
      thread.words = all.join("\n").toLowerCase();
    }
    return thread.words;
  }

  const passes = {
    task: (t) => !selects.task.value || t.task === selects.task.value,
    source: (t) => (!selects.source.value || t.source === selects.source.value) && t.source !== selects.other.value,
    search: (t) => !terms.length || terms.every((term) => words(t).includes(term) || t.item === term),
  };
  const isIn = (t, name) => name === "all" || (name === "disagreement" ? t.disagreement : t.states[criterion] === name);

  function update(keep) {
    terms = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    criterion = Math.max(0, data.criteria.findIndex((c) => c[0] === selects.criterion.value));
    const found = data.threads.filter((t) => passes.task(t) && passes.source(t) && passes.search(t));
    shown = found.filter((t) => isIn(t, filter));
    // The worst falls come first; the sort is stable.
    if (filter === "forgotten") shown.sort((a, b) => (b.falls[criterion] || 0) - (a.falls[criterion] || 0));
    for (const label of chips.querySelectorAll("label")) {
      const count = found.filter((t) => isIn(t, label.dataset.filter)).length;
      label.querySelector("b").textContent = count.toLocaleString("en");
      label.classList.toggle("empty", count === 0);
    }
    showPoints(found);
    rows.style.height = shown.length * HEIGHT + "px";
    drawn = "";
    if (!keep || !shown.includes(chosen)) chosen = shown[0] || null;
    if (chosen) reveal();
    else list.scrollTop = 0;
    draw();
    showThread();
    address();
  }

  function showPoints(found) {
    // Share of good answers at each point, among the prompts whose task was learnt by then.
    const shares = new Map(data.points.map((point) => [point, { good: 0, known: 0, before: true }]));
    const one = found.length && found.every((t) => t.task === found[0].task && t.source === found[0].source);
    for (const thread of found) {
      for (const answer of thread.answers) {
        const verdict = answer.verdicts[criterion], share = shares.get(answer.point);
        if (answer.before && !one) continue;
        share.good += verdict === true;
        share.known += verdict !== null && verdict !== undefined;
        share.before = share.before && answer.before;
      }
    }
    points.replaceChildren();
    for (const [point, share] of shares) {
      if (!share.known) continue;
      const bar = make("i");
      bar.style.setProperty("--s", share.good / share.known);
      const title = `${pointName(point)}: ${share.good} of ${share.known} good`;
      points.append(make("li", { title, class: share.before ? "before" : "" }, make("b", {}, Math.round((100 * share.good) / share.known) + "%"), ` of ${share.known}`, bar, make("span", {}, `${columns.get(point) - 1} ${point === "base" ? "before any" : point}`)));
    }
    points.hidden = points.childElementCount < 2;
  }

  // --- the list ---

  function mark(verdict, before, point) {
    const kind = verdict === true ? "good" : verdict === false ? "bad" : "none";
    const one = make("i", { class: `m ${kind}${before ? " before" : ""}`, title: point === undefined ? null : `${pointName(point)}: ${verdictName(verdict) || "not judged"}` });
    if (point !== undefined) one.style.gridColumn = columns.get(point);
    return one;
  }

  function verdictName(verdict) {
    const rule = data.criteria.length && data.criteria[criterion][0] === "rule";
    return verdict === true ? (rule ? "passes the rule" : "good") : verdict === false ? (rule ? "fails the rule" : "bad") : "";
  }

  function stateName(thread) {
    return data.criteria.length ? LABELS[thread.states[criterion]] : LABELS.unknown;
  }

  function draw() {
    const from = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - AHEAD);
    const to = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / HEIGHT) + AHEAD);
    const now = `${from} ${to} ${chosen && key(chosen)} ${starred.size}`;
    if (drawn === now) return;
    drawn = now;
    const fresh = document.createDocumentFragment();
    for (let i = from; i < to; i++) fresh.append(drawRow(shown[i], i));
    if (!shown.length) fresh.append(make("p", { class: "nothing" }, "No prompt matches."));
    rows.replaceChildren(fresh);
    if (chosen) list.setAttribute("aria-activedescendant", "row-" + shown.indexOf(chosen));
    else list.removeAttribute("aria-activedescendant");
  }

  function strip(thread) {
    const marks = make("span", { class: "marks", "aria-hidden": "true" });
    for (const answer of thread.answers) marks.append(mark(answer.verdicts[criterion], answer.before, answer.point));
    // An empty last column keeps the width of all rows the same.
    marks.style.gridTemplateColumns = `repeat(${data.points.length}, var(--m))`;
    return marks;
  }

  function drawRow(thread, index) {
    const about = make("div", { class: "about" }, strip(thread), make("span", {}, stateName(thread)));
    const other = partner(thread);
    if (other) about.append(strip(other), make("span", { class: "other" }, stateName(other)));
    if (data.tasks.length > 1 && !selects.task.value) about.append(make("span", {}, thread.task));
    if (data.sources.length > 1 && !selects.source.value) about.append(make("span", {}, thread.source));
    if (starred.has(key(thread))) about.append(make("span", { class: "starred", title: "starred" }, "★"));
    const ask = make("div", { class: "ask", dir: "auto" }, text(thread.turns[thread.turns.length - 1][1]).slice(0, 200));
    const row = make(
      "div",
      { class: "row", role: "option", id: "row-" + index, "aria-selected": String(thread === chosen), "aria-posinset": index + 1, "aria-setsize": shown.length, on: { click: () => choose(thread, true) } },
      ask,
      about,
    );
    row.style.top = index * HEIGHT + "px";
    return row;
  }

  function reveal() {
    const top = shown.indexOf(chosen) * HEIGHT, head = find(".cols").offsetHeight;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + HEIGHT + head > list.scrollTop + list.clientHeight) list.scrollTop = top + HEIGHT + head - list.clientHeight;
  }

  function choose(thread, open) {
    if (!thread) return;
    chosen = thread;
    if (open) document.body.classList.add("open");
    reveal();
    draw();
    showThread();
    address();
  }

  function move(by) {
    const at = shown.indexOf(chosen);
    choose(shown[Math.min(shown.length - 1, Math.max(0, at + by))]);
  }

  // --- one prompt's answers ---

  function pointName(point) {
    return point === "base" ? "Before any task" : `After ${point}`;
  }

  function highlighted(content) {
    const element = make("div", { class: "text", dir: "auto" });
    if (!terms.length) {
      element.textContent = content;
      return element;
    }
    const pattern = new RegExp(terms.map((t) => t.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|"), "gi");
    let end = 0;
    for (const match of content.matchAll(pattern)) {
      element.append(content.slice(end, match.index), make("mark", {}, match[0]));
      end = match.index + match[0].length;
    }
    element.append(content.slice(end));
    return element;
  }

  function unmarked(content, why) {
    return make("div", {}, make("p", { class: "same" }, why), highlighted(content));
  }

  function compared(before, after) {
    // Longest common subsequence of words; white space belongs to the word before it.
    const cut = (content) => content.match(/\S+\s*|\s+/g) || [];
    const a = cut(before), b = cut(after);
    if (a.length > LONGEST_DIFF || b.length > LONGEST_DIFF) return unmarked(after, "Too long to mark its changes.");
    const width = b.length + 1, same = new Uint16Array((a.length + 1) * width);
    for (let i = a.length - 1; i >= 0; i--)
      for (let j = b.length - 1; j >= 0; j--)
        same[i * width + j] = a[i].trim() === b[j].trim() ? same[(i + 1) * width + j + 1] + 1 : Math.max(same[(i + 1) * width + j], same[i * width + j + 1]);
    // Marks on nearly every word would not help.
    if (same[0] < LIKE * Math.max(a.length, b.length)) return unmarked(after, "Rewritten throughout.");
    const element = make("div", { class: "text", dir: "auto" });
    let kind = "", run = "";
    const push = (next, word) => {
      if (next !== kind) {
        if (run) element.append(kind ? make(kind, {}, run) : run);
        kind = next;
        run = "";
      }
      run += word;
    };
    let i = 0, j = 0;
    while (i < a.length || j < b.length) {
      if (i < a.length && j < b.length && a[i].trim() === b[j].trim()) { push("", b[j]); i++; j++; }
      else if (j >= b.length || (i < a.length && same[(i + 1) * width + j] >= same[i * width + j + 1])) push("del", a[i++]);
      else push("ins", b[j++]);
    }
    push("end", "");
    return element;
  }

  const alone = (thread) => (thread.reference === null) !== (thread.rejected === null);

  function scoreText(name, value, thread) {
    if (value === null) return "not measured";
    if (name === "pass_rate") return value >= 0.5 ? "passed" : "failed";
    if (name === "accuracy" && alone(thread)) return value > 0.5 ? "right side" : value < 0.5 ? "wrong side" : "neither";
    if (name === "accuracy") return value > 0.5 ? "chosen answer" : value < 0.5 ? "rejected answer" : "neither";
    return Number.isInteger(value) ? String(value) : value.toPrecision(3);
  }

  function scoreLabel(name, thread) {
    if (name === "pass_rate") return "Rule";
    if (name === "accuracy" && alone(thread)) return "Reward";
    if (name === "accuracy") return "Prefers";
    return (data.labels[name] || name).replace(/, %$/, "");
  }

  function opinion(one) {
    const item = make("li", {}, make("span", { class: "who" }, one.who === "judge" ? "Judge " : "", make("b", {}, one.name)));
    if (one.rubric) item.append(make("span", { class: "who" }, ` (${one.rubric})`));
    item.append(": ");
    if (one.score !== null) item.append(make("b", {}, String(Math.round(one.score * 100) / 100)));
    else if (one.versus) {
      const [source, point] = one.versus;
      const other = source ? `${data.sources.length > 1 ? source + ", " : ""}${pointName(point).toLowerCase()}` : point;
      const result = { won: "better than", lost: "worse than", tie: "as good as" }[one.outcome];
      item.append(result ? make("b", {}, result) : "undecided against", ` ${other}`);
    }
    if (one.unscored) item.append(make("b", {}, "not scored"), `: ${one.unscored}`);
    if (one.words) item.append(" · ", highlighted(one.words));
    return item;
  }

  function card(thread, index, since = index - 1) {
    const answer = thread.answers[index], verdict = answer.verdicts[criterion];
    const kind = verdict === true ? "good" : verdict === false ? "bad" : "none";
    const last = index === thread.answers.length - 1;
    const tags = [answer.learnt ? "learnt here" : answer.before ? "not learnt yet" : "", last && thread.answers.length > 1 ? "now" : ""].filter(Boolean);
    const head = make("header", {}, mark(verdict, false), make("h3", {}, pointName(answer.point)));
    if (tags.length) head.append(make("span", { class: "tags" }, make("b", {}, tags.join(", "))));
    if (answer.cut) head.append(make("span", { class: "cut", title: "The answer reached its longest length before its end" }, "cut off"));
    if (kind !== "none") head.append(make("span", { class: `verdict ${kind}` }, verdictName(verdict)));
    const box = make("section", { class: `card ${kind}${answer.before ? " before" : ""}`, id: "answer-" + answer.id }, head);
    const content = text(answer.text), earlier = since >= 0 ? text(thread.answers[since].text) : null;
    if (content === earlier) {
      const whole = make("button", { type: "button", on: { click: () => whole.parentNode.replaceWith(highlighted(content)) } }, "Show it");
      box.append(make("p", { class: "same" }, "Same answer as before. ", whole));
    } else if (!content) box.append(make("p", { class: "same" }, "An empty answer."));
    else box.append((changes || beside) && earlier !== null ? compared(earlier, content) : highlighted(content));
    if (verdict === false && thread.rule && data.criteria[criterion][0] === "rule") box.append(make("p", { class: "why" }, make("b", {}, "Fails: "), thread.rule));
    const scores = make("div", { class: "scores" });
    for (const [name, value] of Object.entries(answer.scores)) scores.append(make("span", {}, scoreLabel(name, thread) + " ", make("b", {}, scoreText(name, value, thread))));
    if (scores.childElementCount) box.append(scores);
    if (answer.opinions.length) box.append(make("ul", { class: "said" }, ...answer.opinions.map(opinion)));
    return box;
  }

  function pair(thread) {
    const element = make("details", { class: "pair" }, make("summary", {}, "Expected answer"));
    element.open = pair.open === true;
    element.addEventListener("toggle", () => { pair.open = element.open; });
    const names = alone(thread) ? ["Good answer", "Bad answer"] : ["Chosen", "Rejected"];
    for (const [label, index] of [[names[0], thread.reference], [names[1], thread.rejected]])
      if (index !== null) element.append(make("div", { class: "soft" }, label), highlighted(text(index)));
    return element;
  }

  function showThread() {
    detail.replaceChildren();
    detail.scrollTop = 0;
    if (!chosen) return detail.append(make("p", { class: "nothing" }, "Select a prompt."));
    const at = shown.indexOf(chosen), state = data.criteria.length ? chosen.states[criterion] : "unknown";
    const nav = make(
      "div",
      { class: "nav" },
      make("button", { type: "button", class: "back", on: { click: close } }, "All prompts"),
      make("span", { class: `badge ${state}`, title: MEANS.get(state) }, stateName(chosen)),
      chosen.disagreement ? make("span", { class: "badge disagree" }, "Judge and people disagree") : null,
      make("span", { class: "where" }, `${chosen.task}, ${chosen.source}`),
      make("span", { class: "space" }),
      make("span", { class: "num" }, `${(at + 1).toLocaleString("en")} of ${shown.length.toLocaleString("en")}`),
      make("button", { type: "button", disabled: at <= 0, "aria-label": "Previous prompt", on: { click: () => move(-1) } }, "↑"),
      make("button", { type: "button", disabled: at >= shown.length - 1, "aria-label": "Next prompt", on: { click: () => move(1) } }, "↓"),
      make("button", { type: "button", class: "star", "aria-pressed": String(starred.has(key(chosen))), title: "Star: export as a row (s)", on: { click: star } }, starred.has(key(chosen)) ? "★" : "☆"),
      make("a", { href: link(chosen), id: "link" }, "Link"),
    );
    detail.append(nav);
    for (const [role, index] of chosen.turns)
      detail.append(make("div", { class: `turn ${role}` }, make("h3", {}, { user: "User", assistant: "Assistant", system: "System" }[role] || role), highlighted(text(index))));
    if (chosen.reference !== null || chosen.rejected !== null) detail.append(pair(chosen));
    const box = make("input", { type: "checkbox", id: "changes", on: { change: () => mode(box.checked) } });
    box.checked = changes;
    const over = make("div", { class: "over" }, make("h2", {}, chosen.answers.length === 1 ? "Answer" : "Answers over time"));
    if (chosen.answers.length > 1) over.append(make("label", {}, box, " mark changes"));
    const two = make("input", { type: "checkbox", id: "beside", on: { change: () => mode(changes, two.checked) } });
    two.checked = beside;
    const first = Math.max(0, chosen.answers.findIndex((a) => !a.before)), last = chosen.answers.length - 1;
    if (last > first && !partner(chosen)) over.append(make("label", {}, two, " first and now"));
    detail.append(over);
    const other = partner(chosen);
    if (other) detail.append(...together(chosen, other));
    else if (beside && last > first) detail.append(make("div", { class: "side" }, card(chosen, first, -1), card(chosen, last, first)));
    else chosen.answers.forEach((_, i) => detail.append(card(chosen, i)));
  }

  function together(thread, other) {
    // Two sources' answers, point by point.
    const columns = [thread, other], found = [make("div", { class: "side heads" }, ...columns.map((t) => make("h3", {}, t.source)))];
    for (const point of data.points) {
      const places = columns.map((t) => t.answers.findIndex((a) => a.point === point));
      if (places.every((place) => place < 0)) continue;
      const cards = columns.map((t, i) => (places[i] < 0 ? make("p", { class: "same" }, `${pointName(point)}: no answer.`) : card(t, places[i])));
      found.push(make("div", { class: "side" }, ...cards));
    }
    return found;
  }

  // --- stars ---

  function star() {
    if (!chosen) return;
    if (!starred.delete(key(chosen))) starred.add(key(chosen));
    find("#stars").hidden = !starred.size;
    find("#export").textContent = `Export ${starred.size} starred row${starred.size === 1 ? "" : "s"}`;
    draw();
    mode(changes);
  }

  function rowOf(thread) {
    // The layout that `learn` reads: the expected answer, and what the model answers now if that is bad.
    const now = thread.answers[thread.answers.length - 1], content = text(now.text), expected = text(thread.reference);
    const bad = now.verdicts[criterion] === false && content && content !== expected ? content : text(thread.rejected);
    const row = { prompt: thread.turns.map(([role, index]) => ({ role, content: text(index) })), chosen: expected };
    if (bad) row.rejected = bad;
    return row;
  }

  function exported() {
    return data.threads.filter((t) => starred.has(key(t))).map((t) => JSON.stringify(rowOf(t)) + "\n").join("");
  }

  function save() {
    const url = URL.createObjectURL(new Blob([exported()], { type: "application/jsonl" }));
    make("a", { href: url, download: "starred.jsonl" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  function mode(on, two = beside) {
    changes = on;
    beside = two;
    const top = detail.scrollTop;
    showThread();
    detail.scrollTop = top;
  }

  function close() {
    document.body.classList.remove("open");
    draw();
    list.focus();
  }

  // --- addresses ---

  function link(thread) {
    const parts = new URLSearchParams({ item: thread.item });
    if (data.sources.length > 1) parts.set("source", thread.source);
    return "#" + parts;
  }

  function address() {
    const parts = new URLSearchParams(chosen ? link(chosen).slice(1) : "");
    if (filter !== start) parts.set("show", filter);
    if (selects.task.value) parts.set("task", selects.task.value);
    if (selects.other.value) parts.set("beside", selects.other.value);
    if (criterion) parts.set("good", data.criteria[criterion][0]);
    if (search.value) parts.set("search", search.value);
    history.replaceState(null, "", "#" + parts);
  }

  function follow() {
    const parts = new URLSearchParams(location.hash.slice(1));
    const has = (select, value) => Array.from(select.options).some((o) => o.value === value);
    selects.task.value = has(selects.task, parts.get("task")) ? parts.get("task") : "";
    selects.other.value = has(selects.other, parts.get("beside")) ? parts.get("beside") : "";
    selects.criterion.value = has(selects.criterion, parts.get("good")) ? parts.get("good") : (data.criteria[0] || [""])[0];
    search.value = parts.get("search") || "";
    pick(filters.includes(parts.get("show")) ? parts.get("show") : parts.has("item") ? "all" : start);
    const source = parts.get("source"), item = parts.get("item");
    // With an item, the source tells whose answers to show.
    selects.source.value = !item && has(selects.source, source) ? source : "";
    const wanted = data.threads.find((t) => t.item === item && (source === null || t.source === source));
    if (item) document.body.classList.toggle("open", !!wanted);
    if (wanted) chosen = wanted;
    update(true);
    if (wanted && chosen !== wanted) {
      // A link opens its item, even if its filters hide it.
      selects.task.value = selects.other.value = search.value = "";
      pick("all");
      chosen = wanted;
      update(true);
    }
  }

  function pick(name) {
    filter = name;
    chips.querySelector(`[data-filter="${name}"] input`).checked = true;
  }

  // --- set-up ---

  function fill(select, options, all) {
    if (all) select.append(make("option", { value: "" }, all));
    for (const [value, label] of options) select.append(make("option", { value }, label));
    select.closest("label").hidden = options.length < 2;
  }

  for (const name of filters) {
    const input = make("input", { type: "radio", name: "show", value: name });
    const label = name === "all" ? "All" : name === "disagreement" ? "Judge and people disagree" : LABELS[name];
    const means = name === "disagreement" ? "one finds an answer good and the other does not, or they prefer opposite sides" : MEANS.get(name);
    chips.append(make("label", { "data-filter": name, title: means || null }, input, make("span", {}, label, make("b", {}))));
  }
  fill(selects.task, data.tasks.map((t) => [t, t]), "All tasks");
  fill(selects.source, data.sources.map((s) => [s, s]), "All");
  fill(selects.other, data.sources.map((s) => [s, s]), "Nothing");
  fill(selects.criterion, data.criteria);
  find(".bar").hidden = chips.hidden = false;

  const size = Math.max(3, Math.min(11, Math.floor(300 / data.points.length) - 3));
  list.style.setProperty("--m", size + "px");
  const numbers = make("span", { class: "marks", "aria-hidden": "true" });
  data.points.forEach((point, i) => numbers.append(make("span", { title: pointName(point) }, size > 9 || i % 5 === 0 ? String(i) : "")));
  find(".cols").append(numbers, make("span", { class: "hint" }, `points, from ${pointName(data.points[0] || "base").toLowerCase()} to now`));
  find(".cols").hidden = data.points.length < 2;

  let waiting = false;
  search.addEventListener("input", () => {
    if (!waiting) requestAnimationFrame(() => { waiting = false; update(true); });
    waiting = true;
  });
  for (const select of Object.values(selects)) select.addEventListener("change", () => update(true));
  chips.addEventListener("change", (event) => { filter = event.target.value; update(true); });
  list.addEventListener("scroll", draw, { passive: true });
  new ResizeObserver(() => { if (list.clientHeight) draw(); }).observe(list);
  window.addEventListener("hashchange", follow);
  find("#export").addEventListener("click", save);
  find("#help").addEventListener("click", () => help.showModal());

  const keys = {
    ArrowDown: () => move(1), j: () => move(1), ArrowUp: () => move(-1), k: () => move(-1),
    PageDown: () => move(Math.max(1, Math.floor(list.clientHeight / HEIGHT) - 1)),
    PageUp: () => move(-Math.max(1, Math.floor(list.clientHeight / HEIGHT) - 1)),
    Home: () => choose(shown[0]), End: () => choose(shown[shown.length - 1]),
    "/": () => { document.body.classList.remove("open"); search.focus(); search.select(); },
    "?": () => help.showModal(), d: () => mode(!changes), f: () => mode(changes, !beside), s: star,
    Enter: () => { document.body.classList.add("open"); detail.focus(); },
    Escape: close,
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    const target = event.target;
    if (target === search) {
      if (event.key === "Escape" || event.key === "Enter") { event.preventDefault(); list.focus(); }
      return;
    }
    if (target.closest("select,button,a,summary,input[type=checkbox]") && ["Enter", " ", "ArrowUp", "ArrowDown"].includes(event.key)) return;
    if (target.closest("select,fieldset") && event.key.startsWith("Arrow")) return;
    // In the answers, scrolling keys scroll.
    if (target === detail && !["j", "k", "d", "f", "s", "/", "?", "Escape"].includes(event.key) && !/^[1-9]$/.test(event.key)) return;
    if (/^[1-9]$/.test(event.key) && filters[event.key - 1]) {
      pick(filters[event.key - 1]);
      update(true);
    } else if (Object.hasOwn(keys, event.key)) {
      event.preventDefault();
      keys[event.key]();
    }
  });
  follow();
  document.body.dataset.ready = "";
  if (!document.body.classList.contains("open")) list.focus({ preventScroll: true });
})();
