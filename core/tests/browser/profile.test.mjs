// One profile: what is drawn is what the samples say, and everything on the page does what it promises.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { clickFrame, frame, frames, pagesTests, picture, samplesOf, settled } from './browser.mjs';
import { matched, paths, selfOf, share, sum, totalOf } from './expected.mjs';

const { on, open } = pagesTests();

const SAMPLES = 0;
const CPU = 1;
const [samples] = samplesOf('service');

const text = (page, selector) => page.locator(selector).innerText();
const plain = (value) => value.replace(/\s/g, '');
const near = (shown, expected) => {
  const number = Number(/([\d.]+)%/.exec(shown)[1]) / 100;
  assert.ok(Math.abs(number - expected) <= 0.0005 + expected * 0.005, `${shown} is not ${expected * 100}%`);
};

// All nodes of the page's tree by their path, with exact sums.
function treeOf(page) {
  return page.evaluate(() => {
    const { tree, data } = window.everprof;
    const path = [[]];
    const all = [];
    for (let node = 0; node < tree.count; node++) {
      if (node > 0) path[node] = [...path[tree.parent[node]], data.strings[tree.name[node]]];
      all.push([JSON.stringify(path[node]), String(window.everprof.selfAt(tree, node, 0)), String(tree.total[0][node])]);
    }
    return all;
  });
}

describe('values', () => {
  for (const [type, name] of [[CPU, 'cpu'], [SAMPLES, 'samples']]) {
    on('service', `every path has exactly the self and total of its samples: ${name}`, async (page) => {
      await page.selectOption('#type', String(type));
      const expected = [...paths(samples, type)].map(([path, { self, total }]) => [path, String(self), String(total)]);
      assert.deepEqual((await treeOf(page)).sort(), expected.sort());
    });
  }

  on('service', 'siblings are merged and stand in alphabetical order', async (page) => {
    const unsorted = await page.evaluate(() => {
      const { tree, data } = window.everprof;
      const wrong = [];
      for (let node = 0; node < tree.count; node++) {
        for (let child = node + 1; tree.end[child] < tree.end[node]; child = tree.end[child]) {
          const [a, b] = [data.strings[tree.name[child]], data.strings[tree.name[tree.end[child]]]];
          if (!(a < b)) wrong.push([a, b]);
        }
      }
      return wrong;
    });
    assert.deepEqual(unsorted, []);
  });

  on('service', 'switching the sample type changes totals, not names', async (page) => {
    const names = (await frames(page)).map(({ name }) => name).sort();
    assert.equal((await frame(page, 'all')).total[0], String(sum(samples, CPU)));
    await page.selectOption('#type', String(SAMPLES));
    await settled(page);
    assert.equal((await frame(page, 'all')).total[0], String(sum(samples, SAMPLES)));
    assert.deepEqual((await frames(page)).map(({ name }) => name).sort(), names);
    assert.match(await text(page, '#totals'), /samples/);
  });

  on('wide', 'sums beyond 2^53 are exact', async (page) => {
    const [wide] = samplesOf('wide');
    const all = await frame(page, 'all');
    assert.equal(all.total[0], String(sum(wide, CPU)));
    assert.equal(all.total[0], '4620693217682128901');
    await page.fill('#search', '^c|^a$');
    await settled(page);
    const title = await page.locator('#found').getAttribute('title');
    assert.equal(plain(title), `${matched(wide, CPU, /^c|^a$/)}nanoseconds`);
  });

  on('empty', 'a profile without samples opens', async (page) => {
    assert.match(await page.locator('#crumbs').innerText(), /Nothing was counted in this time/);
    assert.equal((await frames(page)).length, 1);
    await page.fill('#search', 'x');
    assert.match(await text(page, '#found'), /0% matched/);
  });
});

