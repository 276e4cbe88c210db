// The timeline: choosing a stretch of time, or two to compare, by pointer, touch and keyboard.

function makeTimeline(app) {
  const { data } = app;
  if (data.kinds.length > 1) byId('kind-names').append(...data.kinds.map((kind, number) => kindButton(app, kind, number)));
  if (slotCount(data) < 2) {
    // Of one period there is nothing to choose but its kinds.
    byId('timeline').hidden = data.kinds.length < 2;
    byId('timeline').classList.add('single');
  }
  if (slotCount(data) === 0) {
    if (data.view === 'timeline') byId('when').textContent = 'There are no profiles of this time.';
    showNotes(data);
    return;
  }
  data.slotsOfLane = data.lanes.map((_, lane) => [...new Set(data.profiles.filter((profile) => profile.lane === lane).map(({ slot }) => slot))]);
  const first = new Map();
  data.lanes.forEach((tags, lane) => {
    const slot = data.slotsOfLane[lane].reduce((least, one) => Math.min(least, one), Infinity);
    first.set(versionOf(tags), Math.min(first.get(versionOf(tags)) ?? Infinity, slot));
  });
  data.versions = [...first].map(([name, slot]) => ({ name, slot })).sort((a, b) => a.slot - b.slot);
  const single = slotCount(data) < 2;
  byId('timeline').hidden &&= single;
  document.body.classList.toggle('over-time', !single);
  app.brush = 'range';
  if (data.kinds.length === 1) byId('kind-names').append(kindButton(app, data.kinds[0], 0));
  if (data.lanes.length > 1 && !single) byId('lane-names').append(...data.lanes.map((tags, lane) => laneButton(app, tags, lane)));
  byId('range-all').addEventListener('click', () => app.update({ range: null, base: null }, true));
  byId('compare').addEventListener('click', () => (app.state.base ? app.update({ base: null }, true) : compare(app)));
  for (const brush of ['range', 'base']) byId(`brush-${brush}`).addEventListener('click', () => chooseBrush(app, brush));
  listenToBrush(app, byId('over-time'));
  new ResizeObserver(() => app.rates && placeTimeline(app)).observe(byId('charts'));
  showNotes(data);
}

function showNotes({ notes = [] }) {
  byId('notes').replaceChildren(...notes.map((note) => element('li', '', clipped(visible(note), 500))));
}

function kindButton(app, kind, number) {
  const button = element('button', 'kind', element('b', '', kindTitle(kind)), element('span', ''));
  button.type = 'button';
  button.addEventListener('click', () => app.update({ type: kind.type, sort: '' }, true));
  button.dataset.kind = number;
  return button;
}

// An instance by what tells it from the others.
function laneButton(app, tags, lane) {
  const { data } = app;
  const common = commonTags(data.lanes).map(([key]) => key);
  const own = tags.filter(([key]) => !common.includes(key));
  const version = versionOf(tags);
  const names = ['instance', 'pod', 'host'].map((key) => own.find(([other]) => other === key)?.[1]).filter(Boolean);
  const text = [version, names[0]].filter(Boolean).join(' · ') || own.map(([, value]) => value).join(' · ') || `instance ${lane + 1}`;
  const button = element('button', 'lane', clipped(text, 60));
  button.type = 'button';
  button.title = `${tags.map(([key, value]) => `${clipped(key, 60)}: ${clipped(value, 200)}`).join('\n')}\nClick to see only this one, or with others`;
  button.addEventListener('click', () => {
    const { lanes } = app.state;
    app.update({ lanes: lanes.includes(lane) ? lanes.filter((other) => other !== lane) : [...lanes, lane].sort((a, b) => a - b) });
  });
  return button;
}

// Which kind is looked at, and how much there is of each: the highest rate, or the sum where there is but one period.
function showKinds(app) {
  const { data, state } = app;
  for (const button of byId('kind-names').children) {
    const number = Number(button.dataset.kind);
    button.setAttribute('aria-pressed', number === data.types[state.type].kind);
    const rates = app.rates?.[number];
    const { type, first } = data.kinds[number];
    const sum = data.profiles.reduce((all, { kind, totals }) => (kind === number ? all + Number(totals[type - first]) : all), 0);
    button.lastChild.textContent = rates && slotCount(data) > 1 ? `up to ${rateText(app, rates, rates.most)}` : quantity(sum, data.types[type].unit);
  }
}

