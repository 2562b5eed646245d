// What is known becomes what is seen. Text of others goes into the page as text alone, never as markup.

/** How much is shown of what may be long. */
const MOST = { cells: 2048, requests: 25, workers: 200, failures: 20, log: 100 };
/** From this many slots on, cells are small and bare. */
const MANY = 48;
/** By which column the workers are sorted, and whether downwards. */
const order = { column: 0, down: false };

const byId = (id) => document.getElementById(id);

function say(id, text) {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
}

/** A new element with a class and a text. */
function make(tag, name = "", text = "") {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text) element.textContent = text;
  return element;
}

/** Makes the children of `parent` be those of `items`, in their order; one with a known key is kept and updated. */
function keep(parent, items, key, create, update) {
  parent.kept ??= new Map();
  const left = new Map(parent.kept);
  parent.kept.clear();
  let place = parent.firstChild;
  for (const item of items) {
    const name = key(item);
    const element = left.get(name) ?? create(item);
    left.delete(name);
    parent.kept.set(name, element);
    update?.(element, item);
    if (element === place) place = place.nextSibling;
    else parent.insertBefore(element, place);
  }
  for (const element of left.values()) element.remove();
}

/** Fills a table: columns are [head, class], rows are {key, cells: [text or [text, class]], chosen, press}. */
function table(id, columns, rows, sort) {
  const element = byId(id);
  if (!element.tHead) {
    const line = element.createTHead().insertRow();
    columns.forEach(([head, name], number) => {
      const cell = make("th", name);
      cell.scope = "col";
      if (sort) {
        const button = make("button", "", head);
        button.addEventListener("click", () => sort(number));
        cell.append(button);
      } else cell.textContent = head;
      line.append(cell);
    });
    element.createTBody();
  }
  element.hidden = !rows.length;
  keep(element.tBodies[0], rows, (row) => row.key, (row) => {
    const line = make("tr");
    for (const [, name] of columns) line.append(make("td", name));
    if (row.press) line.addEventListener("click", row.press);
    return line;
  }, (line, row) => {
    line.className = row.chosen ? "chosen" : "";
    row.cells.forEach((cell, number) => {
      const [text, name] = Array.isArray(cell) ? cell : [cell, ""];
      const field = line.children[number];
      if (field.textContent !== text) field.textContent = text;
      field.className = `${columns[number][1] ?? ""} ${name}`.trim();
    });
  });
}

const STATE = { ready: "good", running: "good", idle: "good", starting: "busy", reloading: "busy", draining: "busy", paused: "busy", stopping: "busy" };

function drawHead() {
  document.title = `${known.workers_ready}/${known.workers_configured} ${known.instance} · Ratoon`;
  say("instance", known.instance);
  const state = byId("state");
  const word = known.paused && known.state === "running" ? "paused" : known.state;
  const bad = known.degraded || (known.workers_ready === 0 && word !== "paused" && !known.idle);
  say("state", known.degraded ? `${word}, degraded` : word);
  state.className = `pill ${bad ? "bad" : (STATE[word] ?? "")}`;
  say("line", known.status_text ?? "");
  const master = known.master ?? {};
  const memory = master.memory_pss ?? master.memory_rss;
  say("master", `Ratoon ${known.version}, pid ${master.pid}, up ${since(master.start_time)}` + (isKnown(memory) ? `, ${bytes(memory)}` : "") + preloaded());
}

/** The preload process, from which the workers are forked; empty without one. */
function preloaded() {
  const { preload } = known;
  if (!preload) return "";
  const pid = isKnown(preload.pid) ? `, pid ${preload.pid}` : "";
  return `; preload process ${preload.state}${pid}` + (isKnown(preload.memory_pss) ? `, ${bytes(preload.memory_pss)}` : "");
}

