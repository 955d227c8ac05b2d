// Draws the loss of a task that is being learnt, from the server's events.
(() => {
  const box = document.getElementById("live"), line = document.getElementById("live-line");
  const title = document.getElementById("live-title"), state = document.getElementById("live-state");
  const grid = document.getElementById("live-grid"), NS = "http://www.w3.org/2000/svg";
  const left = 44, right = 628, top = 10, bottom = 154;
  let steps = [], shown = false;

  const label = (x, y, text, anchor) => {
    const found = document.createElementNS(NS, "text");
    found.setAttribute("class", "tick");
    found.setAttribute("x", x);
    found.setAttribute("y", y);
    found.setAttribute("text-anchor", anchor);
    found.textContent = text;
    grid.append(found);
  };

  const draw = () => {
    const last = steps[steps.length - 1];
    if (!last) return;
    const own = steps.filter((step) => step.stage === last.stage && step.task === last.task && typeof step.loss === "number");
    const losses = own.map((step) => step.loss), low = Math.min(0, ...losses), high = Math.max(...losses, low + 1e-9);
    const width = Math.max(last.steps - 1, 1);
    const at = (step) => [left + ((step.step - 1) / width) * (right - left), bottom - ((step.loss - low) / (high - low)) * (bottom - top)];
    line.setAttribute("d", own.length ? "M" + own.map((step) => at(step).map((v) => v.toFixed(1)).join(" ")).join("L") : "");
    grid.replaceChildren();
    label(left - 6, top + 4, high.toPrecision(3), "end");
    label(left - 6, bottom + 3, low.toPrecision(3), "end");
    label(left, bottom + 18, "step 1", "start");
    label(right, bottom + 18, String(last.steps), "end");
    title.textContent = `${last.task}: ${last.stage}, loss`;
    const extra = typeof last.accuracy === "number" ? `, ${Math.round(100 * last.accuracy)}% of its pairs right` : "";
    state.textContent = `step ${last.step} of ${last.steps}, loss ${last.loss.toPrecision(3)}${extra}`;
    box.hidden = false;
    shown = true;
  };

  const events = new EventSource(box.dataset.source);
  events.addEventListener("begun", (event) => { steps = JSON.parse(event.data); draw(); });
  events.addEventListener("more", (event) => { steps.push(...JSON.parse(event.data)); draw(); });
  events.addEventListener("ended", () => { if (shown) location.reload(); });
})();
