// A headless Chromium for the tests: opens a page from target/browser, watches what must not happen, and knows
// where things are on the canvas.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { chromium } from 'playwright-core';

const here = dirname(fileURLToPath(import.meta.url));
export const pages = resolve(process.env.BROWSER_PAGES ?? join(here, '../../../target/browser'));

const quiet = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync',
];

export function launch() {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: quiet });
}

// Opens `name`.html; `problems` gathers console errors, exceptions and requests other than that for the page itself.
export async function open(browser, name, { hash = '', width = 1440, height = 900, scheme = 'light', timezone = 'UTC', touch = false } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme, reducedMotion: 'reduce', timezoneId: timezone, hasTouch: touch });
  const page = await context.newPage();
  const address = pathToFileURL(join(pages, `${name}.html`)).href;
  const problems = [];
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && problems.push(message.text()));
  page.on('pageerror', (error) => problems.push(String(error)));
  page.on('request', (request) => request.url().split('#')[0] !== address && problems.push(`request ${request.url()}`));
  const begun = performance.now();
  await page.goto(address + hash);
  await page.waitForSelector('html[data-ready=true]');
  await settled(page);
  return { page, problems, address, opened: performance.now() - begun, close: () => context.close() };
}

// What most files of tests have in common: one browser for all of them, and `on(name, title, run, options)`, a test that opens
// the page `name`, and wants neither errors nor requests when `run` is done.
export function pagesTests() {
  let browser;
  before(async () => { browser = await launch(); });
  after(() => browser.close());
  const on = (name, title, run, options) => test(title, async () => {
    const opened = await open(browser, name, options);
    try {
      await run(opened.page, opened);
      assert.deepEqual(opened.problems, []);
    } finally {
      await opened.close();
    }
  });
  return { on, open: (name, options) => open(browser, name, options), newContext: (options) => browser.newContext(options) };
}

// Until the canvas shows the present state.
export async function settled(page) {
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
}

// The frames that are drawn: name, place on the page, depth.
export function frames(page, graph = 'main') {
  return page.evaluate((which) => {
    const shown = window.everprof[which];
    const box = shown.canvas.getBoundingClientRect();
    return shown.rows.flatMap((row, depth) => row.node.map((node, i) => ({
      node,
      name: node < 0 ? '' : window.everprof.nameOf(shown.view.tree, node),
      x: box.x + row.x[i],
      y: box.y + shown.top(depth),
      width: row.width[i],
      depth,
      total: node < 0 ? [] : shown.view.tree.total.map((side) => String(side[node])),
      self: node < 0 ? [] : shown.view.tree.total.map((_, side) => String(window.everprof.selfAt(shown.view.tree, node, side))),
    })));
  }, graph);
}

export async function frame(page, name, graph = 'main') {
  const found = (await frames(page, graph)).filter((box) => box.name === name).sort((a, b) => b.width - a.width)[0];
  if (!found) throw new Error(`no frame ${name} is drawn`);
  return found;
}

export async function clickFrame(page, name, graph = 'main') {
  const { x, y, width } = await frame(page, name, graph);
  await page.mouse.click(x + Math.min(width / 2, 40), y + 9);
  await settled(page);
}

export function samplesOf(name) {
  return JSON.parse(readFileSync(join(pages, `${name}.json`), 'utf8'));
}

export async function picture(page, name) {
  await settled(page);
  await page.screenshot({ path: join(pages, `${name}.png`) });
}
