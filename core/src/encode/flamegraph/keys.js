// The keyboard: moving in a graph, and the shortcuts of the page.

const shortcuts = [
  ['← → ↑ ↓', 'move from frame to frame in the graph'],
  ['Enter', 'zoom to the frame'],
  ['Esc', 'step back: close what is open, clear the search, zoom out'],
  ['Home', 'zoom out completely'],
  ['/', 'search'],
  ['n p', 'next and previous match of the search'],
  ['t', 'table of functions'],
  ['i', 'icicle or flame'],
  ['v', 'inverted: from the leaves to their callers'],
  ['s', 'callers and callees of the frame'],
  ['c', 'copy the name of the frame'],
  ['w', 'wall clock: coloured by what threads did, or as usual'],
  ['d', 'light or dark'],
  ['?', 'this help'],
];

const about = [
  'Each box is a function; its width is its share of the chosen value. What it called lies below it (icicle) or above it (flame). '
    + 'Frames of one name with the same callers are one box, and neighbours stand in alphabetical order: left and right mean nothing in time.',
  'Total counts a function with all it called, self without. A recursive function counts once. The search matches names by regular '
    + 'expression, ignoring case unless the pattern has capitals; its share counts each stack once. Merged recursion shows a function that calls itself as one box.',
  'Named first are the functions that are hot: their own time, with that of the standard library and of libc below them.',
];

const aboutDiff = 'Named first is what changed by itself, not with its load, its callees or by chance. A difference compares values per second of the profiles’ durations, or as shares of all. z tells how far apart the sample '
  + 'counts are, in standard deviations of chance: beyond 2 is likely real, beyond 3 hardly chance. Of many functions, one in twenty is beyond 2 by chance alone. Frames within ±2 stay grey. Hatched frames '
  + 'exist on one side only and are drawn with the width they have there, which makes their callers wider than their own share.';

const aboutWall = 'Of the wall clock, and of what was off CPU, each frame has the colour of what its threads did most there, and along its lower edge those of all they did. Idle waits, for which '
  + 'nobody waits, are hidden until asked for; shares are of the time at work. The legend filters. What tasks await is no time of any thread and stands below [awaiting].';

const aboutHeap = 'Of the live heap, each frame has the colour of the age of what it allocated: for how many ends of periods blocks have survived. A click on an age in the legend leaves '
  + 'what is as old or older. Grows: places whose surviving blocks become more, for as long as one looks; what fills up and stays is not among them. Over time it is the level at the end of what is chosen.';

const aboutTime = 'Over time: drag to choose a stretch, click a period to see it alone and again for all; arrow keys move what is chosen, with Shift its end, b compares it with what was before. '
  + 'Heights are rates of what was measured; hatched is where nothing was. Times are those of this computer’s clock.';

function listenToKeys(app) {
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (byId('help-box').open) {
      if (event.key === '?') byId('help-box').close();
      return;
    }
    if (event.key === 'Escape') return stepBack(app, event);
    const tag = event.target.tagName;
    if (tag === 'SELECT' || tag === 'TEXTAREA' || (tag === 'INPUT' && event.target.type === 'search')) {
      if (event.target.id === 'search' && event.key === 'Enter') app.main.canvas.focus();
      return;
    }
    const graph = app.graphs.find(({ canvas }) => canvas === event.target) ?? (moves(event.target) && !byId('graph').hidden ? app.main : null);
    if (graph && moved(app, graph, event.key)) {
      event.preventDefault();
      return;
    }
    const action = actions[event.key];
    if (!action || (event.key === 'Enter' && tag !== 'CANVAS')) return;
    event.preventDefault();
    action(app, graph);
  });
  byId('help').addEventListener('click', () => showHelp(app));
}

// Where arrow keys have nothing else to do, they move in the graph.
function moves(target) {
  return target.tagName === 'BODY' || (target.tagName === 'BUTTON' && !target.closest('.table-scroll'));
}

