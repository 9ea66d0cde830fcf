// The route switchboard: a model's graph, its heads and its edges by route, over training; one module, nothing else.
// `mount(element, data, link)` draws a document ("valuestream switchboard 1"); `link` is a kernel, or null without one.
// What users name (tokens, runs, facts) only ever becomes the text of a node or the value of an attribute.

const FORMAT = "valuestream switchboard 1";
/** So long a kernel may take before it is said to be gone, in milliseconds. */
const PATIENCE = 8000;
/** So many edges are shown at first, at most. */
const READABLE = 40;
const ROUTES = {
  residual: { colour: "#0072B2", dash: null, words: "through the residual stream" },
  stream: { colour: "#D55E00", dash: "9 4", words: "through the residual attention stream" },
  own: { colour: "#56B4E9", dash: "0.1 4.5", words: "a carried projection to its own head" },
};
const CHANGES = { cut: "✕", stop: "‖", "gradient-only": "∇" };
const INK = "#1b1f24";
const GREY = "#6b7280";

// --- 1 Elements and numbers ------------------------------------------------------------------------------------------

/** Sets attributes: `on...` listens, `text` is text, null and false remove. */
function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === null || value === false || value === undefined) element.removeAttribute(name);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  return element;
}

/** Makes an element of HTML; children that are null are left out. */
function h(tag, attributes = {}, ...children) {
  const element = set(document.createElement(tag), attributes);
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** Makes an element of SVG. */
function s(tag, attributes = {}, ...children) {
  const element = set(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes);
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** Writes a number for people: three decimals, a true minus sign, a dash where nothing was measured. */
function fmt(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  const text = size !== 0 && size < 0.0005 ? value.toExponential(0) : value.toFixed(size >= 100 ? 1 : 3);
  return text.replace("-", "−");
}

/** Writes an effect with its interval. */
function withInterval(effect, low, high) {
  return fmt(effect) + (low === null || low === undefined ? "" : ` [${fmt(low)}, ${fmt(high)}]`);
}

const count = (number) => number.toLocaleString("en-US");
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const line = (from, to) => (value) => to[0] + ((value - from[0]) / (from[1] - from[0] || 1)) * (to[1] - to[0]);
const known = (values) => values.filter((value) => value !== null && value !== undefined);
const words = (token) => token.trim().replaceAll("\n", "⏎") || "␣";
const short = (token, most = 9) => (token.length > most ? `${token.slice(0, most - 1)}…` : token);

/** Shows a number in full precision to scripts (`data-value`) and rounded to people. */
function show(element, value, text = fmt(value)) {
  set(element, { text, "data-value": value === null || value === undefined ? null : value });
}

// --- 2 The document ---------------------------------------------------------------------------------------------------

/** Returns one number of a run: `kind` is node or edge; null where it was not measured. */
const measured = (run, kind, field, at, i) => run[kind]?.[field]?.[at]?.[i] ?? null;

/** Returns the index of the step that is nearest. */
function nearest(steps, step) {
  return steps.reduce((best, s, i) => (Math.abs(s - step) < Math.abs(steps[best] - step) ? i : best), 0);
}

/** Returns the place of every value when the largest comes first. */
function ranksOf(values) {
  const ranks = [];
  [...values.keys()].sort((a, b) => values[b] - values[a]).forEach((i, rank) => (ranks[i] = rank));
  return ranks;
}

/** Returns what share of the clean-corrupt difference a metric has lost. */
function lost(run, at, metric) {
  const gap = run.clean[at] - run.corrupt[at];
  return metric === null || !gap ? null : (run.clean[at] - metric) / gap;
}

/** Returns attention weights (base64 of little-endian uint16) as numbers from 0 to 1. */
function decoded(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float64Array.from({ length: bytes.length / 2 }, (_, i) => view.getUint16(2 * i, true) / 65535);
}

/** Returns the numbers of one head on a prompt at the step nearest to `step`. */
function onPrompt(doc, prompt, node, step) {
  const at = nearest(prompt.steps, step);
  const n = prompt.tokens.length;
  prompt.decoded ??= {};
  const all = (prompt.decoded[at] ??= decoded(prompt.pattern[at]));
  const start = ((node.layer * doc.heads + node.head) * n * (n + 1)) / 2;
  const norms = (route) => {
    const layer = prompt.values?.[at]?.[route]?.[node.layer] ?? null;
    return layer && layer[Math.floor((node.head * layer.length) / doc.heads)];
  };
  const weight = (query, key) => all[start + (query * (query + 1)) / 2 + key];
  return { at, weight, own: norms("own"), incoming: norms("incoming"), mixed: norms("mixed") };
}

/** Returns a change that was computed beforehand, or why there is none. */
function precomputed(board, name, change) {
  const { doc, run, state } = board;
  const i = board.edgeNumber.get(name);
  if (change === "cut") {
    const of = (field) => measured(run, "edge", field, state.at, i);
    return { metric: of("metric"), effect: of("effect"), cosine: of("cosine") };
  }
  const last = run.steps.length - 1;
  const only = `“${change}” was computed beforehand for the last step (${count(run.steps[last])}) alone.`;
  if (state.at !== last) return { note: only };
  const gates = run.gates?.[change];
  const metric = gates?.metric?.[i] ?? null;
  return { metric, cosine: gates?.cosine?.[i] ?? null, effect: lost(run, last, metric), note: metric === null ? only : "" };
}

/** Returns what the metric is with the changes as they are, and who says so: the kernel, or the document. */
function outcome(board) {
  const names = Object.keys(board.state.changes);
  if (!names.length) return null;
  const answer = board.answers.get(board.question());
  if (answer && !answer.error) return { ...answer, live: true };
  const found = { ...precomputed(board, names.at(-1), board.state.changes[names.at(-1)]), live: false };
  if (answer?.error) found.note = answer.error;
  else if (names.length > 1 && !board.asks) found.note = `Several changes at once need a kernel: shown is the last one, ${names.at(-1)}.`;
  return found;
}

// --- 3 Where things stand ---------------------------------------------------------------------------------------------

/** Returns where every node stands in a drawing `width` pixels wide: layers upwards, heads side by side. */
function layout(doc, width) {
  const kinds = new Set(doc.nodes.map((node) => node.kind));
  const heads = Math.max(1, doc.heads);
  const left = kinds.has("table") ? 66 : 20;
  const right = kinds.has("mlp") ? 74 : 20;
  const pitch = clamp((width - left - right) / heads, 68, 190);
  const box = { w: clamp(pitch * 0.66, 48, 118), h: 60 };
  const row = box.h + (kinds.has("mlp") ? 92 : 72);
  const full = left + right + pitch * heads;
  const total = Math.max(full, Math.min(width, 440));
  const x0 = (total - full) / 2 + left;
  const top = 50 + row - box.h - 8;
  const place = { heads, pitch, box, row, x0, width: total, top, channels: [], nodes: new Map() };
  place.y = (layer) => top + (doc.layers - 1 - layer) * row;
  place.channels = Array.from({ length: heads + 1 }, (_, i) => x0 + i * pitch);
  place.height = place.y(0) + box.h + 62 + 32;
  place.zoom = clamp(Math.min(width / total, 640 / place.height), 1, 1.35);
  for (const node of doc.nodes) place.nodes.set(node.name, spot(doc, node, place, right));
  return place;
}

/** Returns where one node stands: the middle of its box, and its size. */
function spot(doc, node, place, right) {
  const { heads, pitch, box, x0 } = place;
  const across = { x: x0 + (pitch * heads) / 2, w: pitch * heads + 24, h: 30, kind: node.kind };
  if (node.kind === "logits") return { ...across, y: 31, row: doc.layers };
  if (node.kind === "input") return { ...across, y: place.height - 19, row: -1 };
  const y = place.y(node.layer);
  if (node.kind === "mlp") return { x: x0 + pitch * heads + right / 2 - 6, y: y - 32, w: 52, h: 30, row: node.layer + 0.5 };
  if (node.kind === "table") return { x: x0 - 36, y: y + box.h + 26, w: 46, h: 28, row: node.layer - 0.5 };
  if (node.kind === "head") return { x: x0 + (node.head + 0.5) * pitch, y: y + box.h / 2, ...box, row: node.layer };
  const shared = doc.nodes.filter((n) => n.carrier === node.carrier && n.layer === node.layer).length;
  const head = shared ? Math.floor((node.head * heads) / shared) : node.head;
  const side = { q: -1, k: 0, v: 1 }[node.carrier] * box.w * 0.31;
  return { x: x0 + (head + 0.5) * pitch + side, y: y + box.h, w: 16, h: 16, row: node.layer };
}

/** Returns a curve through points that leaves and enters each of them upright, and the middle of it. */
function curve(points, start = `M${points[0]}`) {
  // What is upright all along has no width, and what has no width some tools take for hidden.
  if (points.every(([x]) => x === points[0][0])) points = [...points.slice(0, -1), [points[0][0] + 0.5, points.at(-1)[1]]];
  const parts = points.slice(1).map(([x, y], i) => {
    const middle = (points[i][1] + y) / 2;
    return `C${points[i][0]},${middle} ${x},${middle} ${x},${y}`;
  });
  const at = Math.floor((points.length - 1) / 2);
  const [a, b] = [points[at], points[at + 1]];
  return { d: [start, ...parts].join(""), middle: [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2] };
}

/** Returns the curve of an edge. Where it passes heads it goes between them, beside others that do. */
function edgeCurve({ doc, nodeNumber, ranks }, i, place) {
  const edge = doc.edges[i];
  const from = place.nodes.get(edge.source);
  const to = place.nodes.get(edge.target);
  const kind = doc.nodes[nodeNumber.get(edge.source)]?.kind;
  if (edge.route === "own") {
    return { d: `M${from.x},${from.y - 8}l0.5,-17`, middle: [from.x, from.y - 17] };
  }
  // The golden ratio spreads the first few well, however many there are: here the strongest.
  const spread = (((ranks[i] * 0.618) % 1) - 0.5) * Math.min(place.pitch - place.box.w - 10, 40);
  if (kind === "projection") return streamCurve(from, to, place, spread);
  if (kind === "table") return tableCurve(from, to, place, spread);
  const start = [from.x, from.y - from.h / 2];
  const end = [to.x, to.y + to.h / 2];
  const bar = { from: from.kind === "input", to: to.kind === "logits" };
  if (bar.from) start[0] = bar.to ? place.channels[0] + place.pitch / 2 : end[0];
  if (bar.to) end[0] = start[0];
  const first = Math.floor(from.row) + 1;
  const last = Math.ceil(to.row) - 1;
  if (first > last) return curve([start, end]);
  const wanted = (start[0] + end[0]) / 2 + (ranks[i] % 2 ? 1 : -1);
  const channel = place.channels.reduce((a, b) => (Math.abs(b - wanted) < Math.abs(a - wanted) ? b : a)) + spread;
  if (bar.from) start[0] = channel;
  if (bar.to) end[0] = channel;
  return curve([start, [channel, place.y(first) + place.box.h + 4], [channel, place.y(last) - 4], end]);
}

/** Returns the curve of a stream's edge: out of the port, round the head's side, up to the other port. */
function streamCurve(from, to, place, spread) {
  if (from.row === to.row) {
    const below = from.y + 34;
    const d = `M${from.x},${from.y + 8}C${from.x},${below} ${to.x},${below} ${to.x},${to.y + 8}`;
    return { d, middle: [(from.x + to.x) / 2, from.y + 27] };
  }
  const side = Math.min(...place.channels.filter((x) => x > from.x)) + spread * 0.6;
  const up = place.y(from.row) + 10;
  const last = place.y(to.row - 1) - 2;
  const points = [[side, up], ...(to.row - from.row > 1 ? [[side, last]] : []), [to.x, to.y + 9]];
  const out = `M${from.x + 8},${from.y}C${side},${from.y} ${side},${from.y} ${side},${up}`;
  return curve(points, out);
}

/** Returns the curve of a table's edge: along below the heads, then up to the port. */
function tableCurve(from, to, place, spread) {
  const out = [from.x + from.w / 2, from.y + spread / 3];
  const end = [to.x, to.y + 9];
  if (to.row - from.row < 1) {
    return { d: `M${out}C${end[0]},${out[1]} ${end[0]},${out[1]} ${end}`, middle: [(out[0] + end[0]) / 2, out[1]] };
  }
  const side = place.channels[0] + spread;
  const [low, high] = [place.y(Math.ceil(from.row)) + place.box.h, place.y(to.row - 1) - 2];
  return curve([[side, low], [side, high], end], `M${out}C${side},${out[1]} ${side},${out[1]} ${side},${low}`);
}

/** Returns how wide and how opaque an effect is drawn; `most` is the largest one. */
function weight(effect, most, thickest = 7) {
  const share = Math.sqrt(clamp(Math.abs(effect ?? 0) / (most || 1), 0, 1));
  return { "stroke-width": (1.2 + (thickest - 1.2) * share).toFixed(2), "stroke-opacity": (0.3 + 0.7 * share).toFixed(2) };
}

// --- 4 The board: what is chosen, and what follows ---------------------------------------------------------------------

/** Holds what is chosen; every view draws itself from it. */
class Board {
  constructor(doc, link) {
    Object.assign(this, { doc, link, run: doc.runs[0], views: [], answers: new Map(), gone: false, busy: false });
    this.edgeNumber = new Map(doc.edges.map((edge, i) => [edge.name, i]));
    this.nodeNumber = new Map(doc.nodes.map((node, i) => [node.name, i]));
    this.prompts = [...(doc.prompts ?? [])];
    const effects = this.run.edge.effect.flat();
    this.most = Math.min(known(effects).reduce((most, effect) => Math.max(most, Math.abs(effect)), 0), 2) || 1;
    const at = this.run.steps.length - 1;
    const routes = Object.fromEntries(Object.keys(ROUTES).map((route) => [route, true]));
    this.state = { at, edge: null, node: null, changes: {}, routes, prompt: 0, hide: 0 };
    this.state.node = this.strongestHead();
    this.ranks = ranksOf(doc.edges.map((_, i) => Math.abs(this.effect(i) ?? 0)));
    while (this.state.hide < 100 && this.shown().length > READABLE) this.state.hide += 1;
  }

  /** Whether a kernel answers. */
  get asks() {
    return Boolean(this.link?.live) && !this.gone;
  }

  get step() {
    return this.run.steps[this.state.at];
  }

  /** Effects below this are hidden; the control is cubic, since most effects are small. */
  get least() {
    return (this.state.hide / 100) ** 3;
  }

  effect(i, kind = "edge", field = "effect") {
    return measured(this.run, kind, field, this.state.at, i);
  }

  strongestHead() {
    const heads = this.doc.nodes.map((node, i) => [node, Math.abs(this.effect(i, "node") ?? 0)]);
    const sorted = heads.filter(([node]) => node.kind === "head").sort((a, b) => b[1] - a[1]);
    return sorted[0]?.[0].name ?? null;
  }

  isShown(i) {
    const edge = this.doc.edges[i];
    const chosen = edge.name === this.state.edge || edge.name in this.state.changes;
    const effect = this.effect(i);
    return chosen || (this.state.routes[edge.route] && effect !== null && Math.abs(effect) >= this.least);
  }

  /** The numbers of the edges that are shown, strongest first. */
  shown() {
    const numbers = [...this.doc.edges.keys()].filter((i) => this.isShown(i));
    return numbers.sort((a, b) => Math.abs(this.effect(b) ?? 0) - Math.abs(this.effect(a) ?? 0));
  }

  /** What the kernel is asked, as a key of its answers. */
  question() {
    return JSON.stringify([this.step, this.state.changes]);
  }

  /** Takes over what was chosen, draws it, tells the notebook, asks the kernel. */
  choose(patch, tell = true) {
    Object.assign(this.state, patch);
    this.selected = patch.edge ?? patch.node ?? this.selected;
    this.draw();
    if (tell) this.tell();
    this.ask();
  }

  tell() {
    if (!this.link?.set) return;
    this.link.set({ step: this.step, selected: this.selected ?? "", changes: this.state.changes });
  }

  /** Takes over what Python set. */
  follow({ step, selected, changes }) {
    const patch = {};
    if (step !== this.step) patch.at = nearest(this.run.steps, step);
    if (this.edgeNumber.has(selected) && selected !== this.state.edge) patch.edge = selected;
    const node = this.doc.nodes[this.nodeNumber.get(selected)];
    if (node?.kind === "head" && selected !== this.state.node) patch.node = selected;
    if (JSON.stringify(changes) !== JSON.stringify(this.state.changes)) patch.changes = changes;
    if (Object.keys(patch).length) this.choose(patch, false);
  }

  draw() {
    for (const view of this.views) view.draw();
  }

  /** Selects an edge with the change that is next: cut, of a stream also stop and gradient-only, none. */
  turn(name) {
    const order = [...this.changesOf(name), "clear"];
    const now = order.indexOf(this.state.changes[name] ?? "clear");
    this.change(name, order[(now + 1) % order.length]);
  }

  changesOf(name) {
    return this.doc.edges[this.edgeNumber.get(name)].route === "stream" ? Object.keys(CHANGES) : ["cut"];
  }

  /** Makes a change of an edge, the last of all, or takes it back. */
  change(name, change) {
    const { [name]: _, ...others } = this.state.changes;
    this.choose({ edge: name, changes: change === "clear" ? others : { ...others, [name]: change } });
  }

  /** Asks the kernel for what is chosen and not known yet: one question at a time, the newest next. */
  ask() {
    if (!this.asks || this.busy) return;
    const key = this.question();
    const { changes, prompt } = this.state;
    const { text, asked } = this.prompts[prompt] ?? {};
    if (Object.keys(changes).length && !this.answers.has(key)) {
      this.send({ ask: "changes", step: this.step, changes }, (answer) => this.answers.set(key, answer));
    } else if (text && asked !== this.step) {
      this.prompts[prompt].asked = this.step;
      this.askPrompt(text, () => {});
    }
  }

  /** Sends a message; without an answer in time the kernel is gone, and one that comes later brings it back. */
  send(message, take) {
    this.busy = true;
    const settled = (gone) => {
      clearTimeout(timer);
      Object.assign(this, { gone, busy: false });
      this.draw();
      this.ask();
    };
    const timer = setTimeout(() => settled(true), PATIENCE);
    this.link.ask(message).then((answer) => (take(answer), settled(false)), () => settled(true));
  }

  /** Asks for a prompt in the user's words at the step that is shown. */
  askPrompt(text, said) {
    const asked = this.step;
    this.send({ ask: "prompt", text, step: asked }, (answer) => {
      if (!answer.error) this.takePrompt({ ...answer.prompt, text, asked });
      said(answer.error ?? "");
    });
  }

  takePrompt(prompt) {
    const same = this.prompts.findIndex((other) => other.text === prompt.text);
    if (same < 0) this.state.prompt = this.prompts.push(prompt) - 1;
    else this.prompts[same] = prompt;
  }
}

// --- 5 Views ------------------------------------------------------------------------------------------------------------

/** The title, what was found, of what, and who computes. */
function headerView(board) {
  const { doc } = board;
  const facts = (doc.facts ?? []).map(([name, value]) => h("div", {}, h("dt", { text: name }), h("dd", { text: value })));
  const status = h("span");
  const again = h("button", { type: "button", text: "Ask again", onclick: () => (board.gone = false, board.draw(), board.ask()) });
  const element = h("header", {}, h("h1", { text: doc.title }), h("p", { class: "lead", text: doc.lead }), h("dl", { class: "facts" }, facts),
    h("p", { class: "status", role: "status" }, status, " ", again));
  const draw = () => {
    const mode = board.asks ? "live" : board.gone ? "gone" : "precomputed";
    set(element.querySelector(".status"), { "data-mode": mode });
    again.hidden = mode !== "gone";
    set(status, { text: STATUS[mode] });
  };
  return { element, draw };
}
const STATUS = {
  live: "Live: the kernel computes changes and prompts as you ask; everything else was computed beforehand.",
  gone: "The kernel does not answer: it was stopped, or is busy. What is shown was computed beforehand.",
  precomputed: "Precomputed: every number here was computed beforehand; no kernel runs, and the page needs no network.",
};

/** Lets arrow keys move among what can be chosen, so that Tab passes all of it in one step. */
function roving(element, items) {
  const focus = (item) => item && (items().forEach((other) => set(other, { tabindex: other === item ? 0 : -1 })), item.focus());
  element.addEventListener("keydown", (event) => {
    const all = items();
    const now = all.indexOf(event.target);
    const moves = { ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now - 1, ArrowUp: now - 1, Home: 0, End: all.length - 1 };
    if (now < 0 || !(event.key in moves)) return;
    event.preventDefault();
    focus(all[(moves[event.key] + all.length) % all.length]);
  });
  return () => {
    const all = items();
    const stop = all.find((item) => item.getAttribute("tabindex") === "0") ?? all[0];
    all.forEach((item) => set(item, { tabindex: item === stop ? 0 : -1 }));
  };
}

/** Returns what an event in the graph means: what has the focus, or is under the pointer; of edges the nearest. */
function meant(svg, event) {
  const target = event.target.closest("[data-edge],[data-node]");
  if (target?.dataset.edge === undefined || !event.clientX) return target;
  const over = svg.getRootNode().elementsFromPoint(event.clientX, event.clientY).map((element) => element.closest("[data-edge]"));
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const distances = new Map(over.filter(Boolean).map((group) => [group, distance(group.lastChild, at)]));
  return [...distances].reduce((best, next) => (next[1] < best[1] ? next : best), [target, Infinity])[0];
}

/** Returns how far a point is from a path. */
function distance(path, at) {
  const length = path.getTotalLength();
  const points = Array.from({ length: 61 }, (_, i) => path.getPointAtLength((length * i) / 60));
  return Math.min(...points.map((point) => Math.hypot(point.x - at.x, point.y - at.y)));
}

/** Calls `act` on a click, Enter or Space on an edge or a node. */
function onChosen(svg, act) {
  const chosen = (event) => {
    const found = meant(svg, event);
    if (found) act(found.dataset);
    return Boolean(found);
  };
  svg.addEventListener("click", chosen);
  svg.addEventListener("keydown", (event) => ["Enter", " "].includes(event.key) && chosen(event) && event.preventDefault());
}

/** What an edge is and does, in words. */
function edgeWords(board, i) {
  const of = (field) => board.effect(i, "edge", field);
  const { name } = board.doc.edges[i];
  const rows = [["effect", withInterval(of("effect"), of("low"), of("high"))], [`${board.doc.metric} when cut`, fmt(of("metric"))],
    ["gradient cosine when cut", fmt(of("cosine"))]];
  if (board.state.changes[name]) rows.push(["now", board.state.changes[name]]);
  return { name, rows };
}

/** What a node is and does, in words. */
function nodeWords(board, i) {
  const of = (field) => board.effect(i, "node", field);
  const node = board.doc.nodes[i];
  const kind = { projection: `${node.carrier} of a head`, mlp: "MLP", table: "table of value embeddings" }[node.kind] ?? node.kind;
  const measuredRows = of("effect") === null ? [] : [["effect", withInterval(of("effect"), of("low"), of("high"))]];
  return { name: node.name, rows: [["kind", kind], ...measuredRows] };
}

const spoken = ({ name, rows }) => `${name}: ${rows.map((row) => row.join(" ")).join(", ")}`;

/** The graph: its nodes, its edges, and what is hidden. */
function graphView(board) {
  const { doc } = board;
  const place = { now: null };
  const tip = h("div", { class: "tip", hidden: true });
  const svg = s("svg", { class: "graph", role: "group", "aria-label": "Graph of the model, layers upwards" });
  const holder = h("div", { class: "holder" }, svg, tip);
  const count_ = h("output", { class: "count" });
  const hide = h("input", { type: "range", min: 0, max: 100, "data-control": "hide", "aria-label": "Hide edges with an effect below", value: board.state.hide,
    oninput: () => board.choose({ hide: Number(hide.value) }, false) });
  const boxes = Object.keys(ROUTES).filter((route) => doc.edges.some((edge) => edge.route === route)).map((route) => routeBox(board, route));
  const clear = h("button", { type: "button", "data-change": "clear-all", text: "Clear all changes", onclick: () => board.choose({ changes: {} }) });
  const element = h("section", { class: "card", "aria-label": "Graph" },
    h("div", { class: "tools" }, boxes, h("label", { class: "hide" }, h("span", { text: "hide weak edges" }), hide, count_), clear), holder, legend(board));
  let parts = null;
  const build = () => {
    place.now = layout(doc, holder.clientWidth || 800);
    parts = drawGraph(board, svg, place.now);
  };
  const items = (kind) => [...svg.querySelectorAll(`[data-${kind}][role]`)].filter((item) => item.style.display !== "none");
  const byStrength = () => board.shown().map((i) => parts.edges[i].group);
  const stops = [roving(svg, byStrength), roving(svg, () => items("node"))];
  onChosen(svg, ({ edge, node: name }) => {
    if (edge !== undefined) return board.turn(edge);
    const node = doc.nodes[board.nodeNumber.get(name)];
    const head = node.kind === "projection" ? doc.nodes.find((n) => n.kind === "head" && n.layer === node.layer && n.head === node.head) : node;
    if (head?.kind === "head") board.choose({ node: head.name });
  });
  hovering(board, svg, tip, () => parts, () => place.now);
  const draw = () => {
    drawEdges(board, parts);
    drawNodes(board, parts);
    stops.forEach((stop) => stop());
    clear.disabled = !Object.keys(board.state.changes).length;
    const left = doc.edges_left_out ? `, ${count(doc.edges_left_out)} weaker ones are not in this document` : "";
    count_.textContent = `below ${fmt(board.least)}: ${count(board.shown().length)} of ${count(doc.edges.length)} shown${left}`;
  };
  return { element, draw, build };
}

/** A checkbox that shows the edges of one route, with how they are drawn. */
function routeBox(board, route) {
  const number = board.doc.edges.filter((edge) => edge.route === route).length;
  const input = h("input", { type: "checkbox", checked: true, "data-route": route,
    onchange: () => board.choose({ routes: { ...board.state.routes, [route]: input.checked } }, false) });
  return h("label", { class: "route", title: ROUTES[route].words }, input, sample(route, 4), h("span", { text: `${route} (${number})` }));
}

/** A piece of line as edges of a route are drawn. */
function sample(route, width, opacity = 1) {
  const { colour, dash } = ROUTES[route];
  return s("svg", { class: "sample", width: 34, height: 12, "aria-hidden": "true" },
    s("path", { d: "M2,6H32", stroke: colour, "stroke-width": width, "stroke-opacity": opacity, "stroke-dasharray": dash, "stroke-linecap": route === "own" ? "round" : null }));
}

/** What colours, dashes, widths and marks mean. */
function legend(board) {
  const widths = [0.05, 0.25, 1].map((share) => {
    const effect = share * board.most;
    const look = weight(effect, board.most);
    return h("span", {}, sample("residual", look["stroke-width"], look["stroke-opacity"]), fmt(effect));
  });
  const marks = Object.entries(CHANGES).map(([change, mark]) => h("span", { title: board.doc.words?.[change] ?? "" }, h("b", { text: mark }), change));
  const routes = Object.entries(ROUTES).map(([route, { words: text }]) => h("span", {}, sample(route, 3), `${route}: ${text}`));
  return h("div", { class: "legend" }, h("p", {}, routes),
    h("p", {}, h("span", { text: "width: |effect|" }), widths, h("span", {}, h("b", { text: "−" }), "negative effect"), marks, h("span", { text: "q k v: ports of a head" })),
    h("p", { text: "Effect: the share of the clean-corrupt difference of the metric that is lost when the edge (or what a head writes) carries the corrupt run's; 1 is all of it, 0 nothing." }));
}

/** Draws every node and edge once; what changes with the step is set by drawEdges and drawNodes. */
function drawGraph(board, svg, place) {
  const { doc } = board;
  const arrow = `arrow-${(drawGraph.made = (drawGraph.made ?? 0) + 1)}`;
  set(svg, { viewBox: `0 0 ${place.width} ${place.height}`, style: `width:${place.width * place.zoom}px` });
  const group = (label) => s("g", label ? { role: "group", "aria-label": label } : {});
  const [below, nodes, above, badges] = [group("Edges, strongest first: arrow keys move, Enter changes"), group("Nodes: arrow keys move, Enter opens a head"), group("Edges inside heads"), group("")];
  const marker = s("marker", { id: arrow, viewBox: "0 0 8 8", refX: 6.5, refY: 4, markerWidth: 9, markerHeight: 9, markerUnits: "userSpaceOnUse", orient: "auto" },
    s("path", { d: "M0,0L8,4L0,8Z", fill: ROUTES.stream.colour }));
  svg.replaceChildren(s("defs", {}, marker), below, nodes, above, badges);
  const edges = doc.edges.map((edge, i) => {
    const { d, middle } = edgeCurve(board, i, place);
    const { colour, dash } = ROUTES[edge.route];
    const path = s("path", { d, class: "line", stroke: colour, "stroke-dasharray": dash, "stroke-linecap": edge.route === "own" ? "round" : null,
      "marker-end": edge.route === "stream" ? `url(#${arrow})` : null });
    const element = s("g", { role: "button", "data-edge": edge.name, class: `edge ${edge.route}` }, s("path", { d, class: "hit" }), path);
    const badge = s("g", { class: "badge", transform: `translate(${middle})` }, s("circle", { r: 7.5, stroke: colour }), s("text", { y: 4 }));
    badges.append(badge);
    return { group: element, path, badge, middle };
  });
  const rank = (i) => (doc.edges[i].route === "stream" ? 9 : 0) + Math.abs(board.effect(i) ?? 0);
  const order = [...edges.keys()].sort((a, b) => rank(a) - rank(b));
  for (const i of order) (doc.edges[i].route === "own" ? above : below).append(edges[i].group);
  const made = doc.nodes.map((node) => drawNode(node, place.nodes.get(node.name)));
  const drawnFirst = (i) => (doc.nodes[i].kind === "projection" ? 1 : 0);
  [...made.keys()].sort((a, b) => drawnFirst(a) - drawnFirst(b) || place.nodes.get(doc.nodes[a].name).row - place.nodes.get(doc.nodes[b].name).row)
    .forEach((i) => nodes.append(made[i].group));
  return { edges, nodes: made };
}

/** Draws one node: a box with its name and effect, or the port of a projection. */
function drawNode(node, at) {
  if (node.kind === "projection") {
    const port = s("g", { class: "port", "data-node": node.name, transform: `translate(${at.x},${at.y})` }, s("circle", { r: 8 }), s("text", { y: 3.5, text: node.carrier }));
    return { group: port };
  }
  const [x, y] = [at.x - at.w / 2, at.y - at.h / 2];
  const head = node.kind === "head";
  const fill = s("rect", { x, y, width: at.w, height: at.h, rx: 7, class: "fill" });
  const label = s("text", { x: at.x, y: head ? y + 16 : at.y + 4, class: "name", text: node.name });
  const effect = s("text", { x: at.x, y: y + 30, class: "effect" });
  const group = s("g", { role: "button", class: `node ${node.kind}`, "data-node": node.name },
    s("rect", { x, y, width: at.w, height: at.h, rx: 7, class: "back" }), fill, label, head ? effect : null);
  return { group, fill, effect };
}

/** Sets what of the edges changes with the step and with what is chosen. */
function drawEdges(board, parts) {
  const { state, doc } = board;
  parts.edges.forEach(({ group, path, badge }, i) => {
    const { name } = doc.edges[i];
    const effect = board.effect(i);
    const change = state.changes[name];
    const shown = board.isShown(i);
    group.style.display = shown ? "" : "none";
    if (!shown) set(group, { tabindex: -1 });
    group.classList.toggle("selected", state.edge === name);
    group.classList.toggle("changed", Boolean(change));
    set(path, weight(effect, board.most));
    set(group, { "aria-label": spoken(edgeWords(board, i)), "aria-pressed": String(Boolean(change)) });
    const mark = change ? CHANGES[change] : effect < 0 && shown ? "−" : "";
    set(badge, { display: mark ? null : "none" }).lastChild.textContent = mark;
    badge.classList.toggle("change", Boolean(change));
  });
}

/** Sets what of the nodes changes with the step and with what is chosen. */
function drawNodes(board, parts) {
  parts.nodes.forEach(({ group, fill, effect }, i) => {
    if (!fill) return;
    const size = board.effect(i, "node");
    const { name, kind } = board.doc.nodes[i];
    set(fill, { "fill-opacity": (0.55 * Math.sqrt(clamp(Math.abs(size ?? 0), 0, 1))).toFixed(3) });
    effect.textContent = size === null ? "" : fmt(size);
    group.classList.toggle("selected", board.state.node === name);
    set(group, { "aria-label": spoken(nodeWords(board, i)), "aria-pressed": kind === "head" ? String(board.state.node === name) : null });
  });
}

/** Shows in words what is under the pointer or has the focus, and dims what has nothing to do with it. */
function hovering(board, svg, tip, parts, place) {
  const { doc } = board;
  const leave = () => {
    tip.hidden = true;
    svg.classList.remove("dim");
    svg.querySelectorAll(".lit").forEach((element) => element.classList.remove("lit"));
  };
  let seen = null;
  const enter = (event) => {
    const found = meant(svg, event);
    if (found && found === seen && !tip.hidden) return;
    leave();
    seen = found;
    if (!found) return;
    const { edge, node } = found.dataset;
    const i = edge === undefined ? board.nodeNumber.get(node) : board.edgeNumber.get(edge);
    const { name, rows } = edge === undefined ? nodeWords(board, i) : edgeWords(board, i);
    const touches = edge === undefined ? (e) => [e.source, e.target].some((n) => n === node || n.startsWith(`${node}.`)) : (e) => e.name === edge;
    doc.edges.forEach((e, j) => touches(e) && parts().edges[j].group.classList.add("lit"));
    svg.classList.add("dim");
    tip.replaceChildren(h("b", { text: name }), h("dl", {}, rows.map(([what, value]) => [h("dt", { text: what }), h("dd", { text: value })])));
    tip.hidden = false;
    const at = place().nodes.get(node);
    const frame = svg.getBoundingClientRect();
    const [scale, offset] = [frame.width / place().width, frame.left - svg.parentElement.getBoundingClientRect().left];
    const [x, y] = edge === undefined ? [at.x, at.y - at.h / 2] : parts().edges[i].middle;
    const room = svg.parentElement.clientWidth;
    tip.style.left = `${clamp(offset + x * scale + 14, 4, room - tip.offsetWidth - 4)}px`;
    tip.style.top = `${Math.max(4, y * scale - tip.offsetHeight - 10)}px`;
  };
  svg.addEventListener("pointermove", enter);
  svg.addEventListener("focusin", enter);
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("focusout", leave);
  svg.addEventListener("keydown", (event) => event.key === "Escape" && leave());
}

/** What is changed, and what comes of it: the metric between corrupt and clean, the gradient's cosine, the other seeds. */
function changeView(board) {
  const { doc } = board;
  const out = Object.fromEntries(["whole", "metric", "difference", "effect", "cosine", "accuracy"].map((name) => [name, h("output", { "data-readout": name })]));
  const row = (label, name) => h("div", {}, h("dt", { text: label }), h("dd", {}, out[name]));
  const title = h("h2");
  const about = h("p", { class: "about" });
  const buttons = [...Object.keys(CHANGES), "clear"].map((change) =>
    h("button", { type: "button", "data-change": change, onclick: () => board.change(board.state.edge, change) }, CHANGES[change] ? h("b", { text: CHANGES[change] }) : null, ` ${change}`));
  const changes = h("ul", { class: "changes" });
  const between = h("div", { class: "between" });
  const note = h("p", { class: "note", role: "status" });
  const curve = h("div");
  const element = h("section", { class: "card change", "aria-label": "What is changed" }, title, about, h("div", { class: "buttons" }, buttons), changes, between,
    h("dl", { class: "numbers" }, row(`${doc.metric}, whole`, "whole"), row("changed", "metric"), row("difference", "difference"),
      row("effect", "effect"), row("gradient cosine", "cosine"), row("accuracy", "accuracy")), note, curve);
  const draw = () => {
    const { edge, changes: made, at } = board.state;
    const i = board.edgeNumber.get(edge);
    const found = outcome(board);
    const whole = board.run.clean[at];
    const metric = found ? found.metric ?? null : whole;
    title.textContent = edge ?? "Cut an edge";
    about.textContent = edge ? changeWords(board, edge) : "Click an edge, or choose it with the arrow keys and Enter: it carries the corrupt run's values then.";
    for (const button of buttons) {
      const { change } = button.dataset;
      button.disabled = !edge || (change !== "clear" && !board.changesOf(edge).includes(change));
      set(button, { "aria-pressed": change === "clear" ? null : String(made[edge] === change) });
    }
    changes.replaceChildren(...(Object.keys(made).length > 1 ? Object.entries(made) : []).map(([name, change]) =>
      h("li", {}, `${name}: ${change} `, h("button", { type: "button", text: "✕", "aria-label": `take back ${name}`, onclick: () => board.change(name, "clear") }))));
    show(out.whole, whole);
    show(out.metric, metric);
    show(out.difference, metric === null ? null : metric - whole);
    show(out.effect, found ? found.effect ?? null : edge ? board.effect(i) : null);
    show(out.cosine, found?.cosine ?? null);
    show(out.accuracy, found ? found.accuracy ?? null : board.run.accuracy?.[at] ?? null);
    between.replaceChildren(betweenLine(board.run, at, metric));
    note.textContent = found ? found.note || (found.live ? "Live: computed now by the kernel." : board.asks ? "Precomputed; the kernel is asked …" : "Precomputed.") : "";
    curve.replaceChildren(...(edge ? [effectCurve(board, i)] : []), ...(edge ? otherSeeds(board, i) : []));
  };
  return { element, draw };
}

/** Says what an edge's change does, in the document's words. */
function changeWords(board, edge) {
  const change = board.state.changes[edge];
  const i = board.edgeNumber.get(edge);
  const effect = withInterval(...["effect", "low", "high"].map((field) => board.effect(i, "edge", field)));
  return `Effect when cut at step ${count(board.step)}: ${effect}. ` + (change ? `Now ${change}: ${board.doc.words?.[change] ?? ""}.` : "Nothing is changed here.");
}

/** The metric on a line from the corrupt run's to the clean run's. */
function betweenLine(run, at, metric) {
  const [clean, corrupt] = [run.clean[at], run.corrupt[at]];
  const ends = known([clean, corrupt, metric]);
  const x = line([Math.min(...ends), Math.max(...ends)], [8, 372]);
  const anchor = (value) => (x(value) < 120 ? "start" : x(value) > 260 ? "end" : "middle");
  const mark = (value, label, fill) => s("g", {}, s("circle", { cx: x(value), cy: 24, r: 5, fill, stroke: INK }),
    s("text", { x: x(value), y: 44, "text-anchor": anchor(value), text: label }));
  return s("svg", { viewBox: "0 0 380 50", role: "img", "aria-label": `clean ${fmt(clean)}, corrupt ${fmt(corrupt)}, changed ${fmt(metric)}` },
    s("path", { d: `M${x(corrupt)},24H${x(clean)}`, stroke: "#c9ced6", "stroke-width": 3 }), mark(corrupt, `corrupt ${fmt(corrupt)}`, "#fff"), mark(clean, `clean ${fmt(clean)}`, INK),
    metric === null ? null : s("path", { d: `M${x(metric)},18l-6,-10h12Z`, fill: "#E69F00", stroke: INK }));
}

/** Returns the path of a line through points; a value that was not measured interrupts it. */
function path(values, x, y) {
  return values.map((value, i) => (value === null || value === undefined ? "" : `${i && known([values[i - 1]]).length ? "L" : "M"}${x(i).toFixed(1)},${y(value).toFixed(1)}`)).join("");
}

/** An edge's effect over training, with its interval. */
function effectCurve(board, i) {
  const { run, state } = board;
  const of = (field) => run.steps.map((_, at) => measured(run, "edge", field, at, i));
  const [effect, low, high] = ["effect", "low", "high"].map(of);
  const all = known([...effect, ...low, ...high, 0]);
  const x = line([0, run.steps.length - 1], [6, 294]);
  const y = line([Math.min(...all), Math.max(...all)], [62, 8]);
  const band = low.every((v) => v !== null) ? `${path(high, x, y)}L${[...low.keys()].reverse().map((at) => `${x(at)},${y(low[at])}`).join("L")}Z` : null;
  const { colour } = ROUTES[board.doc.edges[i].route];
  return h("figure", {}, h("figcaption", { text: `Its effect over training, ${fmt(Math.min(...all))} to ${fmt(Math.max(...all))}` }),
    s("svg", { viewBox: "0 0 300 70", "aria-hidden": "true" }, s("path", { d: `M6,${y(0)}H294`, stroke: "#c9ced6" }), band && s("path", { d: band, fill: colour, "fill-opacity": 0.18 }),
      s("path", { d: path(effect, x, y), fill: "none", stroke: colour, "stroke-width": 2 }), known([effect[state.at]]).map((e) => s("circle", { cx: x(state.at), cy: y(e), r: 4, fill: colour }))));
}

/** The same edge in the other runs. */
function otherSeeds(board, i) {
  const others = board.doc.runs.slice(1).map((run) => `${run.name} ${fmt(measured(run, "edge", "effect", nearest(run.steps, board.step), i))}`);
  return others.length ? [h("p", { class: "seeds", text: `Other runs at this step: ${others.join("; ")}.` })] : [];
}

/** The head that is chosen: its pattern on a prompt, what its values are made of, its share by route. */
function headView(board) {
  const title = h("h2");
  const choice = h("select", { "aria-label": "Prompt", "data-control": "prompt", onchange: () => board.choose({ prompt: Number(choice.value) }, false) });
  const said = h("p", { class: "note", role: "status" });
  const [tokens, shares] = [h("div", { class: "tokens" }), h("div", { class: "shares" })];
  const own = ownPrompt(board);
  const element = h("section", { class: "card head", "aria-label": "Head" }, title, h("label", { class: "prompt" }, "Prompt ", choice), own, said, tokens, shares);
  let drawn = null;
  const draw = () => {
    const { state, doc } = board;
    const prompt = board.prompts[state.prompt];
    const node = doc.nodes[board.nodeNumber.get(state.node)];
    own.hidden = !board.asks;
    const key = JSON.stringify([state.node, state.prompt, state.at, board.prompts.length, prompt?.steps]);
    if (key === drawn) return;
    drawn = key;
    title.textContent = node ? `Head ${node.name}` : "No head";
    choice.replaceChildren(...board.prompts.map((p, i) => h("option", { value: i, text: `${p.text ? "yours: " : ""}${p.tokens.map(words).join(" ")}` })));
    choice.value = state.prompt;
    choice.parentElement.hidden = !board.prompts.length;
    const numbers = node && prompt ? onPrompt(doc, prompt, node, board.step) : null;
    const kept = numbers && prompt.steps[numbers.at];
    said.textContent = !numbers ? "No prompt is in this document." : kept === board.step ? "" : `At step ${count(kept)}, the nearest that was kept for prompts.`;
    tokens.replaceChildren(...(numbers ? tokenViews(prompt, numbers) : []));
    shares.replaceChildren(...(node ? sharesOf(board, node) : []));
  };
  return { element, draw };
}

/** A field for a prompt in the user's own words, which a kernel answers. */
function ownPrompt(board) {
  const text = h("input", { type: "text", "aria-label": "A prompt of your own", placeholder: "A prompt of your own" });
  const said = h("p", { class: "note", role: "alert" });
  const asked = (event) => {
    event.preventDefault();
    said.textContent = "The kernel is asked …";
    board.askPrompt(text.value, (error) => (said.textContent = error));
  };
  return h("form", { class: "own-prompt", onsubmit: asked }, text, h("button", { text: "Show" }), said);
}

/** A prompt by token: the pattern, the row of the position that is read, the norms of the values. */
function tokenViews(prompt, numbers) {
  const n = prompt.tokens.length;
  const names = prompt.tokens.map(words);
  const [left, cell] = [66, Math.min(30, 330 / n)];
  const x = (i) => left + (i + 0.5) * cell;
  const width = 400;
  const below = n * cell + 8;
  const deep = below + 12 + 6.6 * Math.max(...names.map((name) => short(name).length));
  const cursor = s("rect", { class: "cursor", width: cell, height: cell });
  const cells = names.flatMap((_, q) => names.slice(0, q + 1).map((__, k) => s("rect", { x: left + k * cell, y: 4 + q * cell, width: cell - 0.5, height: cell - 0.5,
    fill: "#0072B2", "fill-opacity": Math.max(0.04, numbers.weight(q, k)).toFixed(3), "data-cell": `${q},${k}` })));
  const marked = (i) => Object.values(prompt.roles ?? {}).flat().includes(i) || i === prompt.read_at;
  const label = (i, attributes) => s("text", { ...attributes, style: `font-size:${Math.min(11, cell)}px`, class: marked(i) ? "role" : null, text: short(names[i]) });
  const rows = cell < 7 ? [] : names.map((_, q) => label(q, { x: left - 5, y: 4 + (q + 0.75) * cell, "text-anchor": "end" }));
  const columns = cell < 7 ? [] : names.map((_, k) => label(k, { transform: `translate(${x(k) + 3},${below}) rotate(-90)`, "text-anchor": "end" }));
  const bars = names.map((_, k) => k <= prompt.read_at ? s("rect", { x: x(k) - cell * 0.35, width: cell * 0.7, y: deep + 6 + 36 * (1 - numbers.weight(prompt.read_at, k)), height: Math.max(0.6, 36 * numbers.weight(prompt.read_at, k)), fill: "#0072B2" }) : null);
  const norms = normLines(numbers, x, deep + 68);
  const said = h("p", { class: "cell", "aria-live": "polite" });
  const svg = s("svg", { viewBox: `0 0 ${width} ${deep + (norms.length ? 130 : 48)}`, tabindex: 0, role: "img", "data-part": "pattern", "aria-label": "Attention pattern: arrow keys move over queries and keys" },
    cells, s("rect", { class: "read", x: left, y: 4 + prompt.read_at * cell, width: cell * (prompt.read_at + 1), height: cell }), cursor, rows, columns,
    s("text", { class: "caption", x: 0, y: deep, "data-part": "read", text: `attention from “${short(names[prompt.read_at] ?? "", 14)}”, where it is read` }), s("path", { d: `M${left},${deep + 42}H${left + n * cell}`, stroke: "#c9ced6" }), bars, norms);
  const look = ([q, k]) => {
    set(cursor, { x: left + k * cell, y: 4 + q * cell });
    const norm = ["own", "incoming", "mixed"].filter((route) => numbers[route]).map((route) => `${route} ${fmt(numbers[route][k])}`).join(", ");
    show(said, numbers.weight(q, k), `query “${names[q]}” (${q}) → key “${names[k]}” (${k}): ${fmt(numbers.weight(q, k))}${norm ? `; norms of its value: ${norm}` : ""}`);
  };
  lookAround(svg, look, prompt.read_at);
  return [rolesLine(prompt, names), svg, said];
}

/** Lets the pointer and the arrow keys choose a cell of the pattern. */
function lookAround(svg, look, row) {
  let cell = [row, row];
  const go = (q, k) => look((cell = [q, Math.min(q, k)]));
  svg.addEventListener("pointerover", (event) => event.target.dataset.cell && go(...event.target.dataset.cell.split(",").map(Number)));
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    const next = move && [cell[0] + move[0], cell[1] + move[1]];
    if (!next || !svg.querySelector(`[data-cell="${next[0]},0"]`) || next[1] < 0) return;
    event.preventDefault();
    go(...next);
  });
  go(row, 0);
}