describe('zoom', () => {
  on('service', 'a click zooms, crumbs and Escape lead back', async (page) => {
    const small = await frame(page, 'checkout::handlers::list');
    await clickFrame(page, 'checkout::handlers::list');
    const large = await frame(page, 'checkout::handlers::list');
    assert.ok(large.width > small.width * 1.5);
    assert.equal(large.width, (await frame(page, 'all')).width);
    near(await text(page, '.way'), share(totalOf(samples, CPU, 'checkout::handlers::list'), sum(samples, CPU)));
    await page.waitForURL(/zoom=/);
    await clickFrame(page, 'flate2::zio::write_with_status');
    assert.equal(await text(page, '#crumbs [aria-current]'), 'zio::write_with_status');
    await page.keyboard.press('Escape');
    assert.equal(await text(page, '#crumbs [aria-current]'), 'handlers::list');
    await page.keyboard.press('Escape');
    assert.equal(await text(page, '#crumbs [aria-current]'), 'all');
    await clickFrame(page, 'checkout::handlers::pay');
    await page.locator('#crumbs button').first().click();
    assert.equal(await text(page, '#crumbs [aria-current]'), 'all');
    await page.waitForURL((url) => !/zoom=/.test(url.href));
    await page.goBack();
    assert.equal(await text(page, '#crumbs [aria-current]'), 'handlers::pay');
  });

  on('service', 'flame and icicle show the same frames upside down', async (page) => {
    const icicle = await frames(page);
    await page.click('#flame');
    await settled(page);
    const flame = await frames(page);
    assert.deepEqual(flame.map(({ name, x, width }) => [name, x, width]), icicle.map(({ name, x, width }) => [name, x, width]));
    const [root, leaf] = [flame.find(({ name }) => name === 'all'), flame.find(({ depth }) => depth === 5)];
    assert.ok(root.y > leaf.y);
    assert.ok(icicle.find(({ name }) => name === 'all').y < icicle.find(({ depth }) => depth === 5).y);
  });
});

describe('search', () => {
  for (const pattern of ['serde_json', 'alloc|clone', '^deflate(_slow)?$', 'checkout::cache']) {
    on('service', `matched share of /${pattern}/`, async (page) => {
      await page.fill('#search', pattern);
      await settled(page);
      const expected = matched(samples, CPU, new RegExp(pattern, 'i'));
      near(await text(page, '#found'), share(expected, sum(samples, CPU)));
      assert.equal(plain(await page.locator('#found').getAttribute('title')), `${expected}nanoseconds`);
    });
  }

  on('service', 'a search is shared by the address, and cleared by Escape', async (page, { address }) => {
    await page.fill('#search', 'Regex::');
    // The browser tells of a new address in its own time.
    await page.waitForURL(/q=Regex/);
    const url = page.url();
    const second = await open('service', { hash: url.slice(address.length) });
    assert.equal(await second.page.inputValue('#search'), 'Regex::');
    assert.equal(await text(second.page, '#found'), await text(page, '#found'));
    await second.close();
    await page.keyboard.press('Escape');
    assert.equal(await page.inputValue('#search'), '');
    assert.equal(await page.locator('#found').innerText(), '');
  });

  on('service', 'what is no regular expression is searched as text', async (page) => {
    await page.fill('#search', 'Harness<T,S>(');
    assert.match(await text(page, '#found'), /0% matched.*not a regular expression/s);
    await page.fill('#search', 'driver::[');
    assert.match(await text(page, '#found'), /not a regular expression/);
  });

  on('service', 'within a zoom the share is that of the view', async (page) => {
    await clickFrame(page, 'checkout::handlers::list');
    await page.fill('#search', 'regex_automata');
    const view = samples.filter(({ stack }) => stack.includes('checkout::handlers::list'));
    near(await text(page, '#found'), share(matched(view, CPU, /regex_automata/), sum(view, CPU)));
  });
});

describe('labels', () => {
  on('service', 'filters by thread and by label', async (page) => {
    await page.click('#filter');
    await page.check('#filters [data-key=thread_name] input[value=tokio-runtime-w2]');
    await page.check('#filters [data-key=thread_name] input[value=main]');
    await settled(page);
    const threads = ({ labels }) => ['tokio-runtime-w2', 'main'].includes(labels.thread_name);
    assert.equal((await frame(page, 'all')).total[0], String(sum(samples, CPU, threads)));
    await page.check('#filters [data-key=tenant] input[value=acme]');
    await settled(page);
    const both = (sample) => threads(sample) && sample.labels.tenant === 'acme';
    assert.equal((await frame(page, 'all')).total[0], String(sum(samples, CPU, both)));
    assert.match(await text(page, '#chips'), /thread: tokio-runtime-w2, main/);
    await picture(page, 'filter');
    await page.locator('#chips button').first().click();
    await settled(page);
    assert.equal((await frame(page, 'all')).total[0], String(sum(samples, CPU, ({ labels }) => labels.tenant === 'acme')));
  });

  on('service', 'samples without a label are a choice of their own', async (page) => {
    await page.click('#filter');
    await page.check('#filters [data-key=endpoint] input[value=""]');
    await settled(page);
    assert.equal((await frame(page, 'all')).total[0], String(sum(samples, CPU, ({ labels }) => labels.endpoint === undefined)));
  });

  for (const key of ['thread_name', 'tenant', 'endpoint']) {
    on('service', `grouped by ${key}`, async (page) => {
      await page.selectOption('#group', `=${key}`);
      await settled(page);
      const expected = new Map();
      for (const { labels, values } of samples) {
        const name = `${key === 'thread_name' ? 'thread' : key}: ${labels[key] ?? '(none)'}`;
        expected.set(name, (expected.get(name) ?? 0n) + BigInt(values[CPU]));
      }
      const shown = (await frames(page)).filter(({ depth }) => depth === 1).map(({ name, total }) => [name, total[0]]);
      assert.deepEqual(shown.sort(), [...expected].map(([name, total]) => [name, String(total)]).sort());
      const groups = samples.map(({ stack, labels, values }) => ({ stack: [labels[key] ?? '(none)', ...stack], values }));
      const all = await page.evaluate(() => {
        const { tree, data } = window.everprof;
        const path = [[]];
        return Array.from({ length: tree.count }, (_, node) => {
          if (node > 0) path[node] = [...path[tree.parent[node]], tree.name[node] < 0 ? '(none)' : data.strings[tree.name[node]]];
          return [JSON.stringify(path[node]), String(tree.total[0][node])];
        });
      });
      assert.deepEqual(all.sort(), [...paths(groups, CPU)].map(([path, { total }]) => [path, String(total)]).sort());
    });
  }
});

