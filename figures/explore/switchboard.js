// The route switchboard: a model's graph, its heads and its edges by route, over training; one module, nothing else.
// `mount(element, data, link)` draws a document ("valuestream switchboard 1"); `link` is a kernel, or null without one.
// What users name (tokens, runs, facts) only ever becomes the text of a node or the value of an attribute.

const FORMAT = "valuestream switchboard 1";
/** So long a kernel may take before it is said to be gone, in milliseconds. */
const PATIENCE = 8000;
/** So many edges are shown at first, at most. */
const READABLE = 40;
const ROUTES = {
  residual: { colour: "#222222", dash: null, words: "through the residual stream" },
  stream: { colour: "#0072B2", dash: "9 4", words: "through the residual attention stream" },
  own: { colour: "#7A5195", dash: "0.1 4.5", words: "a carried projection to its own head" },
};
const CHANGES = { cut: "✕", stop: "‖", "gradient-only": "∇" };
const INK = "#1b1f24";
const GREY = "#6b7280";

// --- 1 Elements and numbers -----------------------------------------------------------------------------------------

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

// --- 2 The document -------------------------------------------------------------------------------------------------

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
  const of = (field) => run.gates?.[change]?.[field]?.[i] ?? null;
  return { metric: of("metric"), effect: lost(run, last, of("metric")), cosine: of("cosine") };
}

/** Returns what the metric is with the changes as they are, and who says so: the kernel, or the document. */
function outcome(board) {
  const names = Object.keys(board.state.changes);
  if (!names.length) return null;
  const answer = board.answers.get(board.question());
  if (answer && !answer.error) return { ...answer, live: true };
  const found = { ...precomputed(board, names.at(-1), board.state.changes[names.at(-1)]), live: false };
  const several = names.length > 1 && !board.asks;
  if (several) found.note = `Several changes at once need a kernel: shown is the last one, ${names.at(-1)}.`;
  if (answer?.error) found.note = answer.error;
  return found;
}

// --- 3 Where things stand -------------------------------------------------------------------------------------------

/** Returns where every node stands in a drawing `width` pixels wide: layers upwards, heads side by side. */
function layout(doc, width) {
  const kinds = new Set(doc.nodes.map((node) => node.kind));
  const heads = Math.max(1, doc.heads);
  const left = kinds.has("table") ? 70 : 28;
  const right = kinds.has("mlp") ? 74 : 28;
  const pitch = clamp((width - left - right) / heads, 62, 190);
  const box = { w: clamp(pitch * 0.66, 48, 118), h: 60 };
  const row = box.h + (kinds.has("mlp") ? 92 : 72);
  const full = left + right + pitch * heads;
  const total = Math.max(full, Math.min(width, 440));
  const x0 = (total - full) / 2 + left;
  const top = 50 + row - box.h - 8;
  const place = { heads, pitch, box, row, x0, width: total, top, lanes: new Map(), nodes: new Map() };
  place.y = (layer) => top + (doc.layers - 1 - layer) * row;
  place.channels = Array.from({ length: heads + 1 }, (_, i) => x0 + i * pitch);
  place.height = place.y(0) + box.h + 62 + 32;
  place.zoom = clamp(Math.min(width / total, 640 / place.height), 1, 1.35);
  for (const node of doc.nodes) place.nodes.set(node.name, { kind: node.kind, ...spot(doc, node, place, right) });
  return place;
}

/** Returns where one node stands: the middle of its box, and its size. */
function spot(doc, node, place, right) {
  const { heads, pitch, box, x0 } = place;
  const across = { x: x0 + (pitch * heads + right) / 2 - 14, w: pitch * heads + right + 20, h: 30 };
  if (node.kind === "logits") return { ...across, y: 31, row: doc.layers };
  if (node.kind === "input") return { ...across, y: place.height - 19, row: -1 };
  const y = place.y(node.layer);
  const beside = x0 + pitch * heads + right - 43;
  if (node.kind === "mlp") return { x: beside, y: y - 32, w: 52, h: 30, row: node.layer + 0.5 };
  if (node.kind === "table") return { x: x0 - 45, y: y + box.h + 26, w: 44, h: 28, row: node.layer - 0.5 };
  if (node.kind === "head") return { x: x0 + (node.head + 0.5) * pitch, y: y + box.h / 2, ...box, row: node.layer };
  const shared = doc.nodes.filter((n) => n.carrier === node.carrier && n.layer === node.layer).length;
  const head = shared ? Math.floor((node.head * heads) / shared) : node.head;
  const side = { q: -1, k: 0, v: 1 }[node.carrier] * box.w * 0.31;
  return { x: x0 + (head + 0.5) * pitch + side, y: y + box.h, w: 16, h: 16, row: node.layer };
}

/** Returns a curve through points that leaves and enters each of them upright, and the middle of it. */
function curve(points, start = `M${points[0]}`) {
  // What is upright all along has no width, and what has no width some tools take for hidden.
  if (points.every(([x]) => x === points[0][0])) points.at(-1)[0] += 0.5;
  const parts = points.slice(1).map(([x, y], i) => {
    const middle = (points[i][1] + y) / 2;
    return `C${points[i][0]},${middle} ${x},${middle} ${x},${y}`;
  });
  const at = Math.floor((points.length - 1) / 2);
  const [a, b] = [points[at], points[at + 1]];
  return { d: [start, ...parts].join(""), middle: [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2] };
}

/** Returns the curve of every edge, and its middle. Strong edges take the lanes between heads first. */
function curvesOf({ doc, ranks }, place) {
  const curves = [];
  const order = [...doc.edges.keys()].sort((a, b) => ranks[a] - ranks[b]);
  for (const i of order) curves[i] = edgeCurve(doc.edges[i], place);
  return curves;
}

/** Returns a lane in the channel between two columns of heads that is nearest to `wanted`. */
function lane(place, wanted) {
  const channel = place.channels.reduce((a, b) => (Math.abs(b - wanted) < Math.abs(a - wanted) ? b : a));
  const taken = place.lanes.get(channel) ?? 0;
  place.lanes.set(channel, taken + 1);
  // Multiples of the golden ratio lie far from each other, however many there will be.
  return channel + (((0.5 + taken * 0.618) % 1) - 0.5) * Math.min(place.pitch - place.box.w - 10, 44);
}

/** Returns the curve of an edge. Where it passes heads it goes between them. */
function edgeCurve(edge, place) {
  const from = place.nodes.get(edge.source);
  const to = place.nodes.get(edge.target);
  if (edge.route === "own") return { d: `M${from.x},${from.y - 8}l0.5,-17`, middle: [from.x, from.y - 17] };
  if (from.kind === "projection") return streamCurve(from, to, place);
  if (from.kind === "table") return tableCurve(from, to, place);
  const start = [from.x, from.y - from.h / 2];
  const end = [to.x, to.y + to.h / 2];
  const bar = { from: from.kind === "input", to: to.kind === "logits" };
  if (bar.from) start[0] = bar.to ? place.channels[0] + place.pitch / 2 : end[0];
  if (bar.to) end[0] = start[0];
  const first = Math.floor(from.row) + 1;
  const last = Math.ceil(to.row) - 1;
  if (first > last) return curve([start, end]);
  // Between a column and itself both sides are as near: a little of the way that it goes decides.
  const channel = lane(place, (start[0] + end[0]) / 2 + (end[0] - start[0] || from.row % 2 || -1) / 100);
  if (bar.from) start[0] = channel;
  if (bar.to) end[0] = channel;
  return curve([start, [channel, place.y(first) + place.box.h + 4], [channel, place.y(last) - 4], end]);
}