/** Who plays which role in a prompt, and what would be right and wrong. */
function rolesLine(prompt, names) {
  const roles = Object.entries(prompt.roles ?? {}).map(([role, places]) => `${role}: ${places.map((i) => `${names[i]} (${i})`).join(", ")}`);
  const ends = [["answer", prompt.answer], ["wrong", prompt.wrong]].filter(([, value]) => value !== null && value !== undefined).map(([name, value]) => `${name}: ${words(String(value))}`);
  return h("p", { class: "roles", text: [...ends, ...roles].join(" · ") });
}

/** The norms of own, incoming and mixed values by token. */
function normLines(numbers, x, top) {
  const looks = { own: ["#56B4E9", "M-3,0a3,3 0 1 0 6,0a3,3 0 1 0 -6,0"], incoming: ["#D55E00", "M0,-4l4,7h-8Z"], mixed: [INK, "M-3,-3h6v6h-6Z"] };
  const there = Object.entries(looks).filter(([route]) => numbers[route]);
  if (!there.length) return [];
  const y = line([0, Math.max(...there.flatMap(([route]) => numbers[route]), 1e-9)], [top + 56, top + 6]);
  const key = there.map(([route, [fill, mark]], i) => s("g", { transform: `translate(${150 + 78 * i},${top - 8})` }, s("path", { d: mark, fill }), s("text", { class: "caption", x: 8, y: 4, text: route })));
  const series = there.map(([route, [fill, mark]]) => s("g", { "data-norms": route }, s("path", { d: path(numbers[route], x, y), stroke: fill, fill: "none", "stroke-opacity": 0.5 }),
    numbers[route].map((value, i) => s("path", { d: mark, fill, transform: `translate(${x(i)},${y(value)})` }))));
  return [s("text", { class: "caption", x: 0, y: top - 4, text: "norms of its values:" }), ...key, ...series, s("path", { d: `M${x(0)},${top + 56}H${x(numbers[there[0][0]].length - 1)}`, stroke: "#c9ced6" })];
}

