// The parts around the graph that only show: title, time, totals, tags, the way to the zoomed frame, and the legend.

function showHeader(app) {
  const { data } = app;
  byId('title').textContent = clipped(data.title, 300);
  if (data.view !== 'timeline') byId('when').textContent = [...new Set(data.profiles.map(period))].join('  →  ');
  const tags = new Map();
  // Of several instances those that all of them have; the timeline tells the others.
  const sets = data.view === 'diff' ? data.lanes : [commonTags(data.lanes)];
  sets.forEach((set, side) => {
    for (const [key, value] of set) {
      if (!tags.has(key)) tags.set(key, []);
      tags.get(key)[side] = value;
    }
  });
  const order = ['service', 'version', 'env', 'host', 'pod', 'instance'];
  const place = (key) => (order.includes(key) ? order.indexOf(key) : order.length);
  const sorted = [...tags].sort(([a], [b]) => place(a) - place(b) || (a < b ? -1 : 1));
  byId('tags').replaceChildren(...sorted.map(([key, values]) => {
    const item = element('li', '', element('span', 'key', clipped(visible(key), 100)));
    const last = values[sets.length - 1] ?? '';
    if (sets.length > 1 && values[0] !== last) item.append(element('span', 'was', clipped(values[0] ?? 'none', 300)));
    item.append(element('span', '', clipped(visible(last), 300) || 'none'));
    item.title = clipped(`${key}: ${values.join(' → ')}`, 1000);
    return item;
  }));
}

function commonTags(lanes) {
  return (lanes[0] ?? []).filter(([key, value]) => lanes.every((tags) => tags.some(([other, of]) => other === key && of === value)));
}

function period(profile) {
  const start = utc(profile.start);
  if (profile.duration === 0n) return start;
  const end = profile.start === 0n ? '' : ` – ${utc(profile.start + profile.duration).slice(11)}`;
  return `${start.replace(end ? ' UTC' : '', '')}${end} (${quantity(profile.duration, 'nanoseconds')})`;
}

// The totals of what is shown: they shrink when filters do.
function showTotals(app) {
  const { data, tree } = app;
  const { name, unit } = data.types[tree.type];
  const total = (big, small) => element('div', 'total', element('b', '', big), element('span', '', small));
  const cells = [];
  if (app.pair) {
    const [before, after] = tree.total.map((side, number) => Number(side[0]) * app.scale[number]);
    if (app.norm === 'time') {
      cells.push(total(`${app.normalised(before, unit)} → ${app.normalised(after, unit)}`, `${name}: ${app.change(tree, 0).words}`));
    } else {
      cells.push(total(tree.total.map((side) => quantity(side[0], unit)).join(' → '), `${name}, before and after`));
    }
  } else {
    const all = totalOfSide(app, 0);
    const part = tree.total[0][0];
    const cores = unit === 'nanoseconds' && name === 'cpu' && app.seconds[0] > 0;
    const looks = data.slots && app.seconds[0] === 0 ? snapshotsOf(app) : 0;
    const flows = !app.level && app.seconds[0] > 0;
    const text = looks > 1 ? `${name} in ${looks} snapshots: ${significant(Number(part) / looks)} on average` : cores ? `${name}: ${significant(Number(part) / 1e9 / app.seconds[0])} cores busy`
      : flows && unit === 'bytes' ? `${name}: ${rate(Number(part) / app.seconds[0], unit)}`
      : flows && name === 'delay' ? `${name}: ${significant(Number(part) / 1e9 / app.seconds[0])} threads waiting on average`
      : app.level && data.slots ? `${name} ${name.startsWith('peak_') ? 'of the highest moment' : 'at the end'}` : name;
    const said = part === all ? text : `${name}: ${percent(ratio(part, all))} of ${quantity(all, unit)}`;
    cells.push(total(quantity(part, unit), `${said}${awaited(app)}`));
  }
  const countType = countTypeOf(data, tree.type);
  if (countType >= 0 && countType !== tree.type) {
    cells.push(total(tree.total.map((_, side) => exact(countAt(data, tree, 0, side), '').trim()).join(' → '), data.types[countType].name));
  }
  byId('totals').replaceChildren(...cells);
}

// How many snapshots of an instance are in the chosen stretch.
function snapshotsOf({ data, state }) {
  const looks = looksOf(data, data.types[state.type].kind, state.lanes);
  return looks.reduce((sum, count, slot) => (state.range === null || (slot >= state.range[0] && slot <= state.range[1]) ? sum + count : sum), 0);
}

// What tasks await is no time of any thread, so it is told apart.
function awaited(app) {
  const { data, state, groupSums } = app;
  if (!app.hasTasks || !data.doing || state.type !== data.doing.type || state.filters.has(ACTIVITY)) return '';
  const [, sums] = [...groupSums].find(([group]) => data.strings[group] === data.tasks);
  const sum = sums.reduce((all, value, activity) => (activity === data.doing.idle && isIdleHidden(app) ? all : all + value), 0);
  return sum > 0 ? `, ${quantity(sum, 'nanoseconds')} of it awaited by tasks` : '';
}

