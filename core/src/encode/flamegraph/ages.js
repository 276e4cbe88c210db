// The live heap: a level, of which each label set says for how many ends of periods its blocks have survived, and what of
// it grows. Frames are coloured by age: what is hot has survived longest.

// Ages come in classes, as the profile has them: new, 1, 2 and 3, 4 to 7, and so on. The last takes the rest.
const AGES = ['new', '1 period', '2–3', '4–7', '8–15', '16–31', '32 and more'];
// The rule of `store::leaks` for what grows: how surely the trend is no chance, what part of all growth is in the later half, and
// of fewer periods nothing is said.
const TREND = 1.645;
const LATER = 0.25;
const FEWEST = 5;
// Moments that are compared of a long time: levels say the same at fewer of them.
const MOMENTS = 96;

// Adds `data.ages`: for each label set its class, -1 where it has none; null where none has.
function readAges(data) {
  data.ages = null;
  const key = data.labelKeys.find(({ name }) => name === 'age');
  if (!key) return;
  const number = (place) => /^(\d+) periods$/.exec(place < 0 ? '' : data.strings[place])?.[1];
  const of = Int8Array.from(key.of, (place) => {
    const age = number(place);
    return age === undefined ? -1 : Math.min(AGES.length - 1, age === '0' ? 0 : 1 + Math.floor(Math.log2(Number(age))));
  });
  if (of.some((place) => place >= 0)) data.ages = { of, count: AGES.length, key };
}

// Whether a type is a level, and its samples have ages.
function hasAges(data, type) {
  return data.ages !== null && data.types[type].level;
}

function ageParts(data, tree, node) {
  return partsBy(data, tree, node, 'age', data.ages);
}

// The same in words, the oldest first.
function agesOf(data, tree, node) {
  const parts = ageParts(data, tree, node) ?? [];
  const told = parts.map((part, age) => (part > 0 ? `${AGES[age]} ${percent(part)}` : '')).filter(Boolean);
  return told.length > 0 ? `survived: ${told.reverse().join(', ')}` : '';
}

function ageColouring(app) {
  const { data } = app;
  if (!data.ages) return null;
  return {
    title: 'age: periods survived',
    fill(colours, tree, node) {
      const parts = ageParts(data, tree, node);
      return parts ? colours.ages[mostOf(parts)] : colours.other;
    },
    parts(colours, tree, node) {
      const parts = ageParts(data, tree, node);
      if (!parts || Math.max(...parts) > 1 - TOLD) return null;
      return parts.map((part, age) => [colours.ages[age], part]).filter(([, part]) => part > 0);
    },
    legend: (colours) => {
      const sums = ageSums(app);
      const all = sums.reduce((sum, value) => sum + value, 0);
      return sums.map((sum, age) => ({
        fill: colours.ages[age], text: `${AGES[age]} ${percent(ratio(sum, all))}`,
        title: age === 0 ? 'Allocated since the last period ended' : `${quantity(sum, data.types[app.tree.type].unit)} in blocks of this age\nClick to see only what is as old or older`,
        pressed: app.state.filters.get('age')?.has(valueOfAge(data, age)) ?? false, click: () => toggleAge(app, age), some: sum > 0,
      })).filter(({ some }) => some);
    },
  };
}

// What there is by age, of what is looked at.
function ageSums({ data, sides, state }) {
  const values = columnOf(data, state.type);
  const sums = AGES.map(() => 0);
  for (let row = 0; row < values.length; row++) {
    const age = data.ages.of[data.samples.labels[row]];
    if (age >= 0 && sides.of[data.samples.profile[row]] === sides.count - 1) sums[age] += Math.max(0, Number(values[row]));
  }
  return sums;
}

function valuesOfAges(data, from) {
  const { of, key } = data.ages;
  return new Set([...of].flatMap((age, set) => (age >= from ? [data.strings[key.of[set]]] : [])));
}

