// The trees that are shown: that of all stacks, the same in groups, with recursion merged, and the sums of each.
//
// A tree is columns, one entry a node, depth first, siblings in the order of their names; all that is below a node stands
// right behind it, up to `end`. `total` holds an array of sums for each side (a profile has one, a pair has two); of pairs,
// `self` those of the nodes themselves, and `counts` and `selfCounts` those of the sample counts. A filter changes the sums, not the tree: nodes that no
// sample is left of weigh nothing, and what weighs nothing is not shown.

// The first node below a node, or 0; and the next one below the same node.
function firstBelow(tree, node) {
  return tree.end[node] > node + 1 ? node + 1 : 0;
}

function nextBeside(tree, node) {
  const next = tree.end[node];
  return node > 0 && next < tree.end[tree.parent[node]] ? next : 0;
}

function inTree(tree, node, top) {
  return node >= top && node < tree.end[top];
}

// The tree for a grouping and a way to treat recursion. Making one costs, so the last one is kept.
function structure(data, group, mergeRecursion) {
  data.tree.leaf = data.samples.leaf;
  const wanted = `${mergeRecursion ? 1 : 0}${group ? group.name : ''}`;
  if (!group && !mergeRecursion) return data.tree;
  if (data.made?.wanted !== wanted) {
    data.made = null;
    let tree = data.tree;
    if (group) tree = grouped(data, group);
    if (mergeRecursion) tree = withoutRecursion(data, tree);
    data.made = { wanted, tree };
  }
  return data.made.tree;
}

// One part for each value of a label. Samples stand in the order of their leaves, so the nodes of a group come up in
// their order as well: a node that no sample of the group had before lies behind all those that one had.
function grouped(data, group) {
  const { leaf, labels } = data.samples;
  const from = data.tree;
  const values = [...new Set(group.of)].sort((a, b) => a - b);
  const place = new Map(values.map((value, at) => [value, at]));
  const groupOf = Int32Array.from(group.of, (value) => place.get(value));
  const starts = new Int32Array(values.length + 1);
  for (let row = 0; row < leaf.length; row++) starts[groupOf[labels[row]] + 1]++;
  for (let at = 0; at < values.length; at++) starts[at + 1] += starts[at];
  const next = starts.slice();
  const rows = new Int32Array(leaf.length);
  for (let row = 0; row < leaf.length; row++) rows[next[groupOf[labels[row]]]++] = row;

  // The last copy of each node. Copies are numbered upwards, so one before the group's own is that of another group.
  const copy = new Int32Array(from.count);
  const { parent: above } = from;
  const newLeaf = new Int32Array(leaf.length);
  const path = new Int32Array(deepest(from) + 1);
  // What each new node is a copy of (a group: minus its value's place, minus 1), and what it stands below. Room for most
  // groupings; what is not written to costs nothing.
  let of = new Int32Array(2 * from.count + values.length + 1);
  let parent = new Int32Array(of.length);
  let count = 1;
  for (let at = 0; at < values.length; at++) {
    if (starts[at] === starts[at + 1]) continue;
    if (count + path.length >= of.length) [of, parent] = [grown(of), grown(parent)];
    const own = count;
    of[count] = -1 - at;
    copy[0] = count++;
    for (let place = starts[at]; place < starts[at + 1]; place++) {
      const row = rows[place];
      let length = 0;
      let node = leaf[row];
      for (; copy[node] < own; node = above[node]) path[length++] = node;
      let last = copy[node];
      if (count + length > of.length) [of, parent] = [grown(of), grown(parent)];
      while (length > 0) {
        node = path[--length];
        parent[count] = last;
        of[count] = node;
        copy[node] = last = count++;
      }
      newLeaf[row] = last;
    }
  }
  const tree = copied(from, of, parent, count, values);
  tree.leaf = newLeaf;
  tree.grouped = true;
  return tree;
}

function deepest({ depth, count }) {
  let most = 0;
  for (let node = 0; node < count; node++) if (depth[node] > most) most = depth[node];
  return most;
}

