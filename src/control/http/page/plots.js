// Curves of the last minutes. Each has its scale (from 0 to the number at its top), its span and its subject.

const SVG = "http://www.w3.org/2000/svg";
/** Shortest span of a plot, seconds: as long as there is little to show, it is shown larger. */
const SHORT = 60;
const MARKS = ["begun", "committed", "undone"];

function svg(tag, name) {
  const element = document.createElementNS(SVG, tag);
  element.setAttribute("class", name);
  return element;
}

/** Creates the elements of a plot with so many curves. */
function createPlot(curves) {
  const figure = make("figure", "plot");
  const picture = svg("svg", "");
  picture.setAttribute("viewBox", "0 0 300 100");
  picture.setAttribute("preserveAspectRatio", "none");
  picture.setAttribute("role", "img");
  picture.append(svg("path", "area"), ...curves.map(({ name }) => svg("path", `curve ${name}`)), ...MARKS.map((kind) => svg("path", `mark ${kind}`)));
  const caption = make("figcaption");
  const subject = make("span");
  for (const { name, label } of curves) {
    if (curves.length > 1) subject.append(make("i", `key line ${name}`));
    subject.append(`${label} `);
  }
  caption.append(subject, make("span", "span"));
  figure.append(picture, make("span", "top"), caption);
  return figure;
}

/**
 * The last minutes of some figures as curves: {name, label, pick} each, the first with its area. `unit` is said behind numbers.
 * Vertical lines are the begin, the commit and the rollback of a reload.
 */
function plot(parent, curves, unit = "") {
  const kind = curves.map(({ label }) => label).join("|");
  if (parent.plotted !== kind) {
    parent.replaceChildren(createPlot(curves));
    parent.plotted = kind;
  }
  const figure = parent.firstChild;
  const [picture, top] = figure.children;
  const end = seconds();
  const wide = Math.min(KEPT, Math.max(SHORT, end - (history[0]?.at ?? end)));
  const shown = history.filter((sample) => sample.at >= end - wide);
  const series = curves.map(({ pick }) => shown.map((sample) => [sample.at, pick(sample)]).filter(([, value]) => isKnown(value)));
  const most = series.flat().reduce((largest, [, value]) => Math.max(largest, value), 0);
  const left = (at) => (300 - ((end - at) / wide) * 300).toFixed(1);
  const height = (value) => (99 - (most ? value / most : 0) * 92).toFixed(1);
  const path = (points) => points.map(([at, value]) => `${left(at)} ${height(value)}`).join("L");
  series.forEach((points, number) => {
    picture.children[number + 1].setAttribute("d", points.length > 1 ? `M${path(points)}` : "");
  });
  const [first] = series;
  picture.firstChild.setAttribute("d", first.length > 1 ? `M${left(first[0][0])} 100L${path(first)}L${left(first.at(-1)[0])} 100Z` : "");
  MARKS.forEach((name, number) => {
    const own = marks.filter((mark) => mark.kind === name && end - mark.at < wide);
    picture.children[curves.length + 1 + number].setAttribute("d", own.map((mark) => `M${left(mark.at)} 0V100`).join(""));
  });
  const any = first.length > 1;
  const scale = any ? `${most ? "0 to " : ""}${figures(most)}${unit}` : "";
  if (top.textContent !== scale) top.textContent = scale;
  const last = any ? `last ${wide < 120 ? `${Math.round(wide)} s` : `${Math.round(wide / 60)} min`}` : "no figures yet";
  const field = figure.querySelector(".span");
  if (field.textContent !== last) field.textContent = last;
  const current = series.map((points, number) => (points.length ? `${curves[number].label} now ${figures(points.at(-1)[1])}${unit}` : "")).filter(Boolean);
  picture.setAttribute("aria-label", [current.join(", "), scale && `from ${scale}`, last].filter(Boolean).join("; ") || "no figures yet");
}

/** A figure with at most two digits behind the point. */
const figures = (value) => (value < 10 && value % 1 ? value.toFixed(value < 1 ? 2 : 1) : number(value));

/** The plots of the pool's figures. */
function drawPlots() {
  plot(byId("workers-plot"), [
    { name: "", label: "ready", pick: (sample) => sample.ready },
    { name: "bound", label: "wanted", pick: (sample) => sample.configured },
  ]);
  plot(byId("requests-plot"), [{ name: "", label: "requests/s", pick: (sample) => sample.requests }]);
  plot(byId("queue-plot"), [{ name: "", label: "waiting", pick: (sample) => sample.queue }]);
  plot(byId("connections-plot"), [{ name: "", label: "open", pick: (sample) => sample.connections }]);
  plot(byId("cpu-plot"), [{ name: "", label: "CPUs busy", pick: (sample) => sample.cpu }]);
  byId("marks").hidden = marks.length === 0;
}

/** The figures that are shown of two generations: [title, name, unit]. */
const SIDES = [["Requests a second", "requests", ""], ["Open connections", "connections", ""], ["Failed requests", "failed", " %"], ["Time to answer", "answer", " ms"]];

/** Two generations side by side, during a canary or another reload. */
function drawSides() {
  const present = [...new Set(list(known.workers).map((worker) => worker.generation))].sort((a, b) => a - b);
  const box = byId("sides");
  box.hidden = present.length < 2;
  const [old, fresh] = present.slice(-2);
  const told = SIDES.filter(([, name]) => !box.hidden && history.some((sample) => isKnown(sample.sides.get(fresh)?.[name])));
  keep(box, told, ([, name]) => name, ([title]) => {
    const block = make("div", "card");
    block.append(make("h3", "", title), make("div"));
    return block;
  }, (block, [, name, unit]) => {
    const curve = (generation, kind) => ({ name: kind, label: `generation ${generation}`, pick: (sample) => sample.sides.get(generation)?.[name] });
    plot(block.lastChild, [curve(old, ""), curve(fresh, "second")], unit);
  });
}
