// The page's data: decoded once, then read only.
//
// Stacks are a tree of raw nodes: `parent` and `frame` for each, parents before children. A raw node is a frame with
// its line; the views merge raw nodes by name (tree.js).

const INLINED = 1;
const LOST = 2;
const TRUNCATED = 4;

function decode(text) {
  const data = JSON.parse(text);
  data.strings = data.strings.map(visible);
  data.frames = decodeFrames(data);
  decodeSamples(data);
  for (const profile of data.profiles) {
    profile.start = BigInt(profile.start);
    profile.duration = BigInt(profile.duration);
    profile.totals = profile.totals.map((total, type) => (data.types[type].wide ? BigInt(total) : Number(total)));
  }
  data.countType = data.types.findIndex((type) => type.name === 'samples' && type.unit === 'count');
  if (data.countType < 0) data.countType = data.types.findIndex((type) => type.unit === 'count');
  data.labelKeys = labelKeys(data);
  data.nameRank = ranks(data.strings);
  return data;
}

// Control characters, and those that turn the direction of writing, are shown as what they are.
function visible(text) {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, (character) =>
    `\\u{${character.charCodeAt(0).toString(16)}}`);
}

function decodeFrames(data) {
  const count = data.frame_count;
  const column = () => new Int32Array(count);
  const frames = { name: column(), file: column(), module: column(), line: column(), flags: new Uint8Array(count) };
  const read = reader(data.frames);
  for (let frame = 0; frame < count; frame++) {
    frames.name[frame] = read.number();
    frames.file[frame] = read.number();
    frames.module[frame] = read.number();
    frames.line[frame] = read.signed();
    frames.flags[frame] = read.number();
  }
  return frames;
}

function decodeSamples(data) {
  const rows = data.sample_count;
  const parent = new Int32Array(data.node_count);
  const frame = new Int32Array(data.node_count);
  const samples = { node: new Int32Array(rows), profile: new Int32Array(rows), labels: new Int32Array(rows) };
  samples.values = data.types.map((type) => sums(rows, type.wide));
  const read = reader(data.samples);
  let stack = new Int32Array(1024);
  let nodes = 0;
  for (let row = 0; row < rows; row++) {
    let depth = read.number();
    let more = read.number();
    while (stack.length < depth + more) stack = grown(stack);
    for (; more > 0; more--, depth++, nodes++) {
      parent[nodes] = depth === 0 ? -1 : stack[depth - 1];
      frame[nodes] = read.number();
      stack[depth] = nodes;
    }
    samples.node[row] = depth === 0 ? -1 : stack[depth - 1];
    samples.profile[row] = read.number();
    samples.labels[row] = read.number();
    for (let type = 0; type < data.types.length; type++) {
      samples.values[type][row] = data.types[type].wide ? read.big() : read.signed();
    }
  }
  data.nodes = { parent, frame, count: nodes };
  data.samples = samples;
}

// Reads varints from base64.
function reader(base64) {
  const bytes = Uint8Array.fromBase64?.(base64) ?? Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  let at = 0;
  function number() {
    let byte = bytes[at++];
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

// The place of each string in alphabetical order: the same on every machine, so without its language's rules.
function ranks(strings) {
  const order = strings.map((_, id) => id).sort((a, b) => (strings[a] < strings[b] ? -1 : strings[a] > strings[b] ? 1 : 0));
  const rank = new Int32Array(strings.length);
  order.forEach((id, place) => { rank[id] = place; });
  return rank;
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
