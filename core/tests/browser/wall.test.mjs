// The wall clock: the verdict, the colours of what threads did, and the idle waits that are hidden until asked for.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { clickFrame, frame, frames, pages, pagesTests, picture, samplesOf, settled } from './browser.mjs';
import { paths, sum } from './expected.mjs';

const { on, open } = pagesTests();

const WALL = 1;

const verdictOf = (name) => JSON.parse(readFileSync(join(pages, `${name}.verdict.json`), 'utf8'));
const text = (page, selector) => page.locator(selector).innerText();
const total = async (page) => (await frame(page, 'all')).total[0];
// In the pages of the tests: nobody waits for a worker at rest, for events, or for threads that do nothing but sleep.
const idle = ({ labels, stack }) => labels.wait === 'events' || stack.includes('std::sync::mpsc::Receiver<T>::recv') || (labels.thread_name === 'flusher' && labels.wait === 'timer');
const [samples] = samplesOf('wall');
const busy = (keep = () => true) => String(sum(samples, WALL, (sample) => !idle(sample) && keep(sample)));
const legend = (page, name) => page.locator('#legend button', { hasText: name });

for (const name of ['wall', 'wall-cpu', 'wall-idle', 'wall-hostile', 'wall-tasks', 'wall-crowded', 'wall-loops', 'wall-sleepers', 'wall-short']) {
  on(name, `the verdict of ${name} is that of Profile::verdict`, async (page) => {
    const expected = verdictOf(name);
    const shown = await page.evaluate(() => {
      const { verdict, data } = window.everprof;
      const nanos = (values) => Object.fromEntries(values.map((value, activity) => [data.activities[activity], value]).filter(([, value]) => value > 0));
      return {
        bound: { cpu: 'Cpu', idle: 'Idle' }[verdict.bound] ?? `${{ wait: 'Wait', mixed: 'Mixed' }[verdict.bound]}(${data.doing.short[verdict.longest]})`,
        groups: verdict.groups.map(({ name: group, values }) => ({ name: group, nanos: nanos(values) })), waitsIn: verdict.waitsIn.map(([place]) => place),
      };
    });
    assert.equal(shown.bound.toLowerCase(), expected.bound.toLowerCase());
    const visible = (names) => names.map((group) => group.replace(/[\u0001\u202e]/g, (c) => `\\u{${c.codePointAt(0).toString(16)}}`));
    assert.deepEqual(shown.waitsIn, visible(expected.waits_in));
    const sorted = (groups) => groups.map(({ name: group, nanos }) => [visible([group])[0], Object.entries(nanos).filter(([, value]) => value > 0).sort()]).sort();
    assert.deepEqual(sorted(shown.groups), sorted(expected.groups));
  });
}

on('wall', 'the sentence says what the service waits for and where', async (page) => {
  assert.match(await text(page, '#sentence'), /^Wait-bound: 76\.\d% of the time at work waits, 60\.\d% for the network, most in upstream::fetch$/);
  await page.locator('#sentence button').click();
  assert.equal(await page.inputValue('#search'), '^shop::upstream::fetch$');
  const rows = await page.locator('#groups li').allInnerTexts();
  assert.equal(rows.length, 3);
  assert.match(rows[0], /^worker/);
  await page.click('#more-groups');
  assert.equal(await page.locator('#groups li').count(), 4, 'all groups at work');
  await page.locator('#groups li').first().hover();
  assert.match(await text(page, '#tooltip'), /waiting for the network[\s\S]*waiting for a lock[\s\S]*idle/);
  await page.mouse.move(0, 0);
  await page.locator('#groups li').first().focus();
  assert.match(await text(page, '#tooltip'), /^worker/, 'by the keyboard');
});

on('wall-cpu', 'bound by its processors: the CPU profile is next', async (page) => {
  assert.match(await text(page, '#sentence'), /^CPU-bound: 90\.\d% of the time at work is on CPU\. Next: the CPU profile says where\.$/);
});

on('wall-sleepers', 'a thread that computes among a thousand that sleep', async (page) => {
  assert.match(await text(page, '#sentence'), /^CPU-bound: 100% of the time at work is on CPU\./);
});

on('wall-short', 'of two things that keep it from its work, both are told', async (page) => {
  assert.match(await text(page, '#sentence'), /^Short of processors, and waiting: 50(\.0)?% of the time at work is spent ready to run, without a processor, 46(\.0)?% waits for the disk, most in journal::write$/);
});

on('kinds', 'a page of two kinds: each with its values, and the verdict leads from one to the other', async (page) => {
  const [ran] = samplesOf('kinds');
  assert.equal(await total(page), String(sum(ran, 1)));
  assert.match(await text(page, '#totals'), /cpu: [\d.]+ cores busy/);
  await page.locator('#kind-names button', { hasText: 'Wall clock' }).click();
  await settled(page);
  assert.equal(await total(page), '19800000000');
  assert.equal(await page.inputValue('#colour'), 'doing');
  assert.match(await text(page, '#sentence'), /^CPU-bound: 90\.\d% of the time at work is on CPU\. The CPU profile says where$/);
  await page.locator('#sentence button').click();
  await settled(page);
  assert.equal(await total(page), String(sum(ran, 1)));
  assert.equal(await page.inputValue('#colour'), 'family');
  await page.goBack();
  await settled(page);
  assert.equal(await total(page), '19800000000');
  await picture(page, 'kinds');
});