describe('table', () => {
  const rows = (page) => page.locator('#table-body tr').evaluateAll((lines) => lines.map((line) => ({
    name: line.querySelector('.pick').textContent,
    values: [...line.querySelectorAll('td')].slice(0, -1).map((cell) => cell.title.replace(/\D/g, '') || '0'),
  })));

  on('service', 'self and total of every function, recursion counted once', async (page) => {
    const names = new Set(samples.flatMap(({ stack }) => stack));
    const shown = await rows(page);
    assert.equal(shown.length, names.size);
    for (const { name, values } of shown) {
      assert.deepEqual(values, [String(selfOf(samples, CPU, name)), String(totalOf(samples, CPU, name))], name);
    }
  });

  on('service', 'sorts by each column, both ways', async (page) => {
    const order = async () => (await rows(page)).map(({ name }) => name);
    const by = (of) => [...new Set(samples.flatMap(({ stack }) => stack))].sort((a, b) => Number(of(b) - of(a)));
    assert.equal((await order())[0], by((name) => selfOf(samples, CPU, name))[0]);
    await page.click('th[data-key=total] button');
    assert.equal(await page.locator('th[data-key=total]').getAttribute('aria-sort'), 'descending');
    const totals = (await rows(page)).map(({ values }) => Number(values[1]));
    assert.deepEqual(totals, [...totals].sort((a, b) => b - a));
    await page.click('th[data-key=total] button');
    assert.deepEqual((await rows(page)).map(({ values }) => Number(values[1])), totals.reverse());
    await page.click('th[data-key=name] button');
    assert.deepEqual(await order(), [...(await order())].sort());
  });

  on('service', 'a click on a name searches it, the arrows show callers and callees', async (page) => {
    const line = page.locator('#table-body tr', { hasText: 'deflate_slow' });
    await line.locator('.pick').click();
    assert.equal(await page.inputValue('#search'), '^deflate_slow$');
    await page.locator('#table-body tr', { hasText: 'checkout::cache::warm' }).locator('.both').click();
    await settled(page);
    const total = String(totalOf(samples, CPU, 'checkout::cache::warm'));
    const callers = await frames(page, 'callers');
    const callees = await frames(page, 'callees');
    assert.deepEqual([callers[0].name, callers[0].total[0]], ['checkout::cache::warm', total]);
    assert.deepEqual([callees[0].name, callees[0].total[0]], ['checkout::cache::warm', total]);
    assert.equal(callers[1].name, 'checkout::main');
    assert.equal(callers[1].total[0], total);
    await page.keyboard.press('Escape');
    await page.keyboard.press('Escape');
    assert.ok(await page.locator('#graph').isVisible());
  });

  on('service', 'callers and callees carry the sums of the stacks through the function', async (page) => {
    await page.locator('#table-body tr', { hasText: 'checkout::catalog::load' }).locator('.both').click();
    await settled(page);
    await picture(page, 'sandwich');
    const through = samples.filter(({ stack }) => stack.includes('checkout::catalog::load'));
    const callee = (name) => String(totalOf(through, CPU, name));
    for (const name of ['checkout::catalog::sort', 'regex_automata::meta::regex::Regex::search']) {
      assert.equal((await frame(page, name, 'callees')).total[0], callee(name));
    }
    assert.equal(await text(page, '#lines'), '');
    await clickFrame(page, '__memcpy_avx_unaligned_erms', 'callees');
    await clickFrame(page, 'core::slice::sort::stable::driftsort', 'callers');
    await page.locator('#table-body tr', { hasText: 'checkout::pricing::round' }).locator('.both').click();
    const busy = Number(selfOf(samples, CPU, 'checkout::pricing::round')) / 1e9;
    assert.equal(plain(await text(page, '#lines')), `Selfbyline:lib.rs:82${busy.toFixed(2)}s`);
    await page.goBack();
    await settled(page);
    await clickFrame(page, 'checkout::catalog::sort', 'callers');
    assert.match(await text(page, '#centre-text'), /^checkout::catalog::sort/);
  });
});

