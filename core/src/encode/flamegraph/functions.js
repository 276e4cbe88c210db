// The table of functions: what each name cost by itself and with everything it called.

// Sums by name within the part of the tree below `top`: one entry a string, and `names`, those that have any. A recursive
// function counts once: its total is that of its outermost frames.
function functionTable(data, tree, top) {
  const size = data.strings.length;
  const { name, frame } = tree;
  const end = tree.end[top];
  const selfs = (type) => {
    const { of, count } = tree.sides;
    const found = Array.from({ length: count }, () => sums(size, data.types[type].wide));
    const { profile, labels } = data.samples;
    const column = columnOf(data, type);
    for (let row = 0; row < tree.leaf.length; row++) {
      const leaf = tree.leaf[row];
      const side = of[profile[row]];
      if (side >= 0 && leaf >= top && leaf < end && frame[leaf] >= 0 && tree.allowed[labels[row]] === 1) found[side][name[leaf]] += column[row];
    }
    return found;
  };
  const totals = (columns) => columns.map((column) => {
    const found = new column.constructor(size);
    // Where the outermost frame of each name ends that was met last: what lies before it lies within.
    const within = new Int32Array(size);
    for (let node = Math.max(1, top); node < end; node++) {
      if (frame[node] < 0 || node < within[name[node]]) continue;
      within[name[node]] = tree.end[node];
      found[name[node]] += column[node];
    }
    return found;
  });
  const table = { self: selfs(tree.type), total: totals(tree.total), names: [] };
  if (tree.counts) Object.assign(table, { selfCounts: selfs(countTypeOf(data, tree.type)), counts: totals(tree.counts) });
  const filled = [...table.self, ...table.total];
  for (let id = 0; id < size; id++) if (filled.some((column) => column[id])) table.names.push(id);
  return table;
}

// Adds to a pair's table what changed: per second, or by share of all, with its significance.
function addDifferences(table, app) {
  const { scale } = app;
  const size = table.self[0].length;
  for (const name of ['deltaSelf', 'deltaTotal', 'zSelf', 'zTotal']) table[name] = new Float64Array(size);
  for (const id of table.names) {
    table.deltaSelf[id] = Number(table.self[1][id]) * scale[1] - Number(table.self[0][id]) * scale[0];
    table.deltaTotal[id] = Number(table.total[1][id]) * scale[1] - Number(table.total[0][id]) * scale[0];
    if (!table.counts) continue;
    table.zSelf[id] = app.significance(table.selfCounts, id);
    table.zTotal[id] = app.significance(table.counts, id);
  }
}

// Where in its source a function itself was busy: its self by line, the most first, for the last of the profiles.
function hotLines(data, { allowed, sides }, name, type) {
  const { samples, frames, strings } = data;
  const values = columnOf(data, type);
  const lines = new Map();
  for (let row = 0; row < values.length; row++) {
    const frame = samples.frame[row];
    if (frame < 0 || frames.name[frame] !== name || sides.of[samples.profile[row]] !== sides.count - 1 || !allowed[samples.labels[row]]) continue;
    const file = strings[frames.file[frame]].split('/').pop();
    const line = frames.line[frame];
    const place = line <= 0 ? file : file ? `${file}:${line}` : `line ${line}`;
    lines.set(place, (lines.get(place) ?? values[row] - values[row]) + values[row]);
  }
  return [...lines].filter(([place]) => place !== '').sort((a, b) => (a[1] < b[1] ? 1 : a[1] > b[1] ? -1 : 0));
}

// What remains of a name when there is little room: no type parameters, and only the last two parts of its path.
const shortNames = new Map();
function shortName(name) {
  let short = shortNames.get(name);
  if (short === undefined) {
    // What is cut off could not be shown, and patterns take long on it.
    short = name.slice(0, 2000);
    const impl = /^<(.+) as (.+)>::([^<>]+)$/.exec(short);
    if (impl) short = `${impl[1]}::${impl[3]}`;
    for (let before = ''; before !== short;) {
      before = short;
      short = short.replace(/(::)?<[^<>]*>/g, '');
    }
    short = short.replace(/\(.*\)$/, '') || name.slice(0, 2000);
    const parts = short.split('::').filter((part) => part !== '');
    if (parts.length > 2) short = parts.slice(-2).join('::');
    else short = parts.join('::') || name.slice(0, 2000);
    shortNames.set(name, short);
  }
  return short;
}

// A text that can be shown: names of megabytes exist, and laying them out takes a browser seconds.
function clipped(text, most) {
  return text.length > most ? `${text.slice(0, most)}… (${text.length} characters)` : text;
}
