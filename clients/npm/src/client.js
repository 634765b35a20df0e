// The broker's native API. Calls are tried again when the broker answers 429, 502,
// 503 or 504, or can't be reached: such an answer means that no credential was
// delivered and none stays alive. All tries of an exchange share one
// Idempotency-Key, so that a try whose answer was lost is taken back when the next
// one comes.
import {randomUUID} from 'node:crypto';
import {isLoopback, send} from './http.js';

/** How many times one call is sent at most. */
export const MAX_TRIES = 5;
/** The longest pause that a broker can ask for, in milliseconds. */
export const MAX_RETRY_AFTER = 60_000;
/** The largest token, in bytes. */
export const MAX_TOKEN = 16 << 10;

const FIRST_PAUSE = 500; // before the second try; twice as long before each further one
const TRY_TIMEOUT = 30_000;
const REPEATED = new Set([429, 502, 503, 504]);

/** A refusal by the broker (RFC 9457), or an answer that can't be its own: code `unexpected_answer`. */
export class Problem extends Error {
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
export class Client {
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
export function checkToken(token) {
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
