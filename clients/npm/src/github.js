// The ID token of a GitHub Actions job.
import {isLoopback, send} from './http.js';
import {checkToken} from './client.js';

const TRIES = 4;
const PAUSE = 500;

/**
 * Asks GitHub for a token of this job, for an audience.
 * @param {string} audience
 * @param {Record<string, string | undefined>} [env]
 * @returns {Promise<string>}
 */
export async function githubToken(audience, env = process.env) {
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
