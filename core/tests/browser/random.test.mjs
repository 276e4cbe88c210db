// Random profiles: the page's sums, its table and its differences are those of the crate, `store::top` and `store::diff`.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { frame, pages, pagesTests, samplesOf, settled } from './browser.mjs';
import { sum } from './expected.mjs';

const { on } = pagesTests();
const PAGES = 8;
const CPU = 1;
const expected = (name) => JSON.parse(readFileSync(join(pages, `${name}.json`), 'utf8'));
// The table, with a row for each name.
const table = (page, columns) => page.evaluate((wanted) => {
  const { table: made, data } = window.everprof;
  return made.names.map((name) => [data.strings[name], wanted.map(([column, side]) => String(side === undefined ? made[column][name] : made[column][side][name]))]);
}, columns);

for (let seed = 0; seed < PAGES; seed++) {
  on(`random-${seed}`, `profile ${seed}: total and table are those of store::top`, async (page) => {
    const [samples] = samplesOf(`random-${seed}`);
    assert.equal((await frame(page, 'all')).total[0], String(sum(samples, CPU)));
    const rows = await table(page, [['self', 0], ['total', 0]]);
    assert.deepEqual(Object.fromEntries(rows), expected(`random-${seed}.top`));
    for (const group of await page.locator('#group option').evaluateAll((all) => all.map(({ value }) => value))) {
      await page.selectOption('#group', group);
      await settled(page);
      assert.equal((await frame(page, 'all')).total[0], String(sum(samples, CPU)), `grouped by ${group}`);
    }
  }, { width: 1440 });

  on(`random-pair-${seed}`, `pair ${seed}: its differences are those of store::diff`, async (page) => {
    const rows = await table(page, [['self', 0], ['self', 1], ['zSelf'], ['total', 0], ['total', 1], ['zTotal']]);
    const scale = await page.evaluate(() => window.everprof.scale);
    const wanted = expected(`random-pair-${seed}.diff`);
    assert.deepEqual(rows.map(([name]) => name).sort(), Object.keys(wanted).sort());
    for (const [name, shown] of rows) {
      wanted[name].forEach((value, place) => {
        const number = Number(shown[place]) * (place % 3 < 2 ? scale[place % 3] : 1);
        assert.ok(Math.abs(number - value) <= 1e-9 * Math.abs(value) + 1e-6, `${name}, ${place}: ${number}, not ${value}`);
      });
    }
  }, { width: 1440 });
}

on('odd-units', 'units that are names of objects, and sums that no integer holds', async (page) => {
  for (const type of ['0', '1', '2', '3']) {
    await page.selectOption('#type', type);
    await settled(page);
    assert.doesNotMatch(await page.locator('#totals').innerText(), /NaN|function|undefined|Infinity/);
  }
  assert.match(await page.locator('#totals').innerText(), /^427008\sd/, 'four times what 64 bits hold');
});
