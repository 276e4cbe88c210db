// Values: exact sums, and how people read them.
//
// A sum is a Number where the whole profile stays below 2^53, and a BigInt where it does not (the data's `wide`). The
// same code adds up both: typed arrays of one type hold the sums, and only ratios and texts convert them.

function sums(count, wide) {
  return wide ? new BigInt64Array(count) : new Float64Array(count);
}

function ratio(part, whole) {
  const divisor = Number(whole);
  return divisor === 0 ? 0 : Number(part) / divisor;
}

function percent(fraction) {
  const value = fraction * 100;
  const size = Math.abs(value);
  if (size === 0) return '0%';
  if (size < 0.005) return value < 0 ? '>−0.01%' : '<0.01%';
  return `${minus(value.toFixed(size < 9.995 ? 2 : size < 99.95 ? 1 : 0))}%`;
}

// Without a prototype: a unit may be called `constructor`.
const scales = {
  __proto__: null,
  nanoseconds: [[86400e9, 'd'], [3600e9, 'h'], [600e9, 'min', 60e9], [1e9, 's'], [1e6, 'ms'], [1e3, 'µs'], [1, 'ns']],
  bytes: [[2 ** 40, 'TiB'], [2 ** 30, 'GiB'], [2 ** 20, 'MiB'], [2 ** 10, 'KiB'], [1, 'B']],
  count: [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e4, 'k', 1e3], [1, '']],
};
const nanoseconds = { __proto__: null, nanoseconds: 1, microseconds: 1e3, milliseconds: 1e6, seconds: 1e9 };

// A value in the largest unit in which it is at least one.
function quantity(value, unit) {
  let number = Number(value);
  if (number === 0) return '0';
  if (unit in nanoseconds) {
    number *= nanoseconds[unit];
    unit = 'nanoseconds';
  }
  const scale = scales[unit] ?? scales.count;
  const suffix = unit in scales ? '' : ` ${unit}`;
  const size = Math.abs(number);
  const [from, name, divisor = from] = scale.find(([limit]) => size >= limit) ?? scale[scale.length - 1];
  const scaled = number / divisor;
  const digits = Number.isInteger(scaled) && Math.abs(scaled) < 1e4 ? String(scaled) : significant(scaled);
  return `${minus(digits)}${name && '\u202f'}${name}${suffix}`;
}

// A rate: CPU time per second of time is told in milliseconds a second.
function rate(value, unit) {
  if (value === 0) return '0';
  return `${quantity(Math.abs(value) < 0.5 && unit === 'count' ? Number(value.toFixed(3)) : value, unit)}/s`;
}

function significant(number) {
  const size = Math.abs(number);
  return number.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2);
}

// Every digit, in groups of three.
function exact(value, unit) {
  const digits = typeof value === 'bigint' ? value.toString() : Math.round(value).toString();
  const grouped = digits.replace(/\B(?=(\d{3})+(?!\d))/g, '\u202f');
  return `${minus(grouped)} ${unit}`;
}

function signed(text, value) {
  return value > 0 ? `+${text}` : text;
}

function minus(text) {
  return text.replace('-', '−');
}

// Nanoseconds since the epoch, as a BigInt, in UTC.
function utc(nanos) {
  if (nanos === 0n) return 'time unknown';
  const date = new Date(Number(nanos / 1000000n));
  return date.toISOString().replace('T', ' ').replace(/\.\d+Z/, ' UTC');
}

// How surely two rates differ: the difference of two sample counts, each over what it is divided by, in standard deviations
// of what chance makes of one common rate. `periods` is how many samples one signal stands for: chance draws signals. A
// share of the whole (`shares`) can only vary by what is left of it.
function significance(before, after, over, periods, shares) {
  const [b, a] = [Number(before), Number(after)];
  const rate = (b + a) / (over[0] + over[1]);
  const free = shares ? Math.max(0, 1 - rate) : 1;
  const variance = rate * free * (periods[0] / over[0] + periods[1] / over[1]);
  return variance > 0 ? (a / over[1] - b / over[0]) / Math.sqrt(variance) : 0;
}
