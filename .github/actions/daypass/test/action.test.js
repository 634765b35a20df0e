import assert from 'node:assert/strict';
import fs from 'node:fs';
import {test} from 'node:test';
import {Runner} from '../src/runner.js';
import {main} from '../src/main.js';
import {answerFor, JOB_TOKEN, KEY, mask, newWorld, PASSWORD, readBlocks, REVOCATION, run, runBuilt, SESSION, shown} from './world.js';

const two = 'payments/deploy-db\npayments/web-tls 5m\n';

test('main: token, exchange, outputs; post: everything given back', async t => {
  const world = await newWorld(t);
  const first = await runBuilt(world, {grants: two, ttl: '10m'});
  assert.equal(first.code, 0, first.out);
  assert.equal(world.requests[0].url, '/token?api-version=2.0&audience=https%3A%2F%2Fci.example.com%2Fa%20b');
  assert.equal(world.requests[0].headers.authorization, 'Bearer runner-token');
  const [exchange] = world.exchanges();
  assert.equal(exchange.headers.authorization, `Bearer ${JOB_TOKEN}`);
  assert.deepEqual(exchange.body, {grants: [{name: 'payments/deploy-db', ttl: '10m'}, {name: 'payments/web-tls', ttl: '5m'}]});
  assert.match(exchange.headers['idempotency-key'], /^[0-9a-f-]{36}$/);

  const outputs = readBlocks(world.env.GITHUB_OUTPUT);
  assert.deepEqual(outputs, {
    PGUSER: 'dp_user', PGPASSWORD: PASSWORD, TLS_KEY: KEY, leases: 'lse_0\nlse_1', 'expires-at': '2026-11-23T10:08:00Z',
  });
  assert.equal(fs.readFileSync(world.env.GITHUB_ENV, 'utf8'), '', 'the environment is opt-in');
  const {masks, log} = shown(first.out);
  for (const secret of [PASSWORD, SESSION, REVOCATION, JOB_TOKEN]) {
    assert.ok(masks.includes(secret));
    assert.ok(!log.includes(secret));
  }

  const state = readBlocks(world.env.GITHUB_STATE);
  assert.ok(!JSON.stringify(state).includes(SESSION), 'what is kept only gives back');
  const last = await runBuilt(world, {}, state);
  assert.equal(last.code, 0, last.out);
  assert.equal(world.revoked, 1);
  const revocation = world.requests.at(-1);
  assert.equal(revocation.headers.authorization, `Bearer ${REVOCATION}`);
  assert.ok(!shown(last.out).log.includes(REVOCATION));
});

test('a broker without revocation tokens: post gives back with the session token', async t => {
  const world = await newWorld(t);
  world.exchange = (r, respond) => {
    const answer = answerFor(['payments/deploy-db']);
    delete answer.session.revocation_token;
    respond(200, answer);
  };
  const {code, out} = await run(world, {grants: 'payments/deploy-db'});
  assert.equal(code, 0, out);
  await run(world, {}, readBlocks(world.env.GITHUB_STATE));
  assert.equal(world.requests.at(-1).headers.authorization, `Bearer ${SESSION}`);
});

test('nothing is set before all is masked', async t => {
  const world = await newWorld(t);
  const events = [];
  const written = ['GITHUB_OUTPUT', 'GITHUB_ENV', 'secret'];
  const files = {GITHUB_OUTPUT: world.env.GITHUB_OUTPUT, GITHUB_ENV: world.env.GITHUB_ENV, secret: `${world.env.RUNNER_TEMP}/pg.pass`};
  const look = () => written.filter(name => fs.existsSync(files[name]) && fs.statSync(files[name]).size > 0);
  const stdout = {write(text, done) {
    // What is set at this moment, when the line has not been written yet.
    if (text.startsWith('::add-mask::')) events.push({mask: text, set: look()});
    setTimeout(done, 1); // a slow pipe
  }};
  const env = {...world.env, INPUT_GRANTS: two, 'INPUT_EXPORT-ENV': 'true', INPUT_FILES: 'PGPASSWORD: pg.pass'};
  assert.equal(await main(new Runner(env, stdout)), 0);
  assert.deepEqual(look(), written, 'the test sees what is set');
  assert.ok(events.length > 10);
  for (const event of events) assert.deepEqual(event.set, [], event.mask);
  const masked = events.map(e => e.mask).join('');
  for (const secret of [PASSWORD, SESSION, REVOCATION, ...KEY.trim().split('\n').map(l => l.trim())]) assert.ok(masked.includes(secret.replaceAll('%', '%25')), secret);
});

