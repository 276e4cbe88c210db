// Choosing samples by thread and by label, and what the toolbar offers.

const LISTED = 200;

function fillToolbar(app) {
  const { data } = app;
  const options = (id, entries) => byId(id).replaceChildren(...entries.map(([value, text]) => {
    const option = element('option', '', text);
    option.value = value;
    return option;
  }));
  // A unit is told where it says more than the name.
  const told = (unit) => !['nanoseconds', 'count', 'bytes'].includes(unit) || data.types.some(({ name }, place) => data.types.findIndex((other) => other.name === name && other.kind === data.types[place].kind) < place);
  app.fillTypes = () => options('type', data.types.flatMap(({ name, unit, kind }, place) => (kind === data.types[app.state.type].kind ? [[place, told(unit) ? `${name} (${unit})` : name]] : [])));
  app.fillColours = () => options('colour', offered(app).map((key) => [key, app.colourings[key].title]));
  app.fillTypes();
  options('group', [['', 'nothing'], ...data.labelKeys.map(({ name }) => [`=${name}`, keyTitle(name)])]);
  const chosen = (id, patch) => byId(id).addEventListener('change', (event) => app.update(patch(event.target)));
  chosen('type', ({ value }) => ({ type: Number(value) }));
  chosen('group', ({ value }) => ({ group: value === '' ? null : value.slice(1) }));
  chosen('colour', ({ value }) => ({ colour: value }));
  chosen('norm', ({ value }) => ({ norm: value }));
  chosen('side', ({ value }) => ({ side: value }));
  chosen('recursion', ({ checked }) => ({ recursion: checked }));
  byId('inverted').addEventListener('change', ({ target }) => app.invert(target.checked));
  const pressed = (id, action) => byId(id).addEventListener('click', action);
  pressed('icicle', () => app.update({ orientation: 'icicle' }));
  pressed('flame', () => app.update({ orientation: 'flame' }));
  pressed('filter', () => toggleFilters(app));
  pressed('show-table', () => app.update({ table: !app.state.table }));
  byId('search').addEventListener('input', (event) => app.update({ query: event.target.value }));
  if (!app.timed) {
    const time = byId('norm').options[0];
    time.disabled = true;
    time.textContent = 'per second (no duration known)';
  }
  if (data.labelKeys.length === 0) byId('filter').disabled = byId('group').disabled = true;
}

function showToolbar(app) {
  const { state } = app;
  byId('type').value = state.type;
  byId('group').value = state.group === null ? '' : `=${state.group}`;
  byId('colour').value = app.colour;
  byId('norm').value = app.norm;
  if (app.timed) byId('norm').options[0].textContent = app.level ? 'as they are' : 'per second';
  byId('side').value = state.side;
  byId('recursion').checked = state.recursion;
  byId('inverted').checked = state.inverted;
  byId('icicle').setAttribute('aria-pressed', state.orientation === 'icicle');
  byId('flame').setAttribute('aria-pressed', state.orientation === 'flame');
  byId('show-table').setAttribute('aria-pressed', state.table);
  if (byId('search').value !== state.query) byId('search').value = state.query;
  showFound(app);
  showChips(app);
}

// How much of the view the search matches.
function showFound(app) {
  const { match, tree, top, data } = app;
  const out = byId('found');
  if (!match) {
    out.replaceChildren();
    return;
  }
  const { shown } = app;
  const sums = shown === tree ? matchedSums(tree, top, match) : matchedLeaves(data, tree, shown.view, match);
  const { unit } = data.types[tree.type];
  const shares = sums.map((sum, side) => percent(ratio(sum, shown.total[side][top]))).join(' → ');
  const values = sums.map((sum, side) => (sums.length > 1 ? app.normalised(Number(sum) * app.scale[side], unit) : quantity(sum, unit)));
  const functions = `${match.functions} function${match.functions === 1 ? '' : 's'}`;
  const note = match.literal ? ' (not a regular expression: searched as text)' : '';
  out.replaceChildren(`${shares} matched`, element('small', '', ` · ${values.join(' → ')} · ${functions}${note}`));
  out.title = sums.map((sum) => exact(sum, unit)).join(' → ');
  byId('search').setAttribute('aria-invalid', match.literal);
}