// `anew`: the rates have changed, not only what is chosen of them.
function showTimeline(app, anew) {
  const { data, state } = app;
  if (!data.versions) return;
  if (anew || !app.rates) app.rates = data.kinds.map((_, kind) => ratesOf(app, kind));
  if (anew || app.timelineColours !== app.colours) placeTimeline(app);
  const chosen = state.range ?? [0, slotCount(data) - 1];
  [...byId('lane-names').children].forEach((button, lane) => button.setAttribute('aria-pressed', state.lanes.includes(lane)));
  const [from] = slotTimes(data, chosen[0]);
  const [, to] = slotTimes(data, chosen[1]);
  byId('when').textContent = `${stretch(from, to)} (${quantity((to - from) * 1e6, 'nanoseconds')})`;
  byId('when').title = stretchUtc(from, to);
  const told = ([first, last]) => stretch(slotTimes(data, first)[0], slotTimes(data, last)[1]);
  byId('range-text').textContent = state.base ? `${told(state.base)}  →  ${told(chosen)}` : state.range ? told(chosen) : 'All of it. Drag to choose a stretch.';
  byId('range-all').disabled = !state.range;
  byId('compare').textContent = state.base ? 'Stop comparing' : 'Compare';
  byId('compare').disabled = slotCount(data) < 2;
  byId('brushes').hidden = !state.base;
  if (!state.base) app.brush = 'range';
  for (const brush of ['range', 'base']) byId(`brush-${brush}`).setAttribute('aria-pressed', app.brush === brush);
  placeBoxes(app);
}

function placeTimeline(app) {
  const canvas = byId('over-time');
  const width = byId('charts').clientWidth;
  if (width === 0 || byId('timeline').hidden) return;
  app.timelineColours = app.colours;
  app.layout = layOut(app.data, width);
  drawOverTime(app, canvas, app.layout);
  byId('kind-names').style.paddingTop = `${app.layout.charts[0]}px`;
  for (const button of byId('kind-names').children) button.style.height = `${app.layout.chart}px`;
  placeBoxes(app);
}

function placeBoxes(app) {
  if (!app.layout) return;
  const { data, layout, state } = app;
  for (const name of ['range', 'base']) {
    const box = byId(`box-${name}`);
    box.hidden = state[name] === null;
    if (box.hidden) continue;
    const [left] = edges(data, layout, state[name][0]);
    const [, right] = edges(data, layout, state[name][1]);
    box.style.left = `${left}px`;
    box.style.width = `${Math.max(2, right - left)}px`;
    box.style.height = `${layout.axis}px`;
  }
}

function chooseBrush(app, brush) {
  app.brush = brush;
  showTimeline(app, false);
}

// What is chosen becomes the newer of a pair: its baseline is as much before it, or all that is before or after it.
function compare(app) {
  const last = slotCount(app.data) - 1;
  const range = app.state.range ?? [Math.floor((last + 1) / 2), last];
  const length = range[1] - range[0] + 1;
  const base = range[0] > 0 ? [Math.max(0, range[0] - length), range[0] - 1] : [Math.min(last, range[1] + 1), last];
  if (base[0] > base[1] || (range[0] === 0 && range[1] === last)) return;
  app.update({ range, base, sort: '' }, true);
}

