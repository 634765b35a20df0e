// Made by build.mjs: change the sources, not this file.
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import tls from 'node:tls';
import {fileURLToPath} from 'node:url';
import {randomUUID} from 'node:crypto';

// ---- clients/npm/src/http.js

// One request over HTTP: bounded in time and size, through a proxy where the
// environment names one, and never redirected, since a redirect would carry the
// token to somebody else. fetch does neither proxies nor certificates of one's own
// on the Node versions that runners have.

/** The largest answer that is read, in bytes. */
const MAX_ANSWER = 1 << 20;

/** @param {string} host without a port */
function isLoopback(host) {
  const bare = host.replace(/^\[(.*)\]$/, '$1').toLowerCase();
  return bare === 'localhost' || bare === '::1' || (net.isIPv4(bare) && bare.startsWith('127.'));
}

/**
 * The proxy for an https URL, as curl reads the environment.
 * @param {URL} url
 * @param {Record<string, string | undefined>} env
 * @returns {URL | undefined}
 */
function proxyFor(url, env) {
  if (url.protocol !== 'https:' || isLoopback(url.hostname)) return undefined;
  const text = env.https_proxy || env.HTTPS_PROXY || env.all_proxy || env.ALL_PROXY;
  if (!text) return undefined;
  const host = url.hostname.toLowerCase();
  for (let entry of (env.no_proxy ?? env.NO_PROXY ?? '').split(',')) {
    entry = entry.trim().toLowerCase();
    if (entry === '*') return undefined;
    const [name, port] = entry.split(':');
    if (!name || (port && port !== (url.port || '443'))) continue;
    const suffix = name.replace(/^\*?\.?/, '');
    if (host === suffix || host.endsWith('.' + suffix)) return undefined;
  }
  try {
    return new URL(text.includes('://') ? text : `http://${text}`);
  } catch {
    throw new Error('the proxy that the environment names is no URL'); // which may hold a password
  }
}

/**
 * @typedef {object} Sending
 * @property {string} method
 * @property {URL} url
 * @property {Record<string, string>} headers
 * @property {string} [body]
 * @property {string} [ca] PEM of certificates that are trusted besides the usual ones
 * @property {number} timeout of the whole request, in milliseconds
 * @property {Record<string, string | undefined>} [env] where proxies are read from
 */

/**
 * Sends one request.
 * @param {Sending} sending
 * @returns {Promise<{status: number, headers: http.IncomingHttpHeaders, body: string}>}
 */
async function send({method, url, headers, body, ca, timeout, env = process.env}) {
  const late = AbortSignal.timeout(timeout);
  const trust = ca ? [...tls.rootCertificates, ca] : undefined;
  const options = {
    method, headers: {...headers, 'content-length': String(Buffer.byteLength(body ?? ''))},
    signal: late, agent: false, ca: trust, minVersion: /** @type {const} */ ('TLSv1.2'),
  };
  const proxy = proxyFor(url, env);
  if (proxy) {
    const socket = await tunnel(proxy, url, late);
    const servername = net.isIP(url.hostname) ? '' : url.hostname;
    options.createConnection = () => tls.connect({socket, servername, host: url.hostname, ca: trust, minVersion: 'TLSv1.2'});
  }
  return new Promise((resolve, reject) => {
    const fail = (/** @type {Error} */ err) => reject(late.aborted ? new Error(`no answer from ${url.host} within ${timeout / 1000} s`) : err);
    const request = (url.protocol === 'https:' ? https : http).request(url, options, response => {
      const chunks = [];
      let size = 0;
      response.on('data', chunk => {
        size += chunk.length;
        if (size > MAX_ANSWER) {
          reject(new Error(`the answer has more than ${MAX_ANSWER} bytes`));
          request.destroy();
          return;
        }
        chunks.push(chunk);
      });
      response.on('end', () => resolve({status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(chunks).toString('utf8')}));
      response.on('error', fail);
    });
    request.on('error', fail);
    request.end(body);
  });
}

/**
 * Has a proxy connect to the host of a URL.
 * @param {URL} proxy
 * @param {URL} url
 * @param {AbortSignal} signal
 * @returns {Promise<net.Socket>}
 */
