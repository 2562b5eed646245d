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

// The class `more` is for columns that a narrow screen leaves out.
const COLUMNS = [
  ["slot", "right", (it) => it.slot], ["id", "right more", (it) => it.id], ["pid", "right more", (it) => it.pid], ["gen", "right", (it) => it.generation],
  ["state", "", (it) => it.state], ["up", "right", (it) => -Date.parse(it.start_time)], ["memory", "right", (it) => it.memory_rss],
  ["CPU", "right more", (it) => it.cpu_usec], ["conns", "right", (it) => it.open_connections],
  ["req/s", "right", (it) => latest().served?.get(it.id)], ["requests", "right more", (it) => it.requests], ["status", "wide more", (it) => it.status],
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
      [stateOf(it), isKnown(it.avoided) ? "bad" : STATE[it.state] ?? ""],
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

/** Failures of one generation with the same cause and the same error, the newest first: {key, all}. */
function groupFailures() {
  const groups = new Map();
  for (const it of [...list(known.failures)].reverse()) {
    const key = [it.generation, it.cause || it.how, it.detail ?? ""].join("\n");
    if (groups.has(key)) groups.get(key).push(it);
    else groups.set(key, [it]);
  }
  return [...groups].map(([key, all]) => ({ key, all }));
}

function drawFailures() {
  const groups = groupFailures();
  say("failures-note", groups.length ? "" : "none");
  keep(byId("failures"), groups, ({ key }) => key, () => make("details"), (box, { all }) => {
    const [it] = all;
    const told = `${all.length} ${it.worker} ${it.time}`;
    if (box.told === told) return;
    box.told = told;
    box.replaceChildren();
    const slots = [...new Set(all.map((one) => one.slot))].sort((a, b) => a - b).join(", ");
    const where = all.length > 1 ? `×${all.length}, slots ${slots}, generation ${it.generation}` : `worker ${it.worker} (slot ${it.slot}, generation ${it.generation})`;
    box.append(make("summary", "", `${moment(it.time)} · ${where}: ${it.cause || it.how}`));
    if (all.length > 1) box.append(make("p", "faint", `since ${moment(all.at(-1).time)}; the last one is worker ${it.worker} (slot ${it.slot})`));
    if (it.last_status) box.append(make("p", "", `status: ${it.last_status}`));
    for (const request of list(it.serving)) {
      box.append(make("p", "", `while serving ${request.method} ${request.url ?? ""} for ${span(Date.parse(it.time) - Date.parse(request.start_time))}`));
    }
    if (it.serving_unlisted > 0) box.append(make("p", "", `while serving ${number(it.serving_unlisted)} more requests that its page had no room for`));
    if (it.release_changed) box.append(make("p", "", `its release is not what it was: ${it.release_changed}`));
    if (it.detail) box.append(make("p", "", it.detail));
    const printed = list(it.log_head).length ? [...it.log_head, "…", ...list(it.log_tail)] : list(it.log_tail);
    box.append(printed.length ? make("pre", "", printed.join("\n")) : make("p", "faint", known.details_hidden ? "What it printed is hidden here (status.details)." : "It printed nothing."));
  });
  const first = byId("failures").firstChild;
  // The newest is open until somebody closes it.
  if (first && !first.seen) {
    first.seen = true;
    first.open = true;
  }
}

