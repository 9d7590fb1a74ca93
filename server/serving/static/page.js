// The form to try a prediction. It builds on what the server wrote, and puts in what comes back as text alone.

const form = document.getElementById("try");
if (form) {
  const example = { draw: drawing, table: table, json: json }[form.dataset.kind]();
  const clear = document.getElementById("clear");
  form.hidden = document.getElementById("result").hidden = false;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask(example);
  });
  clear.addEventListener("click", () => {
    example.clear();
    show({});
  });
}

// An image, cell by cell: with a pen, or with the keyboard from the one cell that has the focus.
function drawing() {
  const board = document.getElementById("board");
  const rows = Number(board.dataset.rows), columns = Number(board.dataset.columns);
  const filled = new Array(rows * columns).fill(0);
  const cells = [];
  board.style.gridTemplateColumns = `repeat(${columns}, 1fr)`;
  for (let row = 0; row < rows; row++) {
    const line = board.appendChild(make("div", "", { role: "row" }));
    for (let column = 0; column < columns; column++) {
      cells.push(line.appendChild(make("div", "", { role: "gridcell", tabindex: -1 })));
    }
  }
  let here = 0;
  cells.forEach((_, at) => fill(at, 0));
  cells[0].tabIndex = 0;

  function fill(at, value) {
    filled[at] = value;
    const words = value === 0 ? "empty" : value === 1 ? "filled" : `${Math.round(100 * value)} % filled`;
    cells[at].style.setProperty("--filled", value);
    cells[at].setAttribute("aria-label", `row ${Math.floor(at / columns) + 1}, column ${(at % columns) + 1}, ${words}`);
  }

  function go(at, focus) {
    cells[here].tabIndex = -1;
    here = at;
    cells[here].tabIndex = 0;
    if (focus) cells[here].focus();
  }

  board.addEventListener("keydown", (event) => {
    const row = Math.floor(here / columns), column = here % columns;
    const to = {
      ArrowUp: row > 0 ? here - columns : here,
      ArrowDown: row < rows - 1 ? here + columns : here,
      ArrowLeft: column > 0 ? here - 1 : here,
      ArrowRight: column < columns - 1 ? here + 1 : here,
      Home: row * columns,
      End: row * columns + columns - 1,
    }[event.key];
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === " ") {
      fill(here, filled[here] > 0.5 ? 0 : 1);
    } else if (to !== undefined) {
      if (event.shiftKey) fill(here, 1);
      go(to, true);
      if (event.shiftKey) fill(here, 1);
    } else {
      return;
    }
    event.preventDefault();
  });

  // The pen is as wide as a cell and soft at its edge: so are images that were scanned and made small.
  let last = null;
  function place(event) {
    const box = board.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * columns,
      y: ((event.clientY - box.top) / box.height) * rows,
    };
  }
  function stroke(from, to) {
    cells.forEach((_, at) => {
      const x = (at % columns) + 0.5, y = Math.floor(at / columns) + 0.5;
      const dx = to.x - from.x, dy = to.y - from.y, long = dx * dx + dy * dy;
      const along = long ? Math.min(1, Math.max(0, ((x - from.x) * dx + (y - from.y) * dy) / long)) : 0;
      const away = Math.hypot(x - from.x - along * dx, y - from.y - along * dy);
      const value = Math.round(16 * Math.min(1, Math.max(0, 1.35 - away))) / 16;
      if (value > filled[at]) fill(at, value);
    });
  }
  board.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    board.setPointerCapture(event.pointerId);
    last = place(event);
    const inside = (value, most) => Math.min(most - 1, Math.max(0, Math.floor(value)));
    go(inside(last.y, rows) * columns + inside(last.x, columns), false);
    stroke(last, last);
  });
  board.addEventListener("pointermove", (event) => {
    if (last === null) return;
    for (const point of event.getCoalescedEvents?.() ?? [event]) {
      const next = place(point);
      stroke(last, next);
      last = next;
    }
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
    board.addEventListener(end, () => { last = null; });
  }

  const low = Number(form.dataset.low), high = Number(form.dataset.high);
  const shape = form.dataset.shape.split(",").map(Number);
  return {
    read: () => nested(filled.map((value) => low + value * (high - low)), shape),
    clear: () => cells.forEach((_, at) => fill(at, 0)),
  };
}

