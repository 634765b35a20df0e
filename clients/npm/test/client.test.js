import assert from 'node:assert/strict';
import http from 'node:http';
import net from 'node:net';
import {test} from 'node:test';
import {Client, Problem} from '../src/index.js';
import {proxyFor} from '../src/http.js';

/** A server that answers in turn, and the pauses that a client makes. */
async function serve(t, ...turns) {
  const requests = [], pauses = [];
  const server = http.createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    requests.push({method: request.method, url: request.url, headers: request.headers, body});
    const turn = turns.length > 1 ? turns.shift() : turns[0];
    if (turn === 'drop') {
      response.destroy();
      return;
    }
    response.writeHead(turn.status ?? 200, {'content-type': (turn.status ?? 200) < 400 ? 'application/json' : 'application/problem+json', ...turn.headers});
    response.end(turn.text ?? JSON.stringify(turn.body ?? {}));
  });
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve));
  t.after(() => server.close());
  const url = `http://127.0.0.1:${server.address().port}/base`;
  let clock = 0;
  const client = new Client({url, env: {}, now: () => clock, random: () => 0.5, sleep: async ms => {
    pauses.push(ms);
    clock += ms;
  }});
  return {client, requests, pauses, url};
}

const busy = (status, headers) => ({status, headers, body: {code: 'unavailable', detail: 'busy', request_id: 'req_1'}});

test('paths and bodies', async t => {
  const {client, requests} = await serve(t, {body: {state: 'revoked'}});
  await client.exchange('tok', ['a/b', {name: 'a/c', ttl: '5m'}]);
  await client.session('tok');
  await client.revokeSession('tok', 'done');
  await client.renew('tok', 'lse_1', '5m');
  await client.revoke('tok', 'lse_1');
  assert.deepEqual(requests.map(r => `${r.method} ${r.url} ${r.body}`), [
    'POST /base/v1/exchange {"grants":["a/b",{"name":"a/c","ttl":"5m"}]}',
    'GET /base/v1/session ',
    'POST /base/v1/session/revoke {"reason":"done"}',
    'POST /base/v1/leases/lse_1/renew {"ttl":"5m"}',
    'POST /base/v1/leases/lse_1/revoke {}',
  ]);
  assert.ok(requests.every(r => r.headers.authorization === 'Bearer tok'));
  assert.deepEqual(requests.map(r => r.headers.prefer), ['revocation-token', undefined, undefined, undefined, undefined]);
  assert.ok(requests[0].headers['idempotency-key'] && !requests[1].headers['idempotency-key']);
  await assert.rejects(async () => client.revoke('tok', '../x'), /id of a lease/);
});

test('429, 502, 503, 504 and lost answers are asked again, with pauses that grow', async t => {
  const {client, requests, pauses} = await serve(t, busy(502), busy(503), 'drop', busy(504), {body: {ok: 1}});
  assert.deepEqual(await client.exchange('tok', ['a/b']), {ok: 1});
  assert.equal(new Set(requests.map(r => r.headers['idempotency-key'])).size, 1);
  assert.deepEqual(pauses, [500, 1000, 2000, 4000]);
});

test('five tries are the most', async t => {
  const {client, requests} = await serve(t, busy(503));
  await assert.rejects(() => client.exchange('tok', ['a/b']), err => err instanceof Problem && err.code === 'unavailable' && err.requestId === 'req_1');
  assert.equal(requests.length, 5);
});

test('Retry-After is kept, in seconds and as a date; one that is too long ends it', async t => {
  const {client, pauses} = await serve(t, busy(429, {'retry-after': '7'}), busy(503, {'retry-after': new Date(30_000).toUTCString()}), {});
  await client.session('tok');
  assert.deepEqual(pauses, [7250, 30_000 - 7250 + 250]);
  const long = await serve(t, busy(429, {'retry-after': '61'}));
  await assert.rejects(() => long.client.session('tok'), Problem);
  assert.equal(long.requests.length, 1);
});

