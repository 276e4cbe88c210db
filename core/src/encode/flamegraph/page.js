// The page: state, what follows from it, and who is told when it changes.

// `tree` is what the samples add up to, `shown` what the graph shows of it: the same, or inverted.
const app = { data: null, tree: null, shown: null, top: 0, match: null, chosenName: '' };

app.update = (patch, step = false) => {
  const before = app.state;
  app.state = { ...app.state, ...patch };
  remember(step);
  refresh(before);
};

app.zoom = (node) => {
  if (node !== app.top) app.zooms.push(app.state.zoom);
  app.update({ zoom: pathOf(app.shown, node), centre: '' }, true);
};

// Searches one function and brings its widest frame into sight, if need be from outside of what is zoomed to.
app.find = (name) => {
  app.update({ query: exactly(name), centre: '' });
  const widest = () => {
    const { rows } = app.main;
    const found = rows.flatMap((row) => row.node.map((node, at) => [node, row.width[at]])).filter(([node]) => node >= 0 && isMatch(app.shown, node, app.match));
    return found.reduce((most, box) => (most === null || box[1] > most[1] ? box : most), null);
  };
  if (!widest() && app.state.zoom.length > 0) app.update({ zoom: [] }, true);
  const box = widest();
  if (box) app.main.reveal(box[0], true);
};

// Back to where the last zoom started, or to everything.
app.zoomBack = () => app.update({ zoom: app.zooms.pop() ?? [] }, true);

app.invert = (on) => {
  app.zooms = [];
  app.update({ inverted: on, zoom: [], centre: '' }, true);
};

app.choose = (graph, node) => {
  byId('tooltip').hidden = true;
  const { tree } = graph.view;
  showDetails(app, tree, node, true);
  if (graph !== app.main) {
    if (tree.name[node] >= 0) app.update({ centre: app.data.strings[tree.name[node]] }, true);
    return;
  }
  if (node !== app.top) app.zoom(node);
};

app.nameOf = (tree, node) => {
  const name = tree.name[node];
  if (tree.flags[node] & GROUP) return `${keyTitle(app.state.group ?? '')}: ${name < 0 ? '(none)' : app.data.strings[name]}`;
  return name < 0 ? 'all' : app.data.strings[name];
};

app.topOf = (tree) => (tree === app.shown ? app.top : 0);

app.normalised = (value, unit) => (app.norm !== 'time' ? percent(value) : app.level ? quantity(value, unit) : rate(value, unit));

// The z of a node's or a name's sample counts.
app.significance = ([before, after], at) => significance(before[at], after[at], app.over, app.periods, app.norm === 'share');

// What changed about a node of a pair: its strength from -1 to 1 (0 within chance), its z, and both in words.
app.change = (tree, node) => {
  const [before, after] = tree.total.map((side, number) => Number(side[node]) * app.scale[number]);
  const counted = tree.counts !== null;
  const z = counted ? app.significance(tree.counts, node) : 0;
  const larger = Math.max(before, after);
  const relative = larger > 0 ? (after - before) / larger : 0;
  const sure = relative !== 0 && (!counted || Math.abs(z) >= 2);
  const text = before === 0 ? (after === 0 ? 'nothing' : 'new') : after === 0 ? 'gone' : `${after > before ? '+' : ''}${percent(after / before - 1)}`;
  const chance = !counted ? '' : Math.abs(z) >= 3 ? ', hardly chance' : Math.abs(z) >= 2 ? ', likely real' : ', within chance';
  const strength = sure ? Math.sign(relative) * Math.min(1, 0.15 + 1.1 * Math.abs(relative)) : 0;
  const words = before === after ? 'no change' : `${text}${chance}${counted ? ` (z ${minus(z.toFixed(1))})` : ''}`;
  return { strength, z, text, words };
};

app.labelOf = (tree, node, room) => {
  let name = app.nameOf(tree, node);
  if (tree.flags[node] & LOST) name = `⚠ ${name}`;
  let sign = '';
  if (tree.total.length > 1) {
    const change = app.change(tree, node);
    if (change.strength !== 0) sign = `${change.text === 'new' ? '+ new' : change.text === 'gone' ? '− gone' : change.text} `;
  }
  if (sign.length + name.length <= room) return sign + name;
  let short = name;
  if (tree.flags[node] & GROUP) short = name.slice(name.indexOf(': ') + 2);
  else if (tree.name[node] >= 0) short = shortName(name);
  if (sign.length + short.length <= room) return sign + short;
  // A number that does not fit is not cut: its sign says enough.
  if (sign && sign.length + 3 > room) return sign.length - 1 <= room ? sign.trim() : sign[0];
  return `${sign}${short.slice(0, Math.max(1, room - sign.length - 1))}…`;
};