function drawFigures() {
  const last = latest();
  const workers = list(known.workers);
  say("ready", `${known.workers_ready}/${known.workers_configured}`);
  const crashes = known.worker_crashes ? `, ${number(known.worker_crashes)} failed so far` : ", none has failed";
  const bounds = known.workers_min < known.workers_max ? `, ${known.workers_min} to ${known.workers_max} workers` : "";
  say("generation", `generation ${known.generation}${bounds}, up ${since(known.start_time)}${crashes}`);
  say("requests", dash(last.requests, number));
  say("requests-all", isKnown(known.requests) ? `${number(known.requests)} in all` : "these workers do not count requests");
  say("connections", dash(sum(workers.map((worker) => worker.open_connections)), number));
  const waiting = sum(list(known.sockets).map((socket) => socket.queue));
  const accepted = isKnown(known.connections) ? `${number(known.connections)} accepted so far` : "";
  say("connections-all", [accepted, isKnown(waiting) ? `${number(waiting)} wait to be accepted` : ""].filter(Boolean).join(", "));
  say("memory", dash(sum(workers.map((worker) => worker.memory_rss)), bytes));
  say("cpu", isKnown(last.cpu) ? `${last.cpu.toFixed(2)} CPUs busy` : "");
  plot("requests-plot", (sample) => sample.requests);
  plot("connections-plot", (sample) => sample.connections);
  plot("cpu-plot", (sample) => sample.cpu);
}

const SVG = "http://www.w3.org/2000/svg";

/** The last minutes of one figure as a curve; a dashed line is the begin or the end of a reload. */
function plot(id, pick) {
  const parent = byId(id);
  if (!parent.firstChild) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("class", "plot");
    svg.setAttribute("viewBox", "0 0 300 100");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    for (const name of ["area", "curve", "mark"]) {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("class", name);
      svg.append(path);
    }
    parent.append(svg);
  }
  const end = seconds();
  const points = history.filter((sample) => isKnown(pick(sample)));
  const most = points.reduce((top, sample) => Math.max(top, pick(sample)), 0) || 1;
  // As long as there is little to show, it is shown larger.
  const wide = Math.min(KEPT, Math.max(60, end - (history[0]?.at ?? end)));
  const left = (at) => (300 - ((end - at) / wide) * 300).toFixed(1);
  const curve = points.map((sample) => `${left(sample.at)} ${(97 - (pick(sample) / most) * 92).toFixed(1)}`).join("L");
  const [area, line, mark] = parent.firstChild.children;
  line.setAttribute("d", points.length > 1 ? `M${curve}` : "");
  area.setAttribute("d", points.length > 1 ? `M${left(points[0].at)} 100L${curve}L${left(points[points.length - 1].at)} 100Z` : "");
  mark.setAttribute("d", marks.filter((at) => end - at < wide).map((at) => `M${left(at)} 0V100`).join(""));
}

/** Generations below each other, slots side by side, so that a slot keeps its place from one to the next. */
function drawPool() {
  const workers = list(known.workers);
  const generations = [...new Set([known.generation, ...workers.map((worker) => worker.generation)])].filter(Boolean).sort((a, b) => a - b);
  const slots = Math.min(MOST.cells, workers.reduce((most, worker) => Math.max(most, worker.slot + 1), known.workers_configured ?? 0));
  const pool = byId("pool");
  pool.className = slots > MANY ? "many" : "";
  keep(pool, generations, (generation) => generation, () => {
    const block = make("div", "generation");
    block.append(make("p", "faint"), make("div", "cells"));
    return block;
  }, (block, generation) => {
    const own = workers.filter((worker) => worker.generation === generation);
    const ready = own.filter((worker) => worker.state === "ready").length;
    const role = generation === known.generation ? "serving" : generation > known.generation ? "new" : "draining";
    const text = `generation ${generation}, ${role}: ${ready} of ${own.length} ready`;
    if (block.firstChild.textContent !== text) block.firstChild.textContent = text;
    const taken = new Set(own.map((worker) => worker.slot));
    const empty = [];
    for (let slot = 0; slot < slots; slot += 1) if (!taken.has(slot)) empty.push({ slot, id: null });
    // Two in one slot (a recycle) stand side by side; all is in the order of the slots.
    const cells = [...own, ...empty].sort((a, b) => a.slot - b.slot || (a.id ?? 0) - (b.id ?? 0)).slice(0, MOST.cells);
    keep(block.lastChild, cells, (it) => (it.id === null ? `empty ${it.slot}` : it.id), createCell, (cell, it) => drawCell(cell, it, generation));
  });
  drawReload(workers);
}

