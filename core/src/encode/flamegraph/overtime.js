// Drawing what was counted over time: a chart for each kind, a bar for each instance, and an axis, on one canvas.

// Of many kinds each is lower.
const CHARTS = [58, 40];
const CHART_GAP = 8;
const LANE = 13;
const AXIS = 18;

// Where everything lies for a width: `x` of a time, tops of charts and lanes.
function layOut(data, width) {
  const slots = slotCount(data);
  const begin = slotTimes(data, 0)[0];
  const end = slotTimes(data, slots - 1)[1];
  const top = data.versions.some(({ slot }) => slot > 0) ? 14 : 2;
  const chart = CHARTS[data.kinds.length > 3 ? 1 : 0];
  const charts = data.kinds.map((_, place) => top + place * (chart + CHART_GAP));
  const lanesTop = top + data.kinds.length * (chart + CHART_GAP);
  const lanes = data.lanes.length > 1 ? data.lanes.map((_, place) => lanesTop + place * LANE) : [];
  const axis = lanesTop + lanes.length * LANE;
  return { width, height: axis + AXIS, chart, charts, lanes, axis, begin, end, x: (time) => ((time - begin) / (end - begin)) * width };
}

function slotAt(data, layout, x) {
  const time = layout.begin + (x / layout.width) * (layout.end - layout.begin);
  let near = 0;
  let least = Infinity;
  for (let slot = 0; slot < slotCount(data); slot++) {
    const [from, to] = slotTimes(data, slot);
    const away = time < from ? from - time : time > to ? time - to : 0;
    if (away < least) [near, least] = [slot, away];
  }
  return near;
}

function drawOverTime(app, canvas, layout) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(layout.width * ratio);
  canvas.height = Math.round(layout.height * ratio);
  canvas.style.height = `${layout.height}px`;
  const pen = canvas.getContext('2d', { alpha: false });
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.fillStyle = app.colours.gap;
  pen.fillRect(0, 0, layout.width, layout.height);
  const ticks = ticksOf(layout);
  app.rates.forEach((rates, place) => drawChart(app, pen, layout, rates, layout.charts[place], ticks));
  layout.lanes.forEach((top, lane) => drawLane(app, pen, layout, lane, top));
  drawAxis(app, pen, layout, ticks);
  drawVersions(app, pen, layout);
}

function drawChart(app, pen, layout, rates, top, ticks) {
  const { data, colours } = app;
  const { chart } = layout;
  const slots = slotCount(data);
  pen.save();
  pen.beginPath();
  pen.rect(0, top, layout.width, chart);
  pen.clip();
  // Where nothing was measured, there is no zero.
  pen.fillStyle = colours.void;
  pen.fillRect(0, top, layout.width, chart);
  slantedLines(pen, colours.voidLine, layout.width, top, chart);
  const scale = rates.most > 0 ? (chart - 4) / rates.most : 0;
  for (let slot = 0; slot < slots; slot++) {
    if (Number.isNaN(rates.total[slot])) continue;
    const [left, right] = edges(data, layout, slot);
    pen.fillStyle = colours.paper;
    pen.fillRect(left, top, right - left, chart);
    let y = top + chart;
    for (const series of rates.shown) {
      const height = rates.rate[series][slot] * scale;
      pen.fillStyle = rates.byActivity ? colours.doing[series] : colours.doing[0];
      pen.fillRect(left, y - height, right - left, height);
      y -= height;
    }
  }
  pen.restore();
  pen.fillStyle = colours.grid;
  for (const { at } of ticks) pen.fillRect(Math.round(layout.x(at)), top, 1, chart);
  pen.fillRect(0, top + chart, layout.width, 1);
}

// From edge to edge of whole pixels, so that neighbours neither gape nor overlap.
function edges(data, layout, slot) {
  const [from, to] = slotTimes(data, slot).map((time) => Math.round(layout.x(time)));
  return [from, Math.max(to, from + 1)];
}

function slantedLines(pen, colour, width, top, height) {
  pen.strokeStyle = colour;
  pen.lineWidth = 1;
  pen.beginPath();
  for (let x = -height; x < width; x += 7) {
    pen.moveTo(x, top + height);
    pen.lineTo(x + height, top);
  }
  pen.stroke();
}

// When an instance was there; those that are not looked at are pale.
function drawLane(app, pen, layout, lane, top) {
  const { data, colours, state } = app;
  const version = data.versions.findIndex(({ name }) => name === versionOf(data.lanes[lane]));
  pen.globalAlpha = state.lanes.length === 0 || state.lanes.includes(lane) ? 1 : 0.3;
  pen.fillStyle = colours.families[Math.max(0, version) % colours.families.length];
  for (const slot of data.slotsOfLane[lane]) {
    const [left, right] = edges(data, layout, slot);
    pen.fillRect(left, top + 2, right - left, LANE - 5);
  }
  pen.globalAlpha = 1;
}

function versionOf(tags) {
  return tags.find(([key]) => key === 'version')?.[1] ?? '';
}

const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800, 1209600, 2592000, 7776000, 31536000];

// Marks at round times of the reader's clock, some 90 pixels apart.
function ticksOf({ begin, end, width }) {
  const wanted = ((end - begin) / 1000) * (90 / Math.max(90, width));
  const step = (steps.find((seconds) => seconds >= wanted) ?? steps.at(-1)) * 1000;
  const shift = new Date(begin).getTimezoneOffset() * 60_000;
  const ticks = [];
  for (let at = Math.ceil((begin - shift) / step) * step + shift; at <= end && ticks.length < 100; at += step) {
    const text = step >= 31 * 86_400_000 ? localTime(at, { month: 'short', year: 'numeric' }) : step >= 86_400_000 ? localTime(at, { month: 'short', day: 'numeric' }) : localTime(at, step < 60_000 ? dayTime : { hour: '2-digit', minute: '2-digit' });
    ticks.push({ at, text });
  }
  return ticks;
}

function drawAxis({ colours }, pen, layout, ticks) {
  pen.font = '11px system-ui, sans-serif';
  pen.textBaseline = 'alphabetic';
  pen.fillStyle = colours.soft;
  let free = 0;
  for (const { at, text } of ticks) {
    const x = layout.x(at);
    const width = pen.measureText(text).width;
    const left = Math.min(Math.max(0, x - width / 2), layout.width - width);
    if (left < free) continue;
    pen.fillText(text, left, layout.axis + 14);
    free = left + width + 8;
  }
}

// Where a version is seen for the first time.
function drawVersions({ data, colours }, pen, layout) {
  pen.font = '600 11px system-ui, sans-serif';
  let free = 0;
  for (const { name, slot } of data.versions) {
    if (slot === 0) continue;
    const x = Math.round(layout.x(slotTimes(data, slot)[0]));
    pen.strokeStyle = pen.fillStyle = colours.text;
    pen.setLineDash([3, 3]);
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(x + 0.5, 12);
    pen.lineTo(x + 0.5, layout.axis);
    pen.stroke();
    pen.setLineDash([]);
    const text = clipped(name, 16) || 'no version';
    const width = pen.measureText(text).width;
    const left = Math.min(x, layout.width - width);
    if (left >= free) pen.fillText(text, left, 10);
    if (left >= free) free = left + width + 6;
  }
}
