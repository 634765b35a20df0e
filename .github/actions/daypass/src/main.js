// The step itself: token, exchange, masks, and only then what the workflow sees.
import fs from 'node:fs';
import path from 'node:path';
import {fileURLToPath} from 'node:url';
import {Client, Problem, githubToken} from '../../../../clients/npm/src/index.js';
import {checkAnswer, environmentOf, outputsOf, pick, secretsOf} from './credentials.js';
import {readInputs} from './inputs.js';
import {explain} from './summary.js';

/**
 * @param {import('./runner.js').Runner} runner
 * @returns {Promise<number>} the exit code
 */
export async function main(runner) {
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