function createCell(it) {
  const cell = make("button", "cell");
  cell.append(make("b", "", String(it.slot)), make("small"));
  if (it.id !== null) cell.addEventListener("click", () => choose(it.id));
  else cell.disabled = true;
  return cell;
}

function drawCell(cell, it, generation) {
  const [small, name, title] = [cell.lastChild, ["cell"], []];
  if (it.id === null) {
    const how = generation === known.generation || reload?.generation === generation ? failedSlots.get(it.slot) : undefined;
    name.push(how === undefined ? "blank" : "failed");
    small.textContent = how ?? "";
    cell.title = `slot ${it.slot}: ${how ?? "no worker of this generation"}`;
  } else {
    name.push(["starting", "ready", "draining"].includes(it.state) ? it.state : "");
    if (it.state === "ready" && it.generation > known.generation) name.push("fresh");
    if (it.id === chosen) name.push("chosen");
    const state = it.state === "draining" && it.listening === true ? "draining, still listens" : it.state;
    title.push(`worker ${it.id}, slot ${it.slot}, pid ${it.pid ?? "–"}: ${state}`, `up ${since(it.start_time)}`);
    if (isKnown(it.open_connections)) title.push(`${it.open_connections} connections`);
    if (it.status) title.push(it.status);
    small.textContent = it.state === "ready" && isKnown(it.open_connections) ? `${number(it.open_connections)} conn` : it.state;
    cell.title = title.join("\n");
    cell.setAttribute("aria-pressed", String(it.id === chosen));
  }
  const joined = name.filter(Boolean).join(" ");
  if (cell.className !== joined) cell.className = joined;
}

/** What a canary or the watch after a commit compares; empty while nothing is compared. */
function comparison() {
  const { canary, watch } = known;
  const one = (generation, figures) => `${number(figures.failed)} of ${number(figures.requests)} (generation ${generation})`;
  const milliseconds = (figures) => `${(figures.answer_usec / 1000).toFixed(1)} ms`;
  const times = (fresh, former) => fresh.answer_usec != null && former.answer_usec != null
    ? `; time to answer: ${milliseconds(fresh)}, ${milliseconds(former)}`
    : "";
  const both = (fresh, former, former_generation) => fresh && former
    ? `; failed requests: ${one((canary ?? watch).generation, fresh)}, ${one(former_generation, former)}${times(fresh, former)}`
    : "";
  if (canary) {
    const left = canary.asks_command ? "reload.judge_command decides" : `${span(canary.left_ms ?? 0)} left`;
    const until = !canary.waits ? "starting" : canary.manual ? "waits for ratoon promote" : left;
    return `Canary, step ${canary.step} of ${canary.steps}: generation ${canary.generation} has ${canary.workers_ready}/${canary.workers_configured} workers, ${until}`
      + both(canary.new, canary.old, known.generation);
  }
  if (!watch || (watch.state === "watching" && !watch.compares)) return "";
  const state = {
    watching: `Watching generation ${watch.generation} for another ${span(watch.left_ms ?? 0)}`,
    undoing: `Generation ${watch.generation} is worse than generation ${watch.before}, whose release comes back`,
    "undo-failed": `Generation ${watch.generation} is worse than generation ${watch.before}, whose release did not come up`,
  }[watch.state] ?? `Watch of generation ${watch.generation}: ${watch.state}`;
  return state + both(watch.new, watch.old, watch.before);
}

/** The release that runs, since when, and whether a reload would bring another one; empty before the first commit. */
function release() {
  const { release } = known;
  if (!release) return "";
  const of = release.generation === known.generation ? "" : ` of generation ${release.generation}`;
  const from = release.committed_at ? ` since ${local(release.committed_at)}` : "";
  const elsewhere = release.path_leads_elsewhere ? "; the path leads to another release now" : "";
  return `Release${of}: ${release.program} in ${release.directory}${from}${elsewhere}`;
}

