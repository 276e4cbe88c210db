// Merged trees: frames of one name under one parent become one node, siblings stand in alphabetical order.
//
// A tree is columns, one entry a node, parents before children; node 0 is the root. `self` and `total` hold one array
// of sums for each side (a profile has one, a pair has two), `counts` and, of pairs, `selfCounts` those of the sample counts.

const GROUP = 8;
const CALLED = 16;
const ROOT_NAME = -1;

// What the views ask for: which samples (one flag a label set), by which label grouped, recursion merged or not.
function buildTree(data, { allowed, group = null, mergeRecursion = false }) {
  const { samples, nodes } = data;
  const builder = treeBuilder(data, mergeRecursion, group ? 4095 : nodes.count);
  const rows = selected(data, allowed, group);
  const stamp = new Int32Array(nodes.count).fill(-2);
  const merged = new Int32Array(nodes.count);
  const leaf = new Int32Array(rows.length);
  const path = [];
  let groupNode = 0;
  let current = -2;
  for (let place = 0; place < rows.length; place++) {
    const row = rows[place];
    const value = group ? group.of[samples.labels[row]] : -1;
    if (value !== current) {
      current = value;
      groupNode = group ? builder.group(value) : 0;
    }
    let raw = samples.node[row];
    while (raw >= 0 && stamp[raw] !== value) {
      path.push(raw);
      raw = nodes.parent[raw];
    }
    let node = raw < 0 ? groupNode : merged[raw];
    while (path.length > 0) {
      raw = path.pop();
      node = builder.child(node, nodes.frame[raw]);
      merged[raw] = node;
      stamp[raw] = value;
    }
    leaf[place] = node;
  }
  return builder.finish(rows, leaf);
}

// What the function calls, and who calls it. Both start at its outermost frame in each stack, so that a recursive
// function counts once.
function buildCallees(data, { allowed }, name) {
  const { samples, nodes } = data;
  const outer = outermost(data, name);
  const rows = selected(data, allowed, null).filter((row) => samples.node[row] >= 0 && outer[samples.node[row]] >= 0);
  const builder = treeBuilder(data, false);
  const merged = new Int32Array(nodes.count).fill(-1);
  const resolve = (leafRaw) => {
    const path = [];
    let raw = leafRaw;
    while (merged[raw] < 0 && raw !== outer[leafRaw]) {
      path.push(raw);
      raw = nodes.parent[raw];
    }
    if (merged[raw] < 0) merged[raw] = builder.child(0, nodes.frame[raw]);
    let node = merged[raw];
    while (path.length > 0) {
      raw = path.pop();
      node = merged[raw] = builder.child(node, nodes.frame[raw]);
    }
    return node;
  };
  return builder.finish(rows, rows.map((row) => resolve(samples.node[row])));
}

function buildCallers(data, { allowed }, name) {
  const { samples, nodes } = data;
  const outer = outermost(data, name);
  const rows = selected(data, allowed, null).filter((row) => samples.node[row] >= 0 && outer[samples.node[row]] >= 0);
  const builder = treeBuilder(data, false);
  const ends = new Map();
  const resolve = (start) => {
    let end = ends.get(start);
    if (end === undefined) {
      end = 0;
      for (let raw = start; raw >= 0; raw = nodes.parent[raw]) end = builder.child(end, nodes.frame[raw]);
      ends.set(start, end);
    }
    return end;
  };
  return builder.finish(rows, rows.map((row) => resolve(outer[samples.node[row]])));
}

// For each raw node the outermost node of that name on its way from the root, or -1.
function outermost(data, name) {
  const { parent, frame, count } = data.nodes;
  const outer = new Int32Array(count);
  for (let raw = 0; raw < count; raw++) {
    const above = parent[raw] < 0 ? -1 : outer[parent[raw]];
    outer[raw] = above >= 0 ? above : data.frames.name[frame[raw]] === name ? raw : -1;
  }
  return outer;
}

// The rows of allowed samples; those of one group together, in the order of the groups' names.
function selected(data, allowed, group) {
  const { labels } = data.samples;
  const rows = [];
  for (let row = 0; row < labels.length; row++) if (allowed[labels[row]]) rows.push(row);
  if (group) {
    const rank = (row) => {
      const value = group.of[labels[row]];
      return value < 0 ? -1 : data.nameRank[value];
    };
    rows.sort((a, b) => rank(a) - rank(b));
  }
  return Int32Array.from(rows);
}

