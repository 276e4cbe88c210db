// A pair of profiles: what grew and what shrank, and by how much, per second and by share.

import assert from 'node:assert/strict';
import { clickFrame, frame, frames, pagesTests, picture, samplesOf, settled } from './browser.mjs';
import { selfOf, sum, totalOf } from './expected.mjs';

const { on: onPage } = pagesTests();

const SAMPLES = 0;
const CPU = 1;
const SECONDS = [60, 90];
const pair = samplesOf('diff');

const on = (title, run, { name = 'diff', ...options } = {}) => onPage(name, title, run, options);

const names = [...new Set(pair.flat().flatMap(({ stack }) => stack))];

// Change of self per second, in nanoseconds.
const growth = (name) => pair.map((samples, side) => Number(selfOf(samples, CPU, name)) / SECONDS[side]).reduce((a, b) => b - a);

// Chance draws signals: before, each sample is one, after, two samples are one (see pages.rs).
const PERIODS = [1, 2];

function significance(name, of, over) {
  const [b, a] = pair.map((samples) => Number(of(samples, SAMPLES, name)));
  const variance = (b + a) / (over[0] + over[1]) * (PERIODS[0] / over[0] + PERIODS[1] / over[1]);
  return variance === 0 ? 0 : (a / over[1] - b / over[0]) / Math.sqrt(variance);
}

const firstRow = (page) => page.locator('#table-body tr').first();

on('the function that regressed is named first', async (page) => {
  const expected = names.reduce((most, name) => (growth(name) > growth(most) ? name : most));
  assert.equal(expected, 'checkout::pricing::round');
  assert.equal(await firstRow(page).locator('.pick').innerText(), expected);
  const cells = await firstRow(page).locator('td').allInnerTexts();
  assert.match(cells[0], /^\+\d+\s?ms\/s$/);
  assert.equal(Number(/\d+/.exec(cells[0])[0]), Math.round(growth(expected) / 1e6));
  assert.equal(Number(cells[1]), Number(significance(expected, selfOf, SECONDS).toFixed(1)));
  await picture(page, 'diff');
});

on('every delta has its sign, beside its colour', async (page) => {
  const cells = await page.locator('#table-body tr td:first-child').evaluateAll((all) => all.map((cell) => [cell.className, cell.textContent]));
  for (const [kind, text] of cells) {
    if (kind.includes('grew')) assert.match(text, /^\+/);
    else if (kind.includes('shrank')) assert.match(text, /^−/);
    else assert.match(text, /^0/);
  }
  assert.ok(cells.some(([kind]) => kind.includes('grew')) && cells.some(([kind]) => kind.includes('shrank')));
});

on('the other order shows what shrank most', async (page) => {
  await page.click('th[data-key=deltaSelf] button');
  const expected = names.reduce((most, name) => (growth(name) < growth(most) ? name : most));
  assert.equal(await firstRow(page).locator('.pick').innerText(), expected);
});

on('sums of both sides are exact, and the totals are per second', async (page) => {
  const all = await frame(page, 'all');
  assert.deepEqual(all.total, pair.map((samples) => String(sum(samples, CPU))));
  const rates = pair.map((samples, side) => (Number(sum(samples, CPU)) / SECONDS[side] / 1e9).toFixed(2));
  assert.equal((await page.locator('#totals b').first().innerText()).replace(/\s/g, ''), `${rates[0]}s/s→${rates[1]}s/s`);
});

for (const side of ['after', 'before']) {
  on(`what only one of the two has is seen with the widths of ${side}`, async (page) => {
    await page.selectOption('#side', side);
    await clickFrame(page, 'checkout::handlers::pay');
    const gone = await frame(page, 'checkout::legacy::verify');
    assert.deepEqual([gone.total[0] !== '0', gone.total[1]], [true, '0']);
    assert.ok(gone.width > 5, `${gone.width}`);
    await page.keyboard.press('Home');
    await settled(page);
    await clickFrame(page, 'checkout::handlers::cart');
    const fresh = await frame(page, 'checkout::audit::record');
    assert.deepEqual([fresh.total[0], fresh.total[1] !== '0'], ['0', true]);
    assert.ok(fresh.width > 5, `${fresh.width}`);
    await picture(page, `diff-${side}`);
  });
}

