// The table of functions: what each name cost by itself and with everything it called.

// Sums by name within the part of the tree below `top`. A recursive function counts once: its total is that of its
// outermost frames.
function functionTable(data, tree, top) {
  const place = new Int32Array(data.strings.length).fill(-1);
  const open = new Int32Array(data.strings.length);
  const table = [];
  const entry = (node) => {
    const name = tree.name[node];
    if (place[name] < 0) {
      place[name] = table.length;
      const zero = (sides) => sides.map((side) => side[0] - side[0]);
      table.push({ name, node, flags: 0, self: zero(tree.self), total: zero(tree.total), counts: zero(tree.counts),
        selfCounts: zero(tree.selfCounts ?? []) });
    }
    return table[place[name]];
  };
  const isFunction = (node) => tree.name[node] >= 0 && !(tree.flags[node] & GROUP);
  walk(tree, top, (node) => {
    if (!isFunction(node)) return;
    const row = entry(node);
    row.flags |= tree.flags[node];
    const outer = open[row.name]++ === 0;
    for (let side = 0; side < tree.self.length; side++) {
      row.self[side] += tree.self[side][node];
      if (tree.selfCounts) row.selfCounts[side] += tree.selfCounts[side][node];
      if (outer) {
        row.total[side] += tree.total[side][node];
        row.counts[side] += tree.counts[side][node];
      }
    }
  }, (node) => {
    if (isFunction(node)) open[tree.name[node]]--;
  });
  return table;
}

// Depth first through the tree below and with `top`; `enter` may return false to stay out of a node's children.
function walk(tree, top, enter, leave) {
  let node = top;
  for (;;) {
    if (enter(node) !== false && tree.first[node] !== 0) {
      node = tree.first[node];
      continue;
    }
    for (;;) {
      if (leave) leave(node);
      if (node === top) return;
      if (tree.next[node] !== 0) break;
      node = tree.parent[node];
    }
    node = tree.next[node];
  }
}

// Adds to the rows of a pair's table what changed: per second, or by share of all, with its significance.
function addDifferences(rows, scale, over) {
  for (const row of rows) {
    row.deltaSelf = Number(row.self[1]) * scale[1] - Number(row.self[0]) * scale[0];
    row.deltaTotal = Number(row.total[1]) * scale[1] - Number(row.total[0]) * scale[0];
    row.zSelf = significance(row.selfCounts[0], row.selfCounts[1], over[0], over[1]);
    row.zTotal = significance(row.counts[0], row.counts[1], over[0], over[1]);
  }
}

// Where in its source a function itself was busy: its self by line, the most first, for the last of the profiles.
function hotLines(data, allowed, name, type) {
  const { samples, nodes, frames, strings } = data;
  const side = data.profiles.length - 1;
  const values = samples.values[type];
  const lines = new Map();
  for (let row = 0; row < values.length; row++) {
    const raw = samples.node[row];
    if (raw < 0 || samples.profile[row] !== side || !allowed[samples.labels[row]]) continue;
    const frame = nodes.frame[raw];
    if (frames.name[frame] !== name) continue;
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
    short = name;
    const impl = /^<(.+) as (.+)>::([^<>]+)$/.exec(name);
    if (impl) short = `${impl[1]}::${impl[3]}`;
    for (let before = ''; before !== short;) {
      before = short;
      short = short.replace(/(::)?<[^<>]*>/g, '');
    }
    short = short.replace(/\(.*\)$/, '') || name;
    const parts = short.split('::').filter((part) => part !== '');
    if (parts.length > 2) short = parts.slice(-2).join('::');
    else short = parts.join('::') || name;
    shortNames.set(name, short);
  }
  return short;
}
