// Timelines: rates over time with exact values, gaps, versions and instances, and the flame graph of any stretch.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { test } from 'node:test';
import { frame, frames, pages, pagesTests, picture, samplesOf, settled } from './browser.mjs';

const { on, open, newContext } = pagesTests();

const periods = samplesOf('timeline');
const MINUTE = 60_000_000_000n;
const first = BigInt(periods[0].start);
const minuteOf = ({ start }) => Number((BigInt(start) - first) / MINUTE);
// The slots of the page by their minute: five minutes have no profile.
const minutes = [...new Set(periods.map(minuteOf))].sort((a, b) => a - b);
const isIdle = ({ labels }) => labels.wait === 'events';
function sumOf(kind, slots, keep = () => true) {
  const within = periods.filter((period) => period.kind === kind && minutes.indexOf(minuteOf(period)) >= slots[0] && minutes.indexOf(minuteOf(period)) <= slots[1]);
  return within.flatMap((period) => period.samples.map((sample) => ({ ...sample, tags: period.tags }))).filter((sample) => !isIdle(sample) && keep(sample)).reduce((sum, { values }) => sum + BigInt(values[1]), 0n);
}
const LAST = minutes.length - 1;
const text = (page, selector) => page.locator(selector).innerText();
const total = async (page) => (await frame(page, 'all')).total;
const state = (page) => page.evaluate(() => ({ range: window.everprof.state.range, base: window.everprof.state.base }));

// Where a slot lies on the canvas.
async function slotX(page, slot) {
  const box = await page.locator('#over-time').boundingBox();
  const [left, right] = await page.evaluate((at) => {
    const { data, layout } = window.everprof;
    return [layout.x(data.slots[2 * at] / 1000), layout.x(data.slots[2 * at + 1] / 1000)];
  }, slot);
  return { x: box.x + (left + right) / 2, y: box.y + 40 };
}

async function drag(page, from, to) {
  const [a, b] = [await slotX(page, from), await slotX(page, to)];
  await page.mouse.move(a.x, a.y);
  await page.mouse.down();
  await page.mouse.move((a.x + b.x) / 2, a.y);
  await page.mouse.move(b.x, b.y);
  await page.mouse.up();
  await settled(page);
}

on('timeline', 'the rates are those of the samples, and what was not measured is a gap', async (page) => {
  const rates = await page.evaluate(() => window.everprof.rates.map(({ total: sums }) => [...sums]));
  assert.equal(rates[0].length, 55);
  for (const [place, kind] of ['cpu', 'wall'].entries()) {
    rates[place].forEach((rate, slot) => {
      const expected = Number(sumOf(kind, [slot, slot])) / 60e9;
      assert.ok(Math.abs(rate - expected) < 1e-9, `${kind} ${slot}: ${rate}, not ${expected}`);
    });
  }
  const gap = await page.evaluate(() => {
    const { data, layout, colours } = window.everprof;
    const canvas = document.getElementById('over-time');
    const pen = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const at = (time, y) => {
      pen.clearRect(0, 0, 1, 1);
      pen.drawImage(canvas, -layout.x(time) * (canvas.width / layout.width), -y * (canvas.width / layout.width));
      return [...pen.getImageData(0, 0, 1, 1).data.slice(0, 3)];
    };
    const y = layout.charts[0] + 50;
    return { none: [26, 27, 28, 29].map((minute) => at(data.slots[0] / 1000 + minute * 60_000 + 7_000, y)), some: at(data.slots[0] / 1000 + 90_000, y), orange: colours.doing[0] };
  });
  const rgb = (hex) => [1, 3, 5].map((from) => parseInt(hex.slice(from, from + 2), 16));
  assert.deepEqual(gap.some, rgb(gap.orange));
  for (const colour of gap.none) assert.ok(colour[2] > 200, `${colour} in the gap`);
});

on('timeline', 'all of it first; a stretch is chosen by dragging, taken back by a click on it', async (page) => {
  assert.deepEqual(await total(page), [String(sumOf('cpu', [0, LAST]))]);
  await drag(page, 10, 20);
  assert.deepEqual(await state(page), { range: [10, 20], base: null });
  assert.deepEqual(await total(page), [String(sumOf('cpu', [10, 20]))]);
  assert.match(await text(page, '#totals'), new RegExp(`cpu: ${(Number(sumOf('cpu', [10, 20])) / 660e9).toFixed(2)} cores busy`));
  await page.waitForURL(/range=10-20/);
  await drag(page, 7, 3);
  assert.deepEqual(await total(page), [String(sumOf('cpu', [3, 7]))], 'from right to left');
  const { x, y } = await slotX(page, 40);
  await page.mouse.click(x, y);
  await settled(page);
  assert.deepEqual(await total(page), [String(sumOf('cpu', [40, 40]))]);
  await page.mouse.click(x, y);
  await settled(page);
  assert.deepEqual(await total(page), [String(sumOf('cpu', [0, LAST]))]);
  await drag(page, 1, 2);
  await page.click('#range-all');
  await settled(page);
  assert.deepEqual((await state(page)).range, null);
  await page.goBack();
  await settled(page);
  assert.deepEqual((await state(page)).range, [1, 2], 'the way back');
});

