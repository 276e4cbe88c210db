// What the user chose, and the same as the hash of the address, so that a copied address opens the same view.

function initialState(data) {
  return {
    type: data.kinds[0].type, orientation: data.orientation, zoom: [], query: '', group: null, filters: new Map(), recursion: false, inverted: false,
    centre: '', colour: '', range: null, base: null, lanes: [], idle: allIdle(data) ? 'shown' : 'hidden', norm: 'time', side: 'after', table: null, sort: '',
  };
}

const letters = /^[\w.-]*$/;

function writeHash(state, initial, data) {
  const hash = new URLSearchParams();
  if (state.query) hash.set('q', state.query);
  const { kind, name } = data.types[state.type];
  if (kind !== 0) hash.set('kind', data.kinds[kind].name);
  if (state.type !== data.kinds[kind].type) hash.set('type', name);
  for (const range of ['range', 'base']) if (state[range]) hash.set(range, state[range].join('-'));
  if (state.lanes.length > 0) hash.set('lanes', state.lanes.join('.'));
  if (state.zoom.length > 0) hash.set('zoom', state.zoom.map((step) => step.toString(36)).join('.'));
  if (state.centre.length > LONGEST) hash.set('number', data.strings.indexOf(state.centre));
  else if (state.centre) hash.set('function', state.centre);
  if (state.filters.size > 0) {
    hash.set('filter', JSON.stringify([...state.filters].map(([key, values]) => [key, [...values]])));
  }
  for (const name of ['orientation', 'colour', 'idle', 'norm', 'side', 'sort']) {
    if (state[name] !== initial[name]) hash.set(name, state[name]);
  }
  if (state.group !== null) hash.set('group', state.group);
  if (state.recursion) hash.set('recursion', 'merged');
  if (state.inverted) hash.set('inverted', 'yes');
  if (state.table !== initial.table) hash.set('table', state.table ? 'shown' : 'hidden');
  return hash.toString();
}

// Takes what is right in the hash and leaves the rest at its default: an address may come from anywhere.
function readHash(text, initial, data) {
  const hash = new URLSearchParams(text.replace(/^#/, ''));
  const state = { ...initial, zoom: [], filters: new Map() };
  const oneOf = (name, values) => {
    if (values.includes(hash.get(name))) state[name] = hash.get(name);
  };
  state.query = hash.get('q') ?? '';
  const named = data.strings.indexOf(hash.get('function'));
  state.centre = data.strings[named < 0 ? Number(hash.get('number') ?? -1) : named] ?? '';
  const kind = Math.max(0, data.kinds.findIndex(({ name }) => name === hash.get('kind')));
  const type = data.types.findIndex((one) => one.name === hash.get('type') && one.kind === kind);
  state.type = type >= 0 ? type : data.kinds[kind]?.type ?? 0;
  const slots = slotCount(data);
  for (const range of ['range', 'base']) {
    const [from, to] = (/^(\d+)-(\d+)$/.exec(hash.get(range)) ?? []).slice(1).map(Number);
    if (from <= to && to < slots) state[range] = [from, to];
  }
  if (!state.range) state.base = null;
  state.lanes = (hash.get('lanes') ?? '').split('.').filter((lane) => /^\d+$/.test(lane) && Number(lane) < data.lanes.length).map(Number);
  oneOf('orientation', ['icicle', 'flame']);
  oneOf('group', data.labelKeys.map(({ name }) => name));
  oneOf('colour', ['diff', 'doing', 'age', 'family', 'module', 'plain']);
  oneOf('idle', ['hidden', 'shown']);
  oneOf('norm', ['time', 'share']);
  oneOf('side', ['before', 'after']);
  if (letters.test(hash.get('sort') ?? '')) state.sort = hash.get('sort') ?? '';
  state.recursion = hash.get('recursion') === 'merged';
  state.inverted = hash.get('inverted') === 'yes';
  if (hash.has('table')) state.table = hash.get('table') === 'shown';
  const zoom = hash.get('zoom') ?? '';
  if (zoom && letters.test(zoom)) state.zoom = zoom.split('.').map((step) => parseInt(step, 36));
  try {
    for (const [key, values] of JSON.parse(hash.get('filter') ?? '[]')) {
      if (data.labelKeys.some(({ name }) => name === key)) state.filters.set(String(key), new Set(values.map(String)));
    }
  } catch {
    state.filters = new Map();
  }
  return state;
}

// A zoom is remembered as the names on the way from the root, so that it survives filters and grouping where it can.
function pathOf(tree, node) {
  const path = [];
  for (; node > 0; node = tree.parent[node]) path.unshift(tree.name[node]);
  return path;
}

function nodeAt(tree, path) {
  let node = 0;
  for (const name of path) {
    let below = firstBelow(tree, node);
    while (below !== 0 && tree.name[below] !== name) below = nextBeside(tree, below);
    if (below === 0) return node;
    node = below;
  }
  return node;
}

// One flag a label set: whether its samples pass the filters. A value of '' stands for sets without the label.
function allowedSets(data, state) {
  const allowed = new Uint8Array(data.labels.length).fill(1);
  for (const key of data.labelKeys) {
    const values = state.filters.get(key.name);
    if (!values) continue;
    key.of.forEach((value, set) => {
      if (value < 0 && key.name === ACTIVITY) return;
      if (!values.has(value < 0 ? '' : data.strings[value])) allowed[set] = 0;
    });
  }
  withoutIdle(data, allowed, state);
  return allowed;
}
