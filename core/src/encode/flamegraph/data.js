// The page's data: unpacked once, then read only.
//
// `data.tree` is the tree of all stacks, merged by name, as columns: one entry a node, depth first, siblings in the order
// of their names. So all that is below a node stands right behind it, up to `end`. Node 0 is the root. `samples` names
// for each sample its last node, `leaf`, and that node's own frame, `frame`.

const INLINED = 1;
const LOST = 2;
const TRUNCATED = 4;
const GROUP = 8;
const CALLED = 16;
const SEVERAL = 32;
const OWN = 64;
const ROOT_NAME = -1;

async function decode(text) {
  const data = JSON.parse(text);
  const read = reader(await unpacked(data.packed));
  delete data.packed;
  data.title = visible(data.title);
  data.strings = data.strings.map(visible);
  for (const type of data.types) [type.name, type.unit] = [visible(type.name), visible(type.unit)];
  data.frames = readFrames(data, read);
  data.tree = readTree(data, read);
  data.samples = readSamples(data, read);
  data.lanes = (data.lanes ?? data.profiles.map(({ tags }) => tags)).map((tags) => tags.map((pair) => pair.map(visible)));
  for (const [number, profile] of data.profiles.entries()) {
    profile.tags = data.lanes[profile.lane ?? number];
    profile.start = BigInt(profile.start);
    profile.duration = BigInt(profile.duration);
    profile.totals = profile.totals.map((total, column) => (data.types[data.kinds[profile.kind].first + column].wide ? BigInt(total) : Number(total)));
  }
  data.kinds.forEach((kind, number) => {
    kind.name = visible(kind.name);
    const counts = (wanted) => data.types.findIndex((type) => type.kind === number && type.unit === 'count' && wanted(type));
    kind.countType = counts(({ name }) => name === 'samples');
    if (kind.countType < 0) kind.countType = counts(() => true);
  });
  data.labelKeys = labelKeys(data);
  readDoings(data);
  readAges(data);
  data.negative = data.samples.values.map((values) => values.some((value) => value < 0));
  data.wides = data.samples.values.map((values) => values instanceof BigInt64Array);
  return data;
}

async function unpacked(base64) {
  const packed = Uint8Array.fromBase64?.(base64) ?? Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Control characters, and those that turn the direction of writing, are shown as what they are.
function visible(text) {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\u{e0000}-\u{e007f}]/gu, (character) =>
    `\\u{${character.codePointAt(0).toString(16)}}`);
}

function readFrames(data, { number, signed }) {
  const count = data.frame_count;
  const column = () => new Int32Array(count);
  const frames = { name: column(), file: column(), module: column(), line: column(), flags: new Uint8Array(count) };
  for (let frame = 0; frame < count; frame++) {
    frames.name[frame] = number();
    frames.file[frame] = number();
    frames.module[frame] = number();
    frames.line[frame] = signed();
    frames.flags[frame] = number();
  }
  return frames;
}

function readTree(data, { number, signed }) {
  const count = data.node_count + 1;
  const tree = emptyTree(count);
  const { parent, depth, frame, name, flags } = tree;
  let path = new Int32Array(1024);
  for (let node = 1; node < count; node++) {
    const at = depth[node - 1] + 1 - number();
    if (at >= path.length) path = grown(path);
    parent[node] = path[at - 1];
    depth[node] = at;
    path[at] = node;
  }
  const follower = new Int32Array(data.frame_count + 1);
  for (let node = 1, before = 0; node < count; node++) {
    const own = follower[before] + signed();
    follower[before] = own;
    before = own + 1;
    frame[node] = own;
    name[node] = data.frames.name[own];
  }
  const ofFrame = data.frames.flags;
  for (let node = 1; node < count; node++) flags[node] = number() ^ (ofFrame[frame[node]] & INLINED ? ofFrame[frame[node]] : ofFrame[frame[node]] | CALLED);
  closeTree(tree);
  return tree;
}

function emptyTree(count, parent = new Int32Array(count)) {
  const column = () => new Int32Array(count);
  const tree = { count, parent, depth: column(), end: column(), name: column(), frame: column(), flags: new Uint8Array(count) };
  [tree.parent[0], tree.name[0], tree.frame[0]] = [-1, ROOT_NAME, -1];
  return tree;
}

