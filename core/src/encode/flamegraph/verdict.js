// The verdict: whether the service is bound by its processors or by waiting, and for what; by the rule of
// `profile::verdict`, whose limits the data name, over what the filters leave.

const SHOWN_GROUPS = 3;
const PLACE = 3;

const busyOf = (values, doing) => values[doing.busy] + values[doing.ready];

function verdictOf(app) {
  const { data, groupSums } = app;
  const { doing } = data;
  const work = (values) => values.reduce((sum, value, activity) => (activity === doing.idle ? sum : sum + value), 0);
  const total = (values) => values.reduce((sum, value) => sum + value, 0);
  const groups = [...groupSums].map(([group, values]) => ({ group, name: data.strings[group], values, work: work(values), total: total(values) }));
  groups.sort((a, b) => b.work - a.work || b.total - a.total);
  // Threads that are at work nearly all the time leave tasks waiting for them, whatever those awaited.
  const threads = groups.filter(({ name }) => name !== data.tasks);
  const ran = threads.reduce((sum, { values }) => sum + busyOf(values, doing), 0);
  const crowded = ran > 0 && threads.some((group) => 2 * busyOf(group.values, doing) >= ran && busyOf(group.values, doing) >= data.crowded * group.total);
  const judged = crowded ? threads : groups;
  const sums = doing.names.map((_, activity) => judged.reduce((sum, { values }) => sum + values[activity], 0));
  const busy = busyOf(sums, doing);
  const longest = sums.reduce((most, sum, activity) => (doing.wait[activity] && (most < 0 || sum >= sums[most]) ? activity : most), -1);
  const all = work(sums);
  // As one thread would be, however many others sleep meanwhile.
  const works = app.verdictSeconds > 0 && all >= data.works * app.verdictSeconds * 1e9;
  let bound = 'mixed';
  let isUnseen = false;
  if ((all < data.at_work * total(sums) && !works) || total(sums) === 0) bound = 'idle';
  else if (busy >= data.most * all) {
    isUnseen = unseen(app, groups) > busy;
    bound = isUnseen ? 'idle' : 'cpu';
  } else if (all - busy >= data.most * all) bound = 'wait';
  const waitsIn = bound === 'wait' || bound === 'mixed' ? longestPlace(app, longest) : [];
  return { bound, isUnseen, longest, sums, work: all, total: total(sums), groups, waitsIn };
}

// For how long event loops waited while nobody told what their tasks did: perhaps these waited for an upstream.
function unseen({ data }, groups) {
  if (groups.some(({ name }) => name === data.tasks)) return 0;
  const { doing, strings } = data;
  const isEvents = (set) => set.some((text, place) => place % 2 === 0 && strings[text] === 'wait' && strings[set[place + 1]] === 'events');
  const loops = new Set(data.labels.map((set, index) => (doing.of[index] === doing.idle && isEvents(set) ? doing.group[index] : -1)));
  const isLoop = ({ group, values, total }) => loops.has(group) && busyOf(values, doing) >= data.at_work * total;
  return groups.filter(isLoop).reduce((sum, { values }) => sum + values[doing.idle], 0);
}