on('timeline', 'the address says which kind, stretch, pair and instances', async (page) => {
  await page.locator('#kind-names button').nth(1).click();
  await drag(page, 45, 54);
  await page.keyboard.press('b');
  await page.locator('#over-time').focus();
  await page.keyboard.press('b');
  await page.locator('#lane-names button').nth(1).click();
  await settled(page);
  const shown = await total(page);
  const again = await open('timeline', { hash: new URL(page.url()).hash });
  assert.deepEqual(await total(again.page), shown);
  assert.deepEqual(await state(again.page), await state(page));
  await again.close();
});

on('timeline', 'the kinds have their own values and colours; the verdict is of the stretch', async (page) => {
  assert.equal(await page.inputValue('#colour'), 'family');
  await page.locator('#kind-names button', { hasText: 'Wall clock' }).click();
  await settled(page);
  assert.equal(await page.inputValue('#colour'), 'doing');
  assert.deepEqual(await total(page), [String(sumOf('wall', [0, LAST]))]);
  assert.deepEqual(await page.locator('#type option').allInnerTexts(), ['samples', 'wall']);
  for (const slots of [[0, 10], [42, 54]]) {
    await drag(page, ...slots);
    const all = Number(sumOf('wall', slots));
    const network = Number(sumOf('wall', slots, ({ labels }) => labels.wait === 'network'));
    assert.match(await text(page, '#sentence'), new RegExp(`${(100 * network / all).toFixed(1)}% for the network, most in upstream::fetch`));
  }
  await page.click('#filter');
  await page.check('#filters [data-key=endpoint] input[value="/list"]');
  await settled(page);
  assert.deepEqual(await total(page), [String(sumOf('wall', [42, 54], ({ labels }) => labels.endpoint === '/list'))]);
  const rate = await page.evaluate(() => window.everprof.rates[1].total[50]);
  assert.ok(Math.abs(rate - Number(sumOf('wall', [50, 50], ({ labels }) => labels.endpoint === '/list')) / 60e9) < 1e-9, 'the charts follow the filters');
});

on('timeline', 'two stretches compare in the view of differences', async (page) => {
  await page.locator('#kind-names button', { hasText: 'Wall clock' }).click();
  await drag(page, 40, 54);
  await page.click('#compare');
  await settled(page);
  assert.deepEqual(await state(page), { range: [40, 54], base: [25, 39] });
  assert.deepEqual(await total(page), [String(sumOf('wall', [25, 39])), String(sumOf('wall', [40, 54]))]);
  assert.match(await text(page, '#findings'), /Grew most\s+upstream::fetch \+[\d.]+\s?ms\/s/);
  await page.click('#brush-base');
  await drag(page, 0, 24);
  assert.deepEqual(await state(page), { range: [40, 54], base: [0, 24] });
  assert.deepEqual(await total(page), [String(sumOf('wall', [0, 24])), String(sumOf('wall', [40, 54]))]);
  assert.deepEqual(await page.locator('#colour option').first().innerText(), 'change');
  await page.click('#brush-range');
  await drag(page, 50, 54);
  assert.deepEqual(await state(page), { range: [50, 54], base: [0, 24] });
  await page.keyboard.press('Escape');
  await settled(page);
  assert.deepEqual(await state(page), { range: [50, 54], base: null });
  assert.deepEqual(await total(page), [String(sumOf('wall', [50, 54]))]);
  await page.keyboard.press('Escape');
  assert.deepEqual((await state(page)).range, null);
});

on('timeline', 'instances are told apart, and one is looked at alone', async (page) => {
  const lanes = page.locator('#lane-names button');
  assert.deepEqual(await lanes.allInnerTexts(), ['1.0 · a1', '1.1 · b1', '1.1 · b2']);
  await lanes.nth(1).click();
  await settled(page);
  assert.deepEqual(await total(page), [String(sumOf('cpu', [0, LAST], ({ tags }) => tags.instance === 'b1'))]);
  const rates = await page.evaluate(() => [...window.everprof.rates[0].total].map((rate) => (Number.isNaN(rate) ? null : rate)));
  assert.ok(rates.slice(0, 25).every((rate) => rate === null), 'it was not there before');
  assert.ok(Math.abs(rates[30] - Number(sumOf('cpu', [30, 30], ({ tags }) => tags.instance === 'b1')) / 60e9) < 1e-9);
  await lanes.nth(0).click();
  await settled(page);
  assert.deepEqual(await total(page), [String(sumOf('cpu', [0, LAST], ({ tags }) => ['a1', 'b1'].includes(tags.instance)))]);
  assert.deepEqual(await page.evaluate(() => window.everprof.data.versions), [{ name: '1.0', slot: 0 }, { name: '1.1', slot: 25 }]);
});

