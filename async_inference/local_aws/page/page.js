// Draws what /_local/status says. Names in it come from users: they are only ever set as text.

const WINDOWS = new Map([
  [60, "hour"],
  [180, "3 hours"],
  [720, "12 hours"],
  [1440, "day"],
  [10080, "week"],
]);
const LEFT = 44; // px of every chart's gutter, so that all share one time axis
const RIGHT = 12;
const PLOT_HEIGHT = 72;
const BAND_HEIGHT = 14;
const NEAR_PX = 8;
const ANSWER_WITHIN_MS = 5000;

const byId = (id) => document.getElementById(id);
const hash = new URLSearchParams(location.hash.slice(1));
const choice = { which: hash.get("endpoint"), minutes: Number(hash.get("minutes")) || 180 };

let status = null; // the last answer
let goneSince = null;
let cursorS = null; // simulated time under the pointer
let axis = null; // the charts' time axis
let plots = []; // the charts' <svg>, which share the cursor

// Nodes

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function shape(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const wasShown = new WeakMap();

/** Replace a node's children, but only when what they show has changed: selections survive. */
function show(node, shown, children) {
  const now = JSON.stringify(shown);
  if (wasShown.get(node) === now) return;
  wasShown.set(node, now);
  node.replaceChildren(...children());
}

// Numbers as text

function time(atS, withDate = false) {
  const iso = new Date(atS * 1000).toISOString();
  return withDate ? iso.slice(0, 19).replace("T", " ") : iso.slice(11, 16);
}

function at(atS, nowS) {
  return nowS - atS < 43200 ? time(atS) : `${time(atS, true).slice(5, 16)}`;
}

function duration(s) {
  if (s === null) return "none";
  if (s < 60) return `${Math.round(s)} s`;
  const [large, small, per] =
    s < 3600 ? ["min", "s", 60] : s < 86400 ? ["h", "min", 3600] : ["d", "h", 86400];
  const whole = Math.floor(s / per);
  const rest = Math.floor((s % per) / (per === 86400 ? 3600 : per / 60));
  return rest ? `${whole} ${large} ${rest} ${small}` : `${whole} ${large}`;
}

const count = (value) => (value === null ? "none" : String(Math.round(value)));

function niceCount(most) {
  for (let power = 1; ; power *= 10)
    for (const step of [1, 2, 4, 6, 8]) if (step * power >= most) return step * power;
}

function niceDuration(mostS) {
  for (const s of [60, 120, 300, 600, 1200, 1800]) if (s >= mostS) return s;
  const hours = niceCount(mostS / 3600);
  return hours * 3600;
}

// Charts

function timeAxis(history, nowS, widthPx) {
  const startS = history.start_s;
  const plotPx = widthPx - LEFT - RIGHT;
  const x = (atS) => LEFT + ((atS - startS) / (nowS - startS)) * plotPx;
  const stepS = [300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800].find(
    (s) => x(startS + s) - LEFT >= 64,
  );
  const ticks = [];
  for (let s = Math.ceil(startS / stepS) * stepS; s <= nowS; s += stepS) ticks.push(s);
  const timeAt = (px) => startS + ((px - LEFT) / plotPx) * (nowS - startS);
  return { startS, nowS, widthPx, stepS, ticks, x, timeAt };
}

function plot(height, label) {
  const svg = shape("svg", { height, viewBox: `0 0 ${axis.widthPx} ${height}`, role: "img" });
  svg.setAttribute("aria-label", label);
  for (const tick of axis.ticks) {
    const x = axis.x(tick);
    svg.append(shape("line", { class: "grid", x1: x, x2: x, y1: 0, y2: height }));
  }
  plots.push(svg);
  return svg;
}

function figure(svg, title, keys, readout) {
  const caption = make("figcaption", {}, make("span", {}, title, ...keys));
  caption.append(make("output", {}, readout));
  return make("figure", {}, caption, svg);
}

const key = (kind, text) => make("span", { class: `key ${kind}` }, text);

/** A chart of levels, with a scale; `paint` gets the function from a value to its height. */
function levels(title, keys, readout, most, paint, nice = niceCount, format = count) {
  const top = nice(Math.max(most, 1));
  const y = (value) => 6 + (PLOT_HEIGHT - 12) * (1 - value / top);
  const svg = plot(PLOT_HEIGHT, `${title}: ${readout}`);
  for (const value of [0, top / 2, top]) {
    if (format === count && !Number.isInteger(value)) continue;
    const right = axis.widthPx - RIGHT;
    svg.append(shape("line", { class: "grid", x1: LEFT, x2: right, y1: y(value), y2: y(value) }));
    const place = { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" };
    svg.append(shape("text", place, format(value)));
  }
  for (const node of paint(y)) svg.append(node);
  return figure(svg, title, keys, readout);
}

/** Points of a column in time, with the live value last, in runs without a gap.
 *
 * A level that holds until it changes has no gaps: a minute that a busy machine missed is none.
 */
function runs(history, column, live, holds) {
  const found = [];
  let run = [];
  const end = () => {
    if (run.length) found.push(run);
    run = [];
  };
  history[column].forEach((value, index) => {
    const atS = history.start_s + (index + 0.5) * history.step_s;
    if (value === null || atS > axis.nowS) {
      if (!holds) end();
    } else run.push([axis.x(atS), value]);
  });
  if (live === null) end();
  else run.push([axis.x(axis.nowS), live]);
  end();
  return found;
}

function curve(run, y, stepped) {
  const [[x, value], ...rest] = run;
  let path = `M${x} ${y(value)}h.01`;
  for (const [x, value] of rest) path += stepped ? `H${x}V${y(value)}` : `L${x} ${y(value)}`;
  return path;
}

function filled(history, column, live, y, stepped) {
  return runs(history, column, live, stepped).flatMap((run) => {
    const path = curve(run, y, stepped);
    const closed = `${path}V${y(0)}H${run[0][0]}Z`;
    return [shape("path", { class: "area", d: closed }), shape("path", { class: "curve", d: path })];
  });
}

function bars(history, y) {
  const width = Math.max(1, axis.x(axis.startS + history.step_s) - LEFT - 1);
  return history.done.flatMap((done, index) => {
    const x = axis.x(history.start_s + index * history.step_s);
    let below = 0;
    return [
      ["done", done],
      ["failed", history.failed[index]],
    ].flatMap(([kind, value]) => {
      if (!value) return [];
      const height = y(below) - y(below + value);
      below += value;
      return [shape("rect", { class: kind, x, y: y(below), width, height })];
    });
  });
}

function band(alarm) {
  const svg = plot(BAND_HEIGHT, `${alarm.name}: ${alarm.state}`);
  for (const { state, from_s, to_s } of alarm.bands) {
    const x = Math.max(LEFT, axis.x(from_s));
    const width = Math.max(1, axis.x(to_s) - x);
    const [y, height] = { ALARM: [1, 12], OK: [8, 5] }[state] ?? [8.5, 4];
    if (axis.x(to_s) > LEFT) svg.append(shape("rect", { class: state, x, y, width, height }));
  }
  const name = make("span", { title: alarm.name }, shortened(alarm.name));
  const condition = make("span", { class: "condition" }, alarm.condition);
  const readout = `${alarm.state} since ${at(alarm.since_s, axis.nowS)}`;
  return figure(svg, name, [condition], readout);
}

/** Target tracking names its alarms by resource and UUID; the table of alarms has them in full. */
const shortened = (text) =>
  text.replace(/\bTargetTracking-\S+-(Alarm(?:High|Low))-[0-9a-f-]{36}/g, "TargetTracking $1");

const askedFor = (activity) => Number(/(\d+)\.$/.exec(activity.Description)?.[1]);

function marks(activities) {
  const svg = plot(30, `${activities.length} scaling activities`);
  let before = null;
  const labels = []; // the last of marks so close that their labels would overlap
  for (const activity of activities.toReversed()) {
    const to = askedFor(activity);
    const x = axis.x(activity.StartTime);
    const grew = before === null ? to > 0 : to > before;
    before = to;
    if (x < LEFT) continue;
    const d = grew ? `M${x - 5} 13L${x} 3L${x + 5} 13Z` : `M${x - 5} 3L${x} 13L${x + 5} 3Z`;
    svg.append(shape("path", { class: `mark ${grew ? "out" : "in"}`, d }));
    const last = labels.at(-1);
    if (last && x < last.x + 24) last.to = to;
    else labels.push({ x, to });
  }
  for (const { x, to } of labels) {
    const place = { class: "mark-label", x, y: 27, "text-anchor": "middle" };
    svg.append(shape("text", place, `\u2192${to}`));
  }
  return figure(svg, "Scaling", [], "\u25b2 out  \u25bc in  \u2192 instances asked for");
}

function hours() {
  const svg = plot(18, "Time, UTC");
  for (const tick of axis.ticks) {
    const text = axis.stepS < 86400 && tick % 86400 ? time(tick) : time(tick, true).slice(5, 10);
    const x = Math.min(axis.x(tick), axis.widthPx - 18);
    svg.append(shape("text", { x, y: 14, "text-anchor": "middle" }, text));
  }
  return make("figure", {}, svg);
}

function drawCharts({ endpoint, alarms, activities }) {
  const charts = byId("charts");
  const style = getComputedStyle(charts);
  const padding = parseFloat(style.paddingLeft) + parseFloat(style.paddingRight);
  const history = endpoint.history;
  axis = timeAxis(history, status.now_s, Math.max(200, charts.clientWidth - padding));
  plots = [];
  const most = (...columns) => Math.max(0, ...columns.flatMap((column) => history[column]));
  const total = (column) => history[column].reduce((sum, value) => sum + (value ?? 0), 0);
  const perStep = history.done.map((done, index) => (done ?? 0) + (history.failed[index] ?? 0));
  const minutes = history.step_s / 60;
  const figures = [
    levels(
      "Backlog",
      [],
      `${endpoint.backlog} now`,
      Math.max(most("backlog"), endpoint.backlog),
      (y) => filled(history, "backlog", endpoint.backlog, y, false),
    ),
    levels(
      "Age of the oldest request",
      [],
      endpoint.oldest_age_s === null ? "none now" : `${duration(endpoint.oldest_age_s)} now`,
      Math.max(most("oldest_age_s"), endpoint.oldest_age_s ?? 0),
      (y) => filled(history, "oldest_age_s", endpoint.oldest_age_s, y, false),
      niceDuration,
      duration,
    ),
    levels(
      "Instances",
      [key("dashed", "asked for"), key("filled", "in service")],
      `${endpoint.in_service} of ${endpoint.desired} now`,
      Math.max(most("asked_for", "in_service"), endpoint.desired, endpoint.in_service),
      (y) => [
        ...filled(history, "in_service", endpoint.in_service, y, true),
        ...runs(history, "asked_for", endpoint.desired, true).map((run) =>
          shape("path", { class: "asked", d: curve(run, y, true) }),
        ),
      ],
    ),
    levels(
      minutes === 1 ? "Requests a minute" : `Requests in ${minutes} minutes`,
      [key("filled", "done"), key("filled bad", "failed")],
      `${total("done")} done, ${total("failed")} failed`,
      Math.max(...perStep),
      (y) => bars(history, y),
    ),
    marks(activities),
    ...alarms.map(band),
    hours(),
  ];
  for (const activity of activities) {
    const x = axis.x(activity.StartTime);
    if (x < LEFT) continue;
    for (const svg of plots)
      svg.append(shape("line", { class: "activity", x1: x, x2: x, y1: 0, y2: "100%" }));
  }
  charts.replaceChildren(byId("at"), ...figures);
  drawCursor({ endpoint, activities });
}

// The cursor reads every chart at one moment.

function drawCursor({ endpoint, activities }) {
  for (const line of document.querySelectorAll(".cursor")) line.remove();
  if (cursorS === null || cursorS < axis.startS) {
    byId("at").textContent = "Point at the charts, or use the arrow keys, to read one moment.";
    return;
  }
  const x = axis.x(Math.min(cursorS, axis.nowS));
  for (const svg of plots)
    svg.append(shape("line", { class: "cursor", x1: x, x2: x, y1: 0, y2: "100%" }));
  const history = endpoint.history;
  const index = Math.min(
    Math.floor((cursorS - history.start_s) / history.step_s),
    history.done.length - 1,
  );
  const read = (column) => history[column][index] ?? null;
  const said = [
    `backlog ${count(read("backlog"))}`,
    `oldest ${duration(read("oldest_age_s"))}`,
    `${count(read("in_service"))} of ${count(read("asked_for"))} instances`,
    `${count(read("done") ?? 0)} done, ${count(read("failed") ?? 0)} failed`,
  ];
  const near = activities.find(
    (activity) => Math.abs(axis.x(activity.StartTime) - x) < NEAR_PX,
  );
  const why = near ? ` ${near.Description} Cause: ${shortened(near.Cause)}` : "";
  byId("at").textContent = `${time(cursorS)} UTC: ${said.join("; ")}.${why}`;
}

// The page

function chosen() {
  const all = new Map();
  const several = Object.keys(status.regions).length > 1;
  for (const [region, found] of Object.entries(status.regions))
    for (const [name, endpoint] of Object.entries(found.endpoints))
      all.set(several ? `${region}/${name}` : name, { region: found, name, endpoint });
  const which = all.has(choice.which) ? choice.which : (all.keys().next().value ?? null);
  if (which === null) return { all, which };
  const { region, name, endpoint } = all.get(which);
  const mine = (activity) => activity.ResourceId.split("/")[1] === name;
  return {
    all,
    which,
    name,
    endpoint,
    alarms: region.alarms.filter((alarm) => alarm.endpoint === name),
    activities: region.activities.filter(mine),
    notScaled: region.not_scaled.filter(mine),
  };
}

function option(value, text, selected) {
  const node = make("option", { value }, text);
  node.selected = selected;
  return node;
}

function render() {
  const found = chosen();
  const { all, which, name, endpoint, alarms } = found;
  const speed =
    status.minute_s === 60 ? "in real time" : `one minute takes ${status.minute_s} s`;
  byId("clock").textContent = `${time(status.now_s, true)} UTC, ${speed}`;
  byId("empty").hidden = Boolean(endpoint);
  byId("endpoint").hidden = !endpoint;
  if (!endpoint) {
    plots = [];
    byId("empty").textContent = "No endpoint yet. Deploy one: make up";
    return;
  }
  document.title = `${endpoint.in_service}/${endpoint.desired} ${name}`;
  const names = [...all.keys()];
  show(byId("which"), [names, which], () =>
    names.map((each) => option(each, each, each === which)),
  );
  show(byId("minutes"), choice.minutes, () =>
    [...WINDOWS].map(([minutes, text]) => option(minutes, text, minutes === choice.minutes)),
  );
  byId("summary").textContent = endpoint.summary;
  byId("problem").textContent = endpoint.failure_reason ?? "";
  showTiles(endpoint, alarms);
  showInstances(endpoint.instances);
  drawCharts(found);
  showAlarms(alarms);
  showActivities([...found.activities, ...found.notScaled]);
}

function showTiles(endpoint, alarms) {
  const waiting = Math.max(0, endpoint.backlog - endpoint.busy);
  const ringing = alarms.filter((alarm) => alarm.state === "ALARM").length;
  const tiles = [
    ["Status", endpoint.status, `runs ${endpoint.configuration}`],
    ["Instances in service", endpoint.in_service, `${endpoint.desired} asked for`],
    ["Backlog", endpoint.backlog, `${endpoint.busy} worked on, ${waiting} waiting`],
    ["Oldest request", duration(endpoint.oldest_age_s), "since it was accepted"],
    ["Alarms", ringing, "in ALARM"],
  ];
  show(byId("tiles"), tiles, () =>
    tiles.map(([what, value, more]) =>
      make("div", {}, make("dt", {}, what), make("dd", {}, String(value), make("small", {}, more))),
    ),
  );
}

function showInstances(instances) {
  show(byId("instances"), instances, () =>
    instances.map((instance) =>
      make(
        "li",
        { class: instance.state.replace(" ", "-") },
        make("b", {}, instance.name),
        `${instance.state}, ${instance.busy} of ${instance.concurrency} busy, `,
        instance.configuration,
      ),
    ),
  );
}

function showAlarms(alarms) {
  const rows = alarms.map(({ bands, ...alarm }) => alarm);
  show(byId("alarms").tBodies[0], rows, () =>
    rows.map((alarm) =>
      make(
        "tr",
        {},
        make("td", { class: "brief" }, stateLabel(alarm.state)),
        make("td", {}, alarm.name, make("small", {}, alarm.condition)),
        make("td", { class: "brief" }, at(alarm.since_s, status.now_s)),
        make("td", {}, alarm.reason),
      ),
    ),
  );
}

function stateLabel(state) {
  return make("span", { class: `state ${state.toLowerCase().replace("_", "-")}` }, state);
}

function showActivities(activities) {
  const rows = activities.sort((one, other) => other.StartTime - one.StartTime).slice(0, 20);
  show(byId("activities").tBodies[0], rows, () =>
    rows.map((activity) =>
      make(
        "tr",
        { class: activity.StatusCode ? "scaled" : "not-scaled" },
        make("td", { class: "brief" }, span(activity)),
        make("td", {}, activity.Description),
        make("td", {}, shortened(activity.Cause)),
        make("td", { class: "brief" }, activity.StatusCode ?? ""),
      ),
    ),
  );
}

/** A refusal may have been repeated for a while. */
function span({ StartTime: first, EndTime: last, StatusCode: scaled }) {
  const from = at(first, status.now_s);
  return scaled || last - first < 60 ? from : `${from} to ${time(last)}`;
}

function showConnection() {
  document.body.dataset.state = goneSince ? "gone" : "live";
  byId("connection").textContent = goneSince ? "gone" : "live";
  byId("gone").hidden = !goneSince;
  if (goneSince)
    byId("gone").textContent =
      `The embedded AWS does not answer since ${goneSince.toLocaleTimeString()}. ` +
      (status ? "What you see is from before. " : "") +
      "Start it again: make up";
}

let next = 0;

async function look() {
  clearTimeout(next);
  let pauseMs = 2000;
  let found = null;
  try {
    const answer = await fetch(`status?minutes=${choice.minutes}`, {
      cache: "no-store",
      signal: AbortSignal.timeout(ANSWER_WITHIN_MS),
    });
    if (answer.ok) found = await answer.json();
  } catch {
    // Refused, reset or silent: all mean that nobody answers.
  }
  clearTimeout(next);
  if (found) {
    status = found;
    goneSince = null;
    pauseMs = Math.min(Math.max(status.minute_s * 500, 500), pauseMs);
  } else goneSince ??= new Date();
  if (!document.hidden) next = setTimeout(look, pauseMs);
  showConnection();
  if (found) render();
}

function choose() {
  choice.which = byId("which").value;
  choice.minutes = Number(byId("minutes").value);
  const { which: endpoint, minutes } = choice;
  history.replaceState(null, "", `#${new URLSearchParams({ endpoint, minutes })}`);
  look();
}

function point(atS) {
  cursorS = atS;
  if (plots.length) drawCursor(chosen());
}

byId("choice").addEventListener("change", choose);
byId("choice").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("visibilitychange", () => document.hidden || look());
byId("charts").addEventListener("pointermove", (event) => {
  if (!plots.length) return;
  const px = event.clientX - plots[0].getBoundingClientRect().left;
  point(Math.min(Math.max(axis.timeAt(px), axis.startS), axis.nowS));
});
byId("charts").addEventListener("pointerleave", () => point(null));
byId("charts").addEventListener("blur", () => point(null));
byId("charts").addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!by || !axis) return;
  event.preventDefault();
  const { step_s } = chosen().endpoint.history;
  point(Math.min(Math.max((cursorS ?? axis.nowS) + by * step_s, axis.startS), axis.nowS));
});
new ResizeObserver(() => status && render()).observe(byId("charts"));
look();