test('what GitHub misses is masked', async t => {
  const world = await newWorld(t);
  const {out} = await run(world, {grants: two});
  const {masks} = shown(out);
  const b = Buffer.from(PASSWORD);
  const printed = {
    json: JSON.stringify({p: PASSWORD}), url: `postgres://u:${encodeURIComponent(PASSWORD)}@db`, form: new URLSearchParams({p: PASSWORD}).toString(),
    hex: b.toString('hex'), HEX: b.toString('hex').toUpperCase(), base64url: b.toString('base64url'),
    basic: Buffer.concat([Buffer.from('dp_user:'), b]).toString('base64'), shifted: Buffer.concat([Buffer.from('ab'), b, Buffer.from('c')]).toString('base64'),
    shell: `'${PASSWORD.replaceAll("'", `'\\''`)}'`, xml: PASSWORD.replaceAll('&', '&amp;').replaceAll('"', '&quot;').replaceAll("'", '&apos;'),
    line: '    CCqGSM49AwEHBG0wawIBAQQg', numbered: '2: MIGHAgEAMBMGByqGSM49AgEG',
  };
  for (const [name, text] of Object.entries(printed)) {
    const after = mask(text, masks);
    assert.ok(after.includes('***'), `${name} is not masked: ${text}`);
  }
  assert.ok(!masks.some(m => m.length < 8), 'nothing short is masked: it would give itself away');
});

test('export-env, and files with mode 0600 that post removes', async t => {
  const world = await newWorld(t);
  const files = 'payments/web-tls#private_key: tls/web.key\nPGPASSWORD: pg.pass\nenv: all.env\nenv-session: session.env';
  fs.writeFileSync(`${world.env.RUNNER_TEMP}/pg.pass`, 'of an earlier step', {mode: 0o644});
  const {code, out} = await run(world, {grants: two, 'export-env': 'true', files});
  assert.equal(code, 0, out);
  assert.deepEqual(readBlocks(world.env.GITHUB_ENV), {PGUSER: 'dp_user', PGPASSWORD: PASSWORD, TLS_KEY: KEY});
  const temp = world.env.RUNNER_TEMP;
  assert.equal(fs.readFileSync(`${temp}/tls/web.key`, 'utf8'), KEY);
  assert.equal(fs.readFileSync(`${temp}/pg.pass`, 'utf8'), PASSWORD);
  assert.match(fs.readFileSync(`${temp}/all.env`, 'utf8'), /^export PGPASSWORD='dp/);
  assert.match(fs.readFileSync(`${temp}/session.env`, 'utf8'), /^export DAYPASS_SESSION_TOKEN='dps_/);
  for (const file of ['tls/web.key', 'pg.pass', 'all.env', 'session.env']) assert.equal(fs.statSync(`${temp}/${file}`).mode & 0o777, 0o600, file);
  await run(world, {}, readBlocks(world.env.GITHUB_STATE));
  for (const file of ['tls/web.key', 'pg.pass', 'all.env', 'session.env']) assert.ok(!fs.existsSync(`${temp}/${file}`), file);
});

test('a single grant brings its values by their names', async t => {
  const world = await newWorld(t);
  await run(world, {grants: 'payments/deploy-db', files: 'password: p'});
  const outputs = readBlocks(world.env.GITHUB_OUTPUT);
  assert.equal(outputs.password, PASSWORD);
  assert.equal(outputs.host, 'db.internal');
  assert.equal(fs.readFileSync(`${world.env.RUNNER_TEMP}/p`, 'utf8'), PASSWORD);
});

test('busy, unavailable and lost answers: one exchange under one key', async t => {
  const world = await newWorld(t);
  const turns = [
    (r, respond) => respond(429, {code: 'rate_limited', detail: 'busy'}, {'retry-after': '1'}),
    (r, respond) => respond(503, {code: 'unavailable', detail: 'away'}),
    r => r.drop(),
    (r, respond) => respond(200, answerFor(['payments/deploy-db'])),
  ];
  const at = [];
  world.exchange = (r, respond) => {
    at.push(Date.now());
    turns.shift()(r, respond);
  };
  const {code, out} = await run(world, {grants: 'payments/deploy-db'});
  assert.equal(code, 0, out);
  assert.equal(at.length, 4);
  assert.ok(at[1] - at[0] >= 1000, 'Retry-After is kept');
  assert.equal(new Set(world.exchanges().map(r => r.headers['idempotency-key'])).size, 1);
});

test('a deadline ends the tries', async t => {
  const world = await newWorld(t);
  world.exchange = (r, respond) => respond(503, {code: 'unavailable', detail: 'away', request_id: 'req_1'}, {'retry-after': '30'});
  const {code, out} = await run(world, {grants: 'payments/deploy-db', timeout: '2'});
  assert.equal(code, 1);
  assert.equal(world.exchanges().length, 1);
  assert.match(out, /^daypass: unavailable: away \[request req_1\]$/m);
});

test('a denial: one line for the matcher, the explanation in the summary, no token', async t => {
  const world = await newWorld(t);
  world.exchange = (r, respond) => respond(403, {
    code: 'not_allowed', detail: `no\n::set-env name=X::y ##[add-path]z ${JOB_TOKEN}`, claims: ['ref', 'environment'], request_id: 'req_01J', grant: 'payments/deploy-db',
  });
  const {code, out} = await run(world, {grants: two});
  assert.equal(code, 3);
  assert.equal(world.exchanges().length, 1, 'a denial is not asked again');
  const matcher = JSON.parse(fs.readFileSync(new URL('../matcher.json', import.meta.url))).problemMatcher[0].pattern[0];
  const found = out.split('\n').map(l => new RegExp(matcher.regexp).exec(l)).filter(Boolean);
  assert.equal(found.length, 1, out);
  assert.equal(found[0][matcher.code], 'not_allowed');
  assert.match(found[0][matcher.message], /claims that did not match: ref, environment/);
  assert.match(out, /^::add-matcher::.*matcher\.json$/m);
  assert.ok(!/^::set-env|##\[add/m.test(out), out);
  const summary = fs.readFileSync(world.env.GITHUB_STEP_SUMMARY, 'utf8');
  assert.match(summary, /Daypass: denied/);
  assert.match(summary, /req&#95;01J/);
  assert.match(summary, /refs\/heads\/&#60;b&#62;&#124;feature/);
  assert.match(summary, /environment \| absent/);
  assert.ok(!summary.includes(JOB_TOKEN) && !shown(out).log.includes(JOB_TOKEN));
  // Nothing was issued, so that nothing is given back.
  await run(world, {}, readBlocks(world.env.GITHUB_STATE));
  assert.equal(world.revoked, 0);
});

test('what fails after the exchange is given back all the same', async t => {
  const world = await newWorld(t);
  const {code, out} = await run(world, {grants: 'payments/deploy-db', files: 'nosuch: x'});
  assert.equal(code, 1);
  assert.match(out, /::error::Daypass: files: there is no value nosuch: there are username, password, host, PGUSER, PGPASSWORD, env, env-session/);
  assert.equal(fs.readFileSync(world.env.GITHUB_OUTPUT, 'utf8'), '');
  await run(world, {}, readBlocks(world.env.GITHUB_STATE));
  assert.equal(world.revoked, 1);
});

test('who sits in the place of a broker sets nothing that a shell obeys', async t => {
  for (const name of ['PATH', 'LD_PRELOAD', 'NODE_OPTIONS', 'GITHUB_TOKEN', 'lower', 'A\nB', 'BASH_ENV', 'DAYPASS_SESSION_TOKEN']) {
    const world = await newWorld(t);
    world.exchange = (r, respond) => {
      const answer = answerFor(['payments/deploy-db']);
      answer.credentials[0].env[name] = 'x';
      respond(200, answer);
    };
    const {code, out} = await run(world, {grants: 'payments/deploy-db', 'export-env': 'true'});
    assert.equal(code, 1, name);
    assert.match(out, /which a grant may not set/);
    assert.equal(fs.readFileSync(world.env.GITHUB_ENV, 'utf8'), '');
  }
});

test('post: a failure is a warning, and a session that has ended is none', async t => {
  const world = await newWorld(t);
  const state = {main: 'true', session: SESSION, url: world.url, files: '[]'};
  world.revoke = (r, respond) => respond(500, {code: 'internal', detail: 'broken'});
  let {code, out} = await run(world, {}, state);
  assert.equal(code, 0);
  assert.match(out, /^::warning::Daypass: the credentials could not be given back/m);
  world.revoke = (r, respond) => respond(401, {code: 'invalid_token', reason: 'expired'});
  ({code, out} = await run(world, {}, state));
  assert.equal(code, 0);
  assert.match(out, /given back already/);
  world.revoke = (r, respond) => respond(401, {code: 'invalid_token', reason: 'malformed'});
  ({code, out} = await run(world, {}, state));
  assert.equal(code, 0);
  assert.match(out, /::warning::/);
});

test('inputs that can\'t be right are refused before a token is asked for', async t => {
  const world = await newWorld(t);
  const wrong = [
    [{grants: ''}, /0 grants/], [{grants: 'nogrant'}, /is no grant/], [{grants: 'a/b 5m more'}, /is no grant/],
    [{grants: 'a/b', 'export-env': 'yes'}, /export-env/], [{grants: 'a/b', files: 'x'}, /VALUE: PATH/],
    [{grants: 'a/b', files: 'x: ../y'}, /below RUNNER_TEMP/], [{grants: 'a/b', files: 'x: /etc/passwd'}, /below RUNNER_TEMP/],
    [{grants: 'a/b', files: 'x: y\nz: ./y'}, /two values/], [{grants: 'a/b', timeout: 'soon'}, /timeout/],
    [{grants: 'a/b\na/c', csr: 'f'}, /one grant/],
  ];
  for (const [inputs, want] of wrong) {
    const {code, out} = await run(world, inputs);
    assert.equal(code, 1, out);
    assert.match(out, want);
  }
  assert.equal(world.requests.length, 0);
});

test('a job that may not ask for a token is told what to add', async t => {
  const world = await newWorld(t);
  delete world.env.ACTIONS_ID_TOKEN_REQUEST_URL;
  const {code, out} = await run(world, {grants: 'a/b'});
  assert.equal(code, 1);
  assert.match(out, /id-token: write/);
});

test('GitHub\'s token endpoint is asked again when it is away', async t => {
  const world = await newWorld(t);
  world.tokenStatus = [503, 200];
  assert.equal((await run(world, {grants: 'payments/deploy-db'})).code, 0);
  world.tokenStatus = [403];
  const {code, out} = await run(world, {grants: 'payments/deploy-db'});
  assert.equal(code, 1);
  assert.match(out, /asking GitHub for a token: status 403/);
});

test('a request for a certificate goes along, a private key never', async t => {
  const world = await newWorld(t);
  const csr = '-----BEGIN CERTIFICATE REQUEST-----\nabc\n-----END CERTIFICATE REQUEST-----\n';
  fs.writeFileSync(world.file('web.csr'), csr);
  fs.writeFileSync(world.file('web.key'), csr + KEY);
  assert.equal((await run(world, {grants: 'payments/web', csr: world.file('web.csr')})).code, 0);
  assert.equal(world.exchanges()[0].body.grants[0].csr, csr);
  const {code, out} = await run(world, {grants: 'payments/web', csr: world.file('web.key')});
  assert.equal(code, 1);
  assert.match(out, /private key, which stays where it is/);
});