on('timeline', 'the keyboard does all of it', async (page) => {
  await page.locator('#over-time').focus();
  await page.keyboard.press('ArrowRight');
  await settled(page);
  assert.deepEqual((await state(page)).range, [0, 0]);
  for (let at = 0; at < 4; at++) await page.keyboard.press('Shift+ArrowRight');
  await page.keyboard.press('ArrowRight');
  await settled(page);
  assert.deepEqual((await state(page)).range, [1, 5]);
  assert.deepEqual(await total(page), [String(sumOf('cpu', [1, 5]))]);
  assert.match(await text(page, '#live'), /14:15:00 – 14:20:00, .*cpu: .*cores busy/);
  await page.keyboard.press('Shift+ArrowLeft');
  await page.keyboard.press('b');
  await settled(page);
  assert.deepEqual(await state(page), { range: [1, 4], base: [0, 0] });
  await page.keyboard.press('Home');
  await settled(page);
  assert.deepEqual(await state(page), { range: null, base: null });
  await page.keyboard.press('ArrowLeft');
  assert.deepEqual((await state(page)).range, [LAST, LAST]);
});

test('times are those of the reader’s clock, with UTC beside', async () => {
  const opened = await open('timeline', { timezone: 'Asia/Kolkata' });
  const { page, problems } = opened;
  assert.match(await text(page, '#when'), /^21 Sept? 2026, 19:44:00 – 20:44:00 \(1\sh\)$/);
  assert.equal(await page.locator('#when').getAttribute('title'), '2026-09-21 14:14:00 – 2026-09-21 15:14:00 UTC');
  const { x, y } = await slotX(page, 30);
  await page.mouse.move(x, y);
  assert.match(await text(page, '#tooltip'), /20:19:00 – 20:20:00[\s\S]*2026-09-21 14:49:00 – 2026-09-21 14:50:00 UTC[\s\S]*2 instances[\s\S]*CPU[\s\S]*cores[\s\S]*network/);
  assert.deepEqual(problems, []);
  await opened.close();
});

test('a finger chooses a stretch, and still scrolls the page', async () => {
  const opened = await open('timeline', { width: 390, height: 844, touch: true });
  const { page, problems } = opened;
  const client = await page.context().newCDPSession(page);
  const [a, b] = [await slotX(page, 5), await slotX(page, 15)];
  const touch = (type, points) => client.send('Input.dispatchTouchEvent', { type, touchPoints: points });
  await touch('touchStart', [{ x: a.x, y: a.y }]);
  for (let part = 1; part <= 5; part++) await touch('touchMove', [{ x: a.x + ((b.x - a.x) * part) / 5, y: a.y }]);
  await touch('touchEnd', []);
  await settled(page);
  assert.deepEqual((await state(page)).range, [5, 15]);
  assert.deepEqual(await total(page), [String(sumOf('cpu', [5, 15]))]);
  assert.equal(await page.locator('#over-time').evaluate((canvas) => getComputedStyle(canvas).touchAction), 'pan-y');
  const { x, y } = await slotX(page, 50);
  await page.touchscreen.tap(x, y);
  await settled(page);
  assert.deepEqual((await state(page)).range, [50, 50]);
  assert.deepEqual(problems, []);
  await opened.close();
});

on('timeline-one', 'one period has no timeline, but its kinds', async (page) => {
  assert.equal(await page.locator('#timeline').isVisible(), true);
  assert.equal(await page.locator('#charts').isVisible(), false);
  assert.equal(await page.locator('#kind-names button').count(), 2);
  assert.equal((await total(page))[0], String(sumOf('cpu', [0, 0])));
  await page.locator('#kind-names button').nth(1).click();
  await settled(page);
  assert.equal((await total(page))[0], String(sumOf('wall', [0, 0])));
});

on('timeline-none', 'no period at all: said, not broken', async (page) => {
  assert.match(await text(page, '#when'), /no profiles/);
  assert.match(await text(page, '#notes'), /3 profiles of before the year 2000 are left out/);
  assert.equal((await frames(page)).length, 1);
});

