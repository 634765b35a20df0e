// Why a job was denied, for the page that GitHub shows of it.
import {oneLine} from './runner.js';

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
export function explain(problem, grants, token) {
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
export function claimsOf(token) {
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