/** A head's effect by route, as bars and numbers. */
function sharesOf(board, node) {
  const here = (board.run.shares?.[board.state.at] ?? []).filter((share) => share.layer === node.layer && share.head === node.head);
  const routes = ["own", "stream", "interaction", "total"];
  const all = [0, 1, ...here.flatMap((share) => routes.flatMap((route) => known(share[route] ?? [])))];
  const x = line([Math.min(...all), Math.max(...all)], [4, 116]);
  const bar = ([effect, low, high], fill) => s("svg", { viewBox: "0 0 120 14", "aria-hidden": "true" }, s("rect", { x: Math.min(x(0), x(effect)), width: Math.abs(x(effect) - x(0)), y: 2, height: 10, fill }),
    s("path", { d: `M${x(0)},0V14`, stroke: GREY }), low === null || low === undefined ? null : s("path", { d: `M${x(low)},7H${x(high)}M${x(low)},4V10M${x(high)},4V10`, stroke: INK }));
  const fill = { own: "#56B4E9", stream: "#D55E00", interaction: "#CC79A7", total: "#9aa1ac" };
  return here.map((share) => h("table", {}, h("caption", { text: `Effect of its ${share.carrier} by route: own + stream + interaction = total` }),
    h("tbody", {}, routes.filter((route) => share[route]).map((route) => h("tr", {}, h("th", { scope: "row", text: route }), h("td", {}, bar(share[route], fill[route])),
      h("td", { "data-share": `${node.name}.${share.carrier}:${route}`, "data-value": share[route][0], text: withInterval(...share[route]) }))))));
}