// A frame's part of all, where it is not that of its caller: along a tower of callers it is told once.
function shareOf(app, tree, node) {
  if (tree.total.length > 1) return '';
  const share = (at) => percent(ratio(tree.total[0][at], app.tree.total[0][0]));
  const own = share(node);
  return node > 0 && own === share(tree.parent[node]) ? '' : own;
}

app.viewOf = (tree, top, upward, ancestors) => ({
  tree, top, upward, ancestors, match: app.match, colours: app.colours,
  fill: (node) => (tree.frame[node] < 0 ? app.colours.group : app.colouring.fill(app.colours, tree, node)),
  textColour: (node) => (tree.frame[node] < 0 ? null : app.colouring.text?.(app.colours, tree, node)) ?? app.colours.text,
  parts: (node) => (tree.frame[node] < 0 ? null : app.colouring.parts?.(app.colours, tree, node) ?? null),
  shareOf: (node) => [shareOf(app, tree, node), tree.frame[node] < 0 ? '' : app.colouring.word?.(tree, node)].filter(Boolean).join(' '),
  labelOf: (node, room) => app.labelOf(tree, node, room),
  hatched: (node) => tree.total.length > 1 && tree.total.some((side) => Number(side[node]) === 0),
});

// Brings everything up to date; what the change does not touch is kept.
function refresh(before) {
  const { state, data } = app;
  const changed = (...names) => !before || names.some((name) => before[name] !== state[name]);
  const { kind } = data.types[state.type];
  const levelOf = ({ type }) => data.types[type].level;
  const turnedTo = !before || kind !== data.types[before.type].kind || levelOf(state) !== levelOf(before);
  const chosen = turnedTo || changed('range', 'base', 'lanes');
  if (chosen) choose(app, kind);
  if (changed('filters', 'idle')) app.allowed = allowedSets(data, state);
  if (turnedTo || changed('filters', 'range', 'base', 'lanes')) sumActivities(app);
  if (changed('group', 'recursion')) {
    app.tree = structure(data, data.labelKeys.find(({ name }) => name === state.group), state.recursion);
  }
  const summed = chosen || changed('filters', 'idle', 'group', 'recursion', 'type');
  if (summed) sumTree(data, app.tree, state.type, app.allowed, app.sides);
  const weighed = summed || changed('norm', 'side');
  if (weighed) {
    compareBy(state);
    weighTree(data, app.tree, app);
  }
  const turned = changed('inverted') || (state.inverted && (weighed || changed('zoom')));
  if (summed || turned) app.shown = state.inverted ? inverted(data, app.tree, state.zoom) : app.tree;
  if (state.inverted && turned) weighTree(data, app.shown, app);
  app.top = nodeAt(app.shown, state.zoom);
  if (changed('query')) app.match = matches(data, state.query);
  const colours = offered(app);
  app.colour = colours.includes(state.colour) ? state.colour : colours[0];
  app.colouring = app.colourings[app.colour].use;
  if (chosen) {
    app.fillTypes();
    app.fillColours();
  }
  showToolbar(app);
  if (changed('filters', 'range', 'base', 'lanes')) showVerdict(app);
  if (data.view === 'timeline') showTimeline(app, changed('filters', 'idle', 'lanes', 'type'));
  showKinds(app);
  if (weighed) showTotals(app);
  showLegend(app);
  const moved = summed || turned || changed('zoom');
  app.main.focus = moved ? app.top : app.main.focus || app.top;
  if (state.centre || changed('centre')) showSandwich(app);
  byId('side-panel').hidden = !state.table;
  const placed = !weighed && !turned && !changed('zoom', 'orientation', 'table', 'centre');
  if (!state.centre) app.main.show(app.viewOf(app.shown, app.top, state.orientation === 'flame', true), !changed('zoom', 'orientation'), placed);
  if (weighed || turned || changed('zoom')) showCrumbs(app);
  if (weighed || turned || changed('zoom', 'query', 'sort', 'table')) tableSoon(weighed || turned || changed('zoom'));
}