on('wall-tasks', 'what tasks await is told apart from the time of threads', async (page) => {
  assert.match(await text(page, '#totals'), /60\.8\ss\s+wall: 76\.0% of 80\ss, 60\ss of it awaited by tasks/);
  assert.match((await page.locator('#groups li').allInnerTexts())[0], /^async tasks/);
});

on('wall-idle', 'where all is idle, it is shown', async (page) => {
  assert.match(await text(page, '#sentence'), /^Idle: threads were at work for 0% of their time$/);
  assert.equal(await total(page), '480000000000');
});

on('wall', 'idle waits are hidden until asked for, and the totals say so', async (page) => {
  assert.equal(await total(page), busy());
  const all = String(sum(samples, WALL));
  assert.match(await text(page, '#totals'), /wall: 10\.\d% of 422\ss/);
  assert.match(await text(page, '#chips'), /Show 380\ss of idle waits/);
  await page.locator('#chips .idle').click();
  await settled(page);
  assert.equal(await total(page), all);
  await page.waitForURL(/idle=shown/);
  const again = await open('wall', { hash: new URL(page.url()).hash });
  assert.equal(await total(again.page), all, 'the address says it');
  await again.close();
  await page.keyboard.press('Enter');
  await settled(page);
  assert.equal(await total(page), busy(), 'the same button hides them again, by the keyboard');
});

on('offcpu', 'off CPU has the same colours, hides idle waits, and has no verdict of its own', async (page) => {
  const [off] = samplesOf('offcpu');
  // What ran is not there: a thread that only sleeps beside is taken for one that has nothing to do.
  const waits = (keep = () => true) => String(sum(off, WALL, (sample) => !idle(sample) && sample.labels.thread_name !== 'compactor' && keep(sample)));
  assert.equal(await total(page), waits());
  assert.equal(await page.inputValue('#colour'), 'doing');
  assert.equal(await page.locator('#verdict').isVisible(), false);
  assert.match(await text(page, '#chips'), /Show 380\ss of idle waits/);
  await legend(page, 'network').click();
  await settled(page);
  assert.equal(await total(page), waits(({ labels }) => labels.wait === 'network'));
  await page.keyboard.press('Escape');
  await picture(page, 'offcpu');
  await page.locator('#chips .idle').click();
  await settled(page);
  await page.locator('#chips button', { hasText: 'activity' }).click();
  await settled(page);
  assert.equal(await total(page), String(sum(off, WALL)));
});

on('wall', 'the legend filters by what threads did', async (page) => {
  assert.match(await legend(page, 'network').innerText(), /^network 60\.\d%$/);
  await legend(page, 'network').click();
  await settled(page);
  const network = ({ labels }) => labels.wait === 'network';
  assert.equal(await total(page), busy(network));
  assert.match(await text(page, '#chips'), /activity: network/);
  await legend(page, 'disk').focus();
  await page.keyboard.press('Enter');
  await settled(page);
  assert.equal(await total(page), busy(({ labels }) => ['network', 'disk'].includes(labels.wait)));
  assert.equal(await legend(page, 'disk').getAttribute('aria-pressed'), 'true');
  assert.match(await text(page, '#sentence'), /^Wait-bound: 76\.\d%/, 'the verdict is of all activities');
  await page.locator('#chips button', { hasText: 'activity' }).click();
  await settled(page);
  assert.equal(await total(page), busy());
  await legend(page, 'idle').click();
  await settled(page);
  assert.equal(await total(page), String(sum(samples, WALL)));
});

on('wall', 'a filter changes the verdict', async (page) => {
  await page.click('#filter');
  await page.check('#filters [data-key=endpoint] input[value="/list"]');
  await settled(page);
  const own = (keep) => Number(sum(samples, WALL, (sample) => sample.labels.endpoint === '/list' && keep(sample)));
  const disk = own(({ labels }) => labels.wait === 'disk') / own(() => true);
  const waits = own(({ labels }) => labels.state === 'off_cpu') / own(() => true);
  assert.equal(await text(page, '#sentence'), `Wait-bound: ${(100 * waits).toFixed(1)}% of the time at work waits, ${(100 * disk).toFixed(1)}% for the disk, most in catalog::load`);
});

