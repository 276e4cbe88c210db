// The heap and locks: levels that do not add up over time, ages, what grows, rates of what flows, and their units.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { frame, pagesTests, picture, samplesOf, settled } from './browser.mjs';

const { on, open } = pagesTests();

const [ALLOC_OBJECTS, ALLOC, INUSE_OBJECTS, INUSE] = [0, 1, 2, 3];
const text = (page, selector) => page.locator(selector).innerText();
const total = async (page, side = 0) => BigInt((await frame(page, 'all')).total[side]);
const sumOf = (samples, value, keep = () => true) => samples.filter(keep).reduce((sum, { values }) => sum + BigInt(values[value]), 0n);
const choose = async (page, name) => {
  await page.selectOption('#type', { label: name });
  await settled(page);
};
const age = ({ labels }) => Number(labels.age.split(' ')[0]);

const hour = samplesOf('heap-over-time');
const periods = (kind, instance) => hour.filter((period) => period.kind === kind && (!instance || period.tags.instance === instance)).sort((a, b) => (BigInt(a.start) < BigInt(b.start) ? -1 : 1));
const at = (kind, minute) => ['a', 'b'].map((instance) => periods(kind, instance)[minute]);
const level = (minute, keep) => at('heap', minute).reduce((sum, { samples }) => sum + sumOf(samples, INUSE, keep), 0n);

on('heap', 'each value has the sums of its samples and its unit', async (page) => {
  const [samples] = samplesOf('heap');
  for (const [name, value, unit] of [['inuse_space', INUSE, /MiB/], ['alloc_space', ALLOC, /MiB/], ['inuse_objects', INUSE_OBJECTS, /k$/], ['alloc_objects', ALLOC_OBJECTS, /k$|M$/]]) {
    await choose(page, name);
    assert.equal(await total(page), sumOf(samples, value), name);
    const big = await text(page, '#totals b >> nth=0');
    assert.match(big.replace('\u202f', ' '), unit, `${name}: ${big}`);
  }
  await choose(page, 'inuse_space');
  const { x, y } = await frame(page, 'shop::sessions::open');
  await page.mouse.move(x + 5, y + 9);
  const told = await text(page, '#tooltip');
  assert.match(told, /MiB/);
  assert.match(told, /objects/);
  assert.doesNotMatch(told, /samples/);
  assert.match(told, /survived: 32 and more/);
  // What is allocated is told per second.
  await choose(page, 'alloc_space');
  assert.match((await text(page, '#totals')).replaceAll('\u202f', ' '), /alloc_space: [\d.]+ MiB\/s/);
  await picture(page, 'heap-allocated');
});

on('heap', 'frames have the colour of their age, and an age can be looked at alone', async (page) => {
  const [samples] = samplesOf('heap');
  assert.equal(await page.inputValue('#colour'), 'age');
  await picture(page, 'heap');
  const parts = await page.evaluate(() => {
    const { tree, data } = window.everprof;
    const of = (name) => { for (let node = 1; node < tree.count; node++) if (data.strings[tree.name[node]] === name) return node; return -1; };
    return ['shop::sessions::open', 'shop::catalogue::load'].map((name) => window.everprof.ageParts(data, tree, of(name)));
  });
  const leak = samples.filter(({ stack }) => stack.includes('shop::sessions::open'));
  const all = Number(sumOf(leak, INUSE));
  const classes = [[0, 0], [1, 1], [2, 3], [4, 7], [8, 15], [16, 31], [32, 1e9]];
  classes.forEach(([from, to], place) => {
    const wanted = Number(sumOf(leak, INUSE, (sample) => age(sample) >= from && age(sample) <= to)) / all;
    assert.ok(Math.abs(parts[0][place] - wanted) < 1e-9, `${place}: ${parts[0][place]}, not ${wanted}`);
  });
  assert.ok(parts[1][6] > 0.99, 'the cache is as old as can be');
  await page.locator('#legend button', { hasText: '8–15' }).click();
  await settled(page);
  assert.equal(await total(page), sumOf(samples, INUSE, (sample) => age(sample) >= 8));
  assert.match(await text(page, '#chips'), /age/);
  await page.locator('#legend button', { hasText: '8–15' }).click();
  await settled(page);
  assert.equal(await total(page), sumOf(samples, INUSE));
  assert.match(await text(page, '#findings'), /^Survived/);
});

on('heap-over-time', 'a level is that of the end of the stretch, of all instances', async (page) => {
  assert.equal(await total(page), level(59));
  await page.evaluate(() => window.everprof.update({ range: [10, 20] }));
  await settled(page);
  assert.equal(await total(page), level(20));
  await choose(page, 'alloc_space');
  const allocated = periods('heap').filter((_, place) => Math.floor(place / 2) >= 10 && Math.floor(place / 2) <= 20);
  assert.equal(await total(page), allocated.reduce((sum, { samples }) => sum + sumOf(samples, ALLOC), 0n), 'what flowed adds up');
  await choose(page, 'inuse_space');
  await page.evaluate(() => window.everprof.update({ range: null, lanes: [0] }));
  await settled(page);
  const [one] = await page.evaluate(() => window.everprof.data.lanes.map((tags) => tags.find(([key]) => key === 'instance')[1]));
  assert.equal(await total(page), sumOf(periods('heap', one)[59].samples, INUSE));
});