on('timeline-back', 'a clock that was set back loses nothing', async (page) => {
  const all = samplesOf('timeline-back');
  const sum = all.flatMap(({ samples }) => samples).reduce((value, { values }) => value + BigInt(values[1]), 0n);
  assert.equal((await total(page))[0], String(sum));
  assert.match(await text(page, '#totals'), new RegExp(`${(Number(sum) / 360e9).toFixed(2)} cores busy`), 'six minutes were measured');
  const slots = await page.evaluate(() => window.everprof.data.slots);
  for (let slot = 2; slot < slots.length; slot++) assert.ok(slots[slot] >= slots[slot - 1], 'stretches do not overlap');
});

test('marks of years say which', async () => {
  const context = await newContext();
  const page = await context.newPage();
  await page.addInitScript(() => {
    const drawn = window.drawn = [];
    const { fillText } = CanvasRenderingContext2D.prototype;
    CanvasRenderingContext2D.prototype.fillText = function told(text, ...place) {
      drawn.push(text);
      return fillText.call(this, text, ...place);
    };
  });
  await page.goto(pathToFileURL(join(pages, 'timeline-years.html')).href);
  await page.waitForSelector('html[data-ready=true]');
  await settled(page);
  const marks = await page.evaluate(() => window.drawn.filter((text) => /^[A-Z][a-z]+ 20\d\d$/.test(text)));
  assert.ok(new Set(marks.map((text) => text.slice(-4))).size >= 4, `${marks}`);
  await context.close();
});

on('timeline-hostile', 'hostile kinds, versions and instances stay names', async (page) => {
  assert.equal(await page.evaluate(() => window.pwned), undefined);
  for (const button of await page.locator('#kind-names button').all()) await button.click();
  await page.locator('#lane-names button').first().hover();
  const { x, y } = await slotX(page, 1);
  await page.mouse.move(x, y);
  assert.doesNotMatch(await page.evaluate(() => document.body.innerText), /[\u202e]/);
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth));
  assert.equal(await page.evaluate(() => window.pwned), undefined);
  await picture(page, 'timeline-hostile');
});

test('hostile addresses of a timeline', async () => {
  for (const hash of ['#range=9-3', '#range=0-999', '#base=0-3', '#range=a-b&base=__proto__', '#lanes=7.x.-1.2', '#kind=__proto__&type=cpu']) {
    const opened = await open('timeline', { hash });
    assert.ok((await frames(opened.page)).length > 0, hash);
    assert.deepEqual(opened.problems, [], hash);
    await opened.close();
  }
});

test('the data are compact', () => {
  const size = (name) => /id="data">(.*?)<\/script>/s.exec(readFileSync(join(pages, `${name}.html`), 'utf8'))[1].length;
  assert.ok(size('timeline') < 45_000, `${size('timeline')} bytes for 170 small profiles`);
  assert.ok(size('timeline-large') < 9_500_000, `${size('timeline-large')} bytes for 2,400,000 rows`);
});

on('timeline', 'the help tells of time and of the wall clock', async (page) => {
  await page.keyboard.press('?');
  assert.match(await text(page, '#help-box'), /what its threads did most[\s\S]*drag to choose a stretch/);
});

test('240 periods of 10,000 stacks open and answer', { timeout: 120_000 }, async (t) => {
  const opened = await open('timeline-large');
  const { page, problems } = opened;
  const { rows, nodes } = await page.evaluate(() => ({ rows: window.everprof.data.sample_count, nodes: window.everprof.tree.count }));
  assert.equal(rows, 2_400_000);
  const took = await page.evaluate(async () => {
    const times = [];
    for (const range of [[10, 20], [100, 239], [5, 5], null]) {
      const begun = performance.now();
      window.everprof.update({ range });
      times.push(performance.now() - begun);
      await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    }
    return times;
  });
  await page.evaluate(() => window.everprof.update({ range: [100, 139] }));
  await picture(page, 'timeline-large');
  assert.deepEqual(problems, []);
  await opened.close();
  t.diagnostic(`${rows} rows, ${nodes} nodes: open ${Math.round(opened.opened)} ms, choose ${took.map((time) => Math.round(time)).join(', ')} ms`);
});

for (const scheme of ['light', 'dark']) {
  for (const [width, height] of [[1440, 900], [390, 844]]) {
    on('timeline', `the timeline at ${width} pixels, ${scheme}`, async (page) => {
      assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= width);
      assert.ok((await page.locator('#graph').evaluate((graph) => graph.clientHeight)) > 150);
      await picture(page, `timeline-${width}-${scheme}`);
      await page.locator('#kind-names button').nth(1).click();
      await drag(page, 40, 54);
      await picture(page, `timeline-wall-${width}-${scheme}`);
      await page.click('#compare');
      await picture(page, `timeline-pair-${width}-${scheme}`);
    }, { width, height, scheme });
  }
}