function showChips(app) {
  refill(byId('chips'), ...idleChip(app), ...[...app.state.filters].map(([key, values]) => {
    const texts = [...values].map((value) => clipped(visible(value), 60) || '(none)');
    const text = texts.length > 3 ? `${texts.slice(0, 3).join(', ')} and ${texts.length - 3} more` : texts.join(', ');
    const chip = element('button', '', `${keyTitle(key)}: ${text || 'nothing'}  ✕`);
    chip.type = 'button';
    chip.title = 'Remove this filter';
    chip.addEventListener('click', () => {
      const filters = new Map(app.state.filters);
      filters.delete(key);
      app.update({ filters });
      if (!byId('filters').hidden) fillFilters(app);
    });
    return chip;
  }));
}

function keyTitle(key) {
  if (key === ACTIVITY) return 'activity';
  return key === 'thread_name' ? 'thread' : clipped(visible(key), 60) || '(no name)';
}

function toggleFilters(app) {
  const open = byId('filters').hidden;
  byId('filters').hidden = !open;
  byId('filter').setAttribute('aria-expanded', open);
  if (open) fillFilters(app);
}

// For each label key its values, the largest first, each with its share of all samples.
function fillFilters(app) {
  const { samples, labels, labelKeys } = app.data;
  const values = columnOf(app.data, app.state.type);
  const ofSet = new Float64Array(labels.length);
  for (let row = 0; row < values.length; row++) if (app.sides.of[samples.profile[row]] >= 0) ofSet[samples.labels[row]] += Number(values[row]);
  // Of hundreds of keys each shows its first values only.
  const listed = labelKeys.length > 12 ? 8 : LISTED;
  byId('filters').replaceChildren(...labelKeys.map((key) => keyFilter(app, key, ofSet, listed)));
}

function keyFilter(app, key, ofSet, listed) {
  const box = element('fieldset', '', element('legend', '', keyTitle(key.name)));
  box.dataset.key = key.name;
  const { values, all } = valuesOf(app, key, ofSet);
  const list = element('div', 'values');
  const fill = (wanted) => {
    const fitting = values.filter(({ text }) => text.toLowerCase().includes(wanted.toLowerCase()));
    list.replaceChildren(...fitting.slice(0, listed).map((value) => choice(app, key, value, all)));
    if (fitting.length > listed) list.append(element('p', '', `${fitting.length - listed} more: type to find them`));
  };
  if (values.length > 8) {
    const find = element('input');
    find.type = 'search';
    find.placeholder = `Find one of ${values.length}`;
    find.setAttribute('aria-label', `Find a value of ${key.name}`);
    find.addEventListener('input', () => fill(find.value));
    box.append(find);
  }
  fill('');
  box.append(list);
  return box;
}

function choice(app, key, { text, sum }, all) {
  const input = element('input');
  input.type = 'checkbox';
  input.value = text;
  input.checked = app.state.filters.get(key.name)?.has(text) ?? false;
  input.addEventListener('change', () => {
    const filters = new Map(app.state.filters);
    const values = new Set(filters.get(key.name));
    if (input.checked) values.add(text);
    else values.delete(text);
    if (values.size > 0) filters.set(key.name, values);
    else filters.delete(key.name);
    app.update({ filters });
  });
  const shown = text === '' ? '(none)' : clipped(text, 200);
  const name = element('span', '', shown);
  name.title = shown;
  return element('label', '', input, name, element('small', '', percent(ratio(sum, all))));
}

function valuesOf(app, key, ofSet) {
  const { strings } = app.data;
  const byText = new Map();
  let all = 0;
  ofSet.forEach((sum, set) => {
    const text = key.of[set] < 0 ? '' : strings[key.of[set]];
    byText.set(text, (byText.get(text) ?? 0) + sum);
    all += sum;
  });
  const list = [...byText].map(([text, sum]) => ({ text, sum }));
  list.sort((a, b) => b.sum - a.sum || (a.text < b.text ? -1 : 1));
  return { values: list, all };
}
