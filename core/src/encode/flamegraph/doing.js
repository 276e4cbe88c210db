// What threads did on the wall clock, or off the processor: each label set of such a profile says it, as a label of its own by which samples are
// filtered and grouped like by any other, and frames are coloured by it.

// No label of a program has this name: control characters are made visible in those.
const ACTIVITY = '\u0001activity';
// A part of a frame that is less than this is not told.
const TOLD = 0.005;

// How the activities look, by the order in which the data names them: what is hot runs, what is cold waits. They differ in
// lightness and in their pattern as well, for those who see colours otherwise and for paper.
const patterns = ['', 'slant', '', 'dots', 'upright', 'level', 'slant', 'dots', ''];

// Adds `data.doing`: names, and for each label set its activity and its group of threads; null where nothing is known.
function readDoings(data) {
  const { doings, activities } = data;
  data.doing = null;
  if (!doings) return;
  const of = Int8Array.from(data.labels, (_, set) => doings[2 * set]);
  const group = Int32Array.from(data.labels, (_, set) => doings[2 * set + 1]);
  const short = activities.map((name) => name.replace(/^waiting for (the |an? )?/, '').replace(/,.*/, ''));
  const first = data.strings.length;
  data.strings.push(...short);
  const wait = activities.map((name) => name.startsWith('waiting'));
  const idle = activities.indexOf('idle');
  const typeOf = (wanted, kind) => data.types.findIndex((one) => one.name === wanted && (kind === undefined || one.kind === kind));
  // Of which kinds it is known, by the type that is their time; the verdict is that of the wall clock.
  const times = data.kinds.map((_, kind) => Math.max(typeOf('wall', kind), typeOf('off_cpu', kind)));
  const type = typeOf('wall');
  data.doing = { count: activities.length, type, kind: data.types[type]?.kind ?? -1, times, names: activities, short, of, group, wait, idle, busy: activities.indexOf('on CPU'), ready: activities.findIndex((name) => name.startsWith('ready')) };
  data.labelKeys.unshift({ name: ACTIVITY, of: Int32Array.from(of, (place) => (place < 0 ? -1 : first + place)) });
}

// Whether nothing but idle waits is in the data: they are shown then.
function allIdle(data) {
  const { doing, samples } = data;
  return !doing || !samples.labels.some((set) => doing.of[set] >= 0 && doing.of[set] !== doing.idle);
}

// Hides idle waits, unless they were asked for.
function withoutIdle(data, allowed, state) {
  if (!data.doing || state.idle === 'shown' || state.filters.get(ACTIVITY)?.has(data.doing.short[data.doing.idle])) return;
  data.doing.of.forEach((activity, set) => { if (activity === data.doing.idle) allowed[set] = 0; });
}

// For each class of label sets (`of`, -1 for none) its part of each node: of all that is below it, or of itself alone.
function classColumns(data, tree, below, name, { of, count }) {
  const kept = `${name}${below ? 'Totals' : 'Selfs'}`;
  if (tree[kept]?.of === tree.total) return tree[kept].columns;
  const { samples, types } = data;
  const values = columnOf(data, tree.type);
  const columns = Array.from({ length: count }, () => null);
  for (let row = 0; row < tree.leaf.length; row++) {
    const set = samples.labels[row];
    const own = of[set];
    if (own < 0 || tree.allowed[set] !== 1 || tree.sides.of[samples.profile[row]] < 0) continue;
    columns[own] ??= new Float64Array(tree.count);
    columns[own][tree.leaf[row]] += types[tree.type].wide ? Number(values[row]) : values[row];
  }
  if (below) for (const column of columns) if (column) upwards(tree, column);
  tree[kept] = { of: tree.total, columns };
  return columns;
}

// What a node was doing: the part of each activity, 0 to 1.
function partsOf(data, tree, node) {
  return partsBy(data, tree, node, 'activity', data.doing);
}

// The part of each class of label sets.
function partsBy(data, tree, node, name, classes) {
  const from = tree.source ?? tree;
  const columns = classColumns(data, from, !tree.source || tree.whole, name, classes);
  const members = tree.members?.[node] ?? [node];
  const sums = columns.map((column) => (column ? members.reduce((sum, member) => sum + column[member], 0) : 0));
  const all = sums.reduce((sum, value) => sum + value, 0);
  return all > 0 ? sums.map((value) => Math.max(0, value) / all) : null;
}

// The same in words, the most first.
function doingOf(app, tree, node) {
  const parts = partsOf(app.data, tree, node) ?? [];
  const told = parts.map((part, activity) => [part, activity]).filter(([part]) => part > 0).sort(([a], [b]) => b - a);
  return told.map(([part, activity]) => `${app.data.doing.short[activity]} ${percent(part)}`).join(', ');
}

function mostOf(parts) {
  return parts.reduce((most, part, activity) => (part > parts[most] ? activity : most), 0);
}