// The functions of the application in which threads waited most for one thing: innermost first, as [shown, name].
function longestPlace(app, activity) {
  const { data } = app;
  const { doing, samples, tree, strings, frames } = data;
  const values = columnOf(data, doing.type);
  const { of, count } = app.verdictSides;
  const places = new Map();
  const ofLeaf = new Map();
  for (let row = 0; row < values.length; row++) {
    const set = samples.labels[row];
    if (doing.of[set] !== activity || doing.group[set] < 0 || app.activityAllowed[set] !== 1 || of[samples.profile[row]] !== count - 1) continue;
    const leaf = samples.leaf[row];
    let key = ofLeaf.get(leaf);
    if (key === undefined) {
      const place = [];
      for (let node = leaf; node > 0 && place.length < PLACE; node = tree.parent[node]) {
        if (!(frames.flags[tree.frame[node]] & OWN)) continue;
        const name = strings[tree.name[node]];
        const shown = name.replace(/::(\{\{closure\}\}|\{closure#).*/s, '');
        if (place.at(-1)?.[0] !== shown) place.push([shown, name]);
      }
      key = place.map(([shown]) => shown).join('\n');
      ofLeaf.set(leaf, key);
      if (!places.has(key)) places.set(key, { place, sum: 0 });
    }
    places.get(key).sum += Math.max(0, Number(values[row]));
  }
  places.delete('');
  return [...places.values()].reduce((most, one) => (most && most.sum >= one.sum ? most : one), null)?.place ?? [];
}

function showVerdict(app) {
  const box = byId('verdict');
  box.hidden = !(app.data.doing?.type >= 0);
  if (box.hidden) return;
  const verdict = app.verdict = verdictOf(app);
  refill(byId('sentence'), ...sentence(app, verdict));
  const groups = verdict.groups.filter(({ work }) => work > 0);
  const shown = app.allGroups ? groups : groups.slice(0, SHOWN_GROUPS);
  const rows = shown.map((group) => groupRow(app, group, groups[0].work));
  byId('groups').replaceChildren(...rows);
  const more = byId('more-groups');
  more.hidden = groups.length <= SHOWN_GROUPS;
  more.textContent = app.allGroups ? 'Fewer' : `${groups.length - SHOWN_GROUPS} more group${groups.length === SHOWN_GROUPS + 1 ? '' : 's'} of threads`;
  more.setAttribute('aria-expanded', app.allGroups === true);
}

function sentence(app, verdict) {
  const { doing } = app.data;
  const { sums, work, total, longest, bound } = verdict;
  const part = (activity) => percent(ratio(sums[activity], work));
  const strong = (text) => element('b', '', text);
  const waits = doing.names[longest]?.replace('waiting', 'waits');
  if (bound === 'idle') {
    const hint = verdict.isUnseen ? '; what async tasks wait for is told where they are wrapped (Labels::wrap)' : '';
    return [strong(verdict.isUnseen ? 'Mostly idle' : 'Idle'), `: threads were at work for ${percent(ratio(work, total))} of their time${hint}`];
  }
  const short = sums[doing.ready] > sums[doing.busy];
  const words = short ? `${part(doing.ready)} of the time at work is spent ready to run, without a processor` : `${part(doing.busy)} of the time at work is on CPU`;
  if (bound === 'cpu') {
    return [strong(short ? 'Short of processors' : 'CPU-bound'), `: ${words}. `, ...next(app, 'cpu', 'the CPU profile says where')];
  }
  const waited = work - sums[doing.busy] - sums[doing.ready];
  const alone = sums[longest] >= waited * 0.95;
  const start = bound === 'wait' && alone ? [strong('Wait-bound'), `: ${part(longest)} of the time at work ${waits}`]
    : bound === 'wait' ? [strong('Wait-bound'), `: ${percent(ratio(waited, work))} of the time at work waits, ${part(longest)} ${waits.replace('waits ', '')}`]
    : [strong(short ? 'Short of processors, and waiting' : 'On CPU and waiting'), `: ${words}, ${part(longest)} ${waits}`];
  const [place] = verdict.waitsIn;
  if (!place) return start;
  const button = element('button', '', clipped(shortName(place[0]), 60));
  button.type = 'button';
  button.title = `${verdict.waitsIn.map(([shown]) => clipped(shown, 300)).join('\ncalled by ')}\nClick to find it in the graph`;
  button.addEventListener('click', () => {
    const { types, kinds } = app.data;
    if (types[app.state.type].kind !== doing.kind) app.update({ type: kinds[doing.kind].type, sort: '' }, true);
    app.find(place[1]);
  });
  return [...start, ', most in ', button];
}

// Which profile to open next: a link to it where the page has it.
function next(app, kind, text) {
  const { kinds, types } = app.data;
  const number = kinds.findIndex(({ name }) => name === kind);
  if (number < 0) return [element('span', 'next', `Next: ${text}.`)];
  const button = element('button', 'link', `${text[0].toUpperCase()}${text.slice(1)}`);
  button.type = 'button';
  button.addEventListener('click', () => app.update({ type: types[app.state.type].kind === number ? app.state.type : kinds[number].type, sort: '' }, true));
  return [button];
}

function groupRow(app, { name, values, work, total }, most) {
  const { doing } = app.data;
  const { colours } = app;
  const idle = values[doing.idle];
  const words = values.map((value, activity) => (value > 0 && activity !== doing.idle ? `${doing.short[activity]} ${percent(ratio(value, work))}` : '')).filter(Boolean);
  const bar = element('span', 'doing');
  const filled = element('span', 'filled');
  filled.style.width = `${Math.max(0.5, 100 * ratio(work, most))}%`;
  values.forEach((value, activity) => {
    if (value <= 0 || activity === doing.idle) return;
    const part = element('span', patterns[activity], element('span', '', `${doing.short[activity]} ${percent(ratio(value, work))}`));
    part.style.flexGrow = value;
    part.style.backgroundColor = colours.doing[activity];
    part.style.color = colours.text;
    filled.append(part);
  });
  bar.append(filled);
  const shown = clipped(name, 100) || '(no name)';
  const row = element('li', '', element('span', 'name', shown), bar, element('span', 'sum', `${quantity(work, 'nanoseconds')}${idle > 0 ? `, ${percent(ratio(idle, total))} idle` : ''}`));
  row.tabIndex = 0;
  row.setAttribute('aria-label', `${shown}: ${quantity(work, 'nanoseconds')} at work: ${words.join(', ')}`);
  const facts = () => ({ name: shown, where: [], notes: [], rows: [['', 'time', 'of its work', ''], ...values.flatMap((value, activity) =>
    (value > 0 ? [[doing.names[activity], quantity(value, 'nanoseconds'), activity === doing.idle ? '' : percent(ratio(value, work)), '']] : []))] });
  const tell = (event) => {
    fillTooltip(app, byId('tooltip'), facts());
    placeTooltip(event);
  };
  row.addEventListener('pointermove', (event) => event.pointerType !== 'touch' && tell(event));
  row.addEventListener('focus', () => tell({ clientX: row.getBoundingClientRect().left, clientY: row.getBoundingClientRect().bottom - 10 }));
  for (const event of ['pointerleave', 'blur']) row.addEventListener(event, () => { byId('tooltip').hidden = true; });
  return row;
}

// Says what is hidden of the whole, beside the filters in force.
function idleChip(app) {
  const { doing } = app.data;
  const sum = app.activitySums?.[doing?.idle] ?? 0;
  if (!doing || sum === 0) return [];
  const hidden = isIdleHidden(app);
  const chip = element('button', 'idle', `${hidden ? 'Show' : 'Hide'} ${quantity(sum, 'nanoseconds')} of idle waits`);
  chip.type = 'button';
  chip.title = 'Threads that wait for work: they are most of the wall clock in a service, and nobody waits for them';
  chip.addEventListener('click', () => toggleIdle(app));
  return [chip];
}
