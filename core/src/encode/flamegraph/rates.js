// What was counted over time: for each kind of profile and each stretch of time (a slot) the rate of each of its series.
//
// A slot that was measured in part has the rate of what was measured; one that was not is a gap, not a zero.

// How kinds are called, and the unit of a rate of nanoseconds per nanosecond; a kind that is not here goes by its name.
const kindWords = {
  __proto__: null,
  cpu: ['CPU', 'cores'], wall: ['Wall clock', 'threads'], offcpu: ['Off CPU', 'threads'], lock: ['Lock waits', 'threads'],
  mutex: ['Lock holders', 'threads waiting'], block: ['Blocked', 'threads'], alloc: ['Allocations', ''], heap: ['Heap', ''], peak: ['Peak heap', ''],
  threads: ['Threads', 'threads'],
};

function kindTitle(kind) {
  return kindWords[kind.name]?.[0] ?? clipped(kind.name, 40);
}

function slotCount(data) {
  return data.slots ? data.slots.length / 2 : 0;
}

// Beginning and end of a slot in milliseconds since the epoch.
function slotTimes({ slots }, slot) {
  return [slots[2 * slot] / 1000, slots[2 * slot + 1] / 1000];
}

// For each slot how many seconds of a kind were measured of the instances that are looked at: those that ran side by side
// count once. Where the times of one overlap, its clock was set back, and their sum counts.
function coverOf(data, kind, lanes) {
  const found = Array.from({ length: slotCount(data) }, () => ({ own: new Map(), spans: [] }));
  for (const profile of data.profiles) {
    if (profile.looks > 0 || !isChosen(profile, kind, lanes)) continue;
    const { own, spans } = found[profile.slot];
    const of = profile.spans ?? [0, data.slots[2 * profile.slot + 1] - data.slots[2 * profile.slot]];
    let length = 0;
    for (let at = 0; at < of.length; at += 2) {
      spans.push([of[at], of[at + 1]]);
      length += of[at + 1] - of[at];
    }
    own.set(profile.lane, (own.get(profile.lane) ?? 0) + (profile.own ?? length));
  }
  return Float64Array.from(found, ({ own, spans }) => Math.max(0, unionOf(spans), ...own.values()) / 1e6);
}

function isChosen(profile, kind, lanes) {
  return profile.kind === kind && (lanes.length === 0 || lanes.includes(profile.lane));
}

// Snapshots have no duration: what they tell is a level, the mean of those of a slot. How many there are of an instance.
function looksOf(data, kind, lanes) {
  const looks = new Float64Array(slotCount(data));
  for (const profile of data.profiles) {
    if (profile.looks > 0 && isChosen(profile, kind, lanes)) looks[profile.slot] = Math.max(looks[profile.slot], profile.looks);
  }
  return looks;
}

function unionOf(spans) {
  let [union, until] = [0, -Infinity];
  for (const [start, end] of spans.sort(([a], [b]) => a - b)) {
    union += Math.max(0, end - Math.max(start, until));
    until = Math.max(until, end);
  }
  return union;
}

// How many seconds one side of what is looked at was measured.
function secondsOf(data, { range, base, lanes }, kind, side, pair) {
  const slots = pair && side === 0 ? base : range;
  return coverOf(data, kind, lanes).reduce((sum, seconds, slot) => (slots === null || (slot >= slots[0] && slot <= slots[1]) ? sum + seconds : sum), 0);
}

// The rates of a kind: `series` by activity where that is known, else one; `rate[series][slot]`, NaN where nothing is.
function ratesOf(app, kind) {
  const { data, state } = app;
  const { doing, samples, profiles } = data;
  const type = data.types[state.type].kind === kind ? state.type : data.kinds[kind].type;
  const { unit } = data.types[type];
  const byActivity = doing !== null && doing.times[kind] >= 0;
  const count = byActivity ? doing.names.length : 1;
  const slots = slotCount(data);
  const cover = coverOf(data, kind, state.lanes);
  const looks = looksOf(data, kind, state.lanes);
  const rate = Array.from({ length: count }, () => new Float64Array(slots));
  const slotOf = Int32Array.from(profiles, (profile) => (isChosen(profile, kind, state.lanes) ? profile.slot : -1));
  const values = columnOf(data, type);
  const { wide, level } = data.types[type];
  const present = new Uint8Array(slots);
  for (const slot of slotOf) if (slot >= 0) present[slot] = 1;
  for (let row = 0; row < values.length; row++) {
    const slot = slotOf[samples.profile[row]];
    const set = samples.labels[row];
    if (slot < 0 || app.allowed[set] !== 1) continue;
    rate[byActivity && doing.of[set] >= 0 ? doing.of[set] : 0][slot] += wide ? Number(values[row]) : values[row];
  }
  const scale = unit in nanoseconds ? nanoseconds[unit] / 1e9 : 1;
  for (const series of rate) {
    for (let slot = 0; slot < slots; slot++) {
      // What there is at the end of a slot is no rate.
      series[slot] = present[slot] === 0 ? NaN : level ? series[slot] : (series[slot] * scale) / (cover[slot] || looks[slot] || 1);
    }
  }
  const shown = rate.map((series, at) => at).filter((at) => rate[at].some((value) => value > 0));
  const total = new Float64Array(slots).map((_, slot) => (present[slot] === 0 ? NaN : rate.reduce((sum, series) => sum + series[slot], 0)));
  return { kind, type, byActivity, rate, shown, total, most: total.reduce((most, value) => (value > most ? value : most), 0) };
}

function rateText(app, { kind, type }, value) {
  const { unit, name, level } = app.data.types[type];
  if (!(unit in nanoseconds)) return level || coverless(app, kind) ? quantity(value, unit) : rate(value, unit);
  // Tasks that await are no threads.
  const word = app.data.doing?.kind === kind && app.hasTasks ? 'at once' : kindWords[app.data.kinds[kind].name]?.[1] ?? (name === 'cpu' ? 'cores' : 'threads');
  return `${value === 0 ? '0' : value < 0.01 ? '<0.01' : significant(value)} ${word}`;
}

function coverless({ data }, kind) {
  return data.profiles.every((profile) => profile.kind !== kind || profile.looks > 0);
}

// Times are told as the reader's clock has them; UTC is told beside.
function localTime(milliseconds, options) {
  return new Date(milliseconds).toLocaleString('en-GB', { hourCycle: 'h23', ...options });
}

const fullTime = { year: 'numeric', month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', second: '2-digit' };
const dayTime = { hour: '2-digit', minute: '2-digit', second: '2-digit' };

// An instance whose last period this is was over before what comes later than this: its next one would have ended by then.
function lastsUntil(start, end) {
  return end + 1.25 * (end - start);
}

function stretch(from, to) {
  const sameDay = localTime(from, { dateStyle: 'short' }) === localTime(to, { dateStyle: 'short' });
  return `${localTime(from, fullTime)} – ${localTime(to, sameDay ? dayTime : fullTime)}`;
}

function stretchUtc(from, to) {
  const text = (time) => new Date(time).toISOString().slice(0, 19).replace('T', ' ');
  return `${text(from)} – ${text(to)} UTC`;
}