// The colouring: a frame has the colour of what it did most, and along its lower edge those of all it did.
function doingColouring(app) {
  const { data } = app;
  const { doing } = data;
  if (!doing) return null;
  return {
    title: 'on CPU or waiting',
    fill(colours, tree, node) {
      const parts = partsOf(data, tree, node);
      return parts ? colours.doing[mostOf(parts)] : colours.other;
    },
    parts(colours, tree, node) {
      const parts = partsOf(data, tree, node);
      if (!parts || Math.max(...parts) > 1 - TOLD) return null;
      return parts.map((part, activity) => [colours.doing[activity], part]).filter(([, part]) => part > 0);
    },
    word(tree, node) {
      const parts = partsOf(data, tree, node);
      if (!parts) return '';
      const most = mostOf(parts);
      return parts[most] > 1 - TOLD ? doing.short[most] : `mostly ${doing.short[most]}`;
    },
    legend: (colours) => app.activitySums.map((sum, activity) => ({
      fill: colours.doing[activity], pattern: patterns[activity], hidden: activity === doing.idle && isIdleHidden(app),
      text: activity === doing.idle ? `${doing.short[activity]} ${quantity(sum, 'nanoseconds')}` : `${doing.short[activity]} ${percent(ratio(sum, atWork(app)))}`,
      title: `${doing.names[activity]}: ${quantity(sum, 'nanoseconds')}\n${activity === doing.idle ? 'Click to show or hide idle waits' : 'Of the time at work; click to see only this, or with others'}`,
      pressed: app.state.filters.get(ACTIVITY)?.has(doing.short[activity]) ?? false,
      click: () => (activity === doing.idle ? toggleIdle(app) : toggleActivity(app, activity)), some: sum > 0,
    })).filter(({ some }) => some),
  };
}

function isIdleHidden(app) {
  const { doing } = app.data;
  return doing !== null && app.state.idle === 'hidden' && !app.state.filters.get(ACTIVITY)?.has(doing.short[doing.idle]);
}

function toggleIdle(app) {
  const { doing } = app.data;
  const filters = new Map(app.state.filters);
  if (filters.get(ACTIVITY)?.has(doing.short[doing.idle])) filters.delete(ACTIVITY);
  app.update({ filters, idle: isIdleHidden(app) ? 'shown' : 'hidden' });
}

function toggleActivity(app, activity) {
  const name = app.data.doing.short[activity];
  const filters = new Map(app.state.filters);
  const chosen = new Set(filters.get(ACTIVITY));
  if (!chosen.delete(name)) chosen.add(name);
  if (chosen.size > 0) filters.set(ACTIVITY, chosen);
  else filters.delete(ACTIVITY);
  app.update({ filters });
  if (!byId('filters').hidden) fillFilters(app);
}

// The time by activity of the kind that is looked at, and by group of threads for the verdict, of what the filters leave:
// idle or not, whichever activity is looked at.
function sumActivities(app) {
  const { data, state } = app;
  const { doing } = data;
  app.activitySums = null;
  if (!doing) return;
  const filters = new Map(state.filters);
  filters.delete(ACTIVITY);
  const allowed = app.activityAllowed = allowedSets(data, { ...state, filters, idle: 'shown' });
  const shown = doing.times[data.types[state.type].kind];
  const type = shown >= 0 ? shown : doing.type;
  const ofSet = timeOfSets(app, Math.max(type, 0));
  app.activitySums = doing.names.map(() => 0);
  ofSet.forEach((sum, set) => { if (doing.of[set] >= 0 && allowed[set] === 1) app.activitySums[doing.of[set]] += sum; });
  app.groupSums = new Map();
  app.hasTasks = false;
  if (doing.type < 0) return;
  app.verdictSides = sidesOf(data, state, doing.kind);
  app.verdictSeconds = secondsOfSides(app, app.verdictSides, doing.kind).at(-1);
  (type === doing.type ? ofSet : timeOfSets(app, doing.type)).forEach((sum, set) => {
    // Threads of everprof are in the picture, not in the verdict.
    if (doing.of[set] < 0 || allowed[set] !== 1 || doing.group[set] < 0) return;
    const group = app.groupSums.get(doing.group[set]) ?? doing.names.map(() => 0);
    app.groupSums.set(doing.group[set], group);
    group[doing.of[set]] += sum;
  });
  app.hasTasks = [...app.groupSums.keys()].some((group) => data.strings[group] === data.tasks);
}

// The time of a type by label set, of the newer of a pair.
function timeOfSets({ data, state }, type) {
  const { samples, types } = data;
  const values = columnOf(data, type);
  const { of, count } = sidesOf(data, state, types[type].kind);
  const ofSet = new Float64Array(data.labels.length);
  for (let row = 0; row < values.length; row++) if (of[samples.profile[row]] === count - 1) ofSet[samples.labels[row]] += Math.max(0, Number(values[row]));
  return ofSet;
}

function atWork({ activitySums, data }) {
  return activitySums.reduce((sum, value, activity) => (activity === data.doing.idle ? sum : sum + value), 0);
}
