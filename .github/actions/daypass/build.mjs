// Makes dist/index.js of the sources: their text one after the other, without the
// imports among them. So what runs is what can be read, no program from a registry
// has touched it, and any Node makes the same bytes. `--check` compares only.
//
// What the sources keep to, and this program checks: imports stand at the top, one
// a line, by names; modules of Node by their default or by names; no name is
// declared at the top of two files.
import fs from 'node:fs';
import path from 'node:path';
import {fileURLToPath} from 'node:url';

const here = path.dirname(fileURLToPath(import.meta.url));
const out = path.join(here, 'dist/index.js');
const root = path.resolve(here, '../../..');

const node = new Set();
const declared = new Map();
const bodies = [];
const seen = new Set();

function add(file) {
  if (seen.has(file)) return;
  seen.add(file);
  const name = path.relative(root, file).replaceAll(path.sep, '/');
  const body = [];
  for (const line of fs.readFileSync(file, 'utf8').split('\n')) {
    const from = /^(?:import|export) (.+) from '([^']+)';$/.exec(line);
    if (from?.[2].startsWith('node:')) {
      node.add(line);
    } else if (from) {
      if (/ as |\*/.test(from[1])) throw new Error(`${name}: ${line}: import by names`);
      add(path.resolve(path.dirname(file), from[2]));
    } else if (/^(import|export default|export \{)/.test(line)) {
      throw new Error(`${name}: ${line}: can't be joined`);
    } else {
      const top = /^(?:export )?(?:async )?(?:const|let|class|function) ([A-Za-z0-9_]+)/.exec(line);
      if (top && declared.has(top[1])) throw new Error(`${top[1]} is declared by ${declared.get(top[1])} and ${name}`);
      if (top) declared.set(top[1], name);
      body.push(line.replace(/^export /, ''));
    }
  }
  bodies.push(`// ---- ${name}\n\n${body.join('\n').trim()}\n`);
}

add(path.join(here, 'src/index.js'));
const text = `// Made by build.mjs: change the sources, not this file.\n${[...node].sort().join('\n')}\n\n${bodies.join('\n')}`;
if (process.argv.includes('--check')) {
  if (fs.readFileSync(out, 'utf8') !== text) {
    console.error('dist/index.js is not what the sources make (hint: node .github/actions/daypass/build.mjs)');
    process.exit(1);
  }
} else {
  fs.mkdirSync(path.dirname(out), {recursive: true});
  fs.writeFileSync(out, text);
}