// The graph first: the table follows when the graph is on the screen, and once for several changes in a row.
function tableSoon(summed) {
  clearTimeout(app.tableDue);
  app.findingsDue ||= summed;
  const show = () => {
    showTable(app);
    if (app.findingsDue) showFindings(app);
    app.findingsDue = false;
  };
  if (app.tree.count < 50_000) show();
  else app.tableDue = setTimeout(show, 20);
}

// What is looked at: one kind of profile, of some stretch of time and of some instances; of two stretches as a pair.
function choose(app, kind) {
  const { data, state } = app;
  app.level = data.types[state.type].level;
  app.sides = sidesOf(data, state, kind);
  app.pair = app.sides.count > 1;
  document.body.classList.toggle('diff', app.pair);
  // A level is of a moment, and compares as it is.
  app.seconds = app.level ? Array.from({ length: app.sides.count }, () => 1) : secondsOfSides(app, app.sides, kind);
  app.periods = app.seconds.map((_, side) => periodsOf(data, state.type, profilesOf(data, app.sides, side)));
  app.timed = app.seconds.every((seconds) => seconds > 0);
}

function profilesOf({ profiles }, sides, side) {
  return profiles.filter((_, number) => sides.of[number] === side);
}

// How many seconds each side was measured.
function secondsOfSides({ data, state }, sides, kind) {
  const seconds = (side) => (data.slots ? secondsOf(data, state, kind, side, sides.count > 1) : Number(profilesOf(data, sides, side)[0]?.duration ?? 0n) / 1e9);
  return Array.from({ length: sides.count }, (_, side) => seconds(side));
}

// How many samples one signal stands for in all of them together.
function periodsOf(data, type, profiles) {
  const countType = countTypeOf(data, type);
  const { first } = data.kinds[data.types[type].kind];
  const weight = ({ totals }) => (countType < 0 ? 1 : Math.max(0, Number(totals[countType - first])));
  const samples = profiles.reduce((sum, profile) => sum + weight(profile), 0);
  const signals = profiles.reduce((sum, profile) => sum + weight(profile) / profile.periods_per_signal, 0);
  return signals > 0 ? samples / signals : 1;
}

// For each profile its side: of a pair 0 is before and 1 after, -1 is neither.
function sidesOf(data, state, kind) {
  const sides = periodSides(data, state, kind);
  const shown = data.types[state.type];
  if (data.slots && shown.kind === kind && shown.level) oneMoment(data, shown, sides.of);
  return sides;
}

// Of a level one moment counts of each instance and side: the last, or of peaks the highest. The others are of neither side.
// Nor is the last of an instance whose next one would have ended before the last of all: it was over then (`store::merge`).
function oneMoment(data, { name, column }, of) {
  const isPeak = name.startsWith('peak_');
  const rank = ({ totals, slot }) => (isPeak ? Number(totals[column]) : slot);
  const best = new Map();
  data.profiles.forEach((profile, number) => {
    if (of[number] < 0) return;
    const key = `${of[number]} ${profile.lane}`;
    const known = best.get(key);
    if (known === undefined || rank(profile) >= rank(data.profiles[known])) best.set(key, number);
  });
  const times = (number) => slotTimes(data, data.profiles[number].slot);
  const ends = [0, 1].map((side) => Math.max(...[...best.values()].filter((number) => of[number] === side).map((number) => times(number)[1])));
  const isThere = (number) => {
    const [start, end] = times(number);
    return isPeak || lastsUntil(start, end) >= ends[of[number]];
  };
  const counted = new Set([...best.values()].filter(isThere));
  of.forEach((side, number) => { if (side >= 0 && !counted.has(number)) of[number] = -1; });
}

function periodSides(data, { range, base, lanes }, kind) {
  if (data.view === 'diff') return { of: Int8Array.from(data.profiles, (_, number) => number), count: 2 };
  const within = (slots, slot) => slots === null || (slot >= slots[0] && slot <= slots[1]);
  const of = Int8Array.from(data.profiles, (profile) => {
    if (profile.kind !== kind || (lanes.length > 0 && !lanes.includes(profile.lane))) return -1;
    if (!data.slots) return 0;
    if (base !== null) return within(range, profile.slot) ? 1 : within(base, profile.slot) ? 0 : -1;
    return within(range, profile.slot) ? 0 : -1;
  });
  return { of, count: base === null ? 1 : 2 };
}