// Where the part of the tree below each node ends.
function closeTree({ count, parent, end }) {
  for (let node = count - 1; node >= 0; node--) {
    if (end[node] === 0) end[node] = node + 1;
    if (node > 0 && end[parent[node]] < end[node]) end[parent[node]] = end[node];
  }
}

function readSamples(data, { number, signed, big }) {
  const rows = data.sample_count;
  const numbers = data.profiles.length > 65_536 ? Uint32Array : Uint16Array;
  const samples = { leaf: new Int32Array(rows), profile: new numbers(rows), labels: new Int32Array(rows), frame: new Int32Array(rows) };
  for (let row = 0, leaf = 0; row < rows; row++) samples.leaf[row] = leaf += number();
  const { leaf, labels, profile } = samples;
  for (let row = 0; row < rows; row++) labels[row] = number() + (row > 0 && leaf[row] === leaf[row - 1] ? labels[row - 1] : 0);
  for (let row = 0; row < rows; row++) profile[row] = number() + (row > 0 && leaf[row] === leaf[row - 1] && labels[row] === labels[row - 1] ? profile[row - 1] : 0);
  for (let row = 0; row < rows; row++) {
    samples.frame[row] = leaf[row] === 0 ? signed() - 1 : data.tree.frame[leaf[row]] + signed();
  }
  const columns = data.types.reduce((most, { column }) => Math.max(most, column + 1), 0);
  samples.values = Array.from({ length: columns }, (_, place) => {
    const of = data.types.filter(({ column }) => column === place);
    const wide = of.some((type) => type.wide);
    const values = sums(rows, wide);
    if (wide) for (let row = 0; row < rows; row++) values[row] = big();
    else if (of.some(({ huge }) => huge)) for (let row = 0; row < rows; row++) values[row] = Number(big());
    else for (let row = 0; row < rows; row++) values[row] = signed();
    if (of.some(({ rounded }) => rounded)) unrounded(data, place, values, profile);
    return values;
  });
  return samples;
}

// Times of large pages stand there in microseconds.
function unrounded({ profiles, types }, place, values, profile) {
  const rounded = profiles.map(({ kind }) => types.some((type) => type.kind === kind && type.column === place && type.rounded));
  const factor = values instanceof BigInt64Array ? 1000n : 1000;
  for (let row = 0; row < values.length; row++) if (rounded[profile[row]]) values[row] *= factor;
}

// The values of a sample type, one a sample: those of another kind of profile have something else there.
function columnOf(data, type) {
  return data.samples.values[data.types[type].column];
}

// The sample type that counts what is behind a type: of bytes their objects, else the samples of the kind; -1 where there is
// none.
function countTypeOf(data, type) {
  const { name, unit, kind } = data.types[type];
  if (unit === 'count') return type;
  const objects = name.endsWith('_space') ? name.replace(/_space$/, '_objects') : '';
  const own = data.types.findIndex((other) => other.kind === kind && other.name === objects && other.unit === 'count');
  return own >= 0 ? own : data.kinds[kind].countType;
}

// Reads varints.
function reader(bytes) {
  let at = 0;
  function number() {
    let byte = bytes[at++];
    if (byte < 128) return byte;
    let value = byte & 127;
    for (let scale = 128; byte > 127; scale *= 128) {
      byte = bytes[at++];
      value += (byte & 127) * scale;
    }
    return value;
  }
  function big() {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++];
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value & 1n ? -(value >> 1n) - 1n : value >> 1n;
    }
  }
  function signed() {
    const value = number();
    if (value < 2147483648) return (value >>> 1) ^ -(value & 1);
    return value % 2 ? -(value + 1) / 2 : value / 2;
  }
  return { number, signed, big };
}

function grown(array) {
  const larger = new array.constructor(array.length * 2);
  larger.set(array);
  return larger;
}

// For each label key its name, and the value of each label set: a string, or -1 where the set does not have the key.
function labelKeys(data) {
  const keys = new Map();
  data.labels.forEach((set, index) => {
    for (let place = 0; place < set.length; place += 2) {
      let key = keys.get(set[place]);
      if (!key) {
        key = { name: data.strings[set[place]], of: new Int32Array(data.labels.length).fill(-1) };
        keys.set(set[place], key);
      }
      key.of[index] = set[place + 1];
    }
  });
  const first = (key) => (key.name === 'thread_name' ? 0 : 1);
  return [...keys.values()].sort((a, b) => first(a) - first(b) || (a.name < b.name ? -1 : 1));
}