function tunnel(proxy, url, signal) {
  return new Promise((resolve, reject) => {
    const target = `${url.hostname}:${url.port || 443}`;
    /** @type {Record<string, string>} */
    const headers = {host: target};
    if (proxy.username) {
      const user = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`;
      headers['proxy-authorization'] = `Basic ${Buffer.from(user).toString('base64')}`;
    }
    const asking = (proxy.protocol === 'https:' ? https : http).request({
      host: proxy.hostname.replace(/^\[(.*)\]$/, '$1'), port: proxy.port || (proxy.protocol === 'https:' ? 443 : 80),
      method: 'CONNECT', path: target, headers, signal, agent: false,
    });
    asking.on('connect', (response, socket) => {
      if (response.statusCode === 200) {
        resolve(socket);
        return;
      }
      socket.destroy();
      reject(new Error(`the proxy ${proxy.host} answered ${response.statusCode}`));
    });
    asking.on('response', response => {
      response.resume();
      reject(new Error(`the proxy ${proxy.host} answered ${response.statusCode}`));
    });
    asking.on('error', reject);
    asking.end();
  });
}

// ---- clients/npm/src/client.js

// The broker's native API. Calls are tried again when the broker answers 429, 502,
// 503 or 504, or can't be reached: such an answer means that no credential was
// delivered and none stays alive. All tries of an exchange share one
// Idempotency-Key, so that a try whose answer was lost is taken back when the next
// one comes.

/** How many times one call is sent at most. */
const MAX_TRIES = 5;
/** The longest pause that a broker can ask for, in milliseconds. */
const MAX_RETRY_AFTER = 60_000;
/** The largest token, in bytes. */
const MAX_TOKEN = 16 << 10;

const FIRST_PAUSE = 500; // before the second try; twice as long before each further one
const TRY_TIMEOUT = 30_000;
const REPEATED = new Set([429, 502, 503, 504]);

/** A refusal by the broker (RFC 9457), or an answer that can't be its own: code `unexpected_answer`. */
class Problem extends Error {
  /** @param {{status: number, code: string, detail?: string, request_id?: string, reason?: string, claims?: string[], grant?: string}} body */
  constructor(body) {
    super(`${body.code}: ${body.detail ?? ''}`);
    this.name = 'Problem';
    this.status = body.status;
    this.code = body.code;
    this.detail = body.detail ?? '';
    this.requestId = body.request_id ?? '';
    this.reason = body.reason ?? '';
    this.claims = body.claims ?? [];
    this.grant = body.grant ?? '';
  }

  /** Whether the broker said no to this job, as opposed to being unable to answer. */
  get denied() {
    return this.code !== 'unexpected_answer' && (this.status === 401 || this.status === 403 || this.code === 'no_such_grant');
  }
}

/** A broker. It keeps no token, and no error of it ever holds one. */
class Client {
  #base; #ca; #timeout; #userAgent; #env; #sleep; #now; #random;

  /**
   * @param {object} config
   * @param {string} config.url of the broker; plain http on loopback alone
   * @param {string} [config.ca] PEM of certificates that are trusted besides the usual ones
   * @param {number} [config.timeout] of a call with all its tries, in milliseconds
   * @param {string} [config.userAgent]
   * @param {Record<string, string | undefined>} [config.env] where proxies are read from
   * @param {(ms: number) => Promise<void>} [config.sleep] for tests
   * @param {() => number} [config.now] for tests
   * @param {() => number} [config.random] for tests
   */
  constructor({url, ca, timeout = 120_000, userAgent = 'daypass-js', env = process.env, sleep, now = Date.now, random = Math.random}) {
    this.#base = parseURL(url);
    this.#ca = ca;
    this.#timeout = timeout;
    this.#userAgent = userAgent;
    this.#env = env;
    this.#sleep = sleep ?? (ms => new Promise(resolve => setTimeout(resolve, ms)));
    this.#now = now;
    this.#random = random;
  }

  /**
   * Gives a job token (or a session token) for credentials. All or nothing.
   * @param {string} token
   * @param {(string | {name: string, ttl?: string, csr?: string, public_key?: string})[]} grants
   */
  exchange(token, grants) {
    return this.#call({method: 'POST', path: '/v1/exchange', token, body: {grants}, key: randomUUID(), prefer: 'revocation-token'});
  }

  /** What a session token holds. @param {string} token */
  session(token) {
    return this.#call({method: 'GET', path: '/v1/session', token});
  }

  /**
   * Gives back all that was obtained with a session token.
   * @param {string} token
   * @param {string} [reason]
   */
  revokeSession(token, reason) {
    return this.#call({method: 'POST', path: '/v1/session/revoke', token, body: reason ? {reason} : {}});
  }

  /**
   * Gives a lease a later end, within the policy's max_ttl.
   * @param {string} token
   * @param {string} lease
   * @param {string} [ttl] from now, like 10m; the grant's own when absent
   */
  renew(token, lease, ttl) {
    return this.#call({method: 'POST', path: `/v1/leases/${leaseID(lease)}/renew`, token, body: ttl ? {ttl} : {}});
  }

  /**
   * Takes one lease back.
   * @param {string} token
   * @param {string} lease
   * @param {string} [reason]
   */
  revoke(token, lease, reason) {
    return this.#call({method: 'POST', path: `/v1/leases/${leaseID(lease)}/revoke`, token, body: reason ? {reason} : {}});
  }

  /** @param {{method: string, path: string, token: string, body?: object, key?: string, prefer?: string}} call */
  async #call({method, path, token, body, key, prefer}) {
    checkToken(token);
    const url = new URL(this.#base);
    url.pathname = url.pathname.replace(/\/+$/, '') + path;
    /** @type {Record<string, string>} */
    const headers = {authorization: `Bearer ${token}`, accept: 'application/json', 'user-agent': this.#userAgent};
    if (body) headers['content-type'] = 'application/json';
    if (key) headers['idempotency-key'] = key;
    if (prefer) headers.prefer = prefer;
    const deadline = this.#now() + this.#timeout;
    for (let tries = 1; ; tries++) {
      const left = deadline - this.#now();
      let failure, pause;
      try {
        const answer = await send({
          method, url, headers, body: body && JSON.stringify(body), ca: this.#ca, timeout: Math.max(1, Math.min(left, TRY_TIMEOUT)), env: this.#env,
        });
        if (answer.status >= 200 && answer.status < 300) return parseAnswer(answer);
        failure = problemOf(answer, token);
        if (!REPEATED.has(answer.status)) throw failure;
        pause = retryAfter(answer.headers['retry-after'], this.#now());
        if (pause > MAX_RETRY_AFTER) throw failure;
      } catch (err) {
        if (err instanceof Problem || isUntrusted(err)) throw err;
        failure = err; // no answer: the key makes it safe to ask again
      }
      const base = FIRST_PAUSE * 2 ** (tries - 1);
      // Those that were turned away together don't come back together.
      pause = pause ? pause + this.#random() * FIRST_PAUSE : base / 2 + this.#random() * base;
      if (tries >= MAX_TRIES || this.#now() + pause >= deadline) throw failure;
      await this.#sleep(pause);
    }
  }
}

/** Whether whoever answered has no certificate that is trusted, which another try won't change. @param {any} err */
function isUntrusted(err) {
  return typeof err?.code === 'string' && /CERT|SELF_SIGNED|SIGNATURE/.test(err.code);
}

/** @param {string} text */
function parseURL(text) {
  let url;
  try {
    url = new URL(text);
  } catch {
    throw new Error('the URL of the broker is none: it begins with https://HOST');
  }
  if (url.protocol !== 'https:' && !(url.protocol === 'http:' && isLoopback(url.hostname))) {
    throw new Error('the URL of the broker has to begin with https://: plain http is for loopback addresses only');
  }
  if (url.username || url.password || url.search || url.hash) throw new Error('user, query or fragment have no place in the URL of the broker');
  return url;
}

/** @param {string} token */
function checkToken(token) {
  if (!token) throw new Error('the token is empty');
  if (token.length > MAX_TOKEN) throw new Error(`the token has more than ${MAX_TOKEN} bytes`);
  if (!/^[\x21-\x7e]+$/.test(token)) throw new Error('the token holds a space, a line end or what is not ASCII');
}

/** @param {string} id */
function leaseID(id) {
  if (!/^[0-9A-Za-z_-]+$/.test(id)) throw new Error('not the id of a lease: it looks like lse_01J…');
  return id;
}

/** @param {{status: number, body: string}} answer */
function parseAnswer(answer) {
  try {
    return JSON.parse(answer.body);
  } catch { // whose message may quote a value
    throw unexpected(answer.status, 'it is not the JSON that was expected');
  }
}

/**
 * @param {{status: number, headers: import('node:http').IncomingHttpHeaders, body: string}} answer
 * @param {string} token
 */
function problemOf(answer, token) {
  const kind = (answer.headers['content-type'] ?? '').split(';')[0].trim();
  if (kind !== 'application/problem+json') return unexpected(answer.status, 'it is no problem document');
  try {
    const body = JSON.parse(answer.body.replaceAll(token, '[redacted]')); // whatever answered may have echoed it
    if (typeof body.code !== 'string' || !body.code) return unexpected(answer.status, 'it has no code');
    const texts = Object.fromEntries(['detail', 'request_id', 'reason', 'grant'].map(name => [name, typeof body[name] === 'string' ? body[name] : '']));
    const claims = Array.isArray(body.claims) ? body.claims.filter(c => typeof c === 'string') : [];
    return new Problem({...texts, claims, code: body.code, status: answer.status}); // the body's own status is advisory
  } catch {
    return unexpected(answer.status, 'it is not valid JSON');
  }
}

/**
 * @param {number} status
 * @param {string} why
 */
function unexpected(status, why) {
  return new Problem({status, code: 'unexpected_answer', detail: `answer ${status} is not a Daypass broker's: ${why} (hint: check the URL, and proxies on the way)`});
}

/**
 * @param {string | undefined} text seconds, or a date
 * @param {number} now
 */
function retryAfter(text, now) {
  if (!text) return 0;
  if (/^\d+$/.test(text)) return Number(text) * 1000;
  const at = Date.parse(text);
  return Number.isNaN(at) ? 0 : Math.max(0, at - now);
}

// ---- clients/npm/src/github.js

// The ID token of a GitHub Actions job.

const TRIES = 4;
const PAUSE = 500;

/**
 * Asks GitHub for a token of this job, for an audience.
 * @param {string} audience
 * @param {Record<string, string | undefined>} [env]
 * @returns {Promise<string>}
 */
async function githubToken(audience, env = process.env) {
  const address = env.ACTIONS_ID_TOKEN_REQUEST_URL, secret = env.ACTIONS_ID_TOKEN_REQUEST_TOKEN;
  if (!address || !secret) {
    throw new Error('this job may not ask GitHub for a token (hint: add `permissions: {id-token: write}` to the job; workflows started from forks get none)');
  }
  const url = new URL(address);
  if (url.protocol !== 'https:' && !(url.protocol === 'http:' && isLoopback(url.hostname))) {
    throw new Error('ACTIONS_ID_TOKEN_REQUEST_URL is no https URL');
  }
  // What stands in the query already is GitHub's and stays as it is.
  url.search += `${url.search ? '&' : '?'}audience=${encodeURIComponent(audience)}`;
  for (let tries = 1; ; tries++) {
    let failure;
    try {
      const answer = await send({
        method: 'GET', url, timeout: 20_000, env,
        headers: {authorization: `Bearer ${secret}`, accept: 'application/json; api-version=2.0', 'user-agent': 'daypass-js'},
      });
      if (answer.status === 200) return tokenIn(answer.body);
      failure = new Error(`asking GitHub for a token: status ${answer.status}`);
      if (answer.status < 500 && answer.status !== 429) throw Object.assign(failure, {final: true});
    } catch (err) {
      failure = err;
    }
    if (failure.final || tries === TRIES) throw failure;
    await new Promise(resolve => setTimeout(resolve, PAUSE * 2 ** (tries - 1) * (0.5 + Math.random())));
  }
}

/** @param {string} body */
function tokenIn(body) {
  try {
    const {value} = JSON.parse(body);
    checkToken(value);
    return value;
  } catch { // whose message may quote the token
    throw Object.assign(new Error('asking GitHub for a token: the answer holds none'), {final: true});
  }
}

// ---- clients/npm/src/forms.js

// The forms in which a secret turns up in logs: as it is, line by line, and as
// programs encode it.

/**
 * The shortest text that is masked. Shorter ones stand in ordinary text by chance,
 * and masks that appear there would give them away.
 */
const MIN_MASKED = 8;

/**
 * All forms of a value, longest first, without those too short to mask.
 * GitHub's runner itself knows some of them (JSON, XML, URI, three shifts of
 * base64), in its newest versions; it never knows the others (hexadecimal, base64
 * for URLs, forms, shell quotes), and other runners know none.
 * @param {string} value
 * @returns {string[]}
 */
function forms(value) {
  const found = new Set();
  const add = (/** @type {string} */ text) => {
    if (text.length >= MIN_MASKED) found.add(text);
  };
  const lines = value.split(/\r\n|\r|\n/);
  const pieces = lines.length > 1 ? [value, ...lines, ...lines.map(l => l.trim())] : [value];
  for (const piece of pieces) {
    add(piece);
    if (piece.length < MIN_MASKED) continue;
    add(JSON.stringify(piece).slice(1, -1));
    add(JSON.stringify(piece).slice(1, -1).replaceAll('/', '\\/'));
    add(goJSON(piece));
    add(xml(piece));
    add(percent(piece));
    add(percent(piece).replace(/%[0-9A-F]{2}/g, c => c.toLowerCase()));
    add(encodeURI(wellFormed(piece)));
    add(encodeURIComponent(wellFormed(piece)));
    add(percent(piece).replaceAll('%20', '+'));
    add(piece.replaceAll("'", `'\\''`));
    add(piece.replaceAll("'", "''"));
    add(piece.replace(/(["\\$`])/g, '\\$1'));
  }
  const bytes = Buffer.from(value, 'utf8');
  if (bytes.length >= MIN_MASKED) {
    add(bytes.toString('hex'));
    add(bytes.toString('hex').toUpperCase());
    for (const text of base64(bytes)) add(text);
  }
  return [...found].sort((a, b) => b.length - a.length);
}

/** @param {string} text */
const wellFormed = text => Buffer.from(text, 'utf8').toString('utf8');

/** All that isn't unreserved (RFC 3986 §2.3) as %XX. @param {string} text */
function percent(text) {
  return encodeURIComponent(wellFormed(text)).replace(/[!'()*]/g, c => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
}

/** JSON as Go writes it, with <, > and & escaped. @param {string} text */
function goJSON(text) {
  return JSON.stringify(text).slice(1, -1).replace(/[<>&\u2028\u2029]/g, c => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** @param {string} text */
function xml(text) {
  /** @type {Record<string, string>} */
  const names = {'&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&apos;'};
  return text.replace(/[&<>"']/g, c => names[c]);
}

/**
 * What stands in a base64 text wherever the value stands in what was encoded: three
 * shifts, each without the characters that depend on its neighbours; in both
 * alphabets, and whole with and without padding.
 * @param {Buffer} bytes
 */
function base64(bytes) {
  const all = [];
  for (let shift = 0; shift < 3; shift++) {
    const padded = Buffer.concat([Buffer.alloc(shift), bytes]);
    const text = padded.toString('base64').replace(/=+$/, '');
    const from = shift === 0 ? 0 : shift + 1; // characters that hold bits of what stands before
    const to = padded.length % 3 === 0 ? text.length : text.length - 1; // … and behind
    all.push(text.slice(from, to));
  }
  all.push(bytes.toString('base64'));
  return all.flatMap(text => [text, text.replaceAll('+', '-').replaceAll('/', '_')]);
}

// ---- clients/npm/src/index.js



// ---- .github/actions/daypass/src/credentials.js

// What an exchange answered, by the names under which the workflow finds it.

/** @typedef {{grant: string, lease_id: string, expires_at: string, values: Record<string, string>, secret: string[], env: Record<string, string>}} Credential */
/** @typedef {{session: {token: string, revocation_token?: string}, credentials: Credential[]}} Answer */

// What a runner, loader, shell or interpreter obeys: a broker doesn't set these, and
// whoever sits in its place must not be able to.
const OBEYED = /^(LD_|DYLD_|BASH_|GIT_|NPM_|NODE_|GITHUB_|RUNNER_|ACTIONS_|INPUT_|STATE_|CI_|PYTHON|PERL5|RUBY|JAVA_|GO|SSL_|CURL_|DAYPASS_(SESSION|URL|AUDIENCE|TOKEN|CACERT))|^(CI|PATH|ENV|IFS|PS4|HOME|SHELL|SHELLOPTS|TMPDIR|CC|CXX|(HTTPS?|ALL|NO)_PROXY)$/;

/**
 * Refuses what no broker answers.
 * @param {any} answer
 * @param {string[]} asked
 * @returns {Answer}
 */
function checkAnswer(answer, asked) {
  const texts = (/** @type {any} */ o) => o && typeof o === 'object' && Object.values(o).every(v => typeof v === 'string');
  const list = answer?.credentials;
  const good = typeof answer?.session?.token === 'string' && Array.isArray(list) && list.length === asked.length && list.every(c =>
    typeof c?.grant === 'string' && typeof c.lease_id === 'string' && texts(c.values) && texts(c.env) && Array.isArray(c.secret));
  if (!good) throw new Error('the answer of the broker is not what was expected (hint: check the URL, and proxies on the way)');
  for (const credential of list) {
    for (const name of Object.keys(credential.env)) {
      if (!/^[A-Z][A-Z0-9_]*$/.test(name) || OBEYED.test(name)) {
        throw new Error(`the answer for ${credential.grant} sets ${JSON.stringify(name)}, which a grant may not set`);
      }
    }
  }
  return answer;
}

/** All that must not be shown, the session's tokens first. @param {Answer} answer */
function secretsOf(answer) {
  return [answer.session.token, answer.session.revocation_token ?? '', ...answer.credentials.flatMap(c => c.secret.map(name => c.values[name] ?? ''))].filter(Boolean);
}

/** @param {Answer} answer @returns {Record<string, string>} */
function environmentOf(answer) {
  return Object.assign({}, ...answer.credentials.map(c => c.env));
}

/**
 * Outputs: variables by their names, and the values of a single grant by theirs,
 * but where case alone would tell them apart, which GitHub doesn't.
 * @param {Answer} answer
 */
function outputsOf(answer) {
  const outputs = environmentOf(answer);
  const taken = new Set(Object.keys(outputs).map(name => name.toLowerCase()));
  if (answer.credentials.length === 1) {
    for (const [name, value] of Object.entries(answer.credentials[0].values)) {
      if (!taken.has(name.toLowerCase())) outputs[name] = value;
    }
  }
  outputs.leases = answer.credentials.map(c => c.lease_id).join('\n');
  outputs['expires-at'] = answer.credentials.map(c => c.expires_at).sort()[0] ?? '';
  return outputs;
}

/**
 * One value, by the name that `files` has for it.
 * @param {Answer} answer
 * @param {string} name
 */
function pick(answer, name) {
  const env = environmentOf(answer);
  if (name === 'env') return exports(env);
  if (name === 'env-session') return exports({...env, DAYPASS_SESSION_TOKEN: answer.session.token});
  if (Object.hasOwn(env, name)) return env[name];
  const [grant, value] = name.includes('#') ? name.split('#') : [answer.credentials.length === 1 ? answer.credentials[0].grant : '', name];
  const values = answer.credentials.find(c => c.grant === grant)?.values ?? {};
  if (Object.hasOwn(values, value)) return values[value];
  const known = answer.credentials.flatMap(c => Object.keys(c.values).map(v => (answer.credentials.length === 1 ? v : `${c.grant}#${v}`)));
  throw new Error(`files: there is no value ${name}: there are ${[...known, ...Object.keys(env), 'env', 'env-session'].join(', ')}`);
}

/** Lines that any POSIX shell reads, whatever the values hold. @param {Record<string, string>} env */
function exports(env) {
  return Object.keys(env).sort().map(name => `export ${name}='${env[name].replaceAll("'", `'\\''`)}'\n`).join('');
}

// ---- .github/actions/daypass/src/inputs.js

// What the workflow asks for.

/** How many grants one exchange may name. */
const MAX_GRANTS = 16;
const MAX_KEY = 16 << 10; // bytes of a request or public key; brokers take less

/** @typedef {{name: string, ttl?: string, csr?: string, public_key?: string}} Grant */
/** @typedef {{value: string, path: string}} File */

/**
 * @param {import('./runner.js').Runner} runner
 */
function readInputs(runner) {
  const url = runner.input('url') || runner.env.DAYPASS_URL || '';
  if (!url) throw new Error('no broker given (hint: set the input url, or DAYPASS_URL)');
  const exporting = runner.input('export-env') || 'false';
  if (exporting !== 'true' && exporting !== 'false') throw new Error('export-env is "true" or "false"');
  const timeout = Number(runner.input('timeout') || 120);
  if (!(timeout >= 1 && timeout <= 3600)) throw new Error('timeout is a number of seconds from 1 to 3600');
  const caFile = runner.input('cacert') || runner.env.DAYPASS_CACERT || '';
  return {
    url, exportEnv: exporting === 'true', timeout: timeout * 1000,
    audience: runner.input('audience') || runner.env.DAYPASS_AUDIENCE || url,
    ca: caFile ? fs.readFileSync(caFile, 'utf8') : undefined,
    grants: readGrants(runner),
    files: readFiles(runner.input('files'), runner.env.RUNNER_TEMP ?? ''),
  };
}

/**
 * @param {import('./runner.js').Runner} runner
 * @returns {Grant[]}
 */
function readGrants(runner) {
  const ttl = runner.input('ttl');
  const grants = lines(runner.input('grants')).map(line => {
    const [name, own, ...more] = line.split(/\s+/);
    if (!/^[a-z0-9-]+\/[a-z0-9-]+$/.test(name) || more.length > 0) {
      throw new Error(`grants: ${JSON.stringify(line)} is no grant: one POLICY/GRANT a line, and its ttl behind it where it has one`);
    }
    return {name, ...((own || ttl) && {ttl: own || ttl})};
  });
  if (grants.length < 1 || grants.length > MAX_GRANTS) throw new Error(`${grants.length} grants, want 1 to ${MAX_GRANTS}`);
  for (const [input, member, what] of /** @type {const} */ ([['csr', 'csr', 'CERTIFICATE REQUEST'], ['public-key', 'public_key', '']])) {
    const file = runner.input(input);
    if (!file) continue;
    if (grants.length > 1) throw new Error(`${input} goes with one grant`);
    const text = fs.readFileSync(file, 'utf8');
    if (text.includes('PRIVATE KEY')) throw new Error(`${input}: ${file} holds a private key, which stays where it is`);
    if (text.length > MAX_KEY || !text.includes(what)) throw new Error(`${input}: ${file} is not what is expected`);
    grants[0] = {...grants[0], [member]: text};
  }
  return grants;
}

/**
 * Paths lie below the runner's temporary folder, which it empties when the job ends.
 * @param {string} text
 * @param {string} temp
 * @returns {File[]}
 */
function readFiles(text, temp) {
  const found = lines(text).map(line => {
    const [, value, name] = /^([A-Za-z0-9_/#-]+)\s*:\s+(.+)$/.exec(line) ?? [];
    if (!value) throw new Error(`files: ${JSON.stringify(line)} is not of the form VALUE: PATH`);
    if (!temp) throw new Error('files: RUNNER_TEMP is not set: this program is to be started by a runner');
    const full = path.resolve(temp, name);
    const inside = path.relative(path.resolve(temp), full);
    if (!inside || inside.startsWith('..') || path.isAbsolute(inside)) throw new Error(`files: ${name} does not lie below RUNNER_TEMP`);
    return {value, path: full};
  });
  if (new Set(found.map(f => f.path)).size < found.length) throw new Error('files: two values go to one file');
  return found;
}

/** @param {string} text */
const lines = text => text.split(/[\r\n]+/).map(l => l.trim()).filter(l => l && !l.startsWith('#'));

// ---- .github/actions/daypass/src/runner.js

// What an action tells GitHub's runner: lines on standard output, and blocks in
// files that it names. It is the protocol of @actions/core, which a test compares
// this with.

/** The runner that started this program. */
class Runner {
  /**
   * @param {Record<string, string | undefined>} env
   * @param {{write(text: string, done: (err?: Error | null) => void): unknown}} stdout
   */
  constructor(env, stdout) {
    this.env = env;
    this.stdout = stdout;
  }

  /** @param {string} name */
  input(name) {
    return (this.env[`INPUT_${name.replaceAll(' ', '_').toUpperCase()}`] ?? '').trim();
  }

  /** @param {string} name */
  state(name) {
    return this.env[`STATE_${name}`] ?? '';
  }

  /** Writes one line, and returns when it has been written. @param {string} text @returns {Promise<void>} */
  line(text) {
    return new Promise((resolve, reject) => {
      this.stdout.write(text + os.EOL, err => (err ? reject(err) : resolve()));
    });
  }

  /** A line for people: what comes from elsewhere can't end it and begin a command. @param {string} text */
  say(text) {
    return this.line(oneLine(text).replace(/^\s*::/, ': :').replaceAll('##[', '## ['));
  }

  /** @param {string} name @param {string} message */
  command(name, message) {
    return this.line(`::${name}::${message.replaceAll('%', '%25').replaceAll('\r', '%0D').replaceAll('\n', '%0A')}`);
  }

  /** Masks a value in all its forms. @param {string} value */
  async mask(value) {
    for (const form of forms(value)) await this.command('add-mask', form);
  }

  /** @param {string} name @param {string} value */
  saveState(name, value) {
    this.#append('STATE', block(name, value));
  }

  /** @param {string} name @param {string} value */
  setOutput(name, value) {
    this.#append('OUTPUT', block(name, value));
  }

  /** @param {string} name @param {string} value */
  exportVariable(name, value) {
    this.#append('ENV', block(name, value));
  }

  /** Adds Markdown to the job's summary, where the runner has one. @param {string} markdown */
  summarize(markdown) {
    if (this.env.GITHUB_STEP_SUMMARY) this.#append('STEP_SUMMARY', markdown);
  }

  /** @param {string} name @param {string} text */
  #append(name, text) {
    const file = this.env[`GITHUB_${name}`];
    if (!file) throw new Error(`GITHUB_${name} is not set: this program is to be started by a runner`);
    fs.appendFileSync(file, text + os.EOL);
  }
}

/**
 * A value of any content, between lines that stand nowhere in it.
 * @param {string} name
 * @param {string} value
 */
function block(name, value) {
  const delimiter = `daypass_${randomUUID()}`;
  if (!/^[A-Za-z_][A-Za-z0-9_-]*$/.test(name) || value.includes(delimiter)) throw new Error(`${JSON.stringify(name)} can't be set`);
  return `${name}<<${delimiter}${os.EOL}${value}${os.EOL}${delimiter}`;
}

/** @param {string} text */
const oneLine = text => text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, ' ');

// ---- .github/actions/daypass/src/summary.js

// Why a job was denied, for the page that GitHub shows of it.

/** What to do, by the code or reason of a refusal. @type {Record<string, string>} */
const ADVICE = {
  not_allowed: 'No policy gives this to this job. Compare the claims below with the policy, or have an admin run `daypass policy explain --request ID` with the request id: it shows every clause.',
  no_such_grant: 'The policy has no grant of this name. Check its spelling.',
  audience: 'The token was made for another audience. Set the input `audience` to the one in the broker\'s provider entry.',
  issuer: 'The broker knows no provider with this token\'s `iss`. An operator has to add it under `providers`.',
  expired: 'The token had ended when the broker saw it. Check the clocks of broker and runner.',
  not_yet_valid: 'The token was not valid yet when the broker saw it. Check the clocks of broker and runner.',
  replayed: 'This job token was used up: its session was revoked, or another exchange took it. A re-run of the job gets a new one.',
  signature: 'The token\'s signature doesn\'t hold. Check that the broker\'s provider entry names the issuer of this GitHub.',
  invalid_request: 'The request can\'t be right whoever sends it. Check the inputs.',
  rate_limited: 'This job, or the broker, asked too often within a minute.',
  too_many_leases: 'As many credentials of this grant live as its policy allows. Wait until others end, or revoke them.',
  issuer_failed: 'The target of this grant (its database, say) could not be asked for a credential.',
  unavailable: 'The broker can\'t do its work now: its database or its keys are away.',
  unexpected_answer: 'Something else than a broker answered. Check the URL, and proxies on the way.',
};

/**
 * @param {import('../../../../clients/npm/src/index.js').Problem} problem
 * @param {string[]} grants
 * @param {string} token the job's: what it claims may be shown, it may not
 */
function explain(problem, grants, token) {
  const rows = [
    ['grants', problem.grant || grants.join(', ')],
    ['answer', `${problem.status} ${problem.code}`],
    ...(problem.reason ? [['reason', problem.reason]] : []),
    ...(problem.detail ? [['detail', problem.detail]] : []),
    ...(problem.requestId ? [['request id', problem.requestId]] : []),
  ];
  const advice = ADVICE[problem.reason] ?? ADVICE[problem.code] ?? '';
  let text = `### Daypass: ${problem.denied ? 'denied' : 'no credentials'}\n\n${table(['', ''], rows)}\n${advice}\n`;
  const claims = claimsOf(token);
  const shown = problem.claims.length > 0 ? problem.claims : problem.denied ? ['iss', 'aud', 'sub'] : [];
  const said = shown.map(name => [name, Object.hasOwn(claims, name) ? JSON.stringify(claims[name]) : 'absent']);
  if (said.length > 0) {
    text += `\n${problem.claims.length > 0 ? 'Claims that did not match' : 'Claims'}, as this job's token has them:\n\n${table(['claim', 'value'], said)}`;
  }
  return text;
}

/** The payload of a JWT, without any check. @param {string} token @returns {Record<string, unknown>} */
function claimsOf(token) {
  try {
    const claims = JSON.parse(Buffer.from(token.split('.')[1], 'base64url').toString('utf8'));
    return claims && typeof claims === 'object' ? claims : {};
  } catch {
    return {};
  }
}

/** @param {string[]} head @param {string[][]} rows */
function table(head, rows) {
  const row = (/** @type {string[]} */ cells) => `| ${cells.map(cell).join(' | ')} |\n`;
  return row(head) + `|${' --- |'.repeat(head.length)}\n` + rows.map(row).join('');
}

/** Text that neither Markdown nor HTML takes for anything else. @param {string} text */
function cell(text) {
  const short = text.length > 500 ? `${text.slice(0, 500)}…` : text;
  return oneLine(short).replace(/[&<>"'`*_[\]{}()#+!|\\~@:$]/g, c => `&#${c.charCodeAt(0)};`);
}

// ---- .github/actions/daypass/src/main.js

// The step itself: token, exchange, masks, and only then what the workflow sees.

/**
 * @param {import('./runner.js').Runner} runner
 * @returns {Promise<number>} the exit code
 */
async function main(runner) {
  runner.saveState('main', 'true'); // the same program runs once more when the job ends
  await runner.command('add-matcher', fileURLToPath(new URL('../matcher.json', import.meta.url)));
  const inputs = readInputs(runner);
  const names = inputs.grants.map(g => g.name);
  const token = await githubToken(inputs.audience, runner.env);
  await runner.mask(token);
  const client = new Client({url: inputs.url, ca: inputs.ca, timeout: inputs.timeout, env: runner.env, userAgent: 'daypass-action'});
  let answer;
  try {
    answer = await client.exchange(token, inputs.grants);
  } catch (err) {
    if (!(err instanceof Problem)) throw err;
    runner.summarize(explain(err, names, token));
    // The matcher makes an annotation of this line.
    const claims = err.claims.length > 0 ? ` (claims that did not match: ${err.claims.join(', ')})` : '';
    await runner.say(`daypass: ${err.message}${err.reason ? ` (reason: ${err.reason})` : ''}${claims}${err.requestId ? ` [request ${err.requestId}]` : ''}`);
    return err.denied ? 3 : 1;
  }
  // From here on there is something to give back, whatever fails below.
  const {token: session, revocation_token: revocation} = answer?.session ?? {};
  if (typeof session === 'string' && session) {
    // What the runner keeps for the end of the job only gives back, where the broker has that.
    const kept = typeof revocation === 'string' && revocation ? revocation : session;
    for (const secret of new Set([session, kept])) await runner.mask(secret);
    runner.saveState('session', kept);
    runner.saveState('url', inputs.url);
    runner.saveState('ca', inputs.ca ?? '');
  }
  checkAnswer(answer, names);
  for (const secret of secretsOf(answer)) await runner.mask(secret);
  // All that can be masked is masked. Nothing is set above this line.
  const contents = inputs.files.map(file => ({path: file.path, text: pick(answer, file.value)}));
  runner.saveState('files', JSON.stringify(contents.map(file => file.path)));
  for (const file of contents) writeSecret(file.path, file.text);
  for (const [name, value] of Object.entries(outputsOf(answer))) runner.setOutput(name, value);
  if (inputs.exportEnv) {
    for (const [name, value] of Object.entries(environmentOf(answer))) runner.exportVariable(name, value);
  }
  for (const c of answer.credentials) await runner.say(`${c.grant}: lease ${c.lease_id}, until ${c.expires_at} or the end of this job`);
  return 0;
}

/**
 * Writes a file that its owner alone can read from its first byte on, in the place
 * of whatever stood there: a link isn't followed.
 * @param {string} file
 * @param {string} text
 */
function writeSecret(file, text) {
  fs.mkdirSync(path.dirname(file), {recursive: true, mode: 0o700});
  fs.rmSync(file, {force: true});
  fs.writeFileSync(file, text, {mode: 0o600, flag: 'wx'});
}

// ---- .github/actions/daypass/src/post.js

// When the job ends: everything is given back, whether it failed or not.

const TIMEOUT = 30_000;

/**
 * @param {import('./runner.js').Runner} runner
 * @returns {Promise<number>} the exit code
 */
async function post(runner) {
  removeFiles(runner.state('files'));
  const session = runner.state('session');
  if (!session) return 0; // nothing was issued
  await runner.mask(session);
  const client = new Client({url: runner.state('url'), ca: runner.state('ca') || undefined, timeout: TIMEOUT, env: runner.env, userAgent: 'daypass-action'});
  try {
    const answer = await client.revokeSession(session, 'job ended');
    await runner.say(`credentials ${answer.state === 'revoking' ? 'are being taken back by the broker' : 'given back'}`);
  } catch (err) {
    // One that is called malformed came to a broker of the version before, which has no
    // revocation tokens: then nothing was given back.
    if (err instanceof Problem && err.status === 401 && err.reason !== 'malformed') {
      await runner.say('credentials were given back already');
      return 0;
    }
    // The job's work is done, and the credentials end by themselves.
    await runner.command('warning', `Daypass: the credentials could not be given back, and end by themselves: ${err instanceof Error ? err.message : err}`);
  }
  return 0;
}

/** @param {string} list */
function removeFiles(list) {
  try {
    for (const file of JSON.parse(list || '[]')) fs.rmSync(file, {force: true});
  } catch {
    // the runner empties its temporary folder
  }
}

// ---- .github/actions/daypass/src/start.js

// The program that the runner starts: for the step, and again when the job ends.

/**
 * @param {Record<string, string | undefined>} env
 * @param {{write(text: string, done: (err?: Error | null) => void): unknown}} stdout
 * @returns {Promise<number>} the exit code
 */
async function start(env, stdout) {
  const runner = new Runner(env, stdout);
  try {
    return await (runner.state('main') === 'true' ? post(runner) : main(runner));
  } catch (err) {
    await runner.command('error', `Daypass: ${err instanceof Error ? err.message : err}`);
    return 1;
  }
}

// ---- .github/actions/daypass/src/index.js

process.exitCode = await start(process.env, process.stdout);
