// What the action needs around it: GitHub's token endpoint, a broker that writes
// down what it is asked, and a runner's folder with the files that it reads back.
import {spawn} from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import {fileURLToPath} from 'node:url';
import {start} from '../src/start.js';

export const PROGRAM = fileURLToPath(new URL('../dist/index.js', import.meta.url));
export const PASSWORD = 'dpp_pass/word+with \'quotes\' & "more"';
export const KEY = '-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEG\n  CCqGSM49AwEHBG0wawIBAQQg\n-----END PRIVATE KEY-----\n';
export const SESSION = 'dps_session-token-of-the-fake';
export const REVOCATION = 'dpr_revocation-token-of-the-fake';
export const JOB_TOKEN = `e30.${Buffer.from(JSON.stringify({iss: 'https://issuer', aud: 'x', sub: 'repo:a/b', ref: 'refs/heads/<b>|feature'})).toString('base64url')}.c2ln`;

/** An answer as a broker gives it. */
export function answerFor(grants) {
  return {
    session: {id: 'ses_1', token: SESSION, revocation_token: REVOCATION, expires_at: '2026-11-23T11:00:00Z'},
    credentials: grants.map((grant, i) => ({
      grant, lease_id: `lse_${i}`, issuer: 'db', kind: 'postgres', revocation: 'immediate', expires_at: `2026-11-23T10:0${9 - i}:00Z`, renewable: true,
      values: i === 0 ? {username: 'dp_user', password: PASSWORD, host: 'db.internal'} : {private_key: KEY, certificate: 'public'},
      secret: i === 0 ? ['password'] : ['private_key'],
      env: i === 0 ? {PGUSER: 'dp_user', PGPASSWORD: PASSWORD} : {TLS_KEY: KEY},
    })),
    redaction: {patterns: []},
  };
}

/** Starts a server that is the token endpoint and the broker. Tests replace `exchange`. */
export async function newWorld(t) {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'daypass-action-'));
  t.after(() => fs.rmSync(dir, {recursive: true, force: true}));
  const world = {
    dir, requests: [], revoked: 0, tokenStatus: [200],
    exchange: (request, respond) => respond(200, answerFor(request.body.grants.map(g => g.name))),
    revoke: (request, respond) => respond(200, {state: 'revoked'}),
  };
  const server = http.createServer(async (request, response) => {
    let text = '';
    for await (const chunk of request) text += chunk;
    const seen = {method: request.method, url: request.url, headers: request.headers, body: text ? JSON.parse(text) : undefined};
    world.requests.push(seen);
    const respond = (status, body, headers = {}) => {
      const kind = status < 400 ? 'application/json' : 'application/problem+json';
      response.writeHead(status, {'content-type': kind, ...headers});
      response.end(JSON.stringify(body));
    };
    seen.drop = () => response.destroy();
    if (request.url.startsWith('/token')) {
      const status = world.tokenStatus.length > 1 ? world.tokenStatus.shift() : world.tokenStatus[0];
      respond(status, status === 200 ? {count: 1, value: JOB_TOKEN} : {});
    } else if (request.url === '/v1/exchange') {
      world.exchange(seen, respond);
    } else if (request.url === '/v1/session/revoke') {
      world.revoked++;
      world.revoke(seen, respond);
    } else {
      respond(404, {code: 'not_found'});
    }
  });
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  world.url = `http://127.0.0.1:${server.address().port}`;
  world.file = name => path.join(dir, name);
  world.env = {
    PATH: process.env.PATH, RUNNER_TEMP: world.file('temp'), DAYPASS_URL: world.url, DAYPASS_AUDIENCE: 'https://ci.example.com/a b',
    ACTIONS_ID_TOKEN_REQUEST_URL: `${world.url}/token?api-version=2.0`, ACTIONS_ID_TOKEN_REQUEST_TOKEN: 'runner-token',
  };
  fs.mkdirSync(world.file('temp'));
  for (const name of ['OUTPUT', 'ENV', 'STATE', 'STEP_SUMMARY']) {
    world.env[`GITHUB_${name}`] = world.file(name);
    fs.writeFileSync(world.file(name), '');
  }
  world.exchanges = () => world.requests.filter(r => r.url === '/v1/exchange');
  return world;
}

function environment(world, inputs, state) {
  const env = {...world.env};
  for (const [name, value] of Object.entries(inputs)) env[`INPUT_${name.toUpperCase()}`] = value;
  for (const [name, value] of Object.entries(state)) env[`STATE_${name}`] = value;
  return env;
}

/** Runs the step, or with a state what follows the job, in this process. */
export async function run(world, inputs = {}, state = {}) {
  let out = '';
  const code = await start(environment(world, inputs, state), {write: (text, done) => {
    out += text;
    done();
  }});
  return {code, out};
}

/** Runs the built program as a runner does. */
export function runBuilt(world, inputs = {}, state = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [PROGRAM], {env: environment(world, inputs, state), stdio: ['ignore', 'pipe', 'pipe']});
    let out = '';
    child.stdout.on('data', chunk => (out += chunk));
    child.stderr.on('data', chunk => (out += chunk));
    child.on('error', reject);
    child.on('close', code => resolve({code, out}));
  });
}

/** Reads one of the runner's files as the runner does. */
export function readBlocks(file) {
  const found = {};
  const lines = fs.readFileSync(file, 'utf8').split('\n');
  for (let i = 0; i < lines.length; i++) {
    if (lines[i] === '') continue;
    const [name, delimiter] = lines[i].split('<<');
    const end = lines.indexOf(delimiter, i + 1);
    if (!delimiter || end < 0) throw new Error(`not a block: ${lines[i]}`);
    found[name] = lines.slice(i + 1, end).join('\n');
    i = end;
  }
  return found;
}

/** A log as the runner shows it: commands done, what was masked replaced. */
export function shown(out) {
  const masks = [];
  let log = '';
  for (const line of out.split('\n')) {
    if (line.startsWith('::add-mask::')) {
      masks.push(line.slice(12).replaceAll('%0A', '\n').replaceAll('%0D', '\r').replaceAll('%25', '%'));
    } else {
      log += mask(line, masks) + '\n';
    }
  }
  return {masks, log};
}

export function mask(text, masks) {
  for (const value of [...masks].sort((a, b) => b.length - a.length)) text = text.replaceAll(value, '***');
  return text;
}
