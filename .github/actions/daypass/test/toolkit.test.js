// The same things said by the real @actions/core, and read back by one reader.
// Runs where that is installed: npm ci in this folder.
import assert from 'node:assert/strict';
import {spawnSync} from 'node:child_process';
import fs from 'node:fs';
import {test} from 'node:test';
import {githubToken} from '../../../../clients/npm/src/index.js';
import {Runner} from '../src/runner.js';
import {JOB_TOKEN, KEY, newWorld, PASSWORD, readBlocks} from './world.js';

const core = await import('@actions/core').catch(() => undefined);
const skip = core ? false : '@actions/core is not installed: npm ci --prefix .github/actions/daypass';

test('outputs, environment and state are written as the toolkit writes them', {skip}, async t => {
  const values = {PLAIN: 'x', LINES: KEY, QUOTES: PASSWORD, EMPTY: '', CR: 'a\r\nb'};
  const theirs = await newWorld(t), ours = await newWorld(t);
  const saved = {...process.env};
  t.after(() => (process.env = saved));
  Object.assign(process.env, theirs.env);
  const runner = new Runner(ours.env, process.stdout);
  for (const [name, value] of Object.entries(values)) {
    core.setOutput(name, value);
    core.exportVariable(name, value);
    core.saveState(name, value);
    runner.setOutput(name, value);
    runner.exportVariable(name, value);
    runner.saveState(name, value);
  }
  for (const file of ['GITHUB_OUTPUT', 'GITHUB_ENV', 'GITHUB_STATE']) {
    assert.deepEqual(readBlocks(ours.env[file]), readBlocks(theirs.env[file]), file);
    assert.deepEqual(readBlocks(ours.env[file]), values, file);
    // Nothing but the delimiter differs.
    const same = f => fs.readFileSync(f, 'utf8').replace(/(ghadelimiter|daypass)_[0-9a-f-]{36}/g, 'DELIMITER');
    assert.equal(same(ours.env[file]), same(theirs.env[file]), file);
  }
});

test('inputs and state are read as the toolkit reads them', {skip}, t => {
  const env = {'INPUT_EXPORT-ENV': ' true ', INPUT_GRANTS: 'a/b\nc/d\n', STATE_session: 'dps_x'};
  const saved = {...process.env};
  t.after(() => (process.env = saved));
  Object.assign(process.env, env);
  const runner = new Runner(env, process.stdout);
  for (const name of ['export-env', 'grants', 'nosuch']) assert.equal(runner.input(name), core.getInput(name));
  assert.equal(runner.state('session'), core.getState('session'));
});

test('commands are the lines that the toolkit prints', {skip}, async t => {
  const world = await newWorld(t);
  const script = `import * as core from '@actions/core';
    core.setSecret(${JSON.stringify(`a%b\nlong enough`)}); core.error('x%\\ny'); core.warning('w');`;
  const {stdout} = spawnSync(process.execPath, ['--input-type=module', '-e', script], {cwd: new URL('..', import.meta.url), encoding: 'utf8'});
  let ours = '';
  const runner = new Runner(world.env, {write: (text, done) => ((ours += text), done())});
  await runner.command('add-mask', 'a%b\nlong enough');
  await runner.command('error', 'x%\ny');
  await runner.command('warning', 'w');
  assert.equal(ours, stdout);
});

test('the ID token is the one that the toolkit gets, asked for in the same way', {skip}, async t => {
  const world = await newWorld(t);
  const saved = {...process.env};
  t.after(() => (process.env = saved));
  Object.assign(process.env, world.env);
  const audience = 'https://ci.example.com/a b&c';
  assert.equal(await core.getIDToken(audience), JOB_TOKEN);
  assert.equal(await githubToken(audience, world.env), JOB_TOKEN);
  const [theirs, ours] = world.requests;
  assert.equal(ours.url, theirs.url);
  assert.equal(ours.headers.authorization, theirs.headers.authorization);
});
