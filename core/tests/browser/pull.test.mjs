// The page at /debug/pprof/ of a live program: what it shows, where its links lead, and that nothing else is asked for.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { launch, pages, settled } from './browser.mjs';

let browser, program, address;
const hostile = '<img src=x onerror=alert(1)>';

before(async () => {
  browser = await launch();
  const environment = { ...process.env, EVERPROF_DIR: mkdtempSync(join(tmpdir(), 'everprof-pull-')), EVERPROF_PERIOD_S: '3', EVERPROF_VERSION: '1.4.0', EVERPROF_SERVICE: 'shop', EVERPROF_TAGS: `team=${hostile}` };
  program = spawn(process.env.SERVE_PROGRAM, ['300'], { env: environment, stdio: ['ignore', 'pipe', 'inherit'] });
  address = await new Promise((done, fail) => {
    program.stdout.once('data', (bytes) => done(String(bytes).trim()));
    program.once('exit', (code) => fail(new Error(`the program ended: ${code}`)));
  });
});
after(async () => {
  program.removeAllListeners('exit');
  program.kill();
  await browser.close();
});

async function open(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1180, height: 900 }, reducedMotion: 'reduce', ...options });
  const page = await context.newPage();
  const problems = [];
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && problems.push(message.text()));
  page.on('pageerror', (error) => problems.push(String(error)));
  page.on('request', (request) => !request.url().startsWith(address) && problems.push(`request ${request.url()}`));
  return { context, page, problems };
}

test('the verdict of the last period, the kinds, and what everprof knows of itself', async () => {
  const { context, page, problems } = await open();
  await page.goto(address);
  for (let tries = 0; tries < 60 && !(await page.locator('.verdict').count()); tries += 1) {
    await page.waitForTimeout(1000);
    await page.reload();
  }
  assert.match(await page.locator('.verdict').innerText(), /bound|on CPU|idle/);
  assert.match(await page.locator('.groups').innerText(), /prices/);
  assert.equal(await page.locator('h1').innerText(), 'shop 1.4.0');
  assert.match(await page.locator('.tags').innerText(), /<img src=x onerror=alert\(1\)>/);
  for (const kind of ['profile', 'wall', 'offcpu', 'threads', 'cmdline', 'symbol']) {
    assert.ok(await page.locator('.kinds th a', { hasText: new RegExp(`^${kind}$`) }).count(), kind);
  }
  assert.match(await page.locator('.own').innerText(), /Samples\s+\d+, and 0 lost/);
  assert.deepEqual(problems, []);
  await page.screenshot({ path: join(pages, 'pull.png'), fullPage: true });
  await context.close();
});

for (const [name, options] of [['dark', { colorScheme: 'dark' }], ['390', { viewport: { width: 390, height: 844 } }]]) {
  test(`the page, ${name}`, async () => {
    const { context, page, problems } = await open(options);
    await page.goto(address);
    assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= (options.viewport?.width ?? 1180));
    assert.deepEqual(problems, []);
    await page.screenshot({ path: join(pages, `pull-${name}.png`), fullPage: true });
    await context.close();
  });
}

test('a live flame graph by one press of a button', async () => {
  const { context, page, problems } = await open();
  await page.goto(address);
  const row = page.locator('.kinds tr', { has: page.locator('#profile') });
  await row.locator('input').fill('1');
  await row.locator('button', { hasText: 'Flame graph' }).click();
  await page.waitForSelector('html[data-ready=true]');
  await settled(page);
  assert.match(page.url(), /profile\?seconds=1&format=html$/);
  assert.ok(await page.evaluate(() => window.everprof.main.rows.length) > 2);
  assert.match(await page.locator('#findings').innerText(), /compute_prices/);
  assert.deepEqual(problems, []);
  await page.screenshot({ path: join(pages, 'pull-live.png') });
  await context.close();
});

test('the live heap and waits for locks: links, flame graphs and text', async () => {
  const { context, page, problems } = await open();
  await page.goto(address);
  assert.match(await page.locator('tr', { hasText: 'What is allocated and lives now' }).innerText(), /\d+ samples:/);
  await page.screenshot({ path: join(pages, 'pull-accounts.png'), fullPage: true });
  await page.locator('.links a[href="heap?format=html"]').click();
  await page.waitForSelector('html[data-ready=true]');
  await settled(page);
  assert.match(await page.locator('#findings').innerText(), /serve::remember/);
  assert.match(await page.locator('#totals').innerText(), /inuse_space/);
  await page.goto(`${address}heap?seconds=1&format=html`);
  await page.waitForSelector('html[data-ready=true]');
  await settled(page);
  assert.equal(await page.evaluate(() => window.everprof.data.view), 'diff', 'what becomes of levels is a difference');
  assert.match(await page.locator('#totals').innerText(), /[\d.]+.[KM]iB → [\d.]+.[KM]iB/);
  assert.doesNotMatch(await page.locator('#totals').innerText(), /NaN|Infinity/);
  await page.screenshot({ path: join(pages, 'pull-heap-change.png') });
  await page.goto(`${address}mutex?format=html`);
  await page.waitForSelector('html[data-ready=true]');
  assert.match(await page.locator('#totals').innerText(), /delay/);
  assert.deepEqual(problems, []);
  await page.goto(`${address}heap?debug=1`);
  assert.match(await page.locator('body').innerText(), /^heap profile: \d+: \d+ \[\d+: \d+\] @ heapprofile/);
  await context.close();
});

test('the flame graph of all threads, and their stacks as text', async () => {
  const { context, page, problems } = await open();
  await page.goto(address);
  await page.locator('.links a[href="threads?format=html"]').click();
  await page.waitForSelector('html[data-ready=true]');
  assert.deepEqual(problems, []);
  await page.goto(`${address}threads?seconds=1&format=html`);
  await page.waitForSelector('html[data-ready=true]');
  assert.equal(await page.evaluate(() => window.everprof.data.view), 'diff', 'how they change is a difference');
  assert.match(await page.locator('#totals').innerText(), /\d+ → \d+/);
  await page.screenshot({ path: join(pages, 'pull-change.png') });
  // A browser asks for an icon beside what has no policy of its own.
  await page.goto(`${address}threads?debug=2`);
  assert.match(await page.locator('body').innerText(), /goroutine \d+ \[.*"stock"\]:\n.*/);
  await context.close();
});