function nested(flat, shape) {
  if (shape.length <= 1) return flat;
  const size = flat.length / shape[0];
  return Array.from({ length: shape[0] }, (_, at) => nested(flat.slice(at * size, (at + 1) * size), shape.slice(1)));
}

// A row of a table; what is left empty is not sent.
function table() {
  const inputs = [...form.querySelectorAll(".fields input, .fields select")];
  document.getElementById("example").addEventListener("click", () => {
    for (const input of inputs) input.value = input.dataset.example;
  });
  return {
    read: () => Object.fromEntries(
      inputs.filter((input) => input.value !== "")
        .map((input) => [input.name, input.type === "number" ? Number(input.value) : input.value]),
    ),
    clear: () => inputs.forEach((input) => { input.value = ""; }),
  };
}

function json() {
  const text = document.getElementById("json");
  return { read: () => JSON.parse(text.value), clear: () => { text.value = ""; } };
}

let asked = 0;
async function ask(example) {
  const number = ++asked; // Of two that are under way the later counts.
  let inputs;
  try {
    inputs = [example.read()];
  } catch (error) {
    show({ failure: `This is no JSON: ${error.message}` });
    return;
  }
  const key = document.getElementById("key").value;
  const headers = { "content-type": "application/json" };
  if (key) headers.authorization = `Bearer ${key}`;
  let found;
  try {
    const answer = await fetch("predict", {
      method: "POST", headers, body: JSON.stringify({ inputs }), signal: AbortSignal.timeout(30000),
    });
    const told = await answer.json().catch(() => ({}));
    if (answer.status === 401) wantKey();
    found = answer.ok ? { told } : { failure: reason(told) || `The server answered ${answer.status}.` };
  } catch {
    found = { failure: "The server does not answer." };
  }
  if (number === asked) show(found);
}

function wantKey() {
  document.getElementById("key-field").hidden = false;
  document.getElementById("key").focus();
}

function reason(told) {
  const said = told.error ?? told.detail;
  if (Array.isArray(said)) return said.map((one) => one.msg ?? String(one)).join("; ");
  return typeof said === "object" && said !== null ? said.message : said;
}

function show({ told, failure }) {
  const answer = document.getElementById("answer"), table = document.getElementById("chances");
  const body = table.tBodies[0];
  document.getElementById("failure").textContent = failure ?? "";
  answer.replaceChildren();
  body.replaceChildren();
  table.hidden = true;
  if (!told) return;
  const [first] = told.predictions;
  const by = ` sure, says version ${told.version}`;
  if (first?.probabilities === undefined) {
    answer.append(make("strong", JSON.stringify(first)), `says version ${told.version}`);
    return;
  }
  const chances = Object.entries(first.probabilities).sort((one, other) => other[1] - one[1]);
  answer.append(make("strong", first.label), percent(first.probabilities[first.label]), by);
  for (const [label, value] of chances) {
    const row = body.appendChild(make("tr"));
    row.append(make("th", label, { scope: "row" }));
    const cell = row.appendChild(make("td")).appendChild(make("div"));
    const bar = cell.appendChild(make("div", "", { class: "bar", "aria-hidden": true }));
    bar.appendChild(make("span")).style.width = `${100 * value}%`;
    cell.append(make("span", percent(value)));
  }
  table.hidden = false;
}

// Nothing that a model says is certain, so rounding must not make it so.
function percent(value) {
  if (value > 0.9995) return "> 99.9 %";
  if (value < 0.0005) return "< 0.1 %";
  return `${(100 * value).toFixed(1)} %`;
}

function make(name, text = "", attributes = {}) {
  const element = document.createElement(name);
  element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
