// One drawn graph: which frames have room, where they lie, and what is under the pointer.
//
// Drawing costs what is visible, not what there is: children narrower than half a pixel become one sliver.

const ROW = 20;
const SMALLEST = 0.5;
// What has so much of everything is shared by nearly all stacks.
const SHARED = 0.9;
const FONT = '12px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace';

// Characters that are as wide as all others.
const plain = /^[ -~…−µ→]*$/;

function makeGraph(host, label, on) {
  const canvas = host.appendChild(document.createElement('canvas'));
  const spacer = host.appendChild(document.createElement('div'));
  const hover = host.appendChild(document.createElement('div'));
  hover.className = 'hover';
  hover.hidden = true;
  canvas.tabIndex = 0;
  canvas.setAttribute('role', 'application');
  canvas.setAttribute('aria-roledescription', 'flame graph');
  canvas.setAttribute('aria-label', label);
  const pen = canvas.getContext('2d', { alpha: false });
  const graph = { canvas, host, rows: [], hover: -1, focus: 0, view: null };
  let due = false;
  let wide = 0;
  let high = 0;
  // How far the root's end of the graph is scrolled out of sight: kept when the room changes.
  let away = 0;

  // view: { tree, top, upward, match, colours, fill, textColour, labelOf, shareOf, hatched, ancestors }
  // What is `placed` has its frames where they were: only their looks changed.
  graph.show = (view, keepScroll, placed) => {
    const turned = graph.view?.upward !== view.upward;
    graph.view = view;
    if (!placed || turned) {
      point(-1);
      place();
      if (!keepScroll || turned) away = awayOf(view.top);
      stay();
    }
    graph.draw();
  };

  graph.draw = () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      if (graph.view) paint();
    });
  };

  graph.top = (depth) => {
    const { upward } = graph.view;
    const content = Math.max(high, graph.rows.length * ROW);
    return (upward ? content - (depth + 1) * ROW : depth * ROW) - host.scrollTop;
  };

  // Scrolls so that a row is seen, with some of its callers and callees where it has to come from far.
  graph.reveal = (node, far = false) => {
    const y = graph.top(graph.rowOf(node));
    if (y >= 0 && y + ROW <= high) return;
    if (far) host.scrollTop += y - high / 3;
    else host.scrollTop += y < 0 ? y - ROW : y + 2 * ROW - high;
  };

  // The way to the root's end.
  graph.toRoot = () => {
    away = 0;
    stay();
  };

  // Lays everything out again for the room there is now.
  graph.again = () => {
    if (!graph.view || host.clientWidth === 0) return;
    point(-1);
    place();
    stay();
    paint();
  };

  graph.rowOf = (node) => graph.view.tree.depth[node] - (graph.view.ancestors ? 0 : graph.view.tree.depth[graph.view.top]);

  graph.boxOf = (node) => {
    const row = graph.rows[graph.rowOf(node)];
    const at = row ? row.node.indexOf(node) : -1;
    return at < 0 ? null : { node, x: row.x[at], width: row.width[at], at, row };
  };

  graph.hit = (x, y) => {
    const { upward } = graph.view;
    const content = Math.max(high, graph.rows.length * ROW);
    const depth = Math.floor((upward ? content - (y + host.scrollTop) : y + host.scrollTop) / ROW);
    const row = graph.rows[depth];
    const at = row ? row.x.findIndex((left, i) => x >= left && x < left + row.width[i]) : -1;
    return at < 0 || row.node[at] < 0 ? -1 : row.node[at];
  };

  // Finds the frames that have room, row by row.
  function place() {
    const { tree, top, ancestors } = graph.view;
    wide = host.clientWidth;
    graph.rows = [];
    const put = (depth, node, x, width) => {
      const row = (graph.rows[depth] ??= { node: [], x: [], width: [] });
      row.node.push(node);
      row.x.push(x);
      row.width.push(width);
    };
    const base = tree.depth[top];
    if (ancestors) for (let node = tree.parent[top], d = base - 1; d >= 0; node = tree.parent[node], d--) put(d, node, 0, wide);
    const scale = tree.width[top] > 0 ? wide / tree.width[top] : 0;
    const depthOf = (node) => tree.depth[node] - (ancestors ? 0 : base);
    // Nodes with room, each with where it begins, in units of weight.
    const stack = [top];
    const begins = [0];
    put(depthOf(top), top, 0, wide);
    while (stack.length > 0) {
      const node = stack.pop();
      let offset = begins.pop();
      const end = tree.end[node];
      if (end === node + 1) continue;
      const depth = depthOf(node) + 1;
      let hiddenFrom = -1;
      let hiddenTo = 0;
      const pushed = stack.length;
      for (let below = node + 1; below < end; below = tree.end[below]) {
        const weight = tree.width[below];
        if (weight === 0) continue;
        const x = offset * scale;
        const width = weight * scale;
        if (width < SMALLEST) {
          if (hiddenFrom < 0) hiddenFrom = x;
          hiddenTo = x + width;
        } else {
          if (hiddenFrom >= 0 && hiddenTo - hiddenFrom >= SMALLEST) put(depth, -1, hiddenFrom, hiddenTo - hiddenFrom);
          hiddenFrom = -1;
          put(depth, below, x, width);
          stack.push(below);
          begins.push(offset);
        }
        offset += weight;
      }
      if (hiddenFrom >= 0 && hiddenTo - hiddenFrom >= SMALLEST) put(depth, -1, hiddenFrom, hiddenTo - hiddenFrom);
      // From left to right, so that rows are in order.
      turn(stack, pushed);
      turn(begins, pushed);
    }
    high = host.clientHeight;
    spacer.style.height = `${Math.max(0, graph.rows.length * ROW - high)}px`;
    wide = host.clientWidth;
    resize();
  }

  // A frame deep in the graph is zoomed to with two of its callers in sight, not a hundred. Of everything, what is shown
  // first is where stacks part: below the hundred frames of a runtime that nearly all of them share.
  function awayOf(node) {
    const row = node === 0 ? trunk() : graph.rowOf(node);
    return (row + 1) * ROW > high / 2 ? (row - 2) * ROW : 0;
  }

  function trunk() {
    const { tree } = graph.view;
    let node = 0;
    for (let below = 0; below >= 0;) {
      node = below;
      below = -1;
      for (let next = firstBelow(tree, node); next !== 0; next = nextBeside(tree, next)) {
        if (tree.width[next] >= SHARED * tree.width[0] && tree.width[next] > 0) below = next;
      }
    }
    return tree.end[node] === node + 1 ? 0 : tree.depth[node];
  }

  function stay() {
    host.scrollTop = graph.view.upward ? host.scrollHeight - high - away : away;
    tellAway();
  }

  function tellAway() {
    const out = graph.view.upward ? host.scrollHeight - high - host.scrollTop : host.scrollTop;
    on.scrolled(graph, Math.round(out / ROW));
    return out;
  }

  function resize() {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(wide * ratio), Math.round(high * ratio)];
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    canvas.style.width = `${wide}px`;
    canvas.style.height = `${high}px`;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  function paint() {
    const { colours } = graph.view;
    pen.fillStyle = colours.gap;
    pen.fillRect(0, 0, wide, high);
    pen.textBaseline = 'middle';
    pen.font = FONT;
    const character = pen.measureText('0').width;
    for (let depth = 0; depth < graph.rows.length; depth++) {
      const y = graph.top(depth);
      if (y + ROW < 0 || y > high) continue;
      const row = graph.rows[depth];
      for (let i = 0; i < row.node.length; i++) paintBox(row.node[i], row.x[i], y, row.width[i], character);
    }
    if (document.activeElement === canvas) outline(graph.focus, colours.focus, 2);
  }

  function paintBox(node, x, y, width, character) {
    const { tree, top, match, colours, fill, parts, textColour, labelOf, shareOf, hatched } = graph.view;
    const inner = width > 3 ? width - 1 : width;
    if (node < 0) {
      pen.fillStyle = colours.sliver;
      pen.fillRect(x, y + ROW / 2 - 3, inner, 5);
      return;
    }
    const flags = tree.flags[node];
    const above = tree.depth[node] < tree.depth[top];
    const found = match !== null && isMatch(tree, node, match);
    pen.globalAlpha = above ? 0.55 : match !== null && !found ? 0.38 : 1;
    pen.fillStyle = found ? colours.match : tree.name[node] < 0 ? colours.root : flags & GROUP ? colours.group : fill(node);
    pen.fillRect(x, y, inner, ROW - 1);
    const mixed = !found && inner > 3 ? parts(node) : null;
    if (mixed) edge(mixed, x, y, inner);
    if (inner > 2 && (flags & (LOST | TRUNCATED) || hatched(node))) hatch(x, y, inner, flags & (LOST | TRUNCATED) ? 5 : 8);
    const inlined = (flags & INLINED) !== 0 && !(flags & CALLED);
    if (inlined && inner > 4) dots(x, y, inner);
    pen.globalAlpha = above ? 0.8 : match !== null && !found ? 0.65 : 1;
    if (width < 3 * character + 8) return;
    const room = Math.floor((width - 9) / character);
    pen.fillStyle = found ? colours.matchText : textColour(node);
    pen.font = inlined ? `italic ${FONT}` : FONT;
    const label = labelOf(node, room);
    write(label, x + 5, y + ROW / 2, width - 9);
    pen.font = FONT;
    const share = room > label.length + 3 ? shareOf(node) : '';
    if (share && label.length + share.length + 2 <= room && plain.test(label)) {
      pen.globalAlpha *= 0.72;
      pen.fillText(share, x + width - 5 - share.length * character, y + ROW / 2);
    }
    pen.globalAlpha = 1;
  }

  function write(text, x, y, room) {
    if (plain.test(text)) {
      pen.fillText(text, x, y);
      return;
    }
    pen.save();
    pen.beginPath();
    pen.rect(x, y - ROW / 2, room, ROW);
    pen.clip();
    pen.fillText(text, x, y);
    pen.restore();
  }

  // What a frame is made of, along its lower edge.
  function edge(parts, x, y, width) {
    pen.fillStyle = graph.view.colours.gap;
    pen.fillRect(x, y + ROW - 6, width, 1);
    let at = x;
    for (const [colour, part] of parts) {
      pen.fillStyle = colour;
      pen.fillRect(at, y + ROW - 5, part * width, 4);
      at += part * width;
    }
  }

  // Slanted lines: this is not an ordinary frame.
  function hatch(x, y, width, step) {
    pen.save();
    pen.beginPath();
    pen.rect(x, y, width, ROW - 1);
    pen.clip();
    pen.strokeStyle = graph.view.colours.hatch;
    pen.globalAlpha *= 0.55;
    pen.lineWidth = 1;
    pen.beginPath();
    for (let at = x - ROW - (x % step); at < x + width; at += step) {
      pen.moveTo(at, y + ROW);
      pen.lineTo(at + ROW, y);
    }
    pen.stroke();
    pen.restore();
  }

  function dots(x, y, width) {
    pen.fillStyle = graph.view.colours.mark;
    const edge = graph.view.upward ? y + ROW - 3 : y;
    for (let at = x + 1; at < x + width - 2; at += 5) pen.fillRect(at, edge, 2.5, 1.5);
  }

  function outline(node, colour, thick) {
    const box = node >= 0 && graph.view.tree.count > node ? graph.boxOf(node) : null;
    if (!box) return;
    pen.globalAlpha = 1;
    pen.strokeStyle = colour;
    pen.lineWidth = thick;
    pen.strokeRect(box.x + thick / 2, graph.top(graph.rowOf(node)) + thick / 2, Math.max(1, box.width - 1 - thick), ROW - 1 - thick);
  }

  // The frame under the pointer has its outline in an element of its own: nothing is drawn anew for it.
  function point(node) {
    if (node === graph.hover) return;
    graph.hover = node;
    const box = node >= 0 ? graph.boxOf(node) : null;
    hover.hidden = !box;
    if (!box) return;
    hover.style.borderColor = graph.view.colours.hover;
    hover.style.top = `${graph.top(graph.rowOf(node)) + host.scrollTop}px`;
    hover.style.left = `${box.x}px`;
    hover.style.width = `${Math.max(2, box.width > 3 ? box.width - 1 : box.width)}px`;
  }

  const under = (event) => (graph.view ? graph.hit(event.offsetX, event.offsetY) : -1);
  canvas.addEventListener('pointermove', (event) => {
    const node = under(event);
    canvas.classList.toggle('hit', node >= 0);
    const entered = node !== graph.hover;
    point(node);
    on.hover(graph, node, event, entered);
  });
  canvas.addEventListener('pointerleave', () => {
    point(-1);
    on.hover(graph, -1);
  });
  canvas.addEventListener('click', (event) => {
    const node = under(event);
    if (node < 0) return;
    graph.focus = node;
    on.choose(graph, node, event);
  });
  for (const name of ['focus', 'blur']) canvas.addEventListener(name, () => graph.draw());
  host.addEventListener('scroll', () => {
    if (!graph.view || host.clientHeight !== high) return;
    away = tellAway();
    graph.draw();
  });
  new ResizeObserver(graph.again).observe(host);
  return graph;
}

// Reverses the end of a list, in place.
function turn(list, from) {
  for (let low = from, high = list.length - 1; low < high; low++, high--) [list[low], list[high]] = [list[high], list[low]];
}