/** Training: the slider over checkpoints under the metric of the clean and the corrupt run. */
function trainingView(board) {
  const { run, doc } = board;
  const last = run.steps.length - 1;
  const slider = h("input", { type: "range", min: 0, max: last, step: 1, "data-control": "step", "aria-label": "Checkpoint", oninput: () => board.choose({ at: Number(slider.value) }) });
  const said = h("output", { "data-readout": "step" });
  const chart = h("div", { class: "chart" });
  let timer = null;
  const stop = () => (clearInterval(timer), (timer = null), (play.textContent = "▶ play"));
  const tick = () => (board.state.at < last && element.isConnected ? board.choose({ at: board.state.at + 1 }) : stop());
  const start = () => (board.choose({ at: board.state.at === last ? 0 : board.state.at }), (timer = setInterval(tick, 500)), (play.textContent = "❚❚ pause"));
  const play = h("button", { type: "button", text: "▶ play", "data-control": "play", onclick: () => (timer ? stop() : start()) });
  const element = h("section", { class: "card", "aria-label": "Training" }, h("div", { class: "tools" }, h("h2", { text: `${doc.metric} over training` }), said, last ? play : null), chart, last ? slider : null);
  const draw = () => {
    slider.value = board.state.at;
    set(slider, { "aria-valuetext": `step ${count(board.step)}` });
    show(said, board.step, `step ${count(board.step)} of ${count(run.steps[last])}`);
    chart.replaceChildren(metricChart(board, chart.clientWidth || 600));
  };
  return { element, draw, stop };
}

