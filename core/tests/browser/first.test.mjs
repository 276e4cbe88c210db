// What a reader sees first: the hot functions and what regressed in words, and the part of the graph where stacks part.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { clickFrame, frame, pages, pagesTests, picture, samplesOf, settled } from './browser.mjs';

const { newContext, on } = pagesTests();

const CPU = 1;

const found = (page, kind = '') => page.locator(`#findings li${kind} button`).evaluateAll((all) => all.map((button) => [button.title.split('\n')[0], button.innerText]));
const inSight = (page, y) => page.evaluate((at) => {
  const box = document.getElementById('graph').getBoundingClientRect();
  return at >= box.top && at + 20 <= box.bottom + 1;
}, y);

// In these pages: what has no path is of libc, but for `main` and zlib (see `stack` in pages.rs).
const ofLibrary = (name) => /^[<&]*(std|core|alloc)::/.test(name) || !(/::|^main$|^deflate|^\[/.test(name));

function hottest(samples) {
  const sums = new Map();
  let all = 0;
  for (const { stack, values } of samples) {
    const owner = stack.findLast((name) => !ofLibrary(name)) ?? stack.at(-1);
    sums.set(owner, (sums.get(owner) ?? 0) + Number(values[CPU]));
    all += Number(values[CPU]);
  }
  return [...sums].sort((a, b) => b[1] - a[1]).slice(0, 3).map(([name, sum]) => [name, `${(100 * sum / all).toFixed(1)}%`]);
}

on('service', 'the hot functions are named, those of libraries counted to who called them', async (page) => {
  const [samples] = samplesOf('service');
  const named = (await found(page)).map(([name, shown]) => [name, /[\d.]+%/.exec(shown)[0]]);
  assert.deepEqual(named, hottest(samples));
  await clickFrame(page, 'checkout::handlers::cart');
  const part = samples.filter(({ stack }) => stack.includes('checkout::handlers::cart'));
  assert.deepEqual((await found(page)).map(([name]) => name), hottest(part).map(([name]) => name));
  assert.match(await page.locator('#findings').innerText(), /^Hottest here/);
});

on('diff', 'what regressed is named first, and what got faster', async (page) => {
  assert.equal((await found(page, '.grew'))[0][0], 'checkout::pricing::discount');
  assert.match((await found(page, '.grew'))[0][1], /\+\d+\s?ms\/s$/);
  assert.equal((await found(page, '.shrank'))[0][0], 'checkout::legacy::verify');
  assert.match((await found(page, '.shrank'))[0][1], /−[\d.]+\s?ms\/s$/);
  await page.locator('#findings .grew button').first().click();
  assert.equal(await page.inputValue('#search'), '^checkout::pricing::discount$');
});

on('many', 'the first screen is where stacks part, and what is sought comes into sight', async (page) => {
  const far = 'app::deep_2500';
  await page.locator('#search').fill('deep_2500$');
  await page.locator('#table-body .pick').first().click();
  await settled(page);
  assert.ok(await inSight(page, (await frame(page, far)).y), 'after a click in the table');
  await page.keyboard.press('Escape');
  await page.evaluate(() => { document.getElementById('graph').scrollTop = 0; });
  await clickFrame(page, 'app::deep_4999');
  await page.evaluate(() => window.everprof.find('app::sibling_00002'));
  await settled(page);
  assert.equal(await page.locator('#crumbs [aria-current]').innerText(), 'all', 'a function outside of the zoom zooms out');
});

on('tall', 'a tower of common callers is above the first screen', async (page) => {
  assert.ok(await inSight(page, (await frame(page, 'app::hot')).y));
  const up = page.locator('#rows-away');
  assert.match(await up.innerText(), /^↑ \d+ rows of callers$/);
  await picture(page, 'tall');
  await up.click();
  await settled(page);
  assert.ok(await inSight(page, (await frame(page, 'all')).y));
  await up.waitFor({ state: 'hidden' });
  await page.click('#flame');
  await settled(page);
  assert.ok(await inSight(page, (await frame(page, 'app::hot')).y));
});

for (const name of ['service', 'diff']) {
  on(name, `the toolbar of ${name} is one row at 1440 pixels`, async (page) => {
    const rows = await page.locator('.bar').evaluate((bar) => new Set([...bar.children].filter((item) => item.offsetHeight > 20).map((item) => Math.round(item.offsetTop / 20))).size);
    assert.equal(rows, 1);
    assert.ok((await page.locator('.bar').evaluate((bar) => bar.offsetHeight)) < 60);
  });

  for (const scheme of ['light', 'dark']) {
    on(name, `${name} at 390 pixels, ${scheme}`, async (page) => {
      assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= 390);
      assert.ok((await page.locator('#graph').evaluate((graph) => graph.clientHeight)) > 300);
      await picture(page, `${name}-390-${scheme}`);
    }, { width: 390, height: 844, scheme });
  }
}

on('service', 'on paper the whole graph is light and unrolled', async (page) => {
  await page.evaluate(() => window.dispatchEvent(new Event('beforeprint')));
  const printed = await page.evaluate(() => ({
    theme: document.documentElement.dataset.theme, rows: window.everprof.main.rows.length, height: window.everprof.main.canvas.getBoundingClientRect().height,
  }));
  assert.deepEqual(printed, { theme: 'light', rows: printed.rows, height: printed.rows * 20 });
  await page.screenshot({ path: `${pages}/printed.png`, fullPage: true });
  await page.evaluate(() => window.dispatchEvent(new Event('afterprint')));
  await settled(page);
  assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), 'dark');
  const { graph, canvas } = await page.evaluate(() => ({ graph: document.getElementById('graph').clientHeight, canvas: window.everprof.main.canvas.clientHeight }));
  assert.equal(canvas, graph);
}, { scheme: 'dark' });

on('service', 'the keyboard stays where a button was pressed', async (page) => {
  const focused = () => page.evaluate(() => document.activeElement.innerText || document.activeElement.tagName);
  await page.locator('th[data-key=total] button').focus();
  await page.keyboard.press('Enter');
  assert.equal(await focused(), 'Total ▾');
  await page.keyboard.press('Enter');
  assert.equal(await focused(), 'Total ▴');
  await clickFrame(page, 'checkout::handlers::list');
  await page.locator('#crumbs button').first().focus();
  await page.keyboard.press('Enter');
  assert.equal(await focused(), 'all');
  await page.keyboard.press('ArrowDown');
  assert.match(await page.locator('#live').innerText(), /^clone3/);
});

test('a browser that cannot unpack the data is told what could', async () => {
  const context = await newContext();
  const page = await context.newPage();
  await page.addInitScript(() => { delete window.DecompressionStream; });
  await page.goto(`file://${pages}/service.html`);
  await page.waitForFunction(() => /too old/.test(document.getElementById('when').textContent));
  assert.match(await page.locator('#when').innerText(), /too old.*DecompressionStream.*Firefox/);
  assert.equal(await page.locator('h1').innerText(), 'This page cannot be shown');
  await context.close();
});

test('damaged data is told as such', async () => {
  const context = await newContext();
  const page = await context.newPage();
  await page.addInitScript(() => { const parse = JSON.parse; JSON.parse = (text) => ({ ...parse(text), packed: 'AAAA' }); });
  await page.goto(`file://${pages}/service.html`);
  await page.waitForFunction(() => /damaged/.test(document.getElementById('when').textContent));
  await context.close();
});
