// What is told about one frame: beside the pointer, in the bar below the graph, and to screen readers.

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function byId(id) {
  return document.getElementById(id);
}

// Fills a row of buttons anew. The keyboard stays in its place: who pressed a button goes on from there.
function refill(row, ...children) {
  const buttons = () => [...row.querySelectorAll('button')];
  const at = buttons().indexOf(document.activeElement);
  row.replaceChildren(...children);
  if (at >= 0) (buttons()[at] ?? buttons().at(-1))?.focus({ preventScroll: true });
}

// Everything there is to say about a node, as texts.
function describe(app, tree, node) {
  const { data } = app;
  const { unit } = data.types[tree.type];
  const frame = tree.frame[node];
  const flags = tree.flags[node];
  const facts = { name: app.nameOf(tree, node), where: [], notes: [], rows: [] };
  if (frame >= 0) {
    const file = data.strings[data.frames.file[frame]];
    const line = data.frames.line[frame];
    if (file) facts.where.push(`${clipped(file, 300)}${line > 0 ? `:${line}` : ''}${flags & SEVERAL ? ' and other places' : ''}`);
    const module = data.strings[data.frames.module[frame]];
    if (module) facts.where.push(clipped(module, 300));
  }
  if (flags & INLINED) facts.notes.push(flags & CALLED ? 'inlined in part' : 'inlined');
  if (flags & LOST) facts.notes.push('samples that were lost: they cost this much, but their stacks are not known');
  if (flags & TRUNCATED) facts.notes.push('frames are missing here: the stack was cut');
  const top = app.topOf(tree);
  const last = tree.total.length - 1;
  if (last === 0) {
    const [self, total] = [selfAt(tree, node, 0), tree.total[0][node]];
    const [view, all] = [tree.total[0][top], app.tree.total[0][0]];
    const parent = node > 0 ? tree.total[0][tree.parent[node]] : total;
    const shares = (value) => [view, all, parent].map((whole) => percent(ratio(value, whole)));
    facts.rows.push(['', '', 'of view', 'of all', 'of parent']);
    facts.rows.push(['total', exactly2(total, unit), ...shares(total)]);
    // Towards the callers nothing is a node's own.
    if (!tree.upward) facts.rows.push(['self', exactly2(self, unit), ...shares(self)]);
    const counted = countTypeOf(data, tree.type);
    if (counted >= 0 && counted !== tree.type) facts.rows.push([counting(data.types[counted].name), exact(countAt(data, tree, node, 0), '').trim(), '', '', '']);
    if (data.doing?.times[data.types[tree.type].kind] >= 0) facts.notes.push(doingOf(app, tree, node));
    if (hasAges(data, tree.type)) facts.notes.push(agesOf(data, tree, node));
  } else {
    const { scale } = app;
    const show = (value) => app.normalised(value, unit);
    const change = app.change(tree, node);
    facts.rows.push(['', 'before', 'after', 'change']);
    const sums = [['total', (side) => tree.total[side][node]], ['self', (side) => selfAt(tree, node, side)]];
    for (const [key, sumAt] of tree.upward ? sums.slice(0, 1) : sums) {
      const [before, after] = scale.map((factor, side) => Number(sumAt(side)) * factor);
      facts.rows.push([key, show(before), show(after), signed(show(after - before), after - before)]);
    }
    if (tree.counts) {
      facts.rows.push([counting(data.types[countTypeOf(data, tree.type)].name), ...tree.counts.map((side) => exact(side[node], '').trim()), `z ${minus(change.z.toFixed(1))}`]);
    }
    facts.notes.push(change.words);
  }
  return facts;
}

// A type that counts, in a word.
function counting(name) {
  return name.endsWith('_objects') ? 'objects' : name === 'contentions' ? 'waits' : 'samples';
}

function exactly2(value, unit) {
  const short = quantity(value, unit);
  return unit in nanoseconds || unit === 'bytes' ? short : exact(value, '').trim() || short;
}

function showTooltip(app, tree, node, event, entered) {
  const box = byId('tooltip');
  if (node < 0 || !event || event.pointerType === 'touch') {
    box.hidden = true;
    return;
  }
  if (entered || box.hidden) fillTooltip(app, box, describe(app, tree, node));
  placeTooltip(event);
}

function placeTooltip(event) {
  const box = byId('tooltip');
  const { offsetWidth: width, offsetHeight: height } = box;
  const x = Math.min(event.clientX + 14, window.innerWidth - width - 8);
  const below = event.clientY + 20;
  box.style.left = `${Math.max(8, x)}px`;
  box.style.top = `${below + height < window.innerHeight - 8 ? below : Math.max(8, event.clientY - height - 14)}px`;
}

function fillTooltip(app, box, facts) {
  box.replaceChildren(element('div', 'full', clipped(facts.name, 2000)));
  for (const text of facts.where) box.append(element('div', 'where', text));
  for (const text of facts.notes.filter(Boolean)) box.append(element('div', 'note', text));
  box.append(factGrid(facts.rows));
  box.hidden = false;
}

function factGrid(rows) {
  const grid = element('div', rows.some((row) => row.length > 4) ? 'facts five' : 'facts');
  for (const [index, row] of rows.entries()) {
    row.forEach((text, column) => grid.append(element('span', column === 0 ? 'key' : index === 0 ? 'top' : '', text)));
  }
  return grid;
}

// One line: for the bar below the graph and for the screen reader.
function summary(app, tree, node) {
  const { unit } = app.data.types[tree.type];
  if (tree.total.length > 1) {
    const change = app.change(tree, node);
    const [before, after] = tree.total.map((side, number) => app.normalised(Number(side[node]) * app.scale[number], unit));
    return `total ${before} before, ${after} after: ${change.words}`;
  }
  const [self, total] = [selfAt(tree, node, 0), tree.total[0][node]];
  const all = app.tree.total[0][0];
  const own = tree.upward ? '' : `, self ${quantity(self, unit)} (${percent(ratio(self, all))})`;
  return `total ${quantity(total, unit)} (${percent(ratio(total, all))} of all)${own}`;
}

function showDetails(app, tree, node, spoken) {
  const name = app.nameOf(tree, node);
  byId('details-text').replaceChildren(element('b', '', clipped(name, 500)), ` — ${summary(app, tree, node)}`);
  byId('actions').hidden = tree.frame[node] < 0;
  app.chosenName = name;
  if (spoken) byId('live').textContent = `${clipped(name, 500)}, ${summary(app, tree, node)}, depth ${tree.depth[node]}`;
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages opened from a file may have no clipboard of their own: let the browser copy a selection.
    const area = element('textarea', 'unseen');
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
  byId('live').textContent = 'Copied';
}