function drawReload(workers) {
  const box = byId("reload");
  box.hidden = !reload;
  if (reload) {
    const fresh = workers.filter((worker) => worker.generation === reload.generation && reload.generation > known.generation);
    const ready = fresh.filter((worker) => worker.state === "ready").length;
    const took = span((seconds() - reload.since) * 1000);
    // Who opens the page while it is being prepared does not know its number yet.
    const begun = reload.generation > known.generation;
    const how = `to generation ${reload.generation}: ${ready} of ${known.workers_configured} ready`;
    say("reload-text", `reloading ${begun ? how : "begins"}, ${took}`);
    byId("reload-bar").value = known.workers_configured ? Math.min(1, ready / known.workers_configured) : 0;
  }
  say("release", release());
  const compared = comparison();
  byId("comparison").hidden = !compared;
  say("comparison", compared);
  const last = known.last_reload;
  const detail = last?.detail ? ` (${last.detail})` : "";
  const why = last?.reason ? `: ${last.reason}${detail}` : "";
  say("last-reload", last
    ? `Last reload: ${local(last.start_time)} to generation ${last.generation}, ${words(last.result)} after ${span(last.duration_ms)}${why}`
    : "No reload yet.");
}

function drawRequests() {
  const found = longest();
  const info = (it) => Object.entries(it ?? {}).map(([name, value]) => `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`).join(" ");
  const rows = found.slice(0, MOST.requests).map(({ worker, connection, request }) => ({
    key: `${worker.id} ${connection.remote_address} ${connection.remote_port} ${connection.start_time} ${request.start_time}`,
    cells: [since(request.start_time), `${worker.id}`, request.method, request.url ?? "–", request.ip ?? connection.remote_address ?? "–", request.state, info(request.info)],
  }));
  // Two may look the same in all that is told of them.
  rows.forEach((row, number) => { row.key += ` ${number}`; });
  table("longest", [["for", "right"], ["worker", "right"], ["method"], ["URL", "wide"], ["client"], ["state"], ["info", "wide"]], rows);
  say("longest-title", chosen === null ? "Longest-running requests" : `Requests of worker ${chosen}`);
  const hidden = found.length - rows.length;
  const none = chosen === null ? "none is told of" : "none is told of; press the worker again for those of all";
  const unlisted = list(known.workers).filter((it) => chosen === null || it.id === chosen).reduce((sum, it) => sum + (it.unlisted_connections ?? 0), 0);
  const missing = unlisted > 0 ? `${number(unlisted)} more connections have no room on the workers' pages` : "";
  say("longest-note", [hidden > 0 ? `and ${number(hidden)} more` : found.length ? "" : none, missing].filter(Boolean).join("; "));
}

const COLUMNS = [
  ["slot", "right", (it) => it.slot], ["id", "right", (it) => it.id], ["pid", "right", (it) => it.pid], ["generation", "right", (it) => it.generation],
  ["state", "", (it) => it.state], ["up", "right", (it) => -Date.parse(it.start_time)], ["memory", "right", (it) => it.memory_rss],
  ["CPU", "right", (it) => it.cpu_usec], ["connections", "right", (it) => it.open_connections],
  ["requests/s", "right", (it) => latest().served?.get(it.id)], ["requests", "right", (it) => it.requests], ["status", "wide", (it) => it.status],
];