/** The metric of the clean and the corrupt run over training, and with the chosen edge cut. */
function metricChart(board, width) {
  const { run, state } = board;
  const cut = state.edge ? run.steps.map((_, at) => measured(run, "edge", "metric", at, board.edgeNumber.get(state.edge))) : [];
  const lines = [["clean", run.clean, INK, null], ["corrupt", run.corrupt, GREY, "5 4"], ["edge cut", cut, "#B8720A", "2 3"]].filter(([, values]) => known(values).length);
  const all = lines.flatMap(([, values]) => known(values));
  const x = line([0, Math.max(1, run.steps.length - 1)], [8, width - 8]);
  const y = line([Math.min(...all), Math.max(...all)], [112, 22]);
  const last = run.steps.length - 1;
  const every = Math.ceil((run.steps.length * 56) / width);
  const key = lines.map(([name, , stroke, dash], i) => s("g", { transform: `translate(${8 + 92 * i},8)` }, s("path", { d: "M0,0H22", stroke, "stroke-width": 2, "stroke-dasharray": dash }), s("text", { x: 27, y: 4, text: name })));
  return s("svg", { viewBox: `0 0 ${width} 136`, role: "img", "aria-label": `At step ${count(board.step)}: clean ${fmt(run.clean[state.at])}, corrupt ${fmt(run.corrupt[state.at])}` }, key,
    s("path", { d: `M${x(state.at)},18V116`, stroke: "#E69F00", "stroke-width": 2 }),
    lines.map(([, values, stroke, dash]) => [s("path", { d: path(values, x, y), fill: "none", stroke, "stroke-width": 2, "stroke-dasharray": dash }), known([values[state.at]]).map((v) => s("circle", { cx: x(state.at), cy: y(v), r: 3.5, fill: stroke }))]),
    [Math.min(...all), Math.max(...all)].map((v) => s("text", { x: width - 16, y: y(v) - 4, "text-anchor": "end", class: "axis", text: fmt(v) })),
    run.steps.map((step, i) => (last - i) % every ? null : s("text", { x: x(i), y: 132, "text-anchor": i === last ? "end" : i ? "middle" : "start", class: "axis", text: count(step) })));
}

