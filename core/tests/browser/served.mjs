// What servers gave back, drawn in a browser beside the local file: every frame has its place, its width and its values.
// The pages are those of `make test-servers`; `run.sh servers` opens them.

import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { frames, launch, open, pages } from './browser.mjs';

let browser;
before(async () => { browser = await launch(); });
after(() => browser.close());

// Titles and legends differ, and with them how far down the graph begins.
async function drawn(name) {
  const { page, problems, close } = await open(browser, name);
  const all = (await frames(page)).map(({ name, depth, x, width, total, self }) => ({ name, depth, x, width, total, self }));
  assert.deepEqual(problems, []);
  await close();
  return all;
}

const places = readdirSync(pages).flatMap((file) => /^(.*)\.there\.html$/.exec(file)?.[1] ?? []);
const local = new Map();

test('there is something to look at', () => assert.ok(places.length >= 2, `${places}`));

for (const place of places) {
  test(`${place} is drawn as the local file is`, async () => {
    const [name] = place.split('-');
    if (!local.has(name)) local.set(name, await drawn(`${name}.here`));
    assert.ok(local.get(name).length > 10, `${local.get(name).length} frames`);
    assert.deepEqual(await drawn(`${place}.there`), local.get(name));
  });
}
