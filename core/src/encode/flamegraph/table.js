// The table of functions of what the graph shows, and the view of one function's callers and callees.

const FIRST_ROWS = 300;
const LINES = 8;

const columnsOf = {
  profile: [
    { key: 'self', text: 'Self', of: (row) => row.self[0], then: (row) => row.total[0] },
    { key: 'total', text: 'Total', of: (row) => row.total[0] },
  ],
  diff: [
    { key: 'deltaSelf', text: 'Δ self', of: (row) => row.deltaSelf, then: (row) => row.deltaTotal },
    { key: 'zSelf', text: 'z self', short: true, of: (row) => row.zSelf },
    { key: 'deltaTotal', text: 'Δ total', of: (row) => row.deltaTotal },
    { key: 'zTotal', text: 'z total', short: true, of: (row) => row.zTotal },
    { key: 'before', text: 'Before', of: (row) => Number(row.self[0]), title: 'self before' },
    { key: 'after', text: 'After', of: (row) => Number(row.self[1]), title: 'self after' },
  ],
};

// The order of the rows: what the state says, such as `total` or `-name` (a leading minus: the other way round).
function sortRows(app, rows) {
  const columns = columnsOf[app.data.view];
  const [, reversed, key] = /^(-?)(.*)$/.exec(app.state.sort || columns[0].key);
  const column = columns.find((candidate) => candidate.key === key);
  const { strings } = app.data;
  const byName = (a, b) => (strings[a.name] < strings[b.name] ? -1 : 1);
  const descending = (of) => (a, b) => (of(a) < of(b) ? 1 : of(a) > of(b) ? -1 : 0);
  const compare = column ? (a, b) => descending(column.of)(a, b) || descending(column.then ?? column.of)(a, b) || byName(a, b) : byName;
  return rows.sort(reversed ? (a, b) => compare(b, a) : compare);
}

function showTable(app, all = false) {
  byId('side-panel').hidden = !app.state.table;
  if (!app.state.table) return;
  const { data, tree, top } = app;
  const rows = functionTable(data, tree, top);
  if (data.view === 'diff') addDifferences(rows, app.scale, app.over);
  sortRows(app, rows);
  showHead(app);
  const shown = app.match ? rows.filter(({ name }) => app.match.flags[name]).concat(rows.filter(({ name }) => !app.match.flags[name])) : rows;
  const cut = all ? shown : shown.slice(0, FIRST_ROWS);
  byId('table-body').replaceChildren(...cut.map((row) => tableRow(app, row)));
  const where = top === 0 ? '' : ` in ${shortName(app.nameOf(tree, top))}`;
  const how = data.view === 'diff' ? (app.norm === 'time' ? ', per second; bold: |z| ≥ 3, hardly chance' : ', as share of all; bold: |z| ≥ 3') : '';
  byId('table-note').textContent = `${rows.length} functions${where}${how}`;
  const more = byId('table-more');
  more.hidden = cut.length === shown.length;
  more.textContent = `Show all ${shown.length} functions`;
  more.onclick = () => showTable(app, true);
}

function showHead(app) {
  const columns = columnsOf[app.data.view];
  const now = app.state.sort || columns[0].key;
  const head = (key, text, className, title) => {
    const button = element('button', '', now === key ? `${text} ▾` : now === `-${key}` ? `${text} ▴` : text);
    button.type = 'button';
    if (title) button.title = title;
    button.addEventListener('click', () => app.update({ sort: now === key ? `-${key}` : key }));
    const cell = element('th', className, button);
    cell.scope = 'col';
    cell.setAttribute('aria-sort', now === key ? (key === 'name' ? 'ascending' : 'descending') : now === `-${key}` ? (key === 'name' ? 'descending' : 'ascending') : 'none');
    cell.dataset.key = key;
    return cell;
  };
  byId('table-head').replaceChildren(
    ...columns.map(({ key, text, short, title }) => head(key, text, short ? 'short' : '', title)),
    head('name', 'Function', 'name'),
  );
}

function tableRow(app, row) {
  const { data, tree, top } = app;
  const name = data.strings[row.name];
  const line = element('tr', app.match?.flags[row.name] ? 'match' : '');
  const { unit } = data.types[tree.type];
  if (data.view === 'diff') {
    const delta = (value, z) => element('td', `${value > 0 ? 'grew' : value < 0 ? 'shrank' : 'none'}${Math.abs(z) >= 3 ? ' sure' : ''}`, signed(app.normalised(value, unit), value));
    const score = (z) => element('td', Math.abs(z) >= 3 ? 'sure' : z === 0 ? 'none' : '', data.countType < 0 ? '–' : z === 0 ? '0' : signed(minus(z.toFixed(1)), Number(z.toFixed(1))));
    line.append(delta(row.deltaSelf, row.zSelf), score(row.zSelf), delta(row.deltaTotal, row.zTotal), score(row.zTotal));
    row.self.forEach((value, side) => line.append(element('td', Number(value) === 0 ? 'none' : '', app.normalised(Number(value) * app.scale[side], unit))));
  } else {
    for (const value of [row.self[0], row.total[0]]) {
      const share = ratio(value, tree.total[0][top]);
      const none = Number(value) === 0;
      const cell = none ? element('td', 'none', '0') : element('td', 'bar-cell', percent(share), ' ', element('small', '', quantity(value, unit)));
      cell.style.setProperty('--part', Math.max(0, Math.min(1, share)));
      cell.title = exact(value, unit);
      line.append(cell);
    }
  }
  const pick = element('button', 'pick', name);
  const both = element('button', 'both', '⇅');
  pick.type = both.type = 'button';
  pick.title = `${name}\nClick to find it in the graph`;
  both.title = 'Callers and callees';
  both.setAttribute('aria-label', `Callers and callees of ${name}`);
  pick.addEventListener('click', () => app.update({ query: app.state.query === exactly(name) ? '' : exactly(name) }));
  both.addEventListener('click', () => app.update({ centre: name }, true));
  line.append(element('td', 'name', element('div', '', pick, both)));
  return line;
}

// The callers above, the callees below; a click on a frame puts that function into the middle.
function showSandwich(app) {
  const { data, state } = app;
  const open = state.centre !== '';
  byId('sandwich').hidden = !open;
  byId('graph').hidden = open;
  byId('crumbs').hidden = open;
  if (!open) return;
  const name = data.strings.indexOf(state.centre);
  const query = { allowed: app.allowed };
  byId('centre-text').replaceChildren(element('b', '', state.centre));
  const lines = hotLines(data, app.allowed, name, state.type);
  const { unit } = data.types[state.type];
  const texts = lines.slice(0, LINES).map(([place, sum]) => `${place} ${quantity(sum, unit)}`);
  if (lines.length > LINES) texts.push(`${lines.length - LINES} more`);
  byId('lines').textContent = texts.length > 0 ? `Self by line: ${texts.join(' · ')}` : '';
  for (const [graph, build, upward] of [[app.callers, buildCallers, true], [app.callees, buildCallees, false]]) {
    const tree = build(data, query, name);
    sumTree(data, tree, state.type);
    layoutTree(tree, { side: app.side, scale: app.scale });
    graph.show(app.viewOf(tree, tree.first[0], upward, false));
  }
  const { tree } = app.callees.view;
  byId('centre-text').append(` — ${summary(app, tree, tree.first[0])}`);
}