on('heap-over-time', 'charts have levels as they are and flows by the second', async (page) => {
  const rates = () => page.evaluate(() => window.everprof.rates.map(({ total: sums }) => [...sums]));
  const kinds = await page.evaluate(() => window.everprof.data.kinds.map(({ name }) => name));
  const [heap, lock] = [kinds.indexOf('heap'), kinds.indexOf('lock')];
  const levels = (await rates())[heap];
  levels.forEach((value, minute) => assert.equal(value, Number(level(minute)), `minute ${minute}`));
  await choose(page, 'alloc_space');
  const flows = (await rates())[heap];
  flows.forEach((value, minute) => {
    const wanted = at('heap', minute).reduce((sum, { samples }) => sum + Number(sumOf(samples, ALLOC)), 0) / 60;
    assert.ok(Math.abs(value - wanted) < 1, `minute ${minute}: ${value}, not ${wanted}`);
  });
  (await rates())[lock].forEach((value) => assert.ok(Math.abs(value - (2 * 36) / 60) < 1e-9));
  const buttons = (await page.locator('#kind-names button').allInnerTexts()).map((label) => label.replaceAll('\u202f', ' '));
  assert.match(buttons[heap], /^Heap\s+up to [\d.]+ (MiB|GiB)\/s$/);
  assert.match(buttons[lock], /^Lock waits\s+up to 1\.20 threads$/);
  await choose(page, 'inuse_space');
  const level_ = (await page.locator('#kind-names button').allInnerTexts()).map((label) => label.replaceAll('\u202f', ' '))[heap];
  assert.match(level_, /^Heap\s+up to [\d.]+ (MiB|GiB)$/);
  await picture(page, 'heap-over-time');
});

on('heap-ended', 'an instance that is over has no level at the end', async (page) => {
  const { samples } = samplesOf('heap-ended').reduce((last, period) => (BigInt(period.start) > BigInt(last.start) ? period : last));
  assert.equal(await page.evaluate(() => window.everprof.data.lanes.length), 2);
  assert.equal(await total(page), sumOf(samples, INUSE));
});

on('heap-over-time', 'of peaks the highest moment counts', async (page) => {
  await page.locator('#kind-names button', { hasText: 'Peak heap' }).click();
  await settled(page);
  assert.equal(await total(page), 2n * 1000n << 20n);
  await page.evaluate(() => window.everprof.update({ range: [40, 50] }));
  await settled(page);
  assert.equal(await total(page), 2n * 300n << 20n);
});

on('heap-over-time', 'what grows is named, the leak first, and caches are not', async (page) => {
  const found = await page.locator('#findings li').first().innerText();
  assert.match(found, /^Grows/);
  const names = await page.locator('#findings li').first().locator('button b').allInnerTexts();
  assert.deepEqual(names, ['Sessions::remember', 'metrics::observe']);
  assert.match(found.replaceAll('\u202f', ' '), /\+120 MiB\/h/);
  await page.locator('#findings li').first().locator('button').first().click();
  assert.equal(await page.inputValue('#search'), '^shop::sessions::Sessions::remember$');
  await picture(page, 'heap-grows');
  // In too short a stretch nothing is said of it.
  await page.evaluate(() => window.everprof.update({ query: '', range: [50, 52] }));
  await settled(page);
  assert.doesNotMatch(await text(page, '#findings'), /Grows|Nothing grows/);
});

on('heap-full', 'where nothing leaks, nothing grows', async (page) => {
  assert.match(await text(page, '#findings'), /^Nothing grows among what survives/);
});

on('heap-over-time', 'two stretches compare as levels', async (page) => {
  await page.evaluate(() => window.everprof.update({ base: [0, 14], range: [45, 59] }));
  await settled(page);
  assert.deepEqual([await total(page, 0), await total(page, 1)], [level(14), level(59)]);
  assert.equal((await page.locator('#norm option').allInnerTexts())[0], 'as they are');
  assert.doesNotMatch((await text(page, '#totals')), /\/s/);
  await picture(page, 'heap-compared');
  await choose(page, 'alloc_space');
  assert.match((await text(page, '#totals')), /\/s/);
  assert.equal((await page.locator('#norm option').allInnerTexts())[0], 'per second');
});

on('heap-diff', 'a diff of levels is no rate, whatever the durations', async (page) => {
  const [before, after] = samplesOf('heap-diff');
  const totals = (await text(page, '#totals')).replaceAll('\u202f', ' ');
  const mib = (samples) => Number(sumOf(samples, INUSE) >> 20n);
  assert.ok(totals.startsWith(`${mib(before)} MiB → ${mib(after)} MiB`), totals);
  assert.match(await text(page, '#findings'), /^Grew most\s*Sessions::remember/);
  await choose(page, 'alloc_space');
  assert.match(await text(page, '#totals'), /MiB\/s → /);
  await choose(page, 'inuse_space');
  await picture(page, 'heap-diff');
});

on('locks', 'waits are told in time, in waits, and as threads that wait', async (page) => {
  assert.match((await text(page, '#totals')).replaceAll('\u202f', ' '), /^36(\.0)? s\s+delay: 0\.60 threads waiting on average\s+450\s+contentions/);
  const { x, y } = await frame(page, 'shop::sessions::open');
  await page.mouse.move(x + 5, y + 9);
  assert.match(await text(page, '#tooltip'), /waits\s*400/);
  await picture(page, 'locks');
});

on('heap-empty', 'a heap without samples is a page all the same', async (page) => {
  assert.equal(await total(page), 0n);
});

test('by night', async () => {
  const { page, problems, close } = await open('heap-over-time', { scheme: 'dark', width: 1100 });
  await picture(page, 'heap-dark');
  assert.deepEqual(problems, []);
  await close();
});