function listenToBrush(app, canvas) {
  const { data } = app;
  let from = -1;
  const at = (event) => slotAt(data, app.layout, Math.max(0, Math.min(app.layout.width, event.clientX - canvas.getBoundingClientRect().left)));
  const take = (slot, step) => app.update({ [app.brush]: [Math.min(from, slot), Math.max(from, slot)] }, step);
  canvas.addEventListener('pointerdown', (event) => {
    if (event.button !== 0) return;
    from = at(event);
    canvas.setPointerCapture(event.pointerId);
    byId('tooltip').hidden = true;
  });
  canvas.addEventListener('pointermove', (event) => {
    if (from < 0) return tellSlot(app, event, at(event));
    const slot = at(event);
    const now = app.state[app.brush];
    if (now?.[0] === Math.min(from, slot) && now[1] === Math.max(from, slot)) return;
    // The box follows at once; the graph as soon as the browser has time for it.
    preview(app, [Math.min(from, slot), Math.max(from, slot)]);
  });
  canvas.addEventListener('pointerup', (event) => {
    if (from < 0) return;
    const slot = at(event);
    const alone = slot === from && app.state[app.brush]?.[0] === slot && app.state[app.brush][1] === slot;
    // A second click on the one slot that is chosen takes it back.
    if (alone && app.brush === 'range' && !app.state.base) app.update({ range: null }, true);
    else take(slot, true);
    from = -1;
  });
  canvas.addEventListener('pointercancel', () => {
    from = -1;
    placeBoxes(app);
  });
  canvas.addEventListener('dblclick', () => app.update({ range: null, base: null }, true));
  canvas.addEventListener('pointerleave', () => { byId('tooltip').hidden = true; });
  canvas.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !brushKey(app, event.key, event.shiftKey)) return;
    event.preventDefault();
    event.stopPropagation();
  });
}

function preview(app, range) {
  const { data, layout } = app;
  const box = byId(`box-${app.brush}`);
  const [left] = edges(data, layout, range[0]);
  const [, right] = edges(data, layout, range[1]);
  box.hidden = false;
  box.style.left = `${left}px`;
  box.style.width = `${Math.max(2, right - left)}px`;
  box.style.height = `${layout.axis}px`;
}

// Arrows move what is chosen, with Shift its end.
function brushKey(app, key, shift) {
  const last = slotCount(app.data) - 1;
  const now = app.state[app.brush];
  const within = (slot) => Math.max(0, Math.min(last, slot));
  if (key === 'Home') app.update({ range: null, base: null }, true);
  else if (key === 'b') app.state.base ? app.update({ base: null }, true) : compare(app);
  else if (key === 'ArrowLeft' || key === 'ArrowRight') {
    const step = key === 'ArrowLeft' ? -1 : 1;
    if (!now) app.update({ [app.brush]: step > 0 ? [0, 0] : [last, last] }, true);
    else if (shift) app.update({ [app.brush]: [now[0], Math.max(now[0], within(now[1] + step))] }, true);
    else if (now[0] + step >= 0 && now[1] + step <= last) app.update({ [app.brush]: now.map((slot) => slot + step) }, true);
  } else return false;
  byId('live').textContent = `${byId('range-text').textContent}, ${byId('totals').innerText.replaceAll('\n', ' ')}`;
  return true;
}

// The rates of one slot beside the pointer.
function tellSlot(app, event, slot) {
  if (event.pointerType === 'touch') return;
  const { data } = app;
  const [from, to] = slotTimes(data, slot);
  const rows = [['', '', '', '']];
  for (const rates of app.rates) {
    const total = rates.total[slot];
    rows.push([kindTitle(data.kinds[rates.kind]), Number.isNaN(total) ? 'no profile' : rateText(app, rates, total), '', '']);
    if (!rates.byActivity || Number.isNaN(total)) continue;
    for (const series of rates.shown.filter((one) => rates.rate[one][slot] > 0)) rows.push([`\u2003${data.doing.short[series]}`, rateText(app, rates, rates.rate[series][slot]), percent(ratio(rates.rate[series][slot], total)), '']);
  }
  const here = data.lanes.length > 1 ? data.lanes.filter((_, lane) => data.slotsOfLane[lane].includes(slot)).length : 0;
  fillTooltip(app, byId('tooltip'), { name: stretch(from, to), where: [stretchUtc(from, to)], notes: here ? [`${here} instance${here === 1 ? '' : 's'}`] : [], rows });
  placeTooltip(event);
}