describe('inverted', () => {
  // What stands in the inverted graph below a way of names that starts at the leaf.
  const ending = (way, of = samples) => of.filter(({ stack }) => way.every((name, at) => stack[stack.length - 1 - at] === name));
  const level = async (page, depth) => (await frames(page)).filter((box) => box.depth === depth && box.name !== '').map(({ name, total }) => [name, total[0]]).sort();
  const expected = (way, of = samples) => {
    const sums = new Map();
    for (const sample of ending(way, of)) {
      const name = sample.stack[sample.stack.length - 1 - way.length];
      if (name !== undefined) sums.set(name, (sums.get(name) ?? 0n) + BigInt(sample.values[CPU]));
    }
    return [...sums].map(([name, total]) => [name, String(total)]).sort();
  };

  on('service', 'leaves come first, then who called them', async (page) => {
    await page.keyboard.press('v');
    await settled(page);
    await page.waitForURL(/inverted=yes/);
    assert.equal((await frame(page, 'all')).total[0], String(sum(samples, CPU)));
    assert.deepEqual(await level(page, 1), expected([]));
    const leaf = '__memcpy_avx_unaligned_erms';
    await clickFrame(page, leaf);
    assert.deepEqual(await level(page, 2), expected([leaf]));
    await picture(page, 'inverted');
    await page.fill('#search', 'worker::run');
    await settled(page);
    near(await text(page, '#found'), share(matched(ending([leaf]), CPU, /worker::run/), sum(ending([leaf]), CPU)));
    const second = await open('service', { hash: new URL(page.url()).hash });
    assert.equal(await text(second.page, '#crumbs [aria-current]'), leaf);
    await second.close();
  });

  on('service', 'within groups and filters as well', async (page) => {
    await page.check('#inverted');
    await page.selectOption('#group', '=tenant');
    await page.click('#filter');
    await page.check('#filters [data-key=endpoint] input[value="/pay"]');
    await settled(page);
    const pay = samples.filter(({ labels }) => labels.endpoint === '/pay');
    const groups = ['acme', 'globex', 'initech'].map((tenant) => [`tenant: ${tenant}`, String(sum(pay, CPU, ({ labels }) => labels.tenant === tenant))]);
    assert.deepEqual(await level(page, 1), groups.sort());
    await clickFrame(page, 'tenant: acme');
    assert.deepEqual(await level(page, 2), expected([], pay.filter(({ labels }) => labels.tenant === 'acme')));
  });
});

describe('marks', () => {
  on('service', 'inlined, lost and truncated frames are known and explained', async (page) => {
    const flags = await page.evaluate(() => {
      const { tree, data } = window.everprof;
      const byName = {};
      for (let node = 1; node < tree.count; node++) byName[data.strings[tree.name[node]]] = tree.flags[node];
      return byName;
    });
    assert.equal(flags['checkout::pricing::sum'] & 17, 1);
    assert.equal(flags['checkout::pricing::total'] & 17, 16);
    assert.equal(flags['[lost: ring full]'] & 2, 2);
    assert.equal(flags['[truncated: 212 frames]'] & 4, 4);
    assert.match(await text(page, '#legend'), /inlined[\s\S]*lost or truncated/);
  });

  on('service', 'the tooltip tells all about a frame', async (page) => {
    const name = 'checkout::catalog::load';
    const { x, y } = await frame(page, name);
    await page.mouse.move(x + 20, y + 9);
    const tip = await text(page, '#tooltip');
    const count = Number(totalOf(samples, SAMPLES, name)).toLocaleString('en').replaceAll(',', '');
    for (const part of [name, '/src/checkout/src/lib.rs:', 'checkout', count]) assert.ok(plain(tip).includes(plain(part)), tip);
    near(/total[\s\S]*?([\d.]+%)/.exec(tip)[1], share(totalOf(samples, CPU, name), sum(samples, CPU)));
  });

  on('service', 'recursion is merged on request', async (page) => {
    const nodes = (name) => page.evaluate((wanted) => {
      const { tree, data } = window.everprof;
      return [...tree.name].filter((id) => data.strings[id] === wanted).length;
    }, name);
    assert.equal(await nodes('checkout::cache::warm'), 3);
    await page.check('#recursion');
    assert.equal(await nodes('checkout::cache::warm'), 1);
    assert.equal((await frame(page, 'all')).total[0], String(sum(samples, CPU)));
  });
});

