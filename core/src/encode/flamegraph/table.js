// The table of functions of what the graph shows, and the view of one function's callers and callees.

// Rows that are made at once; more follow when the end of the table comes into sight.
const CHUNK = 80;
const LINES = 8;

const columnsOf = {
  profile: [
    { key: 'self', text: 'Self', of: (table) => table.self[0], then: (table) => table.total[0] },
    { key: 'total', text: 'Total', of: (table) => table.total[0] },
  ],
  diff: [
    { key: 'deltaSelf', text: 'Δ self', of: (table) => table.deltaSelf, then: (table) => table.deltaTotal },
    { key: 'zSelf', text: 'z self', short: true, of: (table) => table.zSelf },
    { key: 'deltaTotal', text: 'Δ total', of: (table) => table.deltaTotal },
    { key: 'zTotal', text: 'z total', short: true, of: (table) => table.zTotal },
    { key: 'before', text: 'Before', of: (table) => table.self[0], title: 'self before' },
    { key: 'after', text: 'After', of: (table) => table.self[1], title: 'self after' },
  ],
};

// The functions in order: what the state says, such as `total` or `-name` (a leading minus: the other way round).
// Strings are sorted, so that their numbers are the order of names.
function sortNames(app, table) {
  const columns = columnsOf[app.pair ? 'diff' : 'profile'];
  const [, reversed, key] = sortOf(app);
  const column = columns.find((candidate) => candidate.key === key);
  const names = [...table.names];
  if (column) {
    const [first, then] = [column.of(table), (column.then ?? column.of)(table)];
    names.sort((a, b) => (first[a] < first[b] ? 1 : first[a] > first[b] ? -1 : then[a] < then[b] ? 1 : then[a] > then[b] ? -1 : a - b));
  }
  return reversed ? names.reverse() : names;
}

// What the table is sorted by: whether reversed, and the column.
function sortOf(app) {
  const columns = columnsOf[app.pair ? 'diff' : 'profile'];
  const chosen = /^(-?)(.*)$/.exec(app.state.sort);
  return chosen[2] === 'name' || columns.some(({ key }) => key === chosen[2]) ? chosen : ['', '', columns[0].key];
}

// What a name cost in the part of the tree that is shown; added up again only when that changed.
function tableOf(app) {
  const { data, tree } = app;
  const top = app.shown === tree ? app.top : 0;
  const now = [tree, tree.total, top, app.norm];
  if (!app.table || now.some((part, place) => part !== app.table.of[place])) {
    app.table = functionTable(data, tree, top);
    app.table.of = now;
    if (app.pair) addDifferences(app.table, app);
  }
  if (app.table.sort !== app.state.sort) {
    app.table.sort = app.state.sort;
    app.table.order = sortNames(app, app.table);
  }
  return app.table;
}

// A search leaves the functions that match; a click on one of them only marks it.
function showTable(app) {
  byId('side-panel').hidden = !app.state.table;
  if (!app.state.table) return;
  const { data, tree, match } = app;
  const table = tableOf(app);
  showHead(app);
  const sought = match && match.only < 0;
  const names = sought ? table.order.filter((name) => match.flags[name]) : table.order;
  const top = table.of[2];
  const where = top === 0 ? (app.shown === tree ? '' : ', with all their callers') : ` in ${shortName(app.nameOf(tree, top))}`;
  const how = app.pair ? (app.norm === 'time' ? `${app.level ? '' : ', per second'}; bold: |z| ≥ 3, hardly chance` : ', as share of all; bold: |z| ≥ 3') : '';
  byId('table-note').textContent = `${sought ? `${names.length} of ` : ''}${table.names.length} function${table.names.length === 1 ? '' : 's'}${where}${how}`;
  const body = byId('table-body');
  if (app.listed?.names.length === names.length && app.listed.of === table.self && names.every((name, place) => name === app.listed.names[place])) {
    for (const line of body.rows) line.classList.toggle('match', match?.flags[line.dataset.name] === 1);
    return;
  }
  app.listed = { names, of: table.self };
  body.replaceChildren();
  byId('table-scroll').scrollTop = 0;
  moreRows(app);
}

