"use strict";
// What is known, and figures for people. Nothing here touches the page.

/** The last document, with what the events have said since; null before the first. */
let known = null;
/** The worker whose requests are shown; null for all. */
let chosen = null;
/** Milliseconds that the master's clock is ahead of this one. */
let skew = 0;
/**
 * Figures over time: {at, ready, configured, requests, queue, connections, cpu, served, sides}; `at` in seconds of a clock that is
 * never set. `sides` has those of each generation: {requests, connections, failed, answer}.
 */
const history = [];
/** Moments of the same clock at which a reload has "begun", was "committed", or was not ("undone"): {at, kind}. */
const marks = [];
/** Slots whose worker failed since the page was opened: slot to how. */
const failedSlots = new Map();
/** The reload under way: {generation, since}. */
let reload = null;
/** The last totals, to tell rates. */
let before = null;
/** The moment of the last document while the master does not answer: {date, seconds}. Ages do not grow beyond it. Else null. */
let stopped = null;
/** The moment of the last document. */
let heard = null;

/** How long rates are kept, seconds. */
const KEPT = 300;
/** Differences over less than this say nothing, seconds. */
const SHORTEST = 0.9;

const seconds = () => stopped?.seconds ?? performance.now() / 1000;
const now = () => (stopped?.date ?? Date.now()) + skew;
const isKnown = (value) => value !== null && value !== undefined;
const list = (value) => (Array.isArray(value) ? value : []);

/** The sum of what is known; null when nothing is. */
function sum(values) {
  const some = values.filter(isKnown);
  return some.length ? some.reduce((all, one) => all + one, 0) : null;
}

/** Takes in a document. */
function take(document) {
  stopped = null;
  const at = seconds();
  heard = { date: Date.now(), seconds: at };
  known = document;
  if (document.state !== "reloading") reload = null;
  else reload = { generation: Math.max(newest(), reload?.generation ?? 0), since: reload?.since ?? at };
  for (const worker of list(document.workers)) {
    if (worker.state === "ready") failedSlots.delete(worker.slot);
  }
  const totals = {
    at,
    of: `${document.instance} ${document.start_time}`,
    requests: document.requests,
    cpu: new Map(list(document.workers).map((worker) => [worker.id, worker.cpu_usec])),
    served: new Map(list(document.workers).map((worker) => [worker.id, worker.requests])),
  };
  const passed = before ? at - before.at : 0;
  // Another life of the instance counts from 0 again.
  if (!before || before.of !== totals.of) {
    before = totals;
    history.length = 0;
  } else if (passed >= SHORTEST) {
    const connections = sum(list(document.workers).map((worker) => worker.open_connections));
    const cpu = sum([...totals.cpu].map(([id, usec]) => (isKnown(usec) ? usec - (before.cpu.get(id) ?? 0) : null)));
    const served = new Map([...totals.served].map(([id, count]) => [id, rate(before.served.get(id) ?? 0, count, passed)]));
    history.push({
      at,
      ready: document.workers_ready,
      configured: document.workers_configured,
      queue: waiting(document),
      requests: rate(before.requests, totals.requests, passed),
      connections,
      cpu: isKnown(cpu) ? Math.max(0, cpu / 1e6 / passed) : null,
      served,
      sides: sides(document, served),
    });
    before = totals;
  }
  while (history.length && history[0].at < at - KEPT) history.shift();
  while (marks.length && marks[0].at < at - KEPT) marks.shift();
}

/** Connections that wait to be accepted, on all sockets; null if that is not known. */
const waiting = (document) => sum(list(document.sockets).map((socket) => socket.queue));

/** The figures of each generation that has workers: generation to figures. */
function sides(document, served) {
  const found = new Map();
  for (const generation of new Set(list(document.workers).map((worker) => worker.generation))) {
    const own = list(document.workers).filter((worker) => worker.generation === generation);
    const { canary } = document;
    // Figures since the step of the canary began to wait.
    const figures = canary ? { [canary.generation]: canary.new, [document.generation]: canary.old }[generation] : null;
    found.set(generation, {
      requests: sum(own.map((worker) => served.get(worker.id))),
      connections: sum(own.map((worker) => worker.open_connections)),
      failed: figures?.requests ? (figures.failed / figures.requests) * 100 : null,
      answer: isKnown(figures?.answer_usec) ? figures.answer_usec / 1000 : null,
    });
  }
  return found;
}

/** Whether nobody serves although somebody should: not the first start, not a pause, not an idle pool. */
function isDown() {
  const first = known.state === "starting" && !known.degraded && !known.worker_crashes;
  return known.workers_ready === 0 && known.workers_configured > 0 && !known.paused && !known.idle && known.state !== "stopping" && !first;
}

function rate(first, second, passed) {
  return isKnown(first) && isKnown(second) ? Math.max(0, (second - first) / passed) : null;
}

const latest = () => (history.length ? history[history.length - 1] : {});