function drawWorkers() {
  const value = COLUMNS[order.column][2];
  const compare = (a, b) => {
    const [one, two] = [value(a), value(b)];
    const first = isKnown(one) ? (isKnown(two) ? (one < two ? -1 : one > two ? 1 : 0) : -1) : isKnown(two) ? 1 : 0;
    return (isKnown(one) && isKnown(two) && order.down ? -first : first) || a.slot - b.slot || a.id - b.id;
  };
  const sorted = [...list(known.workers)].sort(compare);
  const rows = sorted.slice(0, MOST.workers).map((it) => ({
    key: it.id,
    chosen: it.id === chosen,
    press: () => choose(it.id),
    cells: [
      `${it.slot}`, `${it.id}`, dash(it.pid, String), `${it.generation}`,
      [it.state === "draining" && it.listening === true ? "draining, still listens" : it.state, STATE[it.state] ?? ""],
      since(it.start_time), dash(it.memory_rss, bytes), dash(it.cpu_usec, (usec) => span(usec / 1000)), dash(it.open_connections, number),
      dash(latest().served?.get(it.id), number), dash(it.requests, number), it.status ?? "",
    ],
  }));
  table("workers", COLUMNS, rows, (column) => {
    order.down = order.column === column ? !order.down : column >= 6 && column < 11;
    order.column = column;
    drawWorkers();
  });
  COLUMNS.forEach((_, number) => {
    const sort = number === order.column ? (order.down ? "descending" : "ascending") : "none";
    byId("workers").tHead.rows[0].cells[number].setAttribute("aria-sort", sort);
  });
  const hidden = sorted.length - rows.length;
  say("workers-note", hidden > 0 ? `and ${number(hidden)} more` : "Press a worker for its requests, a column's name to sort.");
}

function drawSockets() {
  const full = (it) => (isKnown(it.queue) && it.queue_max > 0 && it.queue >= it.queue_max ? "bad" : "");
  const rows = list(known.sockets).map((it) => ({
    key: `${it.name} ${it.address}`,
    cells: [it.name, it.address, [dash(it.queue, String), full(it)], dash(it.queue_max, String)],
  }));
  table("sockets", [["name"], ["address"], ["waiting", "right"], ["at most", "right"]], rows);
}

function drawFailures() {
  const failures = [...list(known.failures)].reverse().slice(0, MOST.failures);
  say("failures-note", failures.length ? "" : "none");
  keep(byId("failures"), failures, (it) => `${it.worker} ${it.time} ${it.how}`, (it) => {
    const box = make("details");
    box.append(make("summary", "", `${local(it.time)} · worker ${it.worker} (slot ${it.slot}, generation ${it.generation}): ${it.cause || it.how}`));
    if (it.last_status) box.append(make("p", "", `status: ${it.last_status}`));
    for (const request of list(it.serving)) {
      box.append(make("p", "", `while serving ${request.method} ${request.url ?? ""} for ${span(Date.parse(it.time) - Date.parse(request.start_time))}`));
    }
    if (it.serving_unlisted > 0) box.append(make("p", "", `while serving ${number(it.serving_unlisted)} more requests that its page had no room for`));
    if (it.release_changed) box.append(make("p", "", `its release is not what it was: ${it.release_changed}`));
    if (it.detail) box.append(make("p", "", it.detail));
    const printed = list(it.log_head).length ? [...it.log_head, "…", ...list(it.log_tail)] : list(it.log_tail);
    box.append(printed.length ? make("pre", "", printed.join("\n")) : make("p", "faint", known.details_hidden ? "What it printed is hidden here (status.details)." : "It printed nothing."));
    return box;
  });
  const first = byId("failures").firstChild;
  // The newest is open until somebody closes it.
  if (first && !first.seen) {
    first.seen = true;
    first.open = true;
  }
}

/** One more line of what happened, the newest first. */
function log(line) {
  const items = byId("log");
  items.prepend(make("li", line.bad ? "bad" : "", `${new Date().toLocaleTimeString()} ${line.text}`));
  while (items.children.length > MOST.log) items.lastChild.remove();
  byId("log-note").hidden = true;
}

function choose(id) {
  chosen = chosen === id ? null : id;
  draw();
}

function draw() {
  if (!known) return;
  if (chosen !== null && !list(known.workers).some((worker) => worker.id === chosen)) chosen = null;
  for (const part of [drawHead, drawFigures, drawPool, drawRequests, drawWorkers, drawSockets, drawFailures]) part();
}