function valueOfAge(data, age) {
  const { of, key } = data.ages;
  const set = of.indexOf(age);
  return set < 0 ? '' : data.strings[key.of[set]];
}

// Blocks that are as old as this or older, and nothing else; once more, all of them again.
function toggleAge(app, age) {
  const filters = new Map(app.state.filters);
  const wanted = valuesOfAges(app.data, age);
  const now = filters.get('age');
  if (now && now.size === wanted.size && [...wanted].every((value) => now.has(value))) filters.delete('age');
  else filters.set('age', wanted);
  app.update({ filters });
  if (!byId('filters').hidden) fillFilters(app);
}

// For each sample's leaf the innermost functions of the application on its way, as a key, and the first of them.
function placesOf(app) {
  const { data } = app;
  if (data.places) return data.places;
  const { frames, tree, strings } = data;
  const known = new Map();
  const of = new Map();
  const place = (leaf) => {
    const names = [];
    for (let node = leaf; node > 0 && names.length < PLACE; node = tree.parent[node]) {
      if (frames.flags[tree.frame[node]] & OWN && names.at(-1) !== tree.name[node]) names.push(tree.name[node]);
    }
    if (names.length === 0 && leaf > 0) names.push(tree.name[leaf]);
    const key = names.join(' ');
    if (!known.has(key)) known.set(key, { key, names: names.map((name) => strings[name]), id: names[0] ?? -1 });
    return known.get(key);
  };
  data.places = (leaf) => {
    if (!of.has(leaf)) of.set(leaf, place(leaf));
    return of.get(leaf);
  };
  return data.places;
}

// The survivors of each place over the periods that are looked at, of each instance by itself: what grows, the fastest
// first, with bytes an hour. It adds up over instances that are there at the end; of others the one that grew fastest is told
// where no such does. Null where there are too few periods to say.
function growingOf(app) {
  const { data, state } = app;
  const { kind } = data.types[state.type];
  const type = data.types.findIndex((one) => one.kind === kind && one.name === 'inuse_space');
  if (!data.slots || type < 0 || !data.ages || app.pair) return null;
  const within = (slot) => state.range === null || (slot >= state.range[0] && slot <= state.range[1]);
  const series = new Map();
  data.profiles.forEach((profile, number) => {
    if (!isChosen(profile, kind, state.lanes) || !within(profile.slot)) return;
    const of = series.get(profile.lane) ?? [];
    of.push([profile.slot, number]);
    series.set(profile.lane, of);
  });
  const column = new Int32Array(data.profiles.length).fill(-1);
  const lanes = [];
  for (const all of series.values()) {
    if (all.length < FEWEST) continue;
    all.sort(([a], [b]) => a - b);
    const shown = Math.min(all.length, MOMENTS);
    const moments = Array.from({ length: shown }, (_, at) => all[Math.floor((at * (all.length - 1)) / (shown - 1))]);
    moments.forEach(([, number], at) => { column[number] = at; });
    const sample = Math.max(1, ...moments.map(([, number]) => data.profiles[number].period));
    const [start, until] = slotTimes(data, all.at(-1)[0]);
    lanes.push({ sample, over: lastsUntil(start, until), lane: data.profiles[moments[0][1]].lane, ends: moments.map(([slot]) => slotTimes(data, slot)[1]), places: new Map() });
  }
  if (lanes.length === 0) return null;
  const end = Math.max(...[...series.values()].map((all) => slotTimes(data, Math.max(...all.map(([slot]) => slot)))[1]));
  for (const lane of lanes) lane.isOver = lane.over < end;
  const ofLane = new Map(lanes.map((lane) => [lane.lane, lane]));
  const values = columnOf(data, type);
  const { leaf, labels, profile } = data.samples;
  const placeOf = placesOf(app);
  for (let row = 0; row < values.length; row++) {
    const at = column[profile[row]];
    if (at < 0 || data.ages.of[labels[row]] < 1 || app.allowed[labels[row]] !== 1) continue;
    const lane = ofLane.get(data.profiles[profile[row]].lane);
    const place = placeOf(leaf[row]);
    let bytes = lane.places.get(place.key);
    if (!bytes) lane.places.set(place.key, bytes = Object.assign(new Float64Array(lane.ends.length), { place }));
    bytes[at] += Number(values[row]);
  }
  const found = new Map();
  for (const lane of lanes) {
    for (const bytes of lane.places.values()) {
      const perHour = growthOf(bytes, lane);
      if (perHour === null) continue;
      const known = found.get(bytes.place.key);
      const own = { place: bytes.place, perHour, isOver: lane.isOver };
      if (known && !known.isOver && !own.isOver) own.perHour += known.perHour;
      else if (known && (known.isOver === own.isOver ? known.perHour > perHour : own.isOver)) continue;
      found.set(bytes.place.key, own);
    }
  }
  return [...found.values()].sort((a, b) => b.perHour - a.perHour || (a.place.key < b.place.key ? -1 : 1));
}