test('nothing else is asked again', async t => {
  for (const status of [400, 401, 403, 404, 409, 500]) {
    const {client, requests} = await serve(t, {status, body: {code: 'x'}});
    await assert.rejects(() => client.session('tok'), Problem);
    assert.equal(requests.length, 1, String(status));
  }
});

test('no error holds the token, whoever answers', async t => {
  for (const turn of [
    {status: 403, body: {code: 'not_allowed', detail: 'secret-token said no'}}, {status: 403, headers: {'content-type': 'text/html'}, text: '<p>secret-token'},
    {status: 200, text: 'secret-token {'}, {status: 302, headers: {location: 'http://127.0.0.1:1/secret-token'}}, {status: 403, text: '{"code": "secret-token'},
  ]) {
    const {client, requests} = await serve(t, turn);
    await assert.rejects(() => client.session('secret-token'), err => err instanceof Problem && !JSON.stringify([err, err.message, err.stack]).includes('secret-token'));
    assert.equal(requests.length, 1, 'redirects are not followed');
  }
  const {client} = await serve(t, {});
  for (const token of ['', 'a b', 'a\nb', 'ü', 'x'.repeat((16 << 10) + 1)]) await assert.rejects(() => client.session(token), /the token/);
});

test('what is larger than an answer may be is not read to its end', async t => {
  const {url} = await serve(t, {text: 'x'.repeat((1 << 20) + 1)});
  const client = new Client({url, env: {}, timeout: 3000, sleep: async () => {}, now: Date.now});
  await assert.rejects(() => client.session('tok'), /more than 1048576 bytes/);
});

test('plain http is for loopback', () => {
  for (const url of ['http://broker.example.com', 'ftp://x', 'nothing', 'https://u:p@x', 'https://x/?q']) assert.throws(() => new Client({url}), /URL of the broker/);
  for (const url of ['http://localhost:1', 'http://127.0.0.1', 'http://[::1]:1', 'https://broker.example.com/base']) new Client({url});
});

test('proxies are those that curl would take', () => {
  const of = (url, env) => proxyFor(new URL(url), env)?.href;
  assert.equal(of('https://a.example.com', {https_proxy: 'proxy:3128'}), 'http://proxy:3128/');
  assert.equal(of('https://a.example.com', {HTTPS_PROXY: 'http://proxy:3128', NO_PROXY: 'b.com, .example.com'}), undefined);
  assert.equal(of('https://a.example.com', {HTTPS_PROXY: 'http://proxy:3128', NO_PROXY: 'ample.com'}), 'http://proxy:3128/');
  assert.equal(of('https://a.example.com:8443', {HTTPS_PROXY: 'http://proxy:3128', NO_PROXY: 'a.example.com:443'}), 'http://proxy:3128/');
  assert.equal(of('https://a.example.com', {HTTPS_PROXY: 'http://proxy:3128', NO_PROXY: '*'}), undefined);
  assert.equal(of('https://127.0.0.1', {HTTPS_PROXY: 'http://proxy:3128'}), undefined);
  assert.throws(() => of('https://a.example.com', {HTTPS_PROXY: 'http://u:secret@[x'}), err => !err.message.includes('secret'));
});

test('a proxy is asked to connect, and what it says when it refuses is told', async t => {
  const asked = [];
  const proxy = net.createServer(socket => socket.once('data', data => {
    asked.push(data.toString());
    socket.end('HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n');
  }));
  await new Promise(resolve => proxy.listen(0, '127.0.0.1', resolve));
  t.after(() => proxy.close());
  const env = {https_proxy: `http://user:p%40ss@127.0.0.1:${proxy.address().port}`};
  const client = new Client({url: 'https://broker.example.com', env, sleep: async () => {}});
  await assert.rejects(() => client.session('tok'), /the proxy 127\.0\.0\.1:\d+ answered 407/);
  assert.match(asked[0], /^CONNECT broker\.example\.com:443 HTTP\/1\.1\r\n/);
  assert.match(asked[0], new RegExp(`proxy-authorization: Basic ${Buffer.from('user:p@ss').toString('base64')}`, 'i'));
  assert.ok(!asked.join('').includes('tok\r'), 'the token stays within the tunnel');
});