/** Returns the curve of a stream's edge: out of the port, round the head's side, up to the other port. */
function streamCurve(from, to, place) {
  if (from.row === to.row) {
    const below = from.y + 34;
    const d = `M${from.x},${from.y + 8}C${from.x},${below} ${to.x},${below} ${to.x},${to.y + 8}`;
    return { d, middle: [(from.x + to.x) / 2, from.y + 27] };
  }
  const side = lane(place, Math.min(...place.channels.filter((x) => x > from.x)));
  const up = place.y(from.row) + 10;
  const last = place.y(to.row - 1) - 2;
  const points = [[side, up], ...(to.row - from.row > 1 ? [[side, last]] : []), [to.x, to.y + 9]];
  const out = `M${from.x + 8},${from.y}C${side},${from.y} ${side},${from.y} ${side},${up}`;
  return curve(points, out);
}

/** Returns the curve of a table's edge: along below the heads, then up to the port. */
function tableCurve(from, to, place) {
  const out = [from.x + from.w / 2, from.y];
  const end = [to.x, to.y + 9];
  if (to.row - from.row < 1) {
    return { d: `M${out}C${end[0]},${out[1]} ${end[0]},${out[1]} ${end}`, middle: [(out[0] + end[0]) / 2, out[1]] };
  }
  const side = lane(place, place.channels[0]);
  const [low, high] = [place.y(Math.ceil(from.row)) + place.box.h, place.y(to.row - 1) - 2];
  return curve([[side, low], [side, high], end], `M${out}C${side},${out[1]} ${side},${out[1]} ${side},${low}`);
}

/** Returns how wide and how opaque an effect is drawn; `most` is the largest one. */
function weight(effect, most, thickest = 7) {
  const share = Math.sqrt(clamp(Math.abs(effect ?? 0) / (most || 1), 0, 1));
  const round = (value) => value.toFixed(2);
  return { "stroke-width": round(1.2 + (thickest - 1.2) * share), "stroke-opacity": round(0.3 + 0.7 * share) };
}

// --- 4 The board: what is chosen, and what follows ------------------------------------------------------------------