function moreRows(app) {
  const body = byId('table-body');
  const { names } = app.listed;
  const have = body.rows.length;
  if (have === names.length) return;
  body.append(...names.slice(have, have + CHUNK).map((name) => tableRow(app, name)));
}

// Called once: rows for what comes into sight, and clicks for all rows.
function listenToTable(app) {
  const scroll = byId('table-scroll');
  scroll.addEventListener('scroll', () => {
    if (scroll.scrollTop + 2 * scroll.clientHeight > scroll.scrollHeight) moreRows(app);
  });
  byId('table-body').addEventListener('click', ({ target }) => {
    const button = target.closest('button');
    if (!button) return;
    const name = app.data.strings[button.closest('tr').dataset.name];
    if (button.className === 'both') app.update({ centre: name }, true);
    else if (app.state.query === exactly(name)) app.update({ query: '' });
    else app.find(name);
  });
}

function showHead(app) {
  const columns = columnsOf[app.pair ? 'diff' : 'profile'];
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
  refill(
    byId('table-head'),
    ...columns.map(({ key, text, short, title }) => head(key, text, short ? 'short' : '', title)),
    head('name', 'Function', 'name'),
  );
}

function tableRow(app, id) {
  const { data, tree, table } = app;
  const name = data.strings[id];
  const line = element('tr', app.match?.flags[id] ? 'match' : '');
  line.dataset.name = id;
  const { unit } = data.types[tree.type];
  if (app.pair) {
    const delta = (value, z) => element('td', `${value > 0 ? 'grew' : value < 0 ? 'shrank' : 'none'}${Math.abs(z) >= 3 ? ' sure' : ''}`, signed(app.normalised(value, unit), value));
    const score = (z) => element('td', Math.abs(z) >= 3 ? 'sure' : z === 0 ? 'none' : '', countTypeOf(data, app.tree.type) < 0 ? '–' : z === 0 ? '0' : signed(minus(z.toFixed(1)), Number(z.toFixed(1))));
    line.append(delta(table.deltaSelf[id], table.zSelf[id]), score(table.zSelf[id]), delta(table.deltaTotal[id], table.zTotal[id]), score(table.zTotal[id]));
    table.self.forEach((column, side) => line.append(element('td', Number(column[id]) === 0 ? 'none' : '', app.normalised(Number(column[id]) * app.scale[side], unit))));
  } else {
    for (const value of [table.self[0][id], table.total[0][id]]) {
      const share = ratio(value, tree.total[0][table.of[2]]);
      const none = Number(value) === 0;
      const cell = none ? element('td', 'none', '0') : element('td', 'bar-cell', percent(share), ' ', element('small', '', quantity(value, unit)));
      cell.style.setProperty('--part', Math.max(0, Math.min(1, share)));
      cell.title = exact(value, unit);
      line.append(cell);
    }
  }
  const pick = element('button', 'pick', clipped(name, 500));
  const both = element('button', 'both', '⇅');
  pick.type = both.type = 'button';
  pick.title = `${clipped(name, 2000)}\nClick to find it in the graph`;
  both.title = 'Callers and callees';
  both.setAttribute('aria-label', `Callers and callees of ${clipped(name, 500)}`);
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
  byId('centre-text').replaceChildren(element('b', '', clipped(state.centre, 1000)));
  const lines = hotLines(data, app, name, state.type);
  const { unit } = data.types[state.type];
  const texts = lines.slice(0, LINES).map(([place, sum]) => `${place} ${quantity(sum, unit)}`);
  if (lines.length > LINES) texts.push(`${lines.length - LINES} more`);
  byId('lines').textContent = texts.length > 0 ? `Self by line: ${texts.join(' · ')}` : '';
  for (const [graph, build, upward] of [[app.callers, callersOf, true], [app.callees, calleesOf, false]]) {
    const tree = build(data, app.tree, name);
    weighTree(data, tree, app);
    graph.show(app.viewOf(tree, firstBelow(tree, 0), upward, false));
  }
  const { tree } = app.callees.view;
  byId('centre-text').append(` — ${summary(app, tree, firstBelow(tree, 0))}`);
}