// The tree of copies: of a node each, or of a group.
function copied(from, of, parent, count, values) {
  const tree = emptyTree(count, parent.subarray(0, count));
  const { depth, name, frame, flags } = tree;
  for (let node = 1; node < count; node++) {
    const source = of[node];
    depth[node] = depth[parent[node]] + 1;
    name[node] = source < 0 ? values[-1 - source] : from.name[source];
    frame[node] = source < 0 ? -1 : from.frame[source];
    flags[node] = source < 0 ? GROUP : from.flags[source];
  }
  closeTree(tree);
  return tree;
}

// The same tree with each function that calls itself as one node, which has the callees of all.
function withoutRecursion(data, from) {
  const { count } = from;
  const target = new Int32Array(count);
  // How many nodes became one: from the second on, what is below has to be looked for.
  const joined = new Int32Array(count);
  const again = (node) => node > 0 && from.name[node] === from.name[from.parent[node]] && !(from.flags[node] & GROUP) && !(from.flags[from.parent[node]] & GROUP);
  const head = new Int32Array(count);
  for (let node = 0; node < count; node++) {
    head[node] = again(node) ? head[from.parent[node]] : node;
    if (head[node] !== node) joined[head[node]] = 1;
  }
  const made = { parent: new Int32Array(count), of: new Int32Array(count), first: new Int32Array(count), next: new Int32Array(count), flags: new Uint8Array(count) };
  const known = new Map();
  made.parent[0] = -1;
  let size = 1;
  for (let node = 1; node < count; node++) {
    const above = target[from.parent[node]];
    if (again(node)) {
      target[node] = above;
      made.flags[above] |= from.flags[node];
      continue;
    }
    const key = joined[made.of[above]] ? above * data.strings.length + from.name[node] : -1;
    const found = key < 0 ? undefined : known.get(key);
    if (found !== undefined) {
      target[node] = found;
      made.flags[found] |= from.flags[node] | (from.frame[made.of[found]] === from.frame[node] ? 0 : SEVERAL);
      joined[made.of[found]] = 1;
      // What the first of them brought along is entered when the second comes.
      for (let below = made.first[found]; below !== 0; below = made.next[below]) {
        known.set(found * data.strings.length + from.name[made.of[below]], below);
      }
      continue;
    }
    const fresh = size++;
    target[node] = fresh;
    made.of[fresh] = node;
    made.parent[fresh] = above;
    made.flags[fresh] = from.flags[node];
    made.next[fresh] = made.first[above];
    made.first[above] = fresh;
    if (key >= 0) known.set(key, fresh);
  }
  return inOrder(from, made, size, target, data.strings.length);
}

// Brings nodes into their order: a counting sort by name links siblings, a walk numbers them.
function inOrder(from, made, size, target, strings) {
  const { of, parent, first, next } = made;
  const rank = (node) => (from.name[of[node]] < 0 ? 0 : from.name[of[node]] + 1);
  const starts = new Int32Array(strings + 2);
  for (let node = 1; node < size; node++) starts[rank(node) + 1]++;
  for (let place = 1; place < starts.length; place++) starts[place] += starts[place - 1];
  const order = new Int32Array(size);
  for (let node = 1; node < size; node++) order[starts[rank(node)]++] = node;
  first.fill(0);
  for (let place = size - 2; place >= 0; place--) {
    const node = order[place];
    next[node] = first[parent[node]];
    first[parent[node]] = node;
  }
  const tree = emptyTree(size);
  const number = new Int32Array(size);
  let fresh = 1;
  for (let node = first[0]; node > 0;) {
    number[node] = fresh;
    tree.parent[fresh] = number[parent[node]];
    tree.depth[fresh] = tree.depth[tree.parent[fresh]] + 1;
    tree.name[fresh] = from.name[of[node]];
    tree.frame[fresh] = from.frame[of[node]];
    tree.flags[fresh] = made.flags[node];
    fresh++;
    if (first[node] !== 0) {
      node = first[node];
      continue;
    }
    while (node > 0 && next[node] === 0) node = parent[node];
    if (node > 0) node = next[node];
  }
  closeTree(tree);
  tree.leaf = from.leaf.map((leaf) => number[target[leaf]]);
  tree.grouped = from.grouped;
  return tree;
}