// By how much an hour a place grows in the later half of the time; null where it does not, or no longer.
function growthOf(bytes, { ends, sample }) {
  const middle = Math.floor(bytes.length / 2);
  const [all, later] = [bytes.at(-1) - bytes[0], bytes.at(-1) - bytes[middle]];
  const hours = (ends.at(-1) - ends[middle]) / 3_600_000;
  const grows = all > 0 && later >= sample && later >= LATER * all && hours > 0 && trendOf(bytes) > TREND;
  return grows ? later / hours : null;
}

// Mann and Kendall's test: how surely later values are larger, in standard deviations of what chance gives.
function trendOf(values) {
  const spread = (n) => n * (n - 1) * (2 * n + 5);
  let score = 0;
  const ties = new Map();
  values.forEach((earlier, at) => {
    for (let other = at + 1; other < values.length; other++) score += Math.sign(values[other] - earlier);
    ties.set(earlier, (ties.get(earlier) ?? 0) + 1);
  });
  const variance = (spread(values.length) - [...ties.values()].reduce((sum, count) => sum + spread(count), 0)) / 18;
  return variance > 0 ? (score - Math.sign(score)) / Math.sqrt(variance) : 0;
}

// What the head of the page says of the live heap: what grows, or where there is one moment only, what has survived.
function heapFindings(app) {
  const { data, tree } = app;
  if (app.pair || !hasAges(data, tree.type)) return [];
  const growing = growingOf(app);
  const title = 'Places whose surviving blocks become more, period after period: what fills up and stays, as a cache does, is not among them';
  if (growing?.length > 0) {
    const found = growing.slice(0, NAMED).map(({ place, perHour }) => ({ id: place.id, value: `+${quantity(perHour, 'bytes')}/h` }));
    return [{ text: 'Grows', title, kind: 'grew', found }];
  }
  if (growing) return [{ text: 'Nothing grows among what survives', title, kind: '', found: [], alone: true }];
  const { unit } = data.types[tree.type];
  const sums = new Map();
  const values = columnOf(data, tree.type);
  const placeOf = placesOf(app);
  for (let row = 0; row < values.length; row++) {
    const set = data.samples.labels[row];
    if (data.ages.of[set] < 1 || tree.allowed[set] !== 1 || tree.sides.of[data.samples.profile[row]] < 0) continue;
    const place = placeOf(data.samples.leaf[row]);
    sums.set(place, (sums.get(place) ?? 0) + Number(values[row]));
  }
  const found = [...sums].filter(([, sum]) => sum > 0).sort((a, b) => b[1] - a[1]).slice(0, NAMED);
  return [{ text: 'Survived', title: 'Places with most in blocks that have survived the end of a period', kind: '', found: found.map(([{ id }, sum]) => ({ id, value: quantity(sum, unit) })) }];
}
