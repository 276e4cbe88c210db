// Trees seen from a function: who calls it, what it calls, and all stacks from their leaves.
//
// They are made from a summed tree, whose nodes are laid into each other anew. Only what is wide enough to be seen is
// unfolded: nodes below `FINEST` of the view keep their sums and are not taken apart, so the cost does not grow with the
// number of stacks that are out of sight.

const FINEST = 1 / 8192;

// Who calls a function: the stacks through its outermost frames, so that a recursive function counts once.
function callersOf(data, tree, name) {
  return unfold(data, tree, { starts: outermost(tree, name), upward: true, weight: tree.total, counts: tree.counts });
}

function calleesOf(data, tree, name) {
  return unfold(data, tree, { starts: outermost(tree, name), upward: false });
}

// All stacks from the leaf: at the top what was running, below it who called it. `path` leads to the node that is zoomed to.
function inverted(data, tree, path) {
  const self = tree.self ?? selfsOf(data, tree, tree.type, tree.allowed);
  const leaves = new Uint8Array(tree.count);
  for (let row = 0; row < tree.leaf.length; row++) leaves[tree.leaf[row]] = 1;
  const starts = [];
  for (let node = 1; node < tree.count; node++) {
    if (leaves[node] && tree.frame[node] >= 0 && self.some((side) => side[node])) starts.push(node);
  }
  const tall = unfold(data, tree, { starts: Int32Array.from(starts), upward: true, weight: self, counts: tree.selfCounts, path, groups: tree.grouped });
  // Samples without a stack belong to all, too.
  tall.total.forEach((total, side) => { total[0] = tree.total[side][0]; });
  return tall;
}

// The frames of a name that have none of it above them.
function outermost(tree, name) {
  const found = [];
  for (let node = 1; node < tree.count;) {
    if (tree.name[node] === name && tree.frame[node] >= 0) {
      found.push(node);
      node = tree.end[node];
    } else {
      node++;
    }
  }
  return Int32Array.from(found);
}

// Each new node stands for old ones, `at`. Upward, each of them goes on to its caller and stands for the weight of the
// node it started from, `from`; downward, to all its callees, with their own weights.
function unfold(data, tree, { starts, upward, weight = tree.total, counts = tree.counts, path = [], groups = false }) {
  const sides = tree.total.map((_, side) => side);
  const counted = counts !== undefined && counts !== null;
  const made = { name: [], frame: [], flags: [], parent: [], depth: [] };
  const columns = { self: sides.map(() => []), total: sides.map(() => []), counts: sides.map(() => []) };
  const sumOf = (column, nodes) => {
    let sum = column[0] - column[0];
    for (let place = 0; place < nodes.length; place++) sum += column[nodes[place]];
    return sum;
  };
  // Where each old node goes on to, by name: [name, at, from] in the order of names; and what ends here.
  const buckets = new Map();
  let view = starts;
  const members = [];
  const put = (name, at, from) => {
    let bucket = buckets.get(name);
    if (!bucket) buckets.set(name, bucket = { name, at: [], from: [] });
    bucket.at.push(at);
    bucket.from.push(from);
  };
  const taken = () => {
    const all = [...buckets.values()].sort((a, b) => a.name - b.name);
    buckets.clear();
    return all;
  };
  const goOn = ({ at, from }) => {
    const ended = [];
    for (let place = 0; place < at.length; place++) {
      const node = at[place];
      if (upward) {
        const above = tree.parent[node];
        if (tree.frame[above] >= 0) put(tree.name[above], above, from[place]);
        else ended.push(from[place]);
      } else {
        const end = tree.end[node];
        for (let below = node + 1; below < end; below = tree.end[below]) put(tree.name[below], below, below);
      }
    }
    return { next: taken(), ended };
  };

  const add = (entry, node) => {
    const [frame, flags] = markOf(data, tree, entry.at);
    members.push(entry.from);
    made.name.push(entry.name);
    made.frame.push(entry.group || node === 0 ? -1 : frame);
    made.flags.push(entry.group ? GROUP : node === 0 ? 0 : flags);
    made.parent.push(entry.parent);
    made.depth.push(entry.parent < 0 ? 0 : made.depth[entry.parent] + 1);
    for (const side of sides) {
      columns.total[side][node] = sumOf(weight[side], entry.from);
      if (counted) columns.counts[side][node] = sumOf(counts[side], entry.from);
      columns.self[side][node] = weight[side][0] - weight[side][0];
    }
  };

  const stack = [{ name: ROOT_NAME, at: starts, from: starts, parent: -1, group: false, step: 0, least: null }];
  while (stack.length > 0) {
    const entry = stack.pop();
    const node = made.name.length;
    add(entry, node);
    const { step } = entry;
    const top = entry.least ?? sides.map((side) => Number(columns.total[side][node]) * FINEST);
    if (!entry.open && entry.least && sides.every((side) => Number(columns.total[side][node]) <= top[side])) continue;
    let next;
    let ended = [];
    if (node === 0 || entry.group) {
      for (let place = 0; place < entry.at.length; place++) {
        const old = entry.at[place];
        const above = groups && node === 0 ? groupOf(tree, old) : old;
        put(tree.name[above], old, entry.from[place]);
      }
      next = taken();
      if (groups && node === 0) for (const one of next) one.group = true;
    } else {
      ({ next, ended } = goOn(entry));
      for (const side of sides) {
        columns.self[side][node] = upward ? sumOf(weight[side], ended) : entry.at.reduce((sum, at) => sum + selfAt(tree, at, side), weight[side][0] - weight[side][0]);
      }
    }
    if (step >= 0) view = entry.from;
    // On the way to the zoomed node only its callers are taken apart.
    const way = step >= 0 && step < path.length ? next.findIndex(({ name }) => name === path[step]) : -1;
    for (let place = next.length - 1; place >= 0; place--) {
      const one = next[place];
      const onWay = place === way;
      stack.push({ ...one, parent: node, group: one.group === true, open: onWay, step: onWay ? step + 1 : -1,
        least: onWay ? null : way >= 0 ? sides.map(() => Infinity) : top });
    }
  }

  const tall = emptyTree(made.name.length);
  for (const key of ['name', 'frame', 'flags', 'parent', 'depth']) tall[key].set(made[key]);
  closeTree(tall);
  for (const key of ['self', 'total']) tall[key] = columns[key].map((values, side) => weight[side].constructor.from(values));
  tall.counts = counted ? columns.counts.map((values, side) => counts[side].constructor.from(values)) : null;
  tall.type = tree.type;
  // The old nodes that the zoomed part stands for.
  tall.view = view;
  // What each node stands for; with all that is below it, or by itself.
  Object.assign(tall, { upward, source: tree, members, whole: weight === tree.total });
  return tall;
}

function groupOf(tree, node) {
  while (tree.depth[node] > 1) node = tree.parent[node];
  return node;
}

// The frame and the marks of a node that stands for several.
function markOf(data, tree, nodes) {
  if (nodes.length === 0) return [-1, 0];
  const { frames } = data;
  const frame = tree.frame[nodes[0]];
  let flags = 0;
  for (let place = 0; place < nodes.length; place++) {
    const other = tree.frame[nodes[place]];
    flags |= tree.flags[nodes[place]];
    if (other !== frame && (frames.line[other] !== frames.line[frame] || frames.file[other] !== frames.file[frame])) flags |= SEVERAL;
  }
  return [frame, flags];
}