// Fills in the sums of a sample type over the samples that pass the filters (one flag a label set). What did not change
// since the last time is kept. One profile needs but the totals; the significance of a change needs all for each node.
function sumTree(data, tree, type, allowed, sides) {
  const countType = countTypeOf(data, type);
  const pair = sides.count > 1;
  const up = (selfs) => selfs.map((self) => upwards(tree, pair ? self.slice() : self));
  const filtered = tree.allowed !== allowed || tree.sides !== sides;
  tree.sides = sides;
  if (filtered) {
    tree.selfCounts = pair && countType >= 0 ? selfsOf(data, tree, countType, allowed) : null;
    tree.counts = tree.selfCounts && up(tree.selfCounts);
  }
  if (filtered || tree.type !== type) {
    const self = selfsOf(data, tree, type, allowed);
    tree.total = up(self);
    tree.self = pair ? self : null;
  }
  tree.type = type;
  tree.allowed = allowed;
}

// What of a value belongs to each node itself, for each side.
function selfsOf(data, tree, type, allowed) {
  const { leaf } = tree;
  const { of, count } = tree.sides;
  const { profile, labels } = data.samples;
  const column = columnOf(data, type);
  const selfs = Array.from({ length: count }, () => sums(tree.count, data.types[type].wide));
  for (let row = 0; row < leaf.length; row++) {
    const side = of[profile[row]];
    if (side >= 0 && allowed[labels[row]] === 1) selfs[side][leaf[row]] += column[row];
  }
  return selfs;
}

// What belongs to one node itself: where there is no column of it, the rest that its callees leave.
function selfAt(tree, node, side) {
  if (tree.self) return tree.self[side][node];
  let rest = tree.total[side][node];
  for (let below = firstBelow(tree, node); below !== 0; below = nextBeside(tree, below)) rest -= tree.total[side][below];
  return rest;
}

// How many samples one node has. A profile has no column of it: it is asked for one node at a time.
function countAt(data, tree, node, side) {
  if (tree.counts) return tree.counts[side][node];
  const from = tree.source ?? tree;
  const all = node === 0 && !tree.source;
  const inside = new Uint8Array(all ? 0 : from.count);
  if (!all) for (const member of tree.members?.[node] ?? [node]) inside.fill(1, member, tree.source && !tree.whole ? member + 1 : from.end[member]);
  const { profile, labels } = data.samples;
  const countType = countTypeOf(data, from.type);
  const column = columnOf(data, countType);
  let sum = sums(1, data.types[countType].wide)[0];
  for (let row = 0; row < from.leaf.length; row++) {
    if ((all || inside[from.leaf[row]]) && from.sides.of[profile[row]] === side && from.allowed[labels[row]] === 1) sum += column[row];
  }
  return sum;
}

// Turns the selfs of all nodes into their totals.
function upwards({ parent, count }, total) {
  for (let node = count - 1; node > 0; node--) total[parent[node]] += total[node];
  return total;
}

// How wide each node is, in units of weight. A node that the chosen side does not have keeps the width it has on the
// other side, so that nothing disappears from a difference.
function weighTree(data, tree, { side, scale }) {
  const { count, parent, total } = tree;
  if (total.length === 1 && total[0] instanceof Float64Array && !data.negative[data.types[tree.type].column]) {
    tree.width = total[0];
    return;
  }
  const self = tree.self ?? selfsOf(data, tree, tree.type, tree.allowed);
  const other = total.length - 1 - side;
  const width = new Float64Array(count);
  for (let node = count - 1; node >= 0; node--) {
    const from = Number(total[side][node]) === 0 ? other : side;
    width[node] += Math.max(0, Number(self[from][node]) * scale[from]);
    if (node > 0) width[parent[node]] += width[node];
  }
  tree.width = width;
}
