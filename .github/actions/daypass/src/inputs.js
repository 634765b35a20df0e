// What the workflow asks for.
import fs from 'node:fs';
import path from 'node:path';

/** How many grants one exchange may name. */
const MAX_GRANTS = 16;
const MAX_KEY = 16 << 10; // bytes of a request or public key; brokers take less

/** @typedef {{name: string, ttl?: string, csr?: string, public_key?: string}} Grant */
/** @typedef {{value: string, path: string}} File */

/**
 * @param {import('./runner.js').Runner} runner
 */
export function readInputs(runner) {
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