// Finds and adds the nodes of a tree. The few children of a node are searched one by one; those of a node with many, such
// as a dispatcher, through a hash table.
function treeBuilder(data, mergeRecursion, expected = 4095) {
  const { frames } = data;
  const many = 8;
  const column = () => new Int32Array(expected + 1);
  let [parent, name, frame, line, depth, first, next, children] = Array.from({ length: 8 }, column);
  let flags = new Uint8Array(expected + 1);
  let count = 1;
  let maxDepth = 0;
  [parent[0], name[0], frame[0]] = [-1, ROOT_NAME, -1];
  let slots = new Int32Array(1024);
  let hashed = 0;

  function slot(parentNode, nameId) {
    const mask = slots.length - 1;
    let at = Math.imul(parentNode, 0x9e3779b1) ^ Math.imul(nameId + 7, 0x85ebca6b);
    at = (at ^ (at >>> 15)) & mask;
    while (slots[at] !== 0 && (parent[slots[at]] !== parentNode || name[slots[at]] !== nameId)) at = (at + 1) & mask;
    return at;
  }

  function remember(node) {
    if (++hashed * 2 > slots.length) {
      const old = slots;
      slots = new Int32Array(old.length * 2);
      for (const known of old) if (known !== 0) slots[slot(parent[known], name[known])] = known;
    }
    slots[slot(parent[node], name[node])] = node;
  }

  function find(parentNode, nameId) {
    if (children[parentNode] > many) return slots[slot(parentNode, nameId)];
    let node = first[parentNode];
    while (node !== 0 && name[node] !== nameId) node = next[node];
    return node;
  }

  function add(parentNode, nameId, frameId, flag) {
    if (count === parent.length) {
      [parent, name, frame, line, depth, first, next, children, flags] =
        [parent, name, frame, line, depth, first, next, children, flags].map(grown);
    }
    const node = count++;
    parent[node] = parentNode;
    name[node] = nameId;
    frame[node] = frameId;
    flags[node] = flag;
    line[node] = frameId < 0 ? 0 : frames.line[frameId];
    depth[node] = depth[parentNode] + 1;
    if (depth[node] > maxDepth) maxDepth = depth[node];
    next[node] = first[parentNode];
    first[parentNode] = node;
    const siblings = ++children[parentNode];
    if (siblings === many + 1) for (let child = node; child !== 0; child = next[child]) remember(child);
    else if (siblings > many) remember(node);
    return node;
  }

  function child(parentNode, frameId) {
    const nameId = frames.name[frameId];
    const flag = frames.flags[frameId];
    const kind = flag & ~INLINED | (flag & INLINED ? INLINED : CALLED);
    if (mergeRecursion && name[parentNode] === nameId && !(flags[parentNode] & GROUP)) return parentNode;
    const node = find(parentNode, nameId);
    if (node === 0) return add(parentNode, nameId, frameId, kind);
    flags[node] |= kind;
    if (frame[node] !== frameId && elsewhere(frame[node], frameId)) line[node] = -1;
    return node;
  }

  function elsewhere(a, b) {
    return frames.line[a] !== frames.line[b] || frames.file[a] !== frames.file[b];
  }

  // A node for the samples whose label has this value; -1: that do not have the label. Groups have no siblings but groups.
  function group(value) {
    return find(0, value) || add(0, value, -1, GROUP);
  }

  function finish(rows, leaf) {
    const cut = (column) => column.subarray(0, count);
    const tree = { count, maxDepth, rows, leaf, parent: cut(parent), name: cut(name), frame: cut(frame), line: cut(line),
      depth: cut(depth), first: cut(first), next: cut(next), flags: cut(flags) };
    sortSiblings(data, tree);
    return tree;
  }

  return { child, group, finish };
}

// First child and next sibling of every node, in alphabetical order: nodes are put in front of their siblings in
// reverse order of their names, which a counting sort finds.
function sortSiblings(data, tree) {
  const { count, name, parent } = tree;
  const rank = (node) => (name[node] < 0 ? 0 : data.nameRank[name[node]] + 1);
  const starts = new Int32Array(data.strings.length + 2);
  for (let node = 1; node < count; node++) starts[rank(node) + 1]++;
  for (let place = 1; place < starts.length; place++) starts[place] += starts[place - 1];
  const order = new Int32Array(count - 1);
  for (let node = 1; node < count; node++) order[starts[rank(node)]++] = node;
  tree.first.fill(0);
  for (let place = count - 2; place >= 0; place--) {
    const node = order[place];
    tree.next[node] = tree.first[parent[node]];
    tree.first[parent[node]] = node;
  }
}

// Fills in the sums of a sample type. The self counts serve the significance of changes, so only pairs have them.
function sumTree(data, tree, type) {
  const sides = data.profiles.length;
  const countType = data.countType;
  const side = (wide) => Array.from({ length: sides }, () => sums(tree.count, wide));
  const { rows, leaf } = tree;
  const { profile, values } = data.samples;
  const add = (column, to) => {
    for (let place = 0; place < rows.length; place++) to[profile[rows[place]]][leaf[place]] += column[rows[place]];
    return to;
  };
  const up = (all) => {
    for (const total of all) upwards(tree, total);
    return all;
  };
  tree.type = type;
  tree.self = add(values[type], side(data.types[type].wide));
  tree.total = up(tree.self.map((self) => self.slice()));
  const counted = side(countType >= 0 && data.types[countType].wide);
  if (countType >= 0) add(values[countType], counted);
  tree.selfCounts = sides > 1 ? counted.map((self) => self.slice()) : null;
  tree.counts = up(counted);
}

// Turns the selfs of all nodes into their totals.
function upwards(tree, total) {
  const { parent, count } = tree;
  for (let node = count - 1; node > 0; node--) total[parent[node]] += total[node];
}

// Where each node lies: `left` and `width` in units of weight. A node that the chosen side does not have keeps the width
// it has on the other side, so that nothing disappears from a difference.
function layoutTree(tree, { side, scale }) {
  const { count, parent, self, total } = tree;
  const other = self.length - 1 - side;
  const width = new Float64Array(count);
  const left = new Float64Array(count);
  for (let node = count - 1; node >= 0; node--) {
    const absent = self.length > 1 && Number(total[side][node]) === 0;
    const from = absent ? other : side;
    width[node] += Math.max(0, Number(self[from][node]) * scale[from]);
    if (node > 0) width[parent[node]] += width[node];
  }
  for (let node = 0; node < count; node++) {
    let x = left[node];
    for (let below = tree.first[node]; below !== 0; below = tree.next[below]) {
      left[below] = x;
      x += width[below];
    }
  }
  Object.assign(tree, { left, width, side });
}