const actions = {
  '/': () => {
    byId('search').focus();
    byId('search').select();
  },
  n: (app) => stepMatch(app, 1),
  p: (app) => stepMatch(app, -1),
  t: (app) => app.update({ table: !app.state.table }),
  i: (app) => app.update({ orientation: app.state.orientation === 'icicle' ? 'flame' : 'icicle' }),
  v: (app) => app.invert(!app.state.inverted),
  w: (app) => offered(app).includes('doing') && app.update({ colour: app.colour === 'doing' ? 'family' : 'doing' }),
  d: (app) => app.nextTheme(),
  c: (app) => app.chosenName && copyText(app.chosenName),
  s: (app, graph) => {
    const at = graph ?? app.main;
    const name = at.view.tree.name[at.focus];
    if (at.view.tree.frame[at.focus] >= 0) app.update({ centre: app.data.strings[name] }, true);
  },
  '?': (app) => showHelp(app),
  Home: (app) => app.zoom(0),
  Enter: (app, graph) => graph && app.choose(graph, graph.focus),
};

// From match to match among the drawn frames, row by row and from left to right.
function stepMatch(app, step) {
  const graph = app.main;
  if (!app.match || byId('graph').hidden) return;
  const { tree } = graph.view;
  const found = graph.rows.flatMap((row) => row.node.filter((node) => node >= 0 && isMatch(tree, node, app.match)));
  if (found.length === 0) return;
  const at = found.indexOf(graph.focus);
  const next = at < 0 ? (step > 0 ? 0 : found.length - 1) : (at + step + found.length) % found.length;
  focusOn(app, graph, found[next]);
}

function focusOn(app, graph, node) {
  graph.focus = node;
  if (document.activeElement !== graph.canvas) graph.canvas.focus();
  graph.reveal(node);
  graph.draw();
  showDetails(app, graph.view.tree, node, true);
}

function stepBack(app, event) {
  const { state } = app;
  if (!byId('tooltip').hidden) byId('tooltip').hidden = true;
  if (!byId('filters').hidden) toggleFilters(app);
  else if (state.query) app.update({ query: '' });
  else if (state.centre) app.update({ centre: '' }, true);
  else if (state.zoom.length > 0) app.zoomBack();
  else if (state.base) app.update({ base: null }, true);
  else if (state.range) app.update({ range: null }, true);
  else event.target.blur?.();
  event.preventDefault();
}

// Moves the focus to a neighbour: across within the row, up and down between caller and widest callee.
function moved(app, graph, key) {
  const { view } = graph;
  if (!view || !key.startsWith('Arrow')) return false;
  const box = graph.boxOf(graph.focus) ?? graph.boxOf(view.top);
  if (!box) return true;
  let node = box.node;
  const towardsRoot = view.upward ? 'ArrowDown' : 'ArrowUp';
  if (key === 'ArrowLeft' || key === 'ArrowRight') {
    const step = key === 'ArrowLeft' ? -1 : 1;
    for (let at = box.at + step; at >= 0 && at < box.row.node.length; at += step) {
      if (box.row.node[at] < 0) continue;
      node = box.row.node[at];
      break;
    }
  } else if (key === towardsRoot) {
    if (view.tree.parent[node] >= 0 && graph.boxOf(view.tree.parent[node])) node = view.tree.parent[node];
  } else {
    let widest = 0;
    for (let below = firstBelow(view.tree, node); below !== 0; below = nextBeside(view.tree, below)) {
      if (widest === 0 || view.tree.width[below] > view.tree.width[widest]) widest = below;
    }
    if (widest !== 0 && graph.boxOf(widest)) node = widest;
  }
  focusOn(app, graph, node);
  return true;
}

function showHelp(app) {
  const box = byId('help-box');
  const title = element('h2', '', 'How to read and use this page');
  title.id = 'help-title';
  const list = element('dl', '');
  for (const [keys, text] of shortcuts) {
    list.append(element('dt', '', ...keys.split(' ').flatMap((key) => [element('kbd', '', key), ' '])), element('dd', '', text));
  }
  const close = element('button', '', 'Close');
  close.type = 'button';
  close.addEventListener('click', () => box.close());
  const texts = app.pair ? [...about.slice(0, 2), aboutDiff] : [...about];
  if (app.data.doing) texts.push(aboutWall);
  if (app.data.ages) texts.push(aboutHeap);
  if (slotCount(app.data) > 1) texts.push(aboutTime);
  box.replaceChildren(title, list, ...texts.map((text) => element('p', '', text)), close);
  box.showModal();
}