/** Every run's graph in small, at the same step or the nearest. */
function seedsView(board) {
  const { doc } = board;
  const place = layout(doc, 260);
  const smalls = doc.runs.map((run) => {
    const paths = doc.edges.map((edge, i) => s("path", { d: edgeCurve(board, i, place).d, fill: "none", stroke: ROUTES[edge.route].colour, "stroke-dasharray": ROUTES[edge.route].dash }));
    const boxes = doc.nodes.filter((node) => node.kind !== "projection").map((node) => [node, place.nodes.get(node.name)]).map(([, at]) => s("rect", { x: at.x - at.w / 2, y: at.y - at.h / 2, width: at.w, height: at.h, rx: 6, fill: "#fff", stroke: GREY }));
    const svg = s("svg", { viewBox: `0 0 ${place.width} ${place.height}`, role: "img", preserveAspectRatio: "none" }, paths, boxes);
    return { run, paths, svg, caption: h("figcaption"), element: null };
  });
  smalls.forEach((small) => (small.element = h("figure", {}, small.caption, small.svg)));
  const element = h("section", { class: "card seeds", "aria-label": "Runs", hidden: doc.runs.length < 2 }, h("h2", { text: "Every run at this step" }), h("div", { class: "grid" }, smalls.map((small) => small.element)));
  const draw = () => doc.runs.length > 1 && smalls.forEach(({ run, paths, svg, caption }) => {
    const at = nearest(run.steps, board.step);
    const off = run.steps[at] === board.step ? "" : ` at step ${count(run.steps[at])}`;
    caption.textContent = `${run.name}${off}: clean ${fmt(run.clean[at])}`;
    set(svg, { "aria-label": `Graph of ${caption.textContent}` });
    paths.forEach((element, i) => {
      const effect = measured(run, "edge", "effect", at, i);
      const chosen = doc.edges[i].name === board.state.edge;
      const shown = chosen || (effect !== null && Math.abs(effect) >= board.least && board.state.routes[doc.edges[i].route]);
      set(element, { ...weight(effect, board.most, 5), display: shown ? null : "none", class: chosen ? "chosen" : null });
    });
  });
  return { element, draw };
}