// The sum over all samples of one side's profiles, whatever the filters leave.
function totalOfSide({ data, sides, tree }, side) {
  const { column, wide } = data.types[tree.type];
  return data.profiles.reduce((sum, { totals }, number) => (sides.of[number] === side ? sum + totals[column] : sum), wide ? 0n : 0);
}

function showCrumbs(app) {
  const { shown: tree, top } = app;
  const path = [];
  for (let node = top; node >= 0; node = tree.parent[node]) path.unshift(node);
  const shown = path.length <= 9 ? path : [...path.slice(0, 3), -1, ...path.slice(-5)];
  const parts = [];
  for (const node of shown) {
    if (parts.length > 0) parts.push(element('i', '', '›'));
    if (node < 0) {
      parts.push(element('i', '', `${path.length - 8} more`));
      continue;
    }
    const name = app.nameOf(tree, node);
    const crumb = element('button', '', node === 0 ? 'all' : shortName(name));
    crumb.type = 'button';
    crumb.title = clipped(name, 1000);
    if (node === top) crumb.setAttribute('aria-current', 'true');
    crumb.addEventListener('click', () => app.zoom(node));
    parts.push(crumb);
  }
  if (top !== 0) {
    const share = tree.total.length === 1 ? percent(ratio(tree.total[0][top], tree.total[0][0])) : '';
    parts.push(element('i', '', share && `\u2002${share} of all`));
  }
  if (app.data.sample_count === 0 && app.data.profiles.length > 0) parts.push(element('i', '', '\u2002Nothing was counted in this time'));
  refill(byId('crumbs'), ...parts);
}

// What is scrolled out of sight at the root's end of everything.
function showRowsAway(app, rows) {
  const button = byId('rows-away');
  button.hidden = rows <= 0 || app.top !== 0 || app.state.centre !== '';
  button.textContent = `${app.state.orientation === 'flame' ? '↓' : '↑'} ${rows} rows of callers`;
}

function showLegend(app) {
  const { colours, colouring, data } = app;
  const now = [colours, colouring, app.match !== null, ...(colouring.parts ? [app.activitySums, app.state.filters, app.state.idle] : [])];
  if (app.legend?.length === now.length && app.legend.every((part, place) => part === now[place])) return;
  app.legend = now;
  const flags = data.frames.flags.reduce((all, flag) => all | flag, 0);
  const entries = [...colouring.legend(colours)];
  if (app.match) entries.push({ fill: colours.match, text: 'search match' });
  if (flags & INLINED) entries.push({ fill: colours.other, dots: true, text: 'inlined (italic)' });
  if (flags & (LOST | TRUNCATED)) entries.push({ hatch: true, step: 5, text: 'lost or truncated' });
  entries.push({ fill: colours.gap, sliver: true, text: 'frames too narrow to draw' });
  const about = element('li', 'about', colouring.title === 'none' ? 'Colours mean nothing here' : `Colour: ${colouring.title}`);
  refill(byId('legend'), about, ...entries.map((entry) => legendEntry(colours, entry)));
}

function legendEntry(colours, entry) {
  const parts = [swatch(colours, entry), element('span', '', clipped(visible(entry.text), 100))];
  if (!entry.click) return element('li', '', ...parts);
  const button = element('button', entry.hidden ? 'hidden-part' : '', ...parts);
  button.type = 'button';
  button.title = entry.title;
  button.setAttribute('aria-pressed', entry.pressed);
  button.addEventListener('click', entry.click);
  return element('li', '', button);
}

// Lines or dots over a colour, so that it can be told without seeing it.
function drawPattern(pen, pattern, colour, width, height) {
  pen.strokeStyle = pen.fillStyle = colour;
  pen.lineWidth = 1;
  pen.beginPath();
  for (let at = -height; at < width; at += 4) {
    if (pattern === 'slant') [pen.moveTo(at, height), pen.lineTo(at + height, 0)];
    if (pattern === 'upright' && at > 0) [pen.moveTo(at, 0), pen.lineTo(at, height)];
    if (pattern === 'level' && at > 0 && at < height) [pen.moveTo(0, at), pen.lineTo(width, at)];
    if (pattern === 'dots') for (let y = 2; y < height; y += 4) pen.fillRect(at, y, 1.5, 1.5);
  }
  pen.stroke();
}

function swatch(colours, { fill, pattern, hatch, step = 8, dots, sliver }) {
  const canvas = element('canvas');
  canvas.width = 36;
  canvas.height = 24;
  const pen = canvas.getContext('2d');
  pen.scale(2, 2);
  pen.fillStyle = fill ?? colours.same;
  pen.fillRect(0, 0, 18, 12);
  pen.strokeStyle = colours.hatch;
  if (hatch) {
    pen.beginPath();
    for (let x = -12; x < 18; x += step) {
      pen.moveTo(x, 12);
      pen.lineTo(x + 12, 0);
    }
    pen.stroke();
  }
  if (pattern) drawPattern(pen, pattern, colours.hatch, 18, 12);
  pen.fillStyle = dots ? colours.mark : colours.sliver;
  if (dots) for (let x = 1; x < 17; x += 5) pen.fillRect(x, 0, 2.5, 1.5);
  if (sliver) pen.fillRect(1, 4, 16, 4);
  canvas.setAttribute('aria-hidden', 'true');
  return canvas;
}
