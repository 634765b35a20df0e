// One request over HTTP: bounded in time and size, through a proxy where the
// environment names one, and never redirected, since a redirect would carry the
// token to somebody else. fetch does neither proxies nor certificates of one's own
// on the Node versions that runners have.
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import tls from 'node:tls';

/** The largest answer that is read, in bytes. */
export const MAX_ANSWER = 1 << 20;

/** @param {string} host without a port */
export function isLoopback(host) {
  const bare = host.replace(/^\[(.*)\]$/, '$1').toLowerCase();
  return bare === 'localhost' || bare === '::1' || (net.isIPv4(bare) && bare.startsWith('127.'));
}

/**
 * The proxy for an https URL, as curl reads the environment.
 * @param {URL} url
 * @param {Record<string, string | undefined>} env
 * @returns {URL | undefined}
 */
export function proxyFor(url, env) {
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
export async function send({method, url, headers, body, ca, timeout, env = process.env}) {
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
