// Names that try to be markup or script: they are shown, never obeyed.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { frames, launch, open, pages, picture, samplesOf, settled } from './browser.mjs';

let browser;
before(async () => { browser = await launch(); });
after(() => browser.close());

test('nothing a profile contains runs, in any view', async () => {
  const { page, problems, close } = await open(browser, 'hostile');
  const elements = () => page.evaluate(() => ['script', 'img', 'svg', 'style', 'iframe'].map((tag) => document.querySelectorAll(tag).length));
  const before = await elements();
  await page.click('#filter');
  for (const group of await page.locator('#group option').evaluateAll((all) => all.map(({ value }) => value))) {
    await page.selectOption('#group', group);
    await settled(page);
  }
  await page.selectOption('#group', '');
  for (const { x, y, width } of (await frames(page)).slice(0, 40)) {
    await page.mouse.move(x + width / 2, y + 9);
    await page.mouse.click(x + width / 2, y + 9);
    await page.keyboard.press('s');
    await page.keyboard.press('Escape');
    await page.keyboard.press('Escape');
  }
  await page.locator('#table-body .pick').first().click();
  await page.keyboard.press('?');
  assert.equal(await page.evaluate(() => window.pwned), undefined);
  assert.deepEqual(await elements(), before);
  assert.deepEqual(problems, []);
  await picture(page, 'hostile');
  await close();
});

test('hostile addresses are taken for what is right in them', async () => {
  const hashes = [
    '#q=%3Cimg%20src%3Dx%20onerror%3Dwindow.pwned%3D1%3E', '#zoom=__proto__', '#zoom=zzzzzzzz.0.-1', '#type=nothing&group=__proto__',
    '#filter=%7B%22a%22%3A1%7D', '#filter=[[%22thread_name%22,5]]', '#filter=[[1]]', '#function=__proto__x', '#sort=constructor&colour=__proto__',
    '#q=(((((((((((a*)*)*)*', '#q=%5B', '#%00%ff%', '#norm=share&side=before&colour=diff',
  ];
  for (const hash of hashes) {
    const { page, problems, close } = await open(browser, 'hostile', { hash });
    assert.ok((await frames(page)).length > 0, hash);
    assert.deepEqual(problems, [], hash);
    assert.equal(await page.evaluate(() => window.pwned), undefined);
    await close();
  }
});

test('every name is shown, with its control characters visible', async () => {
  const { page, close } = await open(browser, 'hostile');
  const shown = new Set(await page.evaluate(() => [...window.everprof.data.frames.name].map((id) => window.everprof.data.strings[id])));
  const escape = (name) => name.replace(/[\u0000-\u001f\u007f\u2028\u2029\u202c\u202e]/g, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
  for (const { stack } of samplesOf('hostile')[0]) {
    for (const name of stack) if (name !== '') assert.ok(shown.has(escape(name)), name.slice(0, 60));
  }
  await close();
});

test('the policy would stop a script even past the escaping', async () => {
  const { page, problems, close } = await open(browser, 'hostile');
  await page.evaluate(() => {
    const script = document.createElement('script');
    script.textContent = 'window.pwned = 6';
    document.body.append(script);
    const image = document.createElement('img');
    image.src = 'data:image/png;base64,AAAA';
    document.body.append(image);
  });
  await settled(page);
  assert.equal(await page.evaluate(() => window.pwned), undefined);
  assert.ok(problems.some((text) => /Content Security Policy/.test(text)));
  await close();
});

test('the file names no address but itself', () => {
  const source = readFileSync(join(pages, 'service.html'), 'utf8');
  assert.doesNotMatch(source, /https?:\/\/|@import|url\(|\bfetch\(|XMLHttpRequest|innerHTML|insertAdjacentHTML|document\.write|eval\(/);
});
