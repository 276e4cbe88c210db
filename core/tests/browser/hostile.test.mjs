// Names that try to be markup or script: they are shown, never obeyed.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { frames, pages, pagesTests, picture, samplesOf, settled } from './browser.mjs';

const { open } = pagesTests();

test('nothing a profile contains runs, in any view', async () => {
  const { page, problems, close } = await open('hostile');
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
    const { page, problems, close } = await open('hostile', { hash });
    assert.ok((await frames(page)).length > 0, hash);
    assert.deepEqual(problems, [], hash);
    assert.equal(await page.evaluate(() => window.pwned), undefined);
    await close();
  }
});

test('every name is shown, with its control characters visible', async () => {
  const { page, close } = await open('hostile');
  const shown = new Set(await page.evaluate(() => [...window.everprof.data.frames.name].map((id) => window.everprof.data.strings[id])));
  const escape = (name) => name.replace(/[\u0000-\u001f\u007f\u2028\u2029\u202c\u202e]/g, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
  for (const { stack } of samplesOf('hostile')[0]) {
    for (const name of stack) if (name !== '') assert.ok(shown.has(escape(name)), name.slice(0, 60));
  }
  // Nothing else on the page, its title neither, turns the direction of writing.
  const turning = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]|[\u{e0000}-\u{e007f}]/u;
  const texts = await page.evaluate(() => [document.title, document.body.innerText, ...[...document.querySelectorAll('[title]')].map(({ title }) => title)]);
  for (const text of texts) assert.doesNotMatch(text, turning);
  assert.match(texts[0], /\\u\{202e\}1\.1$/);
  await close();
});

test('the policy would stop a script even past the escaping', async () => {
  const { page, problems, close } = await open('hostile');
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

test('names of megabytes, two thousand frames, two hundred label keys', { timeout: 60_000 }, async () => {
  const { page, problems, close } = await open('odd');
  const long = (await frames(page)).find(({ name }) => name.length === 3_000_000);
  await page.mouse.move(long.x + 30, long.y + 9);
  assert.match(await page.locator('#tooltip .full').innerText(), /… \(3000000 characters\)$/);
  await page.mouse.click(long.x + 30, long.y + 9);
  await settled(page);
  await page.click('#act-centre');
  await settled(page);
  await page.waitForURL(/number=\d+/);
  const again = await open('odd', { hash: new URL(page.url()).hash });
  assert.match(await again.page.locator('#centre-text').innerText(), /3000000 characters/);
  await again.close();
  await picture(page, 'odd-long');
  await page.click('#centre-close');
  await page.locator('#table-body tr', { hasText: '<<a as b' }).locator('.pick').click();
  assert.match(await page.locator('#found').innerText(), /1 function/);
  await page.keyboard.press('Escape');
  await page.keyboard.press('Home');
  await page.click('#filter');
  assert.equal(await page.locator('#filters fieldset').count(), 201);
  await picture(page, 'odd-filters');
  assert.match(await page.locator('#filters [data-key=key_7]').innerText(), /23 more: type to find them/);
  await page.fill('#filters [data-key=key_7] input[type=search]', 'value 3');
  await page.check('#filters [data-key=key_7] input[value="value 3"]');
  await settled(page);
  assert.equal((await frames(page))[0].total[0], '10101010');
  await page.locator('#chips button').first().click();
  await page.click('#filter');
  await page.selectOption('#group', '=value');
  await settled(page);
  assert.equal((await frames(page)).length > 2000, true);
  await picture(page, 'odd-group');
  await page.check('#recursion');
  await settled(page);
  assert.equal((await frames(page)).filter(({ name }) => name === 'again').length, 1);
  await page.check('#inverted');
  await settled(page);
  assert.deepEqual(problems, []);
  await close();
});

test('30 sample types, 500 values of a label, 20,000 siblings, 5,000 frames', { timeout: 60_000 }, async () => {
  const { page, problems, close } = await open('many');
  assert.equal(await page.inputValue('#type'), '7');
  assert.equal((await page.locator('#type option').allInnerTexts())[3], 'type_3 (apples)');
  await page.selectOption('#type', '29');
  await settled(page);
  const [samples] = samplesOf('many');
  const all = samples.reduce((sum, { values }) => sum + BigInt(values[29]), 0n);
  assert.equal((await frames(page))[0].total[0], String(all));
  await page.click('#filter');
  await page.fill('#filters [data-key=user] input[type=search]', 'user 499');
  await page.check('#filters [data-key=user] input[value="user 499"]');
  await settled(page);
  const own = samples.filter(({ labels }) => labels.user === 'user 499').reduce((sum, { values }) => sum + BigInt(values[29]), 0n);
  assert.equal((await frames(page))[0].total[0], String(own));
  await page.locator('#chips button').click();
  await page.selectOption('#group', '=user');
  await settled(page);
  assert.equal((await page.evaluate(() => window.everprof.tree.count)), 1 + 501 + 501 + 20_000 + 5_000);
  await page.selectOption('#group', '');
  await page.check('#inverted');
  await settled(page);
  await page.uncheck('#inverted');
  await page.check('#recursion');
  await settled(page);
  await page.evaluate(() => window.everprof.update({ centre: 'app::main' }));
  await settled(page);
  await picture(page, 'many');
  assert.deepEqual(problems, []);
  await close();
});

test('one sample', async () => {
  const { page, problems, close } = await open('one');
  assert.deepEqual((await frames(page)).map(({ name, total }) => [name, total[0]]), [['all', '10101010'], ['main', '10101010']]);
  await page.keyboard.press('v');
  await settled(page);
  assert.deepEqual((await frames(page)).map(({ name }) => name), ['all', 'main']);
  await page.keyboard.press('ArrowDown');
  assert.match(await page.locator('#live').innerText(), /^main, total 10.1/);
  assert.deepEqual(problems, []);
  await close();
});

test('the file names no address but itself', () => {
  const source = readFileSync(join(pages, 'service.html'), 'utf8');
  assert.doesNotMatch(source, /https?:\/\/|@import|url\(|\bfetch\(|XMLHttpRequest|innerHTML|insertAdjacentHTML|document\.write|eval\(/);
});