/** Holds what is chosen; every view draws itself from it. */
class Board {
  constructor(doc, link) {
    Object.assign(this, { doc, link, run: doc.runs[0], views: [], answers: new Map(), gone: false, busy: false });
    this.edgeNumber = new Map(doc.edges.map((edge, i) => [edge.name, i]));
    this.nodeNumber = new Map(doc.nodes.map((node, i) => [node.name, i]));
    this.prompts = [...(doc.prompts ?? [])];
    const sizes = known(this.run.edge.effect.flat()).map(Math.abs);
    this.most = Math.min(sizes.reduce((a, b) => Math.max(a, b), 0), 2) || 1;
    const routes = { residual: true, stream: true, own: true };
    const at = this.run.steps.length - 1;
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

  isStrong(i, effect) {
    return this.state.routes[this.doc.edges[i].route] && effect !== null && Math.abs(effect) >= this.least;
  }

  /** Whether an edge is drawn: it is strong, selected or changed. */
  isShown(i) {
    const { name } = this.doc.edges[i];
    return name === this.state.edge || name in this.state.changes || this.isStrong(i, this.effect(i));
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

// --- 5 Views: each makes its elements once, and draws what is chosen into them --------------------------------------

const STATUS = {
  live: "Live: the kernel computes changes and prompts as you ask; everything else was computed beforehand.",
  gone: "The kernel does not answer: it was stopped, or is busy. What is shown was computed beforehand.",
  precomputed: "Precomputed: every number here was computed beforehand; no kernel runs, and no network is needed.",
};

/** The title, what was found, of what, and who computes. */
function headerView(board) {
  const { doc } = board;
  const fact = ([name, value]) => h("div", {}, h("dt", { text: name }), h("dd", { text: value }));
  const said = h("span");
  const retry = () => {
    board.gone = false;
    board.draw();
    board.ask();
  };
  const again = h("button", { type: "button", text: "Ask again", onclick: retry });
  const status = h("p", { class: "status", role: "status" }, said, " ", again);
  const titles = [h("h1", { text: doc.title }), h("p", { class: "lead", text: doc.lead })];
  const element = h("header", {}, titles, h("dl", { class: "facts" }, (doc.facts ?? []).map(fact)), status);
  const draw = () => {
    const mode = board.asks ? "live" : board.gone ? "gone" : "precomputed";
    set(status, { "data-mode": mode });
    said.textContent = STATUS[mode];
    again.hidden = mode !== "gone";
  };
  return { element, draw };
}

/** The graph, and what of it is shown. */
function graphView(board) {
  const { doc } = board;
  const tip = h("div", { class: "tip", hidden: true });
  const svg = s("svg", { class: "graph", role: "group", "aria-label": "Graph of the model, layers upwards" });
  const holder = h("div", { class: "holder" }, svg, tip);
  const tools = graphTools(board);
  const element = h("section", { class: "card", "aria-label": "Graph" }, tools.element, holder, legend(board));
  const drawn = { place: null, edges: [], nodes: [] };
  const build = () => {
    drawn.place = layout(doc, holder.clientWidth || 800);
    Object.assign(drawn, drawGraph(board, svg, drawn.place));
  };
  const strongest = () => board.shown().map((i) => drawn.edges[i].group);
  const stops = [roving(svg, strongest), roving(svg, () => [...svg.querySelectorAll(".node")])];
  const drawTip = hovering(board, svg, tip, drawn);
  onChosen(svg, ({ edge, node }) => (edge === undefined ? openHead(board, node) : board.turn(edge)));
  const draw = () => {
    drawEdges(board, drawn.edges);
    drawNodes(board, drawn.nodes);
    tools.draw();
    drawTip();
    stops.forEach((stop) => stop());
  };
  return { element, draw, build };
}

/** Opens the head of a node: itself, or of a port the one that it belongs to. */
function openHead(board, name) {
  const { layer, head } = board.doc.nodes[board.nodeNumber.get(name)];
  const found = board.doc.nodes.find((node) => node.kind === "head" && node.layer === layer && node.head === head);
  if (found) board.choose({ node: found.name });
}

/** Which routes are shown, from which effect on, and the end of all changes. */
function graphTools(board) {
  const { doc, state } = board;
  const routes = Object.keys(ROUTES).filter((route) => doc.edges.some((edge) => edge.route === route));
  const said = h("output", { class: "count" });
  const hide = set(h("input", { type: "range", min: 0, max: 100, value: state.hide }), {
    "data-control": "hide",
    "aria-label": "Hide edges with an effect below",
    oninput: () => board.choose({ hide: Number(hide.value) }, false),
  });
  const clear = h("button", { type: "button", "data-change": "clear-all", text: "Clear all changes" });
  clear.addEventListener("click", () => board.choose({ changes: {} }));
  const weak = h("label", { class: "hide" }, h("span", { text: "hide weak edges" }), hide, said);
  const element = h("div", { class: "tools" }, routes.map((route) => routeBox(board, route)), weak, clear);
  const left = doc.edges_left_out ? `, ${count(doc.edges_left_out)} weaker ones are not in this document` : "";
  const draw = () => {
    clear.disabled = !Object.keys(board.state.changes).length;
    const shown = `${count(board.shown().length)} of ${count(doc.edges.length)} shown`;
    said.textContent = `below ${fmt(board.least)}: ${shown}${left}`;
  };
  return { element, draw };
}

/** A checkbox that shows the edges of one route, with how they are drawn. */
function routeBox(board, route) {
  const number = board.doc.edges.filter((edge) => edge.route === route).length;
  const input = h("input", { type: "checkbox", checked: true, "data-route": route });
  input.addEventListener("change", () => {
    board.choose({ routes: { ...board.state.routes, [route]: input.checked } }, false);
  });
  return h("label", { title: ROUTES[route].words }, input, sample(route), h("span", { text: `${route} (${number})` }));
}

/** How edges of a route are drawn, as attributes. */
const look = (route) => ({
  stroke: ROUTES[route].colour,
  "stroke-dasharray": ROUTES[route].dash,
  "stroke-linecap": route === "own" ? "round" : null,
});

/** A piece of line as edges of a route are drawn. */
function sample(route, size = { "stroke-width": 3 }) {
  const piece = s("path", { d: "M2,6H32", ...look(route), ...size });
  return s("svg", { width: 34, height: 12, "aria-hidden": "true" }, piece);
}

/** What colours, dashes, widths and marks mean. */
function legend(board) {
  const bold = (mark) => (typeof mark === "string" ? h("b", { text: mark }) : mark);
  const entry = (mark, text, title) => h("span", { title }, bold(mark), text);
  const routes = Object.entries(ROUTES).map(([route, of]) => entry(sample(route), `${route}: ${of.words}`));
  const widths = [0.05, 0.25, 1].map((share) => share * board.most);
  const sizes = widths.map((effect) => entry(sample("residual", weight(effect, board.most)), fmt(effect)));
  const marks = Object.entries(CHANGES).map(([change, mark]) => entry(mark, change, board.doc.words?.[change]));
  const others = [...marks, entry("−", "a negative effect"), entry("q k v", "ports of a head")];
  const effect =
    "Effect: the share of the clean-corrupt difference of the metric that is lost when the edge (or what a head " +
    "writes) carries the corrupt run's; 1 is all of it, 0 nothing. The larger it is, the greener is a head.";
  const rows = [routes, [h("span", { text: "width: |effect|" }), ...sizes, ...others], effect];
  return h("div", { class: "legend" }, rows.map((row) => h("p", {}, row)));
}

/** Lets arrow keys move among what can be chosen, so that Tab passes all of it in one step. */
function roving(element, items) {
  const stopAt = (stop) => items().forEach((item) => set(item, { tabindex: item === stop ? 0 : -1 }));
  element.addEventListener("keydown", (event) => {
    const all = items();
    const now = all.indexOf(event.target);
    const [on, back] = [now + 1, now - 1];
    const next = { ArrowRight: on, ArrowDown: on, ArrowLeft: back, ArrowUp: back, Home: 0, End: -1 }[event.key];
    if (now < 0 || next === undefined) return;
    event.preventDefault();
    const item = all[(next + all.length) % all.length];
    stopAt(item);
    item.focus();
  });
  return () => stopAt(items().find((item) => item.getAttribute("tabindex") === "0") ?? items()[0]);
}

/** Returns what an event in the graph means: what has the focus, or is under the pointer; of edges the nearest. */
function meant(svg, event) {
  const target = event.target.closest("[data-edge],[data-node]");
  if (target?.dataset.edge === undefined || !event.clientX) return target;
  const over = svg.getRootNode().elementsFromPoint(event.clientX, event.clientY);
  const groups = new Set(over.map((element) => element.closest("[data-edge]")).filter(Boolean));
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const distances = [...groups].map((group) => [group, distance(group.lastChild, at)]);
  return distances.reduce((best, next) => (next[1] < best[1] ? next : best), [target, Infinity])[0];
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
  svg.addEventListener("keydown", (event) => {
    if (["Enter", " "].includes(event.key) && chosen(event)) event.preventDefault();
  });
}

/** Returns the effect of an edge or a node with its interval. */
function effectOf(board, i, kind = "edge") {
  return withInterval(...["effect", "low", "high"].map((field) => board.effect(i, kind, field)));
}

/** What an edge is and does, in words. */
function edgeWords(board, i) {
  const { name } = board.doc.edges[i];
  const now = board.state.changes[name];
  const of = (field) => fmt(board.effect(i, "edge", field));
  const numbers = [[`${board.doc.metric} when cut`, of("metric")], ["gradient cosine when cut", of("cosine")]];
  return { name, rows: [["effect", effectOf(board, i)], ...numbers, ...(now ? [["now", now]] : [])] };
}

/** What a node is and does, in words. */
function nodeWords(board, i) {
  const { name, kind, carrier } = board.doc.nodes[i];
  const words = { projection: `${carrier} of a head`, mlp: "MLP", table: "table of value embeddings" }[kind] ?? kind;
  const measured = board.effect(i, "node") === null ? [] : [["effect", effectOf(board, i, "node")]];
  return { name, rows: [["kind", words], ...measured] };
}

const spoken = ({ name, rows }) => `${name}: ${rows.map((row) => row.join(" ")).join(", ")}`;

/** Draws every node and edge once; what changes with the step is set by drawEdges and drawNodes. */
function drawGraph(board, svg, place) {
  const { doc } = board;
  const arrow = `arrow-${Math.random().toString(36).slice(2)}`;
  const group = (label) => s("g", { role: "group", "aria-label": label });
  const below = group("Edges, strongest first: arrow keys move, Enter changes");
  const [boxes, inside] = [group("Nodes: arrow keys move, Enter opens a head"), group("Edges inside heads")];
  const badges = s("g");
  const edges = curvesOf(board, place).map((curve, i) => drawEdge(board, i, curve, arrow));
  // Streams above the rest, and strong ones above weak ones.
  const above = (i) => (doc.edges[i].route === "stream" ? 9 : 0) - board.ranks[i] / doc.edges.length;
  for (const i of [...edges.keys()].sort((a, b) => above(a) - above(b))) {
    (doc.edges[i].route === "own" ? inside : below).append(edges[i].group);
    badges.append(edges[i].badge);
  }
  const nodes = doc.nodes.map((node) => drawNode(node, place.nodes.get(node.name)));
  const row = (i) => place.nodes.get(doc.nodes[i].name).row + (doc.nodes[i].kind === "projection" ? 1e6 : 0);
  boxes.append(...[...nodes.keys()].sort((a, b) => row(a) - row(b)).map((i) => nodes[i].group));
  set(svg, { viewBox: `0 0 ${place.width} ${place.height}`, style: `width:${place.width * place.zoom}px` });
  svg.replaceChildren(s("defs", {}, arrowHead(arrow)), below, boxes, inside, badges);
  return { edges, nodes };
}

/** The end of a stream's edge. */
function arrowHead(id) {
  const size = { viewBox: "0 0 8 8", markerWidth: 9, markerHeight: 9, markerUnits: "userSpaceOnUse" };
  const place = { refX: 6.5, refY: 4, orient: "auto" };
  return s("marker", { id, ...size, ...place }, s("path", { d: "M0,0L8,4L0,8Z", fill: ROUTES.stream.colour }));
}

/** Draws one edge, wider to the pointer than to the eye, and the mark in its middle. */
function drawEdge(board, i, { d, middle }, arrow) {
  const { name, route } = board.doc.edges[i];
  const end = route === "stream" ? `url(#${arrow})` : null;
  const path = s("path", { d, class: "line", ...look(route), "marker-end": end });
  const attributes = { role: "button", "data-edge": name, class: `edge ${route}` };
  const group = s("g", attributes, s("path", { d, class: "hit" }), path);
  const mark = s("text", { y: 4 });
  const circle = s("circle", { r: 7.5, stroke: ROUTES[route].colour });
  const badge = s("g", { transform: `translate(${middle})` }, circle, mark);
  return { group, path, mark, middle, badge };
}

/** Draws one node: a box with its name and effect, or the port of a projection. */
function drawNode(node, at) {
  if (node.kind === "projection") {
    const port = { class: "port", "data-node": node.name, transform: `translate(${at.x},${at.y})` };
    return { group: s("g", port, s("circle", { r: 8 }), s("text", { y: 3.5, text: node.carrier })) };
  }
  const box = { x: at.x - at.w / 2, y: at.y - at.h / 2, width: at.w, height: at.h, rx: 7 };
  const isHead = node.kind === "head";
  const fill = s("rect", { ...box, class: "fill" });
  const label = s("text", { x: at.x, y: isHead ? box.y + 16 : at.y + 4, class: "name", text: node.name });
  const effect = isHead ? s("text", { x: at.x, y: box.y + 30, class: "effect" }) : null;
  const attributes = { role: isHead ? "button" : "img", class: `node ${node.kind}`, "data-node": node.name };
  return { group: s("g", attributes, s("rect", { ...box, class: "back" }), fill, label, effect), fill, effect };
}

/** Sets what of the edges changes with the step and with what is chosen. */
function drawEdges(board, drawn) {
  drawn.forEach(({ group, path, badge, mark }, i) => {
    const { name } = board.doc.edges[i];
    const change = board.state.changes[name];
    const shown = board.isShown(i);
    group.style.display = shown ? "" : "none";
    group.classList.toggle("selected", board.state.edge === name);
    group.classList.toggle("changed", Boolean(change));
    set(group, { "aria-label": spoken(edgeWords(board, i)), "aria-pressed": String(Boolean(change)) });
    set(path, weight(board.effect(i), board.most));
    mark.textContent = change ? CHANGES[change] : shown && board.effect(i) < 0 ? "−" : "";
    set(badge, { class: change ? "badge change" : "badge", display: mark.textContent ? null : "none" });
  });
}

/** Sets what of the nodes changes with the step and with what is chosen. */
function drawNodes(board, drawn) {
  drawn.forEach(({ group, fill, effect }, i) => {
    if (!fill) return;
    const size = board.effect(i, "node");
    const chosen = board.state.node === board.doc.nodes[i].name;
    set(fill, { "fill-opacity": (0.55 * Math.sqrt(clamp(Math.abs(size ?? 0), 0, 1))).toFixed(3) });
    if (effect) effect.textContent = size === null ? "" : fmt(size);
    group.classList.toggle("selected", chosen);
    set(group, { "aria-label": spoken(nodeWords(board, i)), "aria-pressed": effect ? String(chosen) : null });
  });
}

/** Shows in words what is under the pointer or has the focus, and dims what has nothing to do with it. */
function hovering(board, svg, tip, drawn) {
  let seen = null;
  const leave = () => {
    seen = null;
    tip.hidden = true;
    svg.classList.remove("dim");
    drawn.edges.forEach(({ group }) => group.classList.remove("lit"));
  };
  const enter = (event) => {
    const found = meant(svg, event);
    if (found && found === seen) return;
    leave();
    if (!found) return;
    seen = found;
    svg.classList.add("dim");
    const { edge, node } = found.dataset;
    const isOfNode = (end) => end === node || end.startsWith(`${node}.`);
    board.doc.edges.forEach(({ name, source, target }, i) => {
      if (name === edge || isOfNode(source) || isOfNode(target)) drawn.edges[i].group.classList.add("lit");
    });
    showTip(board, svg, tip, drawn, found.dataset);
  };
  const events = { pointermove: enter, focusin: enter, pointerleave: leave, focusout: leave };
  Object.entries(events).forEach(([name, act]) => svg.addEventListener(name, act));
  svg.addEventListener("keydown", (event) => event.key === "Escape" && leave());
  return () => seen && showTip(board, svg, tip, drawn, seen.dataset);
}

/** Shows the words of an edge or a node beside it. */
function showTip(board, svg, tip, { place, edges }, { edge, node }) {
  const i = (edge === undefined ? board.nodeNumber : board.edgeNumber).get(edge ?? node);
  const { name, rows } = edge === undefined ? nodeWords(board, i) : edgeWords(board, i);
  const list = rows.map(([what, value]) => [h("dt", { text: what }), h("dd", { text: value })]);
  tip.replaceChildren(h("b", { text: name }), h("dl", {}, list));
  tip.hidden = false;
  const box = place.nodes.get(node);
  const [x, y] = edge === undefined ? [box.x, box.y - box.h / 2] : edges[i].middle;
  const [frame, holder] = [svg, svg.parentElement].map((element) => element.getBoundingClientRect());
  const scale = frame.width / place.width;
  const right = holder.width - tip.offsetWidth - 4;
  tip.style.left = `${clamp(frame.left - holder.left + x * scale + 14, 4, Math.max(4, right))}px`;
  tip.style.top = `${Math.max(4, y * scale - tip.offsetHeight - 10)}px`;
}

/** What is changed, and what comes of it: the metric between corrupt and clean, the gradient, the other runs. */
function changeView(board) {
  const readouts = ["whole", "metric", "difference", "effect", "cosine", "accuracy"];
  const out = Object.fromEntries(readouts.map((name) => [name, h("output", { "data-readout": name })]));
  const labels = [`${board.doc.metric}, whole`, "changed", "difference", "effect", "gradient cosine", "accuracy"];
  const numbers = readouts.map((name, i) => h("div", {}, h("dt", { text: labels[i] }), h("dd", {}, out[name])));
  const [title, about, changes] = [h("h2"), h("p", { class: "about" }), h("ul", { class: "changes" })];
  const [between, runs] = [h("div", { class: "between" }), h("p", { class: "about" })];
  const note = h("p", { class: "note", role: "status", "data-readout": "note" });
  const buttons = [...Object.keys(CHANGES), "clear"].map((change) => changeButton(board, change));
  const row = h("div", { class: "buttons" }, buttons.map((button) => button.element));
  const parts = [title, about, row, changes, between, h("dl", { class: "numbers" }, numbers), note, runs];
  const element = h("section", { class: "card change", "aria-label": "What is changed" }, parts);
  const draw = () => {
    const { edge } = board.state;
    const found = outcome(board);
    const values = valuesOf(board, found);
    title.textContent = edge ?? "Cut an edge";
    about.textContent = changeWords(board);
    buttons.forEach((button) => button.draw());
    changes.replaceChildren(...changesMade(board));
    readouts.forEach((name) => show(out[name], values[name] ?? null));
    between.replaceChildren(betweenLine(values));
    note.textContent = noteOf(board, found);
    runs.textContent = runsWords(board);
  };
  return { element, draw };
}

/** Returns the numbers that are read out; with nothing changed, those of the clean run. */
function valuesOf(board, found) {
  const { at, edge } = board.state;
  const [whole, corrupt] = [board.run.clean[at], board.run.corrupt[at]];
  const effect = edge === null ? null : board.effect(board.edgeNumber.get(edge));
  const { metric = null, ...others } = found ?? { metric: whole, effect, accuracy: board.run.accuracy?.[at] };
  return { ...others, whole, corrupt, metric, difference: metric === null ? null : metric - whole };
}

/** A button that makes one change of the selected edge. */
function changeButton(board, change) {
  const mark = CHANGES[change] ? h("b", { text: `${CHANGES[change]} ` }) : null;
  const attributes = { type: "button", "data-change": change, title: board.doc.words?.[change] };
  const element = h("button", attributes, mark, change);
  element.addEventListener("click", () => board.change(board.state.edge, change));
  const draw = () => {
    const { edge, changes } = board.state;
    element.disabled = edge === null || (change !== "clear" && !board.changesOf(edge).includes(change));
    set(element, { "aria-pressed": change === "clear" ? null : String(edge !== null && changes[edge] === change) });
  };
  return { element, draw };
}

/** All changes where there are several, each with a button that takes it back. */
function changesMade(board) {
  const made = Object.entries(board.state.changes);
  const back = (name) => {
    const onclick = () => board.change(name, "clear");
    return h("button", { type: "button", text: "✕", "aria-label": `take back ${name}`, onclick });
  };
  return made.length < 2 ? [] : made.map(([name, change]) => h("li", {}, `${name}: ${change} `, back(name)));
}

/** Says what the selected edge's change does, in the document's words. */
function changeWords({ doc, state }) {
  if (state.edge === null) return "Click an edge, or reach it with Tab and arrow keys and press Enter: it is cut.";
  const change = state.changes[state.edge];
  const said = doc.words?.[change] ?? "";
  return change ? `${change[0].toUpperCase()}${change.slice(1)}: ${said}.` : "Nothing is changed here.";
}

/** Says where the numbers are from, or why there are none. */
function noteOf(board, found) {
  if (found === null) return "";
  if (found.note) return found.note;
  if (found.live) return "Live: computed now by the kernel.";
  if ((found.metric ?? null) === null) return "The metric with this change was not computed beforehand.";
  return board.asks ? "Precomputed; the kernel is asked …" : "Precomputed.";
}

/** The metric on a line from the corrupt run's to the clean run's. */
function betweenLine({ whole, corrupt, metric }) {
  const ends = known([whole, corrupt, metric]);
  const x = line([Math.min(...ends), Math.max(...ends)], [8, 372]);
  const anchor = (value) => (x(value) < 120 ? "start" : x(value) > 260 ? "end" : "middle");
  const mark = (name, value) => [
    s("circle", { cx: x(value), cy: 24, r: 5, class: name }),
    s("text", { x: x(value), y: 44, "text-anchor": anchor(value), text: `${name} ${fmt(value)}` }),
  ];
  const now = metric === null ? null : s("path", { d: `M${x(metric)},18l-6,-10h12Z`, class: "now" });
  const label = `clean ${fmt(whole)}, corrupt ${fmt(corrupt)}, changed ${fmt(metric)}`;
  const axis = s("path", { d: `M${x(corrupt)},24H${x(whole)}`, class: "axis" });
  const parts = [axis, mark("corrupt", corrupt), mark("clean", whole), now];
  return s("svg", { viewBox: "0 0 380 50", role: "img", "aria-label": label }, parts);
}

/** Returns a line through points; a value that was not measured interrupts it. */
function path(values, x, y) {
  const isKnown = (i) => known([values[i]]).length > 0;
  const point = (i) => `${isKnown(i - 1) ? "L" : "M"}${x(i).toFixed(1)},${y(values[i]).toFixed(1)}`;
  return values.map((_, i) => (isKnown(i) ? point(i) : "")).join("");
}

/** Says what the selected edge's effect is here, with its interval, and in the other runs. */
function runsWords(board) {
  const i = board.edgeNumber.get(board.state.edge);
  if (i === undefined) return "";
  const effect = (run) => fmt(measured(run, "edge", "effect", nearest(run.steps, board.step), i));
  const others = board.doc.runs.slice(1).map((run) => `${run.name} ${effect(run)}`);
  return `Effect when cut: ${effectOf(board, i)}${others.length ? `; in other runs: ${others.join(", ")}` : ""}.`;
}

/** The head that is chosen: its pattern on a prompt, what its values are made of, its share by route. */
function headView(board) {
  const { doc, state } = board;
  const choice = h("select", { "aria-label": "Prompt", "data-control": "prompt" });
  choice.addEventListener("change", () => board.choose({ prompt: Number(choice.value) }, false));
  const [title, said] = [h("h2"), h("p", { class: "note", role: "status" })];
  const [tokens, shares] = [h("div", { class: "tokens" }), h("div", { class: "shares" })];
  const own = ownPrompt(board);
  const pick = h("label", { class: "prompt" }, "Prompt ", choice);
  const element = h("section", { class: "card head", "aria-label": "Head" }, title, pick, own, said, tokens, shares);
  let drawn = null;
  const draw = () => {
    const prompt = board.prompts[state.prompt];
    own.hidden = !board.asks;
    if (own.hidden) own.lastChild.textContent = "";
    const key = JSON.stringify([state.node, state.prompt, state.at, board.prompts.length, prompt?.steps]);
    if (key === drawn) return;
    drawn = key;
    const node = doc.nodes[board.nodeNumber.get(state.node)];
    const numbers = node && prompt ? onPrompt(doc, prompt, node, board.step) : null;
    const kept = numbers ? prompt.steps[numbers.at] : null;
    title.textContent = node ? `Head ${node.name}` : "No head";
    pick.hidden = !board.prompts.length;
    choice.replaceChildren(...board.prompts.map((p, value) => h("option", { value, text: promptName(p) })));
    choice.value = state.prompt;
    said.textContent = promptNote(kept, board.step);
    tokens.replaceChildren(...(numbers ? tokenViews(prompt, numbers) : []));
    shares.replaceChildren(...(node ? sharesOf(board, node) : []));
  };
  return { element, draw };
}

/** Says where the numbers of a prompt are not those of the step that is shown. */
function promptNote(kept, step) {
  if (kept === null) return "No prompt is in this document.";
  return kept === step ? "" : `At step ${count(kept)}, the nearest that was kept for prompts.`;
}

const promptName = ({ tokens, text }) => (text === undefined ? "" : "yours: ") + tokens.map(words).join(" ");

/** A field for a prompt in the user's own words, which a kernel answers. */
function ownPrompt(board) {
  const text = h("input", { type: "text", "aria-label": "A prompt of your own", placeholder: "A prompt of your own" });
  const said = h("p", { class: "note", role: "alert" });
  const ask = (event) => {
    event.preventDefault();
    said.textContent = "The kernel is asked …";
    board.askPrompt(text.value, (error) => (said.textContent = error));
  };
  return h("form", { class: "own-prompt", onsubmit: ask }, text, h("button", { text: "Show" }), said);
}

/** A prompt by token: the pattern, the row of the position that is read, the norms of the values. */
function tokenViews(prompt, numbers) {
  const names = prompt.tokens.map(words);
  const cell = Math.min(30, 330 / names.length);
  const grid = { left: 66, cell, names, below: 12 + names.length * cell, x: (i) => 66 + (i + 0.5) * cell };
  const deep = grid.below + 8 + 6.6 * Math.max(...names.map((name) => short(name).length));
  const cursor = s("rect", { class: "cursor", width: cell, height: cell });
  const norms = normLines(numbers, grid, deep + 64);
  const size = { x: grid.left, y: 4 + prompt.read_at * cell, width: cell * (prompt.read_at + 1), height: cell };
  const row = s("rect", { class: "read", ...size });
  const below = [tokenNames(prompt, grid), readBars(prompt, numbers, grid, deep), norms];
  const cells = [patternCells(numbers, grid), row, cursor];
  const svg = s("svg", { tabindex: 0, role: "img", "data-part": "pattern" }, cells, below);
  const label = "Attention pattern: arrow keys move over queries and keys";
  set(svg, { viewBox: `0 0 400 ${deep + (norms.length ? 126 : 48)}`, "aria-label": label });
  const said = h("p", { class: "cell", "aria-live": "polite" });
  lookAround(svg, prompt.read_at, (q, k) => {
    set(cursor, { x: grid.left + k * cell, y: 4 + q * cell });
    show(said, numbers.weight(q, k), cellWords(numbers, names, q, k));
  });
  return [h("p", { class: "roles", text: rolesOf(prompt, names) }), svg, said];
}

/** The pattern: a cell a query (row) and key (column), the darker the more attention. */
function patternCells(numbers, { left, cell, names }) {
  const size = { width: cell - 0.5, height: cell - 0.5 };
  const square = (q, k) => {
    const shade = Math.max(0.04, numbers.weight(q, k)).toFixed(3);
    return s("rect", { x: left + k * cell, y: 4 + q * cell, ...size, "fill-opacity": shade, "data-cell": `${q},${k}` });
  };
  return names.flatMap((_, q) => names.slice(0, q + 1).map((__, k) => square(q, k)));
}

/** The tokens beside the rows and below the columns; those with a role, and the one where it is read, are bold. */
function tokenNames(prompt, { left, cell, names, below, x }) {
  if (cell < 7) return [];
  const bold = new Set([prompt.read_at, ...Object.values(prompt.roles ?? {}).flat()]);
  const all = { style: `font-size:${Math.min(11, cell)}px`, "text-anchor": "end" };
  const name = (i, where) => s("text", { ...all, ...where, class: bold.has(i) ? "role" : null, text: short(names[i]) });
  const rows = names.map((_, i) => name(i, { x: left - 5, y: 4 + (i + 0.75) * cell }));
  return [...rows, ...names.map((_, i) => name(i, { transform: `translate(${x(i) + 3},${below - 4}) rotate(-90)` }))];
}

/** The attention of the position that is read, as bars under the tokens. */
function readBars(prompt, numbers, { left, cell, names, x }, top) {
  const end = prompt.read_at;
  const caption = `attention from “${short(names[end] ?? "", 14)}” (${end}), where it is read`;
  const bar = (height, k) => s("rect", { x: x(k) - cell * 0.35, width: cell * 0.7, y: top + 42 - height, height });
  const bars = names.slice(0, end + 1).map((_, k) => bar(36 * numbers.weight(end, k), k));
  const axis = s("path", { d: `M${left},${top + 42}h${names.length * cell}`, class: "axis" });
  return [s("text", { class: "caption", y: top, text: caption }), bars, axis];
}

const NORMS = {
  own: { colour: ROUTES.own.colour, mark: "M-3,0a3,3 0 1 0 6,0a3,3 0 1 0 -6,0" },
  incoming: { colour: ROUTES.stream.colour, mark: "M0,-4l4,7h-8Z" },
  mixed: { colour: INK, mark: "M-3,-3h6v6h-6Z" },
};

/** The norms of own, incoming and mixed values by token, where there are any. */
function normLines(numbers, { x }, top) {
  const there = Object.keys(NORMS).filter((route) => numbers[route]);
  if (!there.length) return [];
  const most = Math.max(...there.flatMap((route) => numbers[route]), 1e-9);
  const y = line([0, most], [top + 56, top + 6]);
  const text = (at, said) => s("text", { class: "caption", x: at, y: top - 4, text: said });
  const mark = (route, at) => {
    const { mark: d, colour: fill } = NORMS[route];
    return s("path", { d, fill, transform: `translate(${at})` });
  };
  const key = there.map((route, i) => [mark(route, [206 + 68 * i, top - 8]), text(214 + 68 * i, route)]);
  const series = there.map((route) => {
    const between = s("path", { class: "norms", d: path(numbers[route], x, y), stroke: NORMS[route].colour });
    return s("g", { "data-norms": route }, between, numbers[route].map((value, i) => mark(route, [x(i), y(value)])));
  });
  const axis = s("path", { d: `M${x(0)},${top + 56}H${x(numbers[there[0]].length - 1)}`, class: "axis" });
  return [text(0, `norms of its values, 0 to ${fmt(most)}`), key, series, axis];
}

/** Lets the pointer and the arrow keys choose a cell of the pattern. */
function lookAround(svg, row, see) {
  let [query, key] = [row, 0];
  const go = (q, k) => {
    [query, key] = [q, Math.min(q, k)];
    see(query, key);
  };
  svg.addEventListener("pointerover", ({ target: { dataset } }) => {
    if (dataset.cell) go(...dataset.cell.split(",").map(Number));
  });
  svg.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
    const [down, right] = moves[event.key] ?? [];
    if (down === undefined || key + right < 0 || !svg.querySelector(`[data-cell="${query + down},0"]`)) return;
    event.preventDefault();
    go(query + down, key + right);
  });
  go(query, key);
}

/** A cell of the pattern in words. */
function cellWords(numbers, names, q, k) {
  const there = Object.keys(NORMS).filter((route) => numbers[route]);
  const norms = there.map((route) => `${route} ${fmt(numbers[route][k])}`);
  const said = `query “${names[q]}” (${q}) → key “${names[k]}” (${k}): ${fmt(numbers.weight(q, k))}`;
  return norms.length ? `${said}; norms of the key's value: ${norms.join(", ")}` : said;
}

/** What would be right and wrong after a prompt, and which tokens play which role. */
function rolesOf(prompt, names) {
  const ends = ["answer", "wrong"].filter((end) => (prompt[end] ?? "") !== "");
  const roles = Object.entries(prompt.roles ?? {});
  const said = roles.map(([role, places]) => `${role}: ${places.map((i) => `${names[i]} (${i})`).join(", ")}`);
  return [...ends.map((end) => `${end}: ${words(String(prompt[end]))}`), ...said].join(" · ");
}

const SHARES = { own: ROUTES.own.colour, stream: ROUTES.stream.colour, interaction: "#01665E", total: "#9aa1ac" };

/** A head's effect by route, as bars and numbers; one table for each of its carriers that a stream brings something. */
function sharesOf(board, node) {
  const all = board.run.shares?.[board.state.at] ?? [];
  const here = all.filter((share) => share.layer === node.layer && share.head === node.head);
  const ends = known([0, 1, ...here.flatMap((share) => Object.keys(SHARES).flatMap((route) => share[route] ?? []))]);
  const x = line([Math.min(...ends), Math.max(...ends)], [4, 116]);
  const row = (share, route) => {
    const number = h("td", { "data-share": `${node.name}.${share.carrier}:${route}` });
    show(number, share[route][0], withInterval(...share[route]));
    const bar = h("td", {}, shareBar(share[route], x, SHARES[route]));
    return h("tr", {}, h("th", { scope: "row", text: route }), bar, number);
  };
  return here.map((share) => {
    const caption = h("caption", { text: `Effect of its ${share.carrier}: own + stream + interaction = total` });
    const routes = Object.keys(SHARES).filter((route) => share[route]);
    return h("table", {}, caption, h("tbody", {}, routes.map((route) => row(share, route))));
  });
}

/** A bar from zero with its interval. */
function shareBar([effect, low, high], x, fill) {
  const bar = s("rect", { x: Math.min(x(0), x(effect)), width: Math.abs(x(effect) - x(0)), y: 2, height: 10, fill });
  const whiskers = known([low, high]).length === 2 ? `M${x(low)},7H${x(high)}M${x(low)},4V10M${x(high)},4V10` : "";
  const lines = [s("path", { d: `M${x(0)},0V14`, stroke: GREY }), s("path", { d: whiskers, stroke: INK })];
  return s("svg", { viewBox: "0 0 120 14", "aria-hidden": "true" }, bar, lines);
}

/** Training: the slider over checkpoints, under the metric of the clean and the corrupt run. */
function trainingView(board) {
  const { run, doc } = board;
  const last = run.steps.length - 1;
  const slider = h("input", { type: "range", min: 0, max: last, "data-control": "step", "aria-label": "Checkpoint" });
  slider.addEventListener("input", () => board.choose({ at: Number(slider.value) }));
  const said = h("output", { "data-readout": "step" });
  const chart = h("div", { class: "chart" });
  const tools = h("div", { class: "tools" }, h("h2", { text: `${doc.metric} over training` }), said);
  const element = h("section", { class: "card", "aria-label": "Training", hidden: last < 1 }, tools, chart, slider);
  const draw = () => {
    slider.value = board.state.at;
    set(slider, { "aria-valuetext": `step ${count(board.step)}` });
    show(said, board.step, `step ${count(board.step)} of ${count(run.steps[last])}`);
    chart.replaceChildren(metricChart(board, chart.clientWidth || 600));
  };
  return { element, draw };
}

/** The metric of the clean and the corrupt run over training, and with the chosen edge cut. */
function metricChart(board, width) {
  const { run, state } = board;
  const i = board.edgeNumber.get(state.edge);
  const cut = run.steps.map((_, at) => measured(run, "edge", "metric", at, i));
  const there = { clean: run.clean, corrupt: run.corrupt, "edge cut": cut };
  const series = Object.entries(there).filter(([, values]) => known(values).length);
  const all = series.flatMap(([, values]) => known(values));
  const ends = [Math.min(...all), Math.max(...all)];
  const last = run.steps.length - 1;
  const [x, y] = [line([0, Math.max(1, last)], [8, width - 8]), line(ends, [112, 24])];
  const text = (attributes) => s("text", { class: "axis", ...attributes });
  const name = (of) => of.replace(" ", "-");
  const key = series.map(([of], at) => [
    s("path", { d: `M${8 + 96 * at},8h22`, class: name(of) }),
    s("text", { x: 36 + 96 * at, y: 12, text: of }),
  ]);
  const dot = (of, v) => s("circle", { cx: x(state.at), cy: y(v), r: 3.5, class: name(of) });
  const lines = series.map(([of, values]) => [
    s("path", { d: path(values, x, y), class: name(of) }),
    known([values[state.at]]).map((v) => dot(of, v)),
  ]);
  const every = Math.ceil((run.steps.length * 56) / width);
  const anchor = (at) => (at === last ? "end" : at ? "middle" : "start");
  const step = (at) => text({ x: x(at), y: 132, "text-anchor": anchor(at), text: count(run.steps[at]) });
  const steps = [...run.steps.keys()].filter((at) => (last - at) % every === 0).map(step);
  const heights = ends.map((v) => text({ x: width - 16, y: y(v) - 4, "text-anchor": "end", text: fmt(v) }));
  const ofNow = series.map(([of, values]) => `${of} ${fmt(values[state.at])}`);
  const label = `At step ${count(board.step)}: ${ofNow.join(", ")}`;
  const marker = s("path", { d: `M${x(state.at)},18V116`, class: "marker" });
  const parts = [key, marker, lines, heights, steps];
  return s("svg", { viewBox: `0 0 ${width} 136`, role: "img", "aria-label": label }, parts);
}

/** Every run's graph in small, at the same step or the nearest. */
function runsView(board) {
  const { doc } = board;
  const smalls = doc.runs.length > 1 ? doc.runs.map((run) => smallGraph(board, run, layout(doc, 260))) : [];
  const grid = h("div", { class: "grid" }, smalls.map((small) => small.element));
  const title = h("h2", { text: "Every run at this step" });
  const element = h("section", { class: "card seeds", "aria-label": "Runs" }, title, grid);
  element.hidden = !smalls.length;
  return { element, draw: () => smalls.forEach((small) => small.draw()) };
}

/** One run's graph in small. */
function smallGraph(board, run, place) {
  const { doc } = board;
  const paths = curvesOf(board, place).map(({ d }, i) => s("path", { d, ...look(doc.edges[i].route) }));
  const spots = doc.nodes.filter((node) => node.kind !== "projection").map((node) => place.nodes.get(node.name));
  const box = ({ x, y, w, h: height }) => s("rect", { x: x - w / 2, y: y - height / 2, width: w, height, rx: 6 });
  const svg = s("svg", { viewBox: `0 0 ${place.width} ${place.height}`, preserveAspectRatio: "none", role: "img" });
  svg.append(...paths, ...spots.map(box));
  const caption = h("figcaption");
  const draw = () => {
    const at = nearest(run.steps, board.step);
    const other = run.steps[at] === board.step ? "" : ` at step ${count(run.steps[at])}`;
    caption.textContent = `${run.name}${other}: clean ${fmt(run.clean[at])}`;
    set(svg, { "aria-label": `Graph of ${caption.textContent}` });
    paths.forEach((element, i) => {
      const effect = measured(run, "edge", "effect", at, i);
      const chosen = doc.edges[i].name === board.state.edge;
      const display = chosen || board.isStrong(i, effect) ? null : "none";
      set(element, { ...weight(effect, board.most, 5), display, class: chosen ? "chosen" : null });
    });
  };
  return { element: h("figure", {}, caption, svg), draw };
}

/** All edges as a table that can be sorted: the graph without a picture. */
function tableView(board) {
  const { doc } = board;
  const columns = ["edge", "route", "effect", "low", "high", "metric", "cosine"];
  const titles = { metric: `${doc.metric} when cut`, cosine: "gradient cosine when cut" };
  const sort = { by: "effect", down: true };
  const body = h("tbody");
  const heads = columns.map((by) => {
    const sortBy = () => {
      Object.assign(sort, { by, down: sort.by === by ? !sort.down : true });
      draw();
    };
    const attributes = { type: "button", "data-sort": by, text: titles[by] ?? by, onclick: sortBy };
    return h("th", { scope: "col" }, h("button", attributes));
  });
  const table = h("table", {}, h("thead", {}, h("tr", {}, heads)), body);
  const summary = h("summary", { text: `Table of all ${count(doc.edges.length)} edges` });
  const scroll = h("div", { class: "scroll" }, table);
  const element = h("details", { class: "card", ontoggle: () => draw() }, summary, scroll);
  const draw = () => {
    if (!element.open) return;
    const order = sort.down ? "descending" : "ascending";
    heads.forEach((head, i) => set(head, { "aria-sort": columns[i] === sort.by ? order : null }));
    const row = (i) => h("tr", {}, columns.map((column) => tableCell(board, i, column)));
    const focused = body.getRootNode().activeElement;
    const name = body.contains(focused) ? focused.textContent : null;
    body.replaceChildren(...sortedEdges(board, sort).map(row));
    if (name !== null) [...body.querySelectorAll("button")].find((button) => button.textContent === name)?.focus();
  };
  return { element, draw };
}

/** What of an edge stands in a column. */
function numberOf(board, i, column) {
  const { name: edge, route } = board.doc.edges[i];
  return { edge, route }[column] ?? board.effect(i, "edge", column);
}

/** Returns the numbers of the edges in the order of a column; effects go by their size. */
function sortedEdges(board, { by, down }) {
  const rank = (i) => (by === "effect" ? Math.abs(numberOf(board, i, by) ?? 0) : numberOf(board, i, by) ?? -Infinity);
  const order = [...board.doc.edges.keys()].sort((a, b) => (rank(a) < rank(b) ? -1 : rank(a) > rank(b) ? 1 : 0));
  return down ? order.reverse() : order;
}

/** One cell of the table; an edge's name changes it. */
function tableCell(board, i, column) {
  const value = numberOf(board, i, column);
  if (column === "route") return h("td", { text: value });
  if (column !== "edge") return h("td", { "data-value": value, text: fmt(value) });
  const onclick = () => board.turn(value);
  return h("th", { scope: "row" }, h("button", { type: "button", class: "name", text: value, onclick }));
}

// --- 6 Mounting -----------------------------------------------------------------------------------------------------

/** Draws a document into an element and returns the board; `link` is a kernel: {live, ask(message), set(traits)}. */
export function mount(element, data, link = null) {
  element.classList.add("switchboard");
  if (data?.format !== FORMAT) {
    const text = `This is no switchboard that this page can read: expected the format “${FORMAT}”.`;
    element.replaceChildren(h("p", { class: "note", role: "alert", text }));
    return null;
  }
  // What has the focus takes its keys itself; JupyterLab would take arrows and Enter for its own.
  element.addEventListener("focusin", ({ target }) => set(target, { "data-lm-suppress-shortcuts": "true" }));
  const board = new Board(data, link);
  const makers = [headerView, graphView, trainingView, runsView, changeView, headView, tableView];
  board.views = makers.map((make) => make(board));
  const [header, graph, training, runs, change, head, table] = board.views.map((view) => view.element);
  const columns = [h("div", {}, graph, training, runs), h("div", {}, change, head)];
  element.replaceChildren(header, h("div", { class: "columns" }, columns), table);
  const stop = onResize(element, () => {
    board.views[1].build();
    board.draw();
  });
  board.destroy = () => {
    stop();
    board.link = null;
  };
  return board;
}

/** Calls `act` now and whenever an element gets another width; returns what ends it. */
function onResize(element, act) {
  let width = null;
  const resized = () => {
    if (element.clientWidth === width) return;
    width = element.clientWidth;
    act();
  };
  const observer = new ResizeObserver(resized);
  observer.observe(element);
  resized();
  return () => observer.disconnect();
}

/** Makes a link of a notebook's model: messages with numbers, and the traits that Python sees. */
function linkOf(model) {
  const waiting = new Map();
  // Several views of one widget hear each other's answers: they count from different numbers.
  let last = Math.floor(Math.random() * 1e9);
  const receive = (message) => {
    waiting.get(message?.id)?.(message);
    waiting.delete(message?.id);
  };
  const ask = (message) => {
    last += 1;
    model.send({ id: last, ...message });
    return new Promise((resolve) => waiting.set(last, resolve));
  };
  const tell = (traits) => {
    Object.entries(traits).forEach(([name, value]) => model.set(name, value));
    model.save_changes();
  };
  model.on("msg:custom", receive);
  return { live: model.get("live"), ask, set: tell, close: () => model.off("msg:custom", receive) };
}

/** Draws the widget of a notebook, and follows what Python sets. */
function render({ model, el }) {
  const root = h("div");
  el.append(root);
  const link = linkOf(model);
  let board = null;
  const traits = ["step", "selected", "changes"];
  const follow = () => board?.follow(Object.fromEntries(traits.map((name) => [name, model.get(name)])));
  const draw = () => {
    board?.destroy();
    board = mount(root, JSON.parse(model.get("data")), link);
    follow();
  };
  const heard = { "change:step": follow, "change:selected": follow, "change:changes": follow, "change:data": draw };
  Object.entries(heard).forEach(([name, act]) => model.on(name, act));
  draw();
  return () => {
    Object.entries(heard).forEach(([name, act]) => model.off(name, act));
    link.close();
    board?.destroy();
  };
}

export default { render };
