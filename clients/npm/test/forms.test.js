import assert from 'node:assert/strict';
import {randomBytes} from 'node:crypto';
import {test} from 'node:test';
import {forms} from '../src/index.js';

test('base64: found wherever it stands in what was encoded', () => {
  for (let i = 0; i < 200; i++) {
    const value = randomBytes(9 + i % 20).toString('latin1').replace(/[\r\n]/g, 'x');
    const masks = forms(value);
    for (let before = 0; before < 4; before++) {
      for (let after = 0; after < 3; after++) {
        const bytes = Buffer.concat([randomBytes(before), Buffer.from(value), randomBytes(after)]);
        for (const kind of ['base64', 'base64url']) {
          const text = bytes.toString(kind);
          assert.ok(masks.some(m => text.includes(m)), `${before} before, ${after} behind, ${kind}`);
        }
      }
    }
  }
});

test('a value of several lines: each line by itself, indented or not', () => {
  const masks = forms('first line\r\n  second line\n}\n');
  for (const want of ['first line', '  second line', 'second line']) assert.ok(masks.includes(want), want);
  assert.ok(!masks.includes('}'), 'a short line is no secret');
});

test('longest first, nothing twice, nothing short', () => {
  const masks = forms('simple-value');
  assert.deepEqual(masks, [...new Set(masks)].sort((a, b) => b.length - a.length));
  assert.deepEqual(forms('short'), []);
});

test('what is no proper Unicode is no error', () => {
  assert.ok(forms('\ud800 lone surrogate').length > 0);
});
