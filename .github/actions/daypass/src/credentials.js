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
export function checkAnswer(answer, asked) {
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
export function secretsOf(answer) {
  return [answer.session.token, answer.session.revocation_token ?? '', ...answer.credentials.flatMap(c => c.secret.map(name => c.values[name] ?? ''))].filter(Boolean);
}

/** @param {Answer} answer @returns {Record<string, string>} */
export function environmentOf(answer) {
  return Object.assign({}, ...answer.credentials.map(c => c.env));
}

/**
 * Outputs: variables by their names, and the values of a single grant by theirs,
 * but where case alone would tell them apart, which GitHub doesn't.
 * @param {Answer} answer
 */
export function outputsOf(answer) {
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
export function pick(answer, name) {
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
