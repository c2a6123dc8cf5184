"use strict";
/* What the page does with a script: it sorts and filters the table of methods, and switches the method
   whose histogram, ROC curve and images are shown. Without it the page says all the same of the best
   method. Names come from anywhere: text is only ever set as text. */

const ROWS = 12;  /* methods in sight before "show all" */
const byId = (name) => document.getElementById(name);

function element(kind, attributes = {}, text = "") {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

/* ---- the table of methods ------------------------------------------------------------------- */

function table() {
  const grid = document.querySelector("table.matrix");
  if (!grid) return;
  const body = grid.tBodies[0];
  const heads = [...grid.tHead.rows[0].cells];
  const rows = [...body.rows];
  const all = byId("all-rows");
  const state = {column: 1, measure: "auroc", falling: true, family: "", whole: false};

  const value = (row) => {
    const cell = row.cells[state.column];
    if (state.column === 0) return cell.textContent.trim().toLowerCase();
    const number = cell.dataset[state.measure];
    return number === undefined || number === "nan" ? null : Number(number);
  };
  const compare = (one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === null || b === null) return (a === null) - (b === null);
    const order = a < b ? -1 : a > b ? 1 : 0;
    return state.falling ? -order : order;
  };

  function show() {
    const fitting = rows.filter((row) => !state.family || row.dataset.family === state.family);
    rows.forEach((row) => { row.hidden = true; });
    fitting.sort(compare).forEach((row, place) => {
      body.append(row);
      row.hidden = !state.whole && place >= ROWS;
    });
    heads.forEach((head, column) => {
      const order = state.falling ? "descending" : "ascending";
      head.setAttribute("aria-sort", column === state.column ? order : "none");
    });
    all.hidden = fitting.length <= ROWS;
    all.textContent = state.whole ? `Show the first ${ROWS}` : `Show all ${fitting.length} methods`;
    all.setAttribute("aria-expanded", String(state.whole));
  }

  function say() {
    const name = heads[state.column].querySelector("button").firstChild.textContent.trim();
    const measure = state.column === 0 ? "" : ` ${byId("measure").selectedOptions[0].text}`;
    const order = state.falling ? "highest first" : "lowest first";
    const shown = rows.filter((row) => !row.hidden).length;
    byId("sorted").textContent =
      `${shown} methods by ${name}${measure}, ${state.column ? order : state.falling ? "Z to A" : "A to Z"}`;
  }

  heads.forEach((head, column) => {
    const button = element("button", {type: "button", class: "sort"});
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const again = column === state.column;
      const first = column > 0 && state.measure === "auroc";
      state.falling = again ? !state.falling : first;
      state.column = column;
      show();
      say();
    });
  });
  byId("family").addEventListener("change", (event) => {
    state.family = event.target.value;
    show();
    say();
  });
  byId("measure").addEventListener("change", (event) => {
    state.measure = event.target.value;
    state.falling = state.measure === "auroc";
    if (state.column === 0) state.column = 1;
    show();
    say();
  });
  all.addEventListener("click", () => {
    state.whole = !state.whole;
    show();
  });
  addEventListener("beforeprint", () => { state.before = state.whole; state.whole = true; show(); });
  addEventListener("afterprint", () => { state.whole = state.before; show(); });
  byId("filter").hidden = false;
  show();
}

/* ---- charts --------------------------------------------------------------------------------- */

const WIDE = 480, HIGH = 300, LEFT = 52, RIGHT = 20, TOP = 14, FOOT = 44;