/** The newest generation that has workers. */
function newest() {
  return list(known?.workers).reduce((most, worker) => Math.max(most, worker.generation), known?.generation ?? 0);
}

/** Takes in one event, so that the picture moves before the next document comes. Gives a line for the log, or null. */
function hear(name, data) {
  const who = `worker ${data.id} (slot ${data.slot}, generation ${data.generation})`;
  const workers = list(known?.workers);
  switch (name) {
    case "scaled": return { text: `${data.from} to ${data.to} workers: ${data.reason}`, bad: false };
    case "summary": {
      if (!known) return null;
      for (const key of ["state", "degraded", "paused", "idle", "status_text", "generation", "workers_configured", "workers_ready",
                         "workers_min", "workers_max", "at_max", "worker_crashes"]) {
        known[key] = data[key];
      }
      if (data.state !== "reloading") reload = null;
      return null;
    }
    case "worker": {
      const found = workers.find((worker) => worker.id === data.id);
      const changed = found?.state !== data.state;
      if (found) Object.assign(found, { state: data.state, pid: data.pid, status: data.status || found.status });
      else if (known) workers.push({ ...data });
      if (data.state === "ready") failedSlots.delete(data.slot);
      return known && changed ? { text: `${who}: ${data.state}`, bad: false } : null;
    }
    case "worker-exited": {
      if (known) known.workers = workers.filter((worker) => worker.id !== data.id);
      if (data.failed) failedSlots.set(data.slot, data.how);
      return { text: `${who}: ${data.how}`, bad: data.failed };
    }
    case "reload-started": {
      reload = { generation: data.generation, since: seconds() };
      if (known) known.state = "reloading";
      marks.push({ at: seconds(), kind: "begun" });
      return { text: `reload to generation ${data.generation} begins`, bad: false };
    }
    case "reload-finished": {
      reload = null;
      marks.push({ at: seconds(), kind: data.result === "committed" ? "committed" : "undone" });
      const why = data.reason ? `: ${data.reason}` : "";
      return { text: `reload to generation ${data.generation}: ${words(data.result)}${why}`, bad: data.result !== "committed" };
    }
    case "lagged":
      return { text: `${data.missed} events were missed`, bad: false };
    default:
      return null;
  }
}

/** Requests in work, the longest first. */
function longest() {
  const found = [];
  for (const worker of list(known?.workers)) {
    if (chosen !== null && worker.id !== chosen) continue;
    for (const connection of list(worker.active_connections)) {
      const request = connection.request;
      if (request && (request.state === "processing" || request.state === "sending")) found.push({ worker, connection, request });
    }
  }
  return found.sort((a, b) => Date.parse(a.request.start_time) - Date.parse(b.request.start_time));
}

// The state of a worker in words; one that is avoided hangs, so that new connections go to other slots.
function stateOf(worker) {
  if (isKnown(worker.avoided)) return `${worker.state}, avoided (${worker.avoided})`;
  return worker.state === "draining" && worker.listening === true ? "draining, still listens" : worker.state;
}

const words = (text) => String(text ?? "").replaceAll("-", " ");
const dash = (value, show) => (isKnown(value) ? show(value) : "–");

function scaled(value, step, units) {
  let unit = 0;
  while (value >= step && unit + 1 < units.length) {
    value /= step;
    unit += 1;
  }
  const digits = value < 10 && (unit > 0 || value % 1) ? 1 : 0;
  return (Math.floor(value * 10 ** digits) / 10 ** digits).toFixed(digits) + units[unit];
}

const bytes = (value) => scaled(value, 1024, [" B", " KiB", " MiB", " GiB", " TiB", " PiB"]);
const number = (value) => (value < 100000 ? scaled(value, Infinity, [""]) : scaled(value, 1000, ["", " k", " M", " G", " T", " P"]));

/** `31 ms`, `1.2 s`, `5m 12s`, `3h 4m`, `2d 7h` */
function span(milliseconds) {
  const whole = Math.max(0, Math.floor(milliseconds / 1000));
  if (whole < 1) return `${Math.max(0, Math.round(milliseconds))} ms`;
  if (whole < 10) return `${(Math.floor(milliseconds / 100) / 10).toFixed(1)} s`;
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${whole % 60}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h ${Math.floor((whole % 3600) / 60)}m`;
  return `${Math.floor(whole / 86400)}d ${Math.floor((whole % 86400) / 3600)}h`;
}

/** How long ago an RFC 3339 time was. */
function since(time) {
  const at = Date.parse(time);
  return Number.isNaN(at) ? "–" : span(now() - at);
}

/** A moment as ISO 8601 has it, in UTC, to the second. */
const iso = (date) => `${date.toISOString().slice(0, 19).replace("T", " ")}Z`;

/** An RFC 3339 time, to the second. */
function moment(time) {
  const at = Date.parse(time);
  return Number.isNaN(at) ? String(time ?? "") : iso(new Date(at));
}