describe('keyboard', () => {
  on('service', 'arrows move, Enter zooms, letters switch', async (page) => {
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('ArrowDown');
    assert.match(await page.locator('#live').innerText(), /^start_thread, total .* depth 2$/);
    await page.keyboard.press('ArrowUp');
    await page.keyboard.press('ArrowLeft');
    assert.match(await page.locator('#live').innerText(), /^_start|^\[lost/);
    await page.keyboard.press('ArrowRight');
    await page.keyboard.press('Enter');
    assert.equal(await text(page, '#crumbs [aria-current]'), 'clone3');
    await page.keyboard.press('Home');
    assert.equal(await text(page, '#crumbs [aria-current]'), 'all');
    await page.keyboard.press('i');
    assert.equal(await page.getAttribute('#flame', 'aria-pressed'), 'true');
    await page.keyboard.press('ArrowUp');
    await page.keyboard.press('t');
    assert.ok(!(await page.locator('#side-panel').isVisible()));
    await page.keyboard.press('?');
    assert.ok(await page.locator('#help-box').isVisible());
    await page.keyboard.press('Escape');
    assert.ok(!(await page.locator('#help-box').isVisible()));
    await page.keyboard.press('/');
    await page.keyboard.type('tokio');
    assert.equal(await page.inputValue('#search'), 'tokio');
    await page.keyboard.press('Enter');
    await page.keyboard.press('ArrowUp');
    await page.keyboard.press('s');
    assert.ok(await page.locator('#sandwich').isVisible());
  });
});

describe('matches and names', () => {
  on('service', 'n and p step through the matches', async (page) => {
    await page.fill('#search', '^deflate');
    await page.keyboard.press('Enter');
    const spoken = [];
    for (const key of ['n', 'n', 'n', 'n', 'p']) {
      await page.keyboard.press(key);
      spoken.push((await page.locator('#live').innerText()).split(',')[0]);
    }
    assert.deepEqual(spoken, ['deflate', 'deflate_slow', 'deflate_longest_match', 'deflate', 'deflate_longest_match']);
  });

  on('service', 'c copies the whole name', async (page) => {
    await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
    for (let step = 0; step < 4; step++) await page.keyboard.press('ArrowDown');
    await page.keyboard.press('c');
    await page.waitForFunction(() => document.getElementById('live').textContent === 'Copied');
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), 'core::ops::function::FnOnce::call_once');
  });

  on('service', 'the buttons below the graph work on the chosen frame', async (page) => {
    await clickFrame(page, 'checkout::catalog::load');
    await page.click('#act-search');
    assert.equal(await page.inputValue('#search'), '^checkout::catalog::load$');
    await page.click('#act-centre');
    assert.match(await text(page, '#centre-text'), /^checkout::catalog::load/);
    await page.click('#centre-close');
    assert.ok(await page.locator('#graph').isVisible());
  });
});

describe('looks', () => {
  on('service', 'dark by preference, light by the button', async (page) => {
    const paper = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    assert.equal(await paper(), 'rgb(20, 23, 28)');
    await picture(page, 'dark');
    await page.click('#theme');
    assert.equal(await paper(), 'rgb(255, 255, 255)');
  }, { scheme: 'dark' });

  on('service', 'fits a narrow screen without scrolling sideways', async (page) => {
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(wide <= 390, `${wide} pixels wide`);
    await clickFrame(page, 'checkout::handlers::list');
    await picture(page, 'narrow');
  }, { width: 390, height: 800 });

  on('service', 'title, tags and time are there', async (page) => {
    assert.equal(await text(page, 'h1'), 'checkout 1.0');
    assert.match(await text(page, '#when'), /2026-09-21 \d\d:\d\d:\d\d – \d\d:\d\d:\d\d UTC/);
    for (const tag of ['service', 'version', 'env', 'host', 'pod', 'instance', 'region']) {
      assert.ok((await text(page, '#tags')).includes(tag));
    }
    await picture(page, 'service');
  });
});