on('wall', 'each frame says exactly what it did, in the graph, inverted and around a function', async (page) => {
  const parts = (graph) => page.evaluate((which) => {
    const { everprof } = window;
    const { tree } = everprof[which].view;
    return everprof[which].rows.flatMap((row) => row.node.filter((node) => node > 0).map((node) => [
      node, everprof.nameOf(tree, node), Number(tree.total[0][node]), everprof.partsOf(everprof.data, tree, node)]));
  }, graph);
  const did = ({ labels }) => (labels.state === 'off_cpu' ? labels.wait : labels.state);
  const near = (shown, expected, name) => assert.ok(Math.abs(shown - expected) < 1e-9, `${name}: ${shown}, not ${expected}`);
  const check = (name, shown, through) => {
    const all = Number(busy(through));
    near(shown[0], Number(busy((sample) => through(sample) && did(sample) === 'on_cpu')) / all, name);
    near(shown[2], Number(busy((sample) => through(sample) && did(sample) === 'network')) / all, name);
    near(shown.reduce((total, part) => total + part, 0), 1, name);
  };
  for (const [, name, , shown] of await parts('main')) {
    const outermost = samples.filter(({ stack }) => stack.includes(name));
    if (new Set(outermost.map(({ stack }) => stack.slice(0, stack.indexOf(name) + 1).join(';'))).size === 1) check(name, shown, ({ stack }) => stack.includes(name));
  }
  await page.check('#inverted');
  await settled(page);
  for (const [node, name, , shown] of await parts('main')) {
    if (await page.evaluate((at) => window.everprof.shown.depth[at], node) === 1) check(name, shown, ({ stack }) => stack.at(-1) === name);
  }
  await page.uncheck('#inverted');
  await page.evaluate(() => window.everprof.update({ centre: 'shop::upstream::fetch' }));
  await settled(page);
  for (const graph of ['callers', 'callees']) {
    const [, name, , shown] = (await parts(graph))[0];
    check(`${graph} ${name}`, shown, ({ stack }) => stack.includes('shop::upstream::fetch'));
  }
});

on('wall', 'the colours are those of the legend, and w goes back to the usual ones', async (page) => {
  const colourAt = async (name) => {
    const { x, y, width } = await frame(page, name);
    return page.evaluate(([left, top]) => {
      const { canvas } = window.everprof.main;
      const box = canvas.getBoundingClientRect();
      const ratio = canvas.width / box.width;
      // Of a copy: a canvas that is read from becomes slow.
      const copy = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
      copy.drawImage(canvas, (box.x - left) * ratio, (box.y - top) * ratio);
      return [...copy.getImageData(0, 0, 1, 1).data.slice(0, 3)];
    }, [x + width - 3, y + 2]);
  };
  const doing = await page.evaluate(() => window.everprof.colours.doing);
  const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  assert.deepEqual(await colourAt('recv'), rgb(doing[2]));
  assert.deepEqual(await colourAt('deflate_slow'), rgb(doing[0]));
  await page.keyboard.press('w');
  await settled(page);
  assert.equal(await page.inputValue('#colour'), 'family');
  assert.notDeepEqual(await colourAt('recv'), rgb(doing[2]));
  await page.keyboard.press('w');
  const { x, y } = await frame(page, 'shop::handlers::list');
  await page.mouse.move(x + 4, y + 9);
  assert.match(await text(page, '#tooltip .note'), /^on CPU [\d.]+%, disk [\d.]+%, lock/);
  await page.selectOption('#group', '\u003d\u0001activity');
  await settled(page);
  const groups = (await frames(page)).filter(({ depth }) => depth === 1).map(({ name }) => name);
  assert.ok(groups.includes('activity: network'), groups.join());
});

on('wall', 'every path still has exactly the self and total of its samples', async (page) => {
  await page.locator('#chips .idle').click();
  const shown = await page.evaluate(() => {
    const { tree, data } = window.everprof;
    const path = [[]];
    const all = [];
    for (let node = 0; node < tree.count; node++) {
      if (node > 0) path[node] = [...path[tree.parent[node]], data.strings[tree.name[node]]];
      all.push([JSON.stringify(path[node]), String(window.everprof.selfAt(tree, node, 0)), String(tree.total[0][node])]);
    }
    return all;
  });
  assert.deepEqual(shown.sort(), [...paths(samples, WALL)].map(([path, { self, total: all }]) => [path, String(self), String(all)]).sort());
});

on('wall-hostile', 'hostile names of threads stay names, and a label called activity stays a label', async (page) => {
  await page.click('#more-groups');
  await page.locator('#groups li').first().hover();
  await page.click('#filter');
  assert.equal(await page.evaluate(() => window.pwned), undefined);
  assert.deepEqual(await page.locator('#filters fieldset').evaluateAll((all) => all.map((box) => box.dataset.key).filter((key) => /activity/.test(key)).sort()), ['\u0001activity', '\\u{1}activity', 'activity']);
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth));
  assert.doesNotMatch(await page.evaluate(() => document.body.innerText), /[\u202e]/);
  await picture(page, 'wall-hostile');
});

for (const scheme of ['light', 'dark']) {
  for (const [width, height] of [[1440, 900], [390, 844]]) {
    on('wall', `the wall clock at ${width} pixels, ${scheme}`, async (page) => {
      assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= width);
      assert.ok((await page.locator('#graph').evaluate((graph) => graph.clientHeight)) > 250);
      await picture(page, `wall-${width}-${scheme}`);
      await clickFrame(page, 'shop::upstream::fetch');
      await picture(page, `wall-zoomed-${width}-${scheme}`);
    }, { width, height, scheme });
  }
}