on('widths are those of the chosen side', async (page) => {
  const ratioOf = async () => {
    const [a, b] = [await frame(page, 'checkout::pricing::discount'), await frame(page, 'deflate')];
    return a.width / b.width;
  };
  for (const [side, samples] of [['after', pair[1]], ['before', pair[0]]]) {
    await page.selectOption('#side', side);
    await settled(page);
    const expected = Number(totalOf(samples, CPU, 'checkout::pricing::discount')) / Number(totalOf(samples, CPU, 'deflate'));
    assert.ok(Math.abs(await ratioOf() / expected - 1) < 0.01, side);
  }
});

on('what grew is red, what shrank is blue, chance is grey', async (page) => {
  const strength = (name) => page.evaluate((wanted) => {
    const { app, tree } = { app: window.everprof, tree: window.everprof.tree };
    const node = [...tree.name].findIndex((id) => id >= 0 && app.data.strings[id] === wanted);
    const fill = app.colouring.fill(app.colours, tree, node);
    return { strength: app.change(tree, node).strength, fill: fill.match(/\d+/g)?.map(Number) ?? fill };
  }, name);
  const grew = await strength('checkout::pricing::discount');
  assert.ok(grew.strength > 0.8 && grew.fill[0] > grew.fill[2] + 80, JSON.stringify(grew));
  const shrank = await strength('checkout::legacy::verify');
  assert.ok(shrank.strength < -0.8 && shrank.fill[2] > shrank.fill[0] + 80, JSON.stringify(shrank));
  assert.ok(Math.abs(significance('deflate', totalOf, SECONDS)) < 2);
  assert.equal((await strength('deflate')).strength, 0);
});

on('by share of all, the whole does not change', async (page) => {
  await page.selectOption('#norm', 'share');
  await settled(page);
  const change = await page.evaluate(() => window.everprof.change(window.everprof.tree, 0).text);
  assert.equal(change, '0%');
  const counts = pair.map((samples) => Number(sum(samples, SAMPLES)));
  const shown = await page.evaluate(() => window.everprof.over);
  assert.deepEqual(shown, counts);
  assert.equal(await firstRow(page).locator('.pick').innerText(), 'checkout::pricing::round');
});

on('search, filter and group work on pairs', async (page) => {
  await page.fill('#search', 'discount');
  assert.match(await page.locator('#found').innerText(), /% → .*% matched/);
  await page.selectOption('#group', '=tenant');
  await settled(page);
  const groups = (await frames(page)).filter(({ depth }) => depth === 1);
  for (const { name, total } of groups) {
    const tenant = name.replace('tenant: ', '');
    const of = (samples) => String(sum(samples, CPU, ({ labels }) => (labels.tenant ?? '(none)') === tenant));
    assert.deepEqual(total, pair.map(of), name);
  }
  await picture(page, 'diff-dark');
}, { scheme: 'dark' });

on('seen from the leaves nothing is told as a function\'s own', async (page) => {
  await page.keyboard.press('v');
  await settled(page);
  const { x, y } = await frame(page, 'checkout::pricing::round');
  await page.mouse.move(x + 10, y + 9);
  const tip = await page.locator('#tooltip').innerText();
  assert.match(tip, /total/);
  assert.doesNotMatch(tip, /self/);
});

on('the text of what is no function can be read', async (page) => {
  const colours = await page.evaluate(() => {
    const { view } = window.everprof.main;
    return [view.textColour(0), window.everprof.colours.text];
  });
  assert.equal(colours[0], colours[1]);
});

for (const name of ['countless', 'nothing']) {
  on(`a pair without counts, durations or samples opens: ${name}`, async (page) => {
    assert.ok((await frames(page)).length > 0);
    for (const side of ['before', 'after']) await page.selectOption('#side', side);
    await page.check('#inverted');
    await page.uncheck('#inverted');
    if (name === 'nothing') return;
    assert.equal(await firstRow(page).locator('.pick').innerText(), 'app::part_1');
    await firstRow(page).locator('.both').click();
    assert.match(await page.locator('#centre-text').innerText(), /^app::part_1/);
  }, { name });
}
