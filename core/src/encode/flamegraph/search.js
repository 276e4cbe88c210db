// Search: which names match, and how much of the view that is.

// What the user typed, as a test of names: a regular expression where it is one, else the text itself. Case matters
// only where the pattern has a capital letter.
function matcher(text) {
  if (text === '') return null;
  const flags = /[A-Z]/.test(text.replace(/\\./g, '')) ? '' : 'i';
  try {
    const pattern = new RegExp(text, flags);
    return { test: (name) => pattern.test(name), literal: false };
  } catch {
    const fold = (name) => (flags ? name.toLowerCase() : name);
    return { test: (name) => fold(name).includes(fold(text)), literal: true };
  }
}

// One flag a string: whether a function of that name matches; null when nothing is searched.
function matches(data, text) {
  const found = matcher(text);
  if (!found) return null;
  // A pattern of one name was made by a click on it.
  const only = !found.literal && text.startsWith('^') ? data.strings.findIndex((name) => exactly(name) === text) : -1;
  const flags = new Uint8Array(data.strings.length);
  const seen = new Uint8Array(data.strings.length);
  let functions = 0;
  for (const name of data.frames.name) {
    if (seen[name]) continue;
    seen[name] = 1;
    if (!found.test(data.strings[name])) continue;
    flags[name] = 1;
    functions++;
  }
  return { flags, functions, literal: found.literal, only };
}

// The sum of the outermost matching frames below `top`, for each side: what runs in or under a match, counted once.
function matchedSums(tree, top, match) {
  const found = tree.total.map((side) => side[0] - side[0]);
  for (let node = top; node < tree.end[top];) {
    if (!isMatch(tree, node, match)) {
      node++;
      continue;
    }
    for (let side = 0; side < found.length; side++) found[side] += tree.total[side][node];
    node = tree.end[node];
  }
  return found;
}

// The same for stacks that are seen from their leaves, `leaves`: those with a match anywhere.
function matchedLeaves(data, tree, leaves, match) {
  const under = new Uint8Array(tree.count);
  for (let node = 1; node < tree.count; node++) under[node] = under[tree.parent[node]] || isMatch(tree, node, match) ? 1 : 0;
  const self = tree.self ?? selfsOf(data, tree, tree.type, tree.allowed);
  return self.map((side) => leaves.reduce((sum, leaf) => (under[leaf] ? sum + side[leaf] : sum), side[0] - side[0]));
}

const LONGEST = 1000;

function isMatch(tree, node, match) {
  return tree.frame[node] >= 0 && match.flags[tree.name[node]] === 1;
}

// A pattern that matches this name and no other; of a name that no address could hold, what begins like it.
function exactly(name) {
  if (name.length > LONGEST) return exactly(name.slice(0, LONGEST)).slice(0, -1);
  return `^${name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')}$`;
}
