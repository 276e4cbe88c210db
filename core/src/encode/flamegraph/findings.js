// What a reader looks for first, in words: the functions that are hot, or those that made the newer of a pair slower.

const NAMED = 3;

// The rule of `store::diff` for what regressed: this many standard deviations, this part of the whole, this part of what
// it was before. A slow function makes its callers grow as well; what tells it from them is how much of its cost is new,
// so growth is weighed with the cube of that part, and what then weighs little beside the first is left out.
const CERTAIN = 4;
const WORTH = 0.005;
const MORE = 0.1;
const SHADOW = 0.05;

function showFindings(app) {
  const { data } = app;
  const top = app.shown === app.tree ? app.top : 0;
  const rows = app.pair ? changed(app) : [...heapFindings(app), ...hot(app, top)];
  byId('findings').replaceChildren(...rows.filter(({ found, alone }) => found.length > 0 || alone).map(({ text, title, kind, found }) => {
    const row = element('li', kind, element('span', 'about', text));
    row.title = title;
    row.append(...found.map(({ id, value }) => {
      const name = data.strings[id];
      const button = element('button', '', element('b', '', clipped(shortName(name), 60)), ` ${value}`);
      button.type = 'button';
      button.title = `${clipped(name, 1000)}\nClick to find it in the graph`;
      button.addEventListener('click', () => app.find(name));
      return button;
    }));
    return row;
  }));
}

// The functions with most time of their own, that of the libraries of the language counted to who called them.
function hot(app, top) {
  const { data, tree } = app;
  const whole = Number(tree.total[0][top]);
  if (!(whole > 0)) return [];
  const sums = hotSums(data, tree, top);
  const ids = largest(sums, NAMED).filter((id) => sums[id] >= WORTH * whole);
  const found = ids.map((id) => ({ id, value: percent(sums[id] / whole) }));
  const bytes = data.types[tree.type].unit === 'bytes';
  const title = `${bytes ? 'What they allocate themselves' : 'Time of their own'}, and that of the standard library and of libc below them`;
  return [{ text: `${bytes ? 'Largest' : 'Hottest'}${top === 0 ? '' : ' here'}`, title, kind: '', found }];
}

function hotSums(data, tree, top) {
  const { samples, strings } = data;
  const owner = owners(data, tree);
  const sums = new Float64Array(strings.length);
  const values = columnOf(data, tree.type);
  for (let row = 0; row < tree.leaf.length; row++) {
    const leaf = tree.leaf[row];
    if (!inTree(tree, leaf, top) || tree.frame[leaf] < 0 || tree.allowed[samples.labels[row]] !== 1 || tree.sides.of[samples.profile[row]] < 0) continue;
    sums[tree.name[owner[leaf] > 0 ? owner[leaf] : leaf]] += Number(values[row]);
  }
  return sums;
}

// For each node the nearest one that is no library's, from itself to its callers; 0 where there is none.
function owners(data, tree) {
  if (tree.owner) return tree.owner;
  const { count, parent, frame } = tree;
  const library = libraryFrames(data);
  const owner = new Int32Array(count);
  for (let node = 1; node < count; node++) {
    owner[node] = frame[node] < 0 ? 0 : library[frame[node]] ? owner[parent[node]] : node;
  }
  return (tree.owner = owner);
}

// Which frames are of the language's own libraries: one flag a frame.
function libraryFrames(data) {
  const { frames, strings } = data;
  data.library ??= Uint8Array.from(frames.name, (name, frame) => {
    const module = strings[frames.module[frame]];
    return family(strings[name], strings[frames.file[frame]], module) === 'std' || /^(lib(c|m|pthread|gcc_s)[.-]|ld-linux|linux-vdso|\[vdso)/.test(module) ? 1 : 0;
  });
  return data.library;
}

// What grew and what shrank by itself, not with its load, its callees or by chance.
function changed(app) {
  const table = tableOf(app);
  const top = table.of[2];
  const { unit } = app.data.types[app.tree.type];
  const whole = Math.max(...app.tree.total.map((side, number) => Number(side[top]) * app.scale[number]));
  const library = new Uint8Array(app.data.strings.length);
  libraryFrames(app.data).forEach((flag, frame) => { if (flag) library[app.data.frames.name[frame]] = 1; });
  const weights = (from, to, sign) => {
    const weight = new Float64Array(library.length);
    for (const id of table.names) {
      const [old, now] = [from, to].map((side) => Number(table.total[side][id]) * app.scale[side]);
      const growth = now - old;
      if (library[id] || growth < WORTH * whole || growth < MORE * old || growth <= 0) continue;
      if (table.counts && table.zTotal[id] * sign < CERTAIN) continue;
      weight[id] = growth * (growth / now) ** 3;
    }
    return weight;
  };
  const found = (weight) => {
    const ids = largest(weight, NAMED);
    return ids.filter((id) => weight[id] > SHADOW * weight[ids[0]]).map((id) => ({ id, value: signed(app.normalised(table.deltaTotal[id], unit), table.deltaTotal[id]) }));
  };
  const [slower, faster] = [found(weights(0, 1, 1)), found(weights(1, 0, -1))];
  const title = 'With all they call; callers that only grew with them, the standard library and what chance explains are left out';
  if (slower.length + faster.length > 0) {
    return [{ text: 'Grew most', title, kind: 'grew', found: slower }, { text: 'Shrank most', title, kind: 'shrank', found: faster }];
  }
  byId('findings').replaceChildren();
  return [];
}

// The numbers of the largest positive values, the largest first.
function largest(values, most) {
  const found = [];
  for (let id = 0; id < values.length; id++) {
    if (!(values[id] > 0) || (found.length === most && values[id] <= values[found[most - 1]])) continue;
    found.push(id);
    found.sort((a, b) => values[b] - values[a] || a - b);
    if (found.length > most) found.pop();
  }
  return found;
}
