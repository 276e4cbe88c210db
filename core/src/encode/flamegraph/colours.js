// What colours mean. Each colouring is a function from a node to a fill, and the legend that explains it; a kind of
// profile that has more to say (on and off CPU, say) adds one here.

const palettes = {
  light: {
    families: ['#a9cdf2', '#f6c28b', '#abdcae', '#f3aca4', '#d0bdec', '#eede8c', '#96d9d1', '#f2b5d6', '#d9c3a8'],
    other: '#d8dce3', root: '#e6e9ee', group: '#c3cad6', gap: '#ffffff', text: '#171b21', sliver: '#cfd4dc',
    match: '#7a1fa2', matchText: '#ffffff', mark: '#5b6472', hatch: '#8d97a6', same: '#dfe3e8',
    grew: [[250, 224, 216], [214, 69, 48]], shrank: [[218, 232, 246], [58, 120, 190]], strongText: '#ffffff',
    hover: '#171b21', focus: '#0b57d0', void: '#eef0f3', voidLine: '#dde1e7', paper: '#f8f9fb', grid: 'rgb(90 100 115 / 18%)', soft: '#525b69',
    doing: ['#f4a261', '#ffd27a', '#8fbdf2', '#7fcfc0', '#c79be8', '#b4b8f5', '#a5dbf0', '#c3cbd6', '#e4e8ed'],
    ages: ['#dbe7f3', '#c9dcbb', '#e9e08e', '#f4c873', '#f2a267', '#e58277', '#d17ba3'],
  },
  dark: {
    families: ['#2c5c8c', '#8a571d', '#2f6b3d', '#8e423c', '#614788', '#756318', '#1e6a64', '#84426a', '#6a5239'],
    other: '#434b57', root: '#363d48', group: '#525c6b', gap: '#14171c', text: '#f1f3f6', sliver: '#3a414c',
    match: '#d58cf5', matchText: '#17091d', mark: '#aab3c0', hatch: '#8c96a5', same: '#3c434e',
    grew: [[82, 50, 46], [196, 60, 44]], shrank: [[44, 60, 82], [48, 112, 190]], strongText: '#ffffff',
    hover: '#ffffff', focus: '#8ab4f8', void: '#20252d', voidLine: '#2e353f', paper: '#181c22', grid: 'rgb(160 170 185 / 18%)', soft: '#a9b2c0',
    doing: ['#a3561a', '#8a6a12', '#2a64a8', '#1c756a', '#7c3fa6', '#4d52a8', '#236f8c', '#56616f', '#333a44'],
    ages: ['#33475c', '#3d5a38', '#6b6420', '#84601a', '#924c1e', '#96382f', '#7d3563'],
  },
};

// Where a function comes from: the crate whose source it is, by its file or its path, else the module that holds it.
function family(name, file, module) {
  if (/\/library\/(core|alloc|std|proc_macro|test|backtrace)\//.test(file)) return 'std';
  const source = /\/registry\/src\/[^/]+\/([A-Za-z_][\w-]*?)-\d+\./.exec(file);
  if (source) return source[1].replaceAll('-', '_');
  if (name.includes('::')) {
    const path = /^[<&*\s(]*(?:(?:dyn|mut|const|impl) )*(?:\w+\$)?([A-Za-z_]\w*)::/.exec(name);
    if (path) return ['std', 'core', 'alloc'].includes(path[1]) ? 'std' : path[1];
  }
  return module || 'unknown';
}

// Gives the families (or modules) that cover most of the graph a colour each; the rest share one.
function keyColouring(title, data, keyOf) {
  const keys = new Map();
  const { frames } = data;
  const keyOfFrame = Array.from({ length: frames.name.length }, (_, frame) => keyOf(frame));
  const areas = frameAreas(data);
  for (let frame = 0; frame < areas.length; frame++) {
    keys.set(keyOfFrame[frame], (keys.get(keyOfFrame[frame]) ?? 0) + areas[frame]);
  }
  const top = [...keys].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).map(([key]) => key);
  const count = palettes.light.families.length;
  const place = new Map(top.slice(0, count).map((key, index) => [key, index]));
  return {
    title,
    fill: (colours, tree, node) => colours.families[place.get(keyOfFrame[tree.frame[node]])] ?? colours.other,
    legend: (colours) => [...place].map(([key, index]) => ({ fill: colours.families[index], text: key }))
      .concat(top.length > count ? [{ fill: colours.other, text: `${top.length - count} others` }] : []),
  };
}

// How much of the graph each frame covers: the sum of its totals.
function frameAreas(data) {
  const { frames, samples, tree } = data;
  const areas = new Float64Array(frames.name.length);
  const { type } = data.kinds[0];
  const total = new Float64Array(tree.count);
  const values = columnOf(data, type);
  for (let row = 0; row < values.length; row++) if (data.profiles[samples.profile[row]].kind === 0) total[samples.leaf[row]] += Number(values[row]);
  upwards(tree, total);
  for (let node = 1; node < tree.count; node++) areas[tree.frame[node]] += total[node];
  return areas;
}

const plainColouring = {
  title: 'none',
  fill: (colours) => colours.other,
  legend: () => [],
};

// Red grew, blue shrank: the stronger, the larger the change relative to the frame; grey where chance explains it.
function diffColouring(app) {
  return {
    title: 'change',
    fill(colours, tree, node) {
      const { strength } = app.change(tree, node);
      if (strength === 0) return colours.same;
      const [from, to] = strength > 0 ? colours.grew : colours.shrank;
      return `rgb(${from.map((low, i) => Math.round(low + (to[i] - low) * Math.abs(strength))).join(',')})`;
    },
    text: (colours, tree, node) => (Math.abs(app.change(tree, node).strength) > 0.6 ? colours.strongText : colours.text),
    legend: (colours) => [
      { fill: `rgb(${colours.grew[1]})`, text: '+ grew' },
      { fill: `rgb(${colours.shrank[1]})`, text: '− shrank' },
      { fill: colours.same, text: 'no more change than chance gives (|z| < 2)' },
      { hatch: true, text: 'only in one of the two: drawn with the width it has there' },
    ],
  };
}

// Which of them suit what is shown; the first one unless the user chose another.
function offered(app) {
  if (app.pair) return ['diff', 'family', 'module', 'plain'];
  const { doing, types } = app.data;
  if (hasAges(app.data, app.state.type)) return ['age', 'family', 'module', 'plain'];
  return doing && doing.times[types[app.state.type].kind] >= 0 ? ['doing', 'family', 'module', 'plain'] : ['family', 'module', 'plain'];
}

// The colourings by name; one that must look at all frames does so when it is first chosen.
function colourings(data, app) {
  const { frames, strings } = data;
  const made = {};
  const keyed = (key, title, keyOf) => ({ title, get use() { return (made[key] ??= keyColouring(title, data, keyOf)); } });
  const moduleOf = (frame) => strings[frames.module[frame]];
  const all = {
    family: keyed('family', 'crate or module', (frame) => family(strings[frames.name[frame]], strings[frames.file[frame]], moduleOf(frame))),
    module: keyed('module', 'module', (frame) => moduleOf(frame) || 'unknown'),
    plain: { title: 'none', use: plainColouring },
  };
  return { diff: { title: 'change', use: diffColouring(app) }, doing: { title: 'on CPU or waiting', use: doingColouring(app) }, age: { title: 'age', use: ageColouring(app) }, ...all };
}