function drawing(parent, label) {
  const svg = byId("blank").cloneNode();  /* in the namespace that only the parser needs no name for */
  svg.removeAttribute("id");
  svg.removeAttribute("hidden");
  svg.setAttribute("viewBox", `0 0 ${WIDE} ${HIGH}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  parent.replaceChildren(svg);
  return (kind, attributes, text = "") => {
    const made = document.createElementNS(svg.namespaceURI, kind);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text) made.textContent = text;
    svg.append(made);
  };
}

/* A number of pixels for each value from low to high. */
const scale = (low, high, from, to) => (value) => from + (to - from) * (value - low) / (high - low);
const across = (low, high) => scale(low, high, LEFT, WIDE - RIGHT);
const upwards = (low, high) => scale(low, high, HIGH - FOOT, TOP);
const path = (points) => "M" + points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L");

function ticks(low, high) {
  const step = 10 ** Math.floor(Math.log10((high - low) / 3));
  const wide = [10, 5, 2, 1].map((times) => times * step).find((size) => (high - low) / size >= 3);
  const found = [];
  for (let at = Math.ceil(low / wide) * wide; at <= high + wide / 1e6; at += wide) found.push(at);
  return found.map((at) => Number(at.toPrecision(6)));
}

function axes(draw, x, y, xTicks, yTicks, xTitle, yTitle) {
  for (const [at, text] of xTicks) {
    draw("line", {x1: x(at), x2: x(at), y1: HIGH - FOOT, y2: HIGH - FOOT + 4, class: "axis"});
    draw("text", {x: x(at), y: HIGH - FOOT + 17, "text-anchor": "middle"}, text);
  }
  for (const [at, text] of yTicks) {
    draw("line", {x1: LEFT, x2: WIDE - RIGHT, y1: y(at), y2: y(at), class: "grid"});
    draw("text", {x: LEFT - 6, y: y(at) + 4, "text-anchor": "end"}, text);
  }
  draw("line", {x1: LEFT, x2: WIDE - RIGHT, y1: HIGH - FOOT, y2: HIGH - FOOT, class: "axis"});
  draw("text", {x: (LEFT + WIDE - RIGHT) / 2, y: HIGH - 6, "text-anchor": "middle", class: "title"}, xTitle);
  const middle = (TOP + HIGH - FOOT) / 2;
  draw("text", {x: 12, y: middle, "text-anchor": "middle", class: "title",
    transform: `rotate(-90 12 ${middle})`}, yTitle);
}

function histogram(data, method, set) {
  const found = data.histograms[method]?.[set];
  const place = byId("histogram"), caption = byId("histogram-caption");
  if (!found) {
    place.replaceChildren();
    caption.textContent = `No histogram of ${method} on ${set}: fewer than two images have a score.`;
    return;
  }
  const {start, stop} = found;
  const counts = [found.id, found.ood];
  const totals = counts.map((part, k) => part.reduce((a, b) => a + b, 0) + found.below[k] + found.above[k]);
  const shares = counts.map((part, k) => part.map((count) => count / totals[k]));
  const most = Math.max(...shares.flat()) || 1;
  const draw = drawing(place, `Histogram of ${method}: ID test images and ${set}`);
  const x = across(start, stop), y = upwards(0, most * 1.12);
  const xTicks = ticks(start, stop).map((at) => [at, String(at)]);
  const yTicks = ticks(0, most * 1.12).map((at) => [at, `${Number((100 * at).toPrecision(3))}%`]);
  axes(draw, x, y, xTicks, yTicks, `score, higher = more in-distribution`, "share of images");
  shares.forEach((part, k) => {
    const width = (stop - start) / part.length;
    const steps = part.flatMap((share, bin) =>
      [[x(start + bin * width), y(share)], [x(start + (bin + 1) * width), y(share)]]);
    const closed = [[x(start), y(0)], ...steps, [x(stop), y(0)]];
    draw("path", {d: path(closed) + "Z", class: k ? "area ood" : "area id"});
    draw("path", {d: path(steps), class: k ? "stroke ood" : "stroke id"});
  });
  const threshold = data.thresholds[method];
  if (threshold > start && threshold < stop) {
    draw("line", {x1: x(threshold), x2: x(threshold), y1: TOP, y2: HIGH - FOOT, class: "threshold"});
    const late = x(threshold) > WIDE / 2;
    draw("text", {x: x(threshold) + (late ? -5 : 5), y: TOP + 9, "text-anchor": late ? "end" : "start"},
      `keeps ${data.tpr}% of ID`);
  }
  const beyond = found.below.map((count, k) => count + found.above[k]);
  caption.replaceChildren(...legend(set), ...(beyond[0] + beyond[1]
    ? [` Beyond the axis: ${beyond[0].toLocaleString("en")} ID and ${beyond[1].toLocaleString("en")} OOD images.`] : []));
}

function legend(set) {
  return [element("span", {class: "key id"}, "ID test images"), " ",
    element("span", {class: "key ood"}, set), "."];
}

function roc(data, method, set, logarithmic) {
  const place = byId("roc"), caption = byId("roc-caption");
  const curves = data.roc[method] ?? {};
  if (!curves[set]) {
    place.replaceChildren();
    caption.textContent = `No ROC curve of ${method} on ${set}: it is undefined for some of these images, or there is only one.`;
    return;
  }
  const draw = drawing(place, `ROC curve of ${method} on ${set}`);
  const [falseOnes] = curves[set];
  const images = falseOnes[falseOnes.length - 1];
  const low = logarithmic ? Math.min(-1, Math.floor(Math.log10(1 / images))) : 0;
  const x = logarithmic ? across(low, 0) : across(0, 1), y = upwards(0, 1);
  const at = (rate) => x(logarithmic ? Math.max(low, Math.log10(Math.max(rate, 1e-12))) : rate);
  const tens = Array.from({length: 1 - low}, (_, k) => low + k);
  const quarters = [0, 0.25, 0.5, 0.75, 1].map((share) => [share, `${100 * share}%`]);
  const xTicks = logarithmic ? tens.map((power) => [power, `${Number((100 * 10 ** power).toPrecision(1))}%`]) : quarters;
  axes(draw, x, y, xTicks, quarters, "OOD images accepted", "ID images accepted");
  const chance = Array.from({length: 101}, (_, k) => logarithmic ? 10 ** (low * (1 - k / 100)) : k / 100);
  draw("path", {d: path(chance.map((share) => [at(share), y(share)])), class: "chance"});
  const points = ([ood, id]) => ood.map((count, k) =>
    [at(count / ood[ood.length - 1]), y(id[k] / id[id.length - 1])]);
  for (const [name, curve] of Object.entries(curves)) {
    if (name !== set) draw("path", {d: path(points(curve)), class: "stroke other"});
  }
  draw("path", {d: path(points(curves[set])), class: "stroke ood strong"});
  const [auroc, fpr] = data.methods.find((one) => one.name === method).sets[set] ?? [];
  const others = Object.keys(curves).length - 1;
  caption.replaceChildren(element("span", {class: "key ood solid"}, set),
    auroc ? `: AUROC ${auroc}%, FPR@${data.tpr} ${fpr}%.` : ": its AUROC has no interval and is not shown.",
    others ? ` Thin: the other ${others === 1 ? "set" : `${others} sets`}. Dashed: chance.` : " Dashed: chance.");
}

/* A sample of the images by two methods; the counts of the caption are of all images. */
function scatter(data, method, against, set) {
  const place = byId("scatter"), caption = byId("scatter-caption");
  const names = [method, against];
  const [own, other] = names.map((name) => data.places[name]?.[set]);
  if (!own || !other) {
    place.replaceChildren();
    caption.textContent = `No scatter of ${method} and ${against} on ${set}: fewer than two images have a score.`;
    return;
  }
  const draw = drawing(place, `${against} against ${method}: ID test images and ${set}`);
  const ranges = names.map((name) => data.histograms[name][set]).map(({start, stop}) => [start, stop]);
  const x = across(...ranges[0]), y = upwards(...ranges[1]);
  const [xTicks, yTicks] = ranges.map(([low, high]) => ticks(low, high).map((at) => [at, String(at)]));
  axes(draw, x, y, xTicks, yTicks, method, against);
  const right = across(0, 1000), up = upwards(0, 1000);
  own.forEach((part, isOod) => part.forEach((at, k) => {
    if (at === null || other[isOod][k] === null) return;
    const [cx, cy] = [right(at), up(other[isOod][k])].map((pixels) => Number(pixels.toFixed(1)));
    if (isOod) draw("path", {d: `M${cx - 3} ${cy - 3}l6 6m0 -6l-6 6`, class: "point ood"});
    else draw("circle", {cx, cy, r: 2.4, class: "point id"});
  }));
  const [one, two] = names.map((name) => data.thresholds[name]);
  if (one > ranges[0][0] && one < ranges[0][1]) {
    draw("line", {x1: x(one), x2: x(one), y1: TOP, y2: HIGH - FOOT, class: "threshold"});
  }
  if (two > ranges[1][0] && two < ranges[1][1]) {
    draw("line", {x1: LEFT, x2: WIDE - RIGHT, y1: y(two), y2: y(two), class: "threshold"});
  }
  caption.replaceChildren(element("span", {class: "dot id"}, "ID test images"), " ",
    element("span", {class: "dot ood"}, set), "; at most 250 of each, those beyond the axes at their ends.",
    one === undefined || two === undefined ? "" : acceptedBy(data, names, set));
}

/* How many of all images of a set both methods accept, and each alone. */
function acceptedBy(data, names, set) {
  const [a, b] = names.map((name) => data.methods.findIndex((each) => each.name === name));
  const counts = data.together[set], both = counts[a][b];
  const count = (number) => number.toLocaleString("en");
  const images = data.images[1 + data.sets.indexOf(set)];
  return ` Of all ${count(images)} images of ${set}, both thresholds (dotted) accept ${count(both)},` +
    ` ${names[0]}'s alone ${count(counts[a][a] - both)}, ${names[1]}'s alone ${count(counts[b][b] - both)}.`;
}

/* ---- one score at a time -------------------------------------------------------------------- */

/* A table of texts with a caption; nothing without rows. */
function listing(place, text, heads, rows) {
  place.replaceChildren();
  if (!rows.length) return;
  const frame = element("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": text});
  const table = element("table", {class: "numbers"});
  const line = (cells, kind) => {
    const row = element("tr");
    row.append(...cells.map((cell, k) => k && kind !== "col" ? element("td", {}, cell)
      : element("th", {scope: kind}, cell)));
    return row;
  };
  const [top, body] = [element("thead"), element("tbody")];
  top.append(line(heads, "col"));
  body.append(...rows.map((row) => line(row, "row")));
  table.append(element("caption", {}, text), top, body);
  frame.append(table);
  place.append(frame);
}

function classes(data, method, set) {
  const {taken, hardest} = data.classes;
  const found = taken[set];
  const counts = found?.accepted[method];
  const share = (part, whole) => `${(100 * part / whole).toFixed(1)}`;
  const whole = data.images[1 + data.sets.indexOf(set)];
  listing(byId("taken"),
    `What ${set} is taken for, and what ${method} accepts of it, in percent of its images` +
      (found?.further ? `; ${found.further} more classes` : ""),
    ["class", "taken for it", "accepted"],
    (found?.classes ?? []).map((name, k) =>
      [name, share(found.images[k], whole), counts ? share(counts[k], whole) : "no threshold"]));
  listing(byId("hardest"), `The classes of ${set} that ${method} tells least well from ID images, in percent`,
    ["OOD class", "images", "AUROC", "interval", `FPR@${data.tpr}`], hardest[method]?.[set] ?? []);
}

function picture(data, name, image) {
  const card = element("li");
  card.append(element("img", {src: data.thumbnails[image.key], alt: `${name}, score ${image.score}`}));
  card.append(element("span", {}, image.score));
  if (image.taken_for) card.append(element("small", {}, `as ${image.taken_for}`));
  if (image.label) card.append(element("small", {}, image.label === image.taken_for ? "right" : `is ${image.label}`));
  if (image.nearest) card.append(element("small", {}, `nearest ${image.nearest}`));
  return card;
}

function hang(data, method) {
  const walls = data.walls[method];
  byId("no-room").hidden = Boolean(walls) || !Object.keys(data.walls).length;
  byId("no-room").textContent = `The images of ${method} found no room in the 2 MB of the gallery: better methods went first.`;
  for (const list of document.querySelectorAll("ul[data-wall]")) {
    const key = list.dataset.wall;
    const images = walls?.[key] ?? [];
    list.replaceChildren(...images.map((image) => picture(data, key || "ID", image)));
    list.parentElement.hidden = !images.length;
  }
}

function panel() {
  const source = byId("data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const [method, set, against, logarithmic] = ["method", "set", "against", "logarithmic"].map(byId);
  const charts = () => {
    histogram(data, method.value, set.value);
    roc(data, method.value, set.value, logarithmic.checked);
    scatter(data, method.value, against.value, set.value);
    classes(data, method.value, set.value);
  };
  const change = () => {
    const {name, does, source: from, family} = data.methods.find((one) => one.name === method.value);
    byId("line").replaceChildren(element("strong", {}, name), `: ${does}. `,
      element("small", {}, `${family}${from ? `; ${from}` : ""}`));
    charts();
    hang(data, method.value);
  };
  method.addEventListener("change", change);
  set.addEventListener("change", charts);
  against.addEventListener("change", charts);
  logarithmic.addEventListener("change", charts);
  byId("switch").addEventListener("submit", (event) => event.preventDefault());
  byId("switch").hidden = byId("charts").hidden = false;
  links(data, method, change);
  change();
}

/* A method's name in the table shows that method in the panel. */
function links(data, method, change) {
  const known = new Set(data.methods.map((one) => one.name));
  for (const head of document.querySelectorAll("table.matrix tbody th")) {
    const name = head.textContent;
    if (!known.has(name)) continue;
    const button = element("button", {type: "button", class: "show", title: "show its curves and images"}, name);
    button.addEventListener("click", () => {
      method.value = name;
      change();
      byId("gallery").scrollIntoView();
      method.focus({preventScroll: true});
    });
    head.replaceChildren(button);
  }
}

/* ---- print: what is folded is printed ------------------------------------------------------- */

function printing() {
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((fold) => { fold.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((fold) => { fold.open = false; }));
}

table();
panel();
printing();
