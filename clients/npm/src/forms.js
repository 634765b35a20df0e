// The forms in which a secret turns up in logs: as it is, line by line, and as
// programs encode it.

/**
 * The shortest text that is masked. Shorter ones stand in ordinary text by chance,
 * and masks that appear there would give them away.
 */
export const MIN_MASKED = 8;

/**
 * All forms of a value, longest first, without those too short to mask.
 * GitHub's runner itself knows some of them (JSON, XML, URI, three shifts of
 * base64), in its newest versions; it never knows the others (hexadecimal, base64
 * for URLs, forms, shell quotes), and other runners know none.
 * @param {string} value
 * @returns {string[]}
 */
export function forms(value) {
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