/** All edges as a table that can be sorted: the graph without a picture. */
function tableView(board) {
  const { doc } = board;
  const columns = ["edge", "route", "effect", "low", "high", "metric", "cosine"];
  const heads = { metric: `${doc.metric} when cut`, cosine: "gradient cosine when cut" };
  const sort = { by: "effect", down: true };
  const body = h("tbody");
  const buttons = columns.map((column) => h("th", { scope: "col" }, h("button", { type: "button", "data-sort": column, text: heads[column] ?? column, onclick: () => (Object.assign(sort, { down: sort.by === column ? !sort.down : true, by: column }), draw()) })));
  const element = h("details", { class: "card", ontoggle: () => draw() }, h("summary", { text: `Table of all ${count(doc.edges.length)} edges` }), h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, buttons)), body)));
  const cell = (i, column) => ({ edge: doc.edges[i].name, route: doc.edges[i].route })[column] ?? board.effect(i, "edge", column);
  const draw = () => {
    if (!element.open) return;
    const rank = (i) => (sort.by === "effect" ? Math.abs(cell(i, "effect") ?? -1) : cell(i, sort.by) ?? -Infinity);
    const order = [...doc.edges.keys()].sort((a, b) => (rank(a) < rank(b) ? -1 : 1) * (sort.down ? -1 : 1));
    buttons.forEach((th, c) => set(th, { "aria-sort": columns[c] === sort.by ? (sort.down ? "descending" : "ascending") : null }));
    body.replaceChildren(...order.map((i) => h("tr", {}, columns.map((column) => {
      const value = cell(i, column);
      if (column === "edge") return h("th", { scope: "row" }, h("button", { type: "button", class: "name", text: value, onclick: () => board.turn(value) }));
      return column === "route" ? h("td", { text: value }) : h("td", { "data-value": value, text: fmt(value) });
    }))));
  };
  return { element, draw };
}

