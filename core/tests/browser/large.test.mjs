// 100,000 stacks: the page opens, and what it does then it does at once. Times are told, not asserted.

import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { clickFrame, frame, frames, pages, pagesTests, picture, settled } from './browser.mjs';

const { open } = pagesTests();

async function timed(times, name, run) {
  const begun = performance.now();
  const result = await run();
  times.push(`${name} ${Math.round(performance.now() - begun)} ms`);
  return result;
}

test('100,000 stacks open and answer', { timeout: 120_000 }, async (t) => {
  const times = [];
  const { page, problems, opened, close } = await open('large');
  times.push(`open ${Math.round(opened)} ms`);
  const { stacks, samples, nodes } = await page.evaluate(() => ({
    stacks: new Set(window.everprof.data.samples.leaf).size, samples: window.everprof.data.sample_count, nodes: window.everprof.tree.count,
  }));
  assert.equal(stacks, 100_000);
  await page.waitForSelector('#table-body tr');
  await picture(page, 'large');
  const all = (await frame(page, 'all')).total[0];
  await timed(times, 'search', async () => {
    await page.fill('#search', 'module_(1|2|3)::');
    await settled(page);
  });
  assert.match(await page.locator('#found').innerText(), /% matched/);
  await page.keyboard.press('Escape');
  await timed(times, 'zoom', () => clickFrame(page, 'checkout::module_0::function_0'));
  await page.waitForURL(/zoom=/);
  await timed(times, 'zoom out', async () => {
    await page.keyboard.press('Home');
    await settled(page);
  });
  await timed(times, 'type', async () => {
    await page.selectOption('#type', '0');
    await settled(page);
  });
  await page.selectOption('#type', '1');
  await timed(times, 'group', async () => {
    await page.selectOption('#group', '=thread_name');
    await settled(page);
  });
  const groups = (await frames(page)).filter(({ depth }) => depth === 1);
  assert.equal(groups.length, 16);
  assert.equal(String(groups.reduce((sum, { total }) => sum + BigInt(total[0]), 0n)), all);
  await page.selectOption('#group', '');
  await page.click('#filter');
  await timed(times, 'filter', async () => {
    await page.check('#filters [data-key=thread_name] input[value=worker-3]');
    await settled(page);
  });
  assert.ok(BigInt((await frame(page, 'all')).total[0]) < BigInt(all));
  const rows = await page.locator('#table-body tr').count();
  await page.locator('#table-scroll').evaluate((scroll) => { scroll.scrollTop = scroll.scrollHeight; });
  await page.waitForFunction((before) => document.querySelectorAll('#table-body tr').length > before, rows);
  await timed(times, 'inverted', async () => {
    await page.check('#inverted');
    await settled(page);
  });
  await page.uncheck('#inverted');
  await timed(times, 'callers and callees', async () => {
    await page.locator('#table-body .both').first().click();
    await settled(page);
  });
  assert.deepEqual(problems, []);
  await close();
  const size = statSync(join(pages, 'large.html')).size;
  assert.ok(size <= 10_000_000, `${size} bytes`);
  t.diagnostic(`${samples} samples, ${nodes} nodes, ${size} bytes: ${times.join(', ')}`);
});