// How the two sides of a pair are made comparable: what a value is multiplied by, and what counts are divided by.
function compareBy(state) {
  const { tree } = app;
  const sides = app.sides.count;
  app.side = sides > 1 && state.side === 'before' ? 0 : sides - 1;
  app.norm = app.timed ? state.norm : 'share';
  if (sides === 1) {
    app.scale = [1];
    app.over = [1];
    return;
  }
  const { seconds } = app;
  const inverse = (value) => (value > 0 ? 1 / value : 0);
  app.scale = app.norm === 'time' ? seconds.map(inverse) : tree.total.map((side) => inverse(Number(side[0])));
  app.over = app.norm === 'time' ? seconds : (tree.counts ?? tree.total).map((side) => Number(side[0]) || 1);
}

// The state goes into the address; a step can be undone with the browser's back button.
function remember(step) {
  const hash = `#${writeHash(app.state, app.initial, app.data)}`;
  if (hash === (location.hash || '#')) return;
  try {
    history[step ? 'pushState' : 'replaceState'](null, '', hash);
  } catch {
    // Where the address may not be changed (some sandboxes), the page works without.
  }
}

function chooseTheme(theme) {
  const dark = theme ? theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  document.documentElement.dataset.theme = dark ? 'dark' : 'light';
  app.colours = palettes[dark ? 'dark' : 'light'];
  byId('theme').setAttribute('aria-label', dark ? 'Light colours' : 'Dark colours');
}

app.nextTheme = () => {
  chooseTheme(document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark');
  refresh(app.state);
  showVerdict(app);
};

async function start() {
  const data = app.data = await decode(byId('data').textContent);
  byId('data').remove();
  app.zooms = [];
  app.colourings = colourings(data, app);
  app.initial = { ...initialState(data), table: window.innerWidth >= 1200 };
  app.state = readHash(location.hash, app.initial, data);
  const on = {
    hover: (graph, node, event, entered) => showTooltip(app, graph.view.tree, node, event, entered),
    choose: (graph, node) => app.choose(graph, node),
    scrolled: (graph, rows) => graph === app.main && showRowsAway(app, rows),
  };
  app.main = makeGraph(byId('graph'), 'Flame graph: arrow keys move, Enter zooms, Escape steps back', on);
  app.callers = makeGraph(byId('callers'), 'Callers', on);
  app.callees = makeGraph(byId('callees'), 'Callees', on);
  app.graphs = [app.main, app.callers, app.callees];
  chooseTheme('');
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
    chooseTheme('');
    refresh(app.state);
    showVerdict(app);
  });
  byId('more-groups').addEventListener('click', () => {
    app.allGroups = !app.allGroups;
    showVerdict(app);
    app.main.again();
  });
  byId('theme').addEventListener('click', () => app.nextTheme());
  byId('rows-away').addEventListener('click', () => app.main.toRoot());
  byId('centre-close').addEventListener('click', () => app.update({ centre: '' }, true));
  byId('act-search').addEventListener('click', () => app.update({ query: exactly(app.chosenName) }));
  byId('act-centre').addEventListener('click', () => app.update({ centre: app.chosenName }, true));
  byId('act-copy').addEventListener('click', () => copyText(app.chosenName));
  for (const name of ['popstate', 'hashchange']) {
    window.addEventListener(name, () => {
      const before = app.state;
      app.state = readHash(location.hash, app.initial, data);
      refresh({ ...before, zoom: null, filters: null });
    });
  }
  choose(app, data.types[app.state.type].kind);
  fillToolbar(app);
  listenToTable(app);
  showHeader(app);
  makeTimeline(app);
  listenToKeys(app);
  listenToPrinter(app);
  refresh(null);
  // For tests and for bookmarklets: where frames lie, and what the page knows.
  app.selfAt = selfAt;
  app.partsOf = partsOf;
  app.ageParts = ageParts;
  window.everprof = app;
  document.title = clipped(data.title, 300);
  document.documentElement.dataset.ready = 'true';
}

start().catch((error) => {
  byId('title').textContent = 'This page cannot be shown';
  byId('when').textContent = 'DecompressionStream' in window ? `Its data is damaged: ${error.message}` : 'This browser is too old: it cannot unpack the data (DecompressionStream). Chrome or Edge 123, Firefox 120, Safari 17.5 and later can.';
  throw error;
});
