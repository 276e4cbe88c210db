// What a page has to show, computed from the plain samples with BigInt and maps: slow, plain, and without any of
// the page's own code.

export function sum(samples, type, keep = () => true) {
  return samples.reduce((total, sample) => (keep(sample) ? total + BigInt(sample.values[type]) : total), 0n);
}

// Each stack counts once, however many of its frames match.
export function matched(samples, type, pattern) {
  return sum(samples, type, ({ stack }) => stack.some((name) => pattern.test(name)));
}

export function selfOf(samples, type, name) {
  return sum(samples, type, ({ stack }) => stack.at(-1) === name);
}

export function totalOf(samples, type, name) {
  return sum(samples, type, ({ stack }) => stack.includes(name));
}

// Every path from the root with its self and total.
export function paths(samples, type) {
  const found = new Map();
  for (const { stack, values } of samples) {
    for (let depth = 0; depth <= stack.length; depth++) {
      const key = JSON.stringify(stack.slice(0, depth));
      const entry = found.get(key) ?? { self: 0n, total: 0n };
      entry.total += BigInt(values[type]);
      if (depth === stack.length) entry.self += BigInt(values[type]);
      found.set(key, entry);
    }
  }
  return found;
}

export function share(part, whole) {
  return Number(part) / Number(whole);
}