// --- 6 Mounting -----------------------------------------------------------------------------------------------------------

/** Draws a document into an element and returns the board; `link` is a kernel: {live, ask(message), set(traits)}. */
export function mount(element, data, link = null) {
  element.classList.add("switchboard");
  if (data?.format !== FORMAT) {
    element.replaceChildren(h("p", { class: "note", role: "alert", text: `This is no switchboard that this page can read: expected the format “${FORMAT}”.` }));
    return null;
  }
  const board = new Board(data, link);
  const [header, graph, change, head, training, seeds, table] = (board.views = [headerView, graphView, changeView, headView, trainingView, seedsView, tableView].map((view) => view(board)));
  element.replaceChildren(header.element, h("div", { class: "columns" }, h("div", {}, graph.element, training.element, seeds.element), h("div", {}, change.element, head.element)), table.element);
  let width = element.clientWidth;
  graph.build();
  board.draw();
  const observer = new ResizeObserver(() => {
    if (element.clientWidth === width) return;
    width = element.clientWidth;
    graph.build();
    board.draw();
  });
  observer.observe(element);
  board.destroy = () => (observer.disconnect(), training.stop());
  return board;
}

/** Makes a link of a notebook's model: messages with numbers, and the traits that Python sees. */
function linkOf(model) {
  const waiting = new Map();
  let last = 0;
  const receive = (message) => {
    waiting.get(message?.id)?.(message);
    waiting.delete(message?.id);
  };
  model.on("msg:custom", receive);
  const ask = (message) => new Promise((resolve) => (waiting.set((last += 1), resolve), model.send({ id: last, ...message })));
  const tell = (traits) => (Object.entries(traits).forEach(([name, value]) => model.set(name, value)), model.save_changes());
  return { live: model.get("live"), ask, set: tell, close: () => model.off("msg:custom", receive) };
}

/** Draws the widget of a notebook, and follows what Python sets. */
function render({ model, el }) {
  const root = h("div");
  el.append(root);
  const link = linkOf(model);
  let board = mount(root, JSON.parse(model.get("data")), link);
  const follow = () => board?.follow({ step: model.get("step"), selected: model.get("selected"), changes: model.get("changes") });
  const again = () => (board?.destroy(), (board = mount(root, JSON.parse(model.get("data")), link)));
  const followed = ["change:step", "change:selected", "change:changes"];
  followed.forEach((name) => model.on(name, follow));
  model.on("change:data", again);
  follow();
  return () => (followed.forEach((name) => model.off(name, follow)), model.off("change:data", again), link.close(), board?.destroy());
}

export default { render };
