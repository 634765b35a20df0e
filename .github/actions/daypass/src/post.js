// When the job ends: everything is given back, whether it failed or not.
import fs from 'node:fs';
import {Client, Problem} from '../../../../clients/npm/src/index.js';

const TIMEOUT = 30_000;

/**
 * @param {import('./runner.js').Runner} runner
 * @returns {Promise<number>} the exit code
 */
export async function post(runner) {
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
