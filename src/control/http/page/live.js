// How the page stays up to date: events say that something changed, the document says what is so.

/** Between two documents when nothing changes, and at least between two, milliseconds. */
const EVERY = 2000;
const AT_LEAST = 250;
/** How long an answer may take, milliseconds. */
const PATIENCE = 15000;
/** A document that is dear to fetch is fetched more rarely: not more than this share of the time. */
const SHARE = 5;

let events = null;
let timer = 0;
let due = 0;
let asking = false;
let cost = 0;
let drawing = false;

/** Draws once before the next frame, however much has changed. */
function soon() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    draw();
  });
}

/** Fetches the document within so many milliseconds, but not sooner than is fair. */
function want(within) {
  if (document.hidden) return;
  const at = performance.now() + within;
  if (timer && due <= at) return;
  clearTimeout(timer);
  due = at;
  timer = setTimeout(ask, within);
}

async function ask() {
  timer = 0;
  if (asking || document.hidden) return;
  asking = true;
  const began = performance.now();
  try {
    const answer = await fetch("status", { cache: "no-store", credentials: "same-origin", signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? `it answered ${answer.status}`);
    const date = Date.parse(answer.headers.get("date") ?? "");
    const document = await answer.json();
    // The header knows whole seconds; a clock that is nearly right is taken as right.
    const ahead = date - Date.now();
    skew = Number.isNaN(ahead) || Math.abs(ahead) < 2500 ? 0 : ahead;
    take(document);
    alarm("");
  } catch (error) {
    stopped ??= heard;
    alarm(known ? `The master does not answer (${error.message}); what you see is of ${iso(new Date(now()))}.` : `The master does not answer (${error.message}).`);
  }
  cost = performance.now() - began;
  asking = false;
  soon();
  want(Math.max(EVERY, cost * SHARE));
}

function alarm(text) {
  const box = byId("alarm");
  box.hidden = !text;
  box.textContent = text;
}

function listen() {
  if (events || document.hidden) return;
  const source = new EventSource("events");
  events = source;
  source.addEventListener("open", () => say("link", "live"));
  source.addEventListener("error", () => {
    say("link", "no events; asking every 2 s");
    // Some errors end it for good; a new one is tried.
    if (source.readyState === EventSource.CLOSED && events === source) {
      events = null;
      setTimeout(listen, EVERY);
    }
  });
  for (const name of ["summary", "worker", "worker-exited", "reload-started", "reload-finished", "scaled", "lagged"]) {
    source.addEventListener(name, (event) => {
      let data;
      try {
        data = JSON.parse(event.data);
      } catch {
        return;
      }
      const line = hear(name, data);
      if (line) log(line);
      soon();
      want(Math.max(AT_LEAST, cost * SHARE));
    });
  }
}

/** Nobody looks: the master is left alone. */
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(timer);
    timer = 0;
    events?.close();
    events = null;
    return;
  }
  listen();
  want(0);
});

// Ages move on between two documents.
setInterval(() => { if (!document.hidden) soon(); }, 1000);
listen();
want(0);
