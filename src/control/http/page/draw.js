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
  const down = isDown();
  document.title = `${down ? "DOWN" : `${known.workers_ready}/${known.workers_configured}`} ${known.instance} · Ratoon`;
  say("instance", known.instance);
  const state = byId("state");
  const word = known.paused && known.state === "running" ? "paused" : known.state;
  const [text, name] = stopped ? ["no answer", "bad"]
    : down ? [word === "running" ? "DOWN" : `DOWN, ${word}`, "bad"]
      : known.degraded ? [`${word}, degraded`, "bad"] : [word, STATE[word] ?? ""];
  say("state", text);
  state.className = `pill ${name}`;
  document.querySelector("main").classList.toggle("stale", stopped !== null);
  say("line", known.status_text ?? "");
  say("release", release());
  const master = known.master ?? {};
  const memory = master.memory_pss ?? master.memory_rss;
  const up = stopped ? `was up ${since(master.start_time)} at ${iso(new Date(now()))}` : `up ${since(master.start_time)}`;
  say("master", `Ratoon ${known.version}, pid ${master.pid}, ${up}` + (isKnown(memory) ? `, ${bytes(memory)}` : "") + preloaded());
}

/** The last reload, as long as its failure is the last word: what was refused, why, and its last lines. */
function drawBanner() {
  const last = known.last_reload;
  const bad = last && ["rolled-back", "refused", "undone"].includes(last.result);
  byId("banner").hidden = !bad;
  if (!bad) return;
  const lines = list(last.output);
  const why = [last.reason, lines.length ? "" : last.detail].filter(Boolean).join("; ");
  const goes = last.result === "undone" ? "" : ` Generation ${known.generation} goes on.`;
  say("banner-text", `${moment(last.start_time)}: the reload to generation ${last.generation} was ${words(last.result)}${why ? `: ${why}` : ""}.${goes}`);
  byId("banner-output").hidden = !lines.length && !known.details_hidden;
  say("banner-output", lines.length ? lines.join("\n") : "What it printed is hidden here (status.details).");
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
  byId("ready").className = isDown() ? "big bad" : "big";
  const crashes = known.worker_crashes ? `, ${number(known.worker_crashes)} failed so far` : ", none has failed";
  const bounds = known.workers_min < known.workers_max ? `, ${known.workers_min} to ${known.workers_max} workers` : "";
  say("generation", `generation ${known.generation}${bounds}, up ${since(known.start_time)}${crashes}`);
  say("requests", dash(last.requests, number));
  say("requests-all", isKnown(known.requests) ? `${number(known.requests)} in all` : "these workers do not count requests");
  const queue = waiting(known);
  say("queue", dash(queue, number));
  byId("queue").className = known.at_max ? "big bad" : "big";
  const room = sum(list(known.sockets).map((socket) => socket.queue_max));
  say("queue-room", known.at_max ? "at the largest number of workers" : isKnown(room) ? `room for ${number(room)}` : "");
  say("connections", dash(sum(workers.map((worker) => worker.open_connections)), number));
  say("connections-all", isKnown(known.connections) ? `${number(known.connections)} accepted so far` : "");
  say("cpu", isKnown(last.cpu) ? last.cpu.toFixed(2) : "–");
  const memory = sum(workers.map((worker) => worker.memory_rss));
  say("memory", isKnown(memory) ? `${bytes(memory)} of memory` : "");
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
    title.push(`worker ${it.id}, slot ${it.slot}, pid ${it.pid ?? "–"}: ${stateOf(it)}`, `up ${since(it.start_time)}`);
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
  const from = release.committed_at ? ` since ${moment(release.committed_at)}` : "";
  const elsewhere = release.path_leads_elsewhere ? "; the path leads to another release now" : "";
  return `Release${of}: ${release.program} in ${release.directory}${from}${elsewhere}`;
}

function drawReload(workers) {
  const box = byId("reload");
  box.hidden = !reload || stopped !== null;
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
  const compared = comparison();
  byId("comparison").hidden = !compared;
  say("comparison", compared);
  const last = known.last_reload;
  const detail = last?.detail ? ` (${last.detail})` : "";
  const why = last?.reason ? `: ${last.reason}${detail}` : "";
  const none = known.state === "reloading" || reload ? "" : "No reload yet.";
  say("last-reload", last
    ? `Last reload: ${moment(last.start_time)} to generation ${last.generation}, ${words(last.result)} after ${span(last.duration_ms)}${why}`
    : none);
}

/** One more line of what happened, the newest first. */
function log(line) {
  const items = byId("log");
  items.prepend(make("li", line.bad ? "bad" : "", `${iso(new Date(now()))} ${line.text}`));
  while (items.children.length > MOST.log) items.lastChild.remove();
  byId("log-note").hidden = true;
}

function choose(id) {
  chosen = chosen === id ? null : id;
  draw();
}

/** What the server has drawn and the script draws anew. */
const FIRST = ["pool", "workers", "sockets", "failures"];

function draw() {
  if (!known) return;
  for (const id of FIRST.splice(0)) byId(id).replaceChildren();
  if (chosen !== null && !list(known.workers).some((worker) => worker.id === chosen)) chosen = null;
  for (const part of [drawHead, drawBanner, drawFigures, drawPlots, drawPool, drawSides, drawRequests, drawWorkers, drawSockets, drawFailures]) part();
}
