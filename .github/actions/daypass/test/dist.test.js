import assert from 'node:assert/strict';
import {spawnSync} from 'node:child_process';
import {test} from 'node:test';
import {fileURLToPath} from 'node:url';

test('dist is what the sources make', () => {
  const {status, stderr} = spawnSync(process.execPath, [fileURLToPath(new URL('../build.mjs', import.meta.url)), '--check'], {encoding: 'utf8'});
  assert.equal(status, 0, stderr);
});
