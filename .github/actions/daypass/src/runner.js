// What an action tells GitHub's runner: lines on standard output, and blocks in
// files that it names. It is the protocol of @actions/core, which a test compares
// this with.
import {randomUUID} from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import {forms} from '../../../../clients/npm/src/index.js';

/** The runner that started this program. */
export class Runner {
  /**
   * @param {Record<string, string | undefined>} env
   * @param {{write(text: string, done: (err?: Error | null) => void): unknown}} stdout
   */
  constructor(env, stdout) {
    this.env = env;
    this.stdout = stdout;
  }

  /** @param {string} name */
  input(name) {
    return (this.env[`INPUT_${name.replaceAll(' ', '_').toUpperCase()}`] ?? '').trim();
  }

  /** @param {string} name */
  state(name) {
    return this.env[`STATE_${name}`] ?? '';
  }

  /** Writes one line, and returns when it has been written. @param {string} text @returns {Promise<void>} */
  line(text) {
    return new Promise((resolve, reject) => {
      this.stdout.write(text + os.EOL, err => (err ? reject(err) : resolve()));
    });
  }

  /** A line for people: what comes from elsewhere can't end it and begin a command. @param {string} text */
  say(text) {
    return this.line(oneLine(text).replace(/^\s*::/, ': :').replaceAll('##[', '## ['));
  }

  /** @param {string} name @param {string} message */
  command(name, message) {
    return this.line(`::${name}::${message.replaceAll('%', '%25').replaceAll('\r', '%0D').replaceAll('\n', '%0A')}`);
  }

  /** Masks a value in all its forms. @param {string} value */
  async mask(value) {
    for (const form of forms(value)) await this.command('add-mask', form);
  }

  /** @param {string} name @param {string} value */
  saveState(name, value) {
    this.#append('STATE', block(name, value));
  }

  /** @param {string} name @param {string} value */
  setOutput(name, value) {
    this.#append('OUTPUT', block(name, value));
  }

  /** @param {string} name @param {string} value */
  exportVariable(name, value) {
    this.#append('ENV', block(name, value));
  }

  /** Adds Markdown to the job's summary, where the runner has one. @param {string} markdown */
  summarize(markdown) {
    if (this.env.GITHUB_STEP_SUMMARY) this.#append('STEP_SUMMARY', markdown);
  }

  /** @param {string} name @param {string} text */
  #append(name, text) {
    const file = this.env[`GITHUB_${name}`];
    if (!file) throw new Error(`GITHUB_${name} is not set: this program is to be started by a runner`);
    fs.appendFileSync(file, text + os.EOL);
  }
}

/**
 * A value of any content, between lines that stand nowhere in it.
 * @param {string} name
 * @param {string} value
 */
function block(name, value) {
  const delimiter = `daypass_${randomUUID()}`;
  if (!/^[A-Za-z_][A-Za-z0-9_-]*$/.test(name) || value.includes(delimiter)) throw new Error(`${JSON.stringify(name)} can't be set`);
  return `${name}<<${delimiter}${os.EOL}${value}${os.EOL}${delimiter}`;
}

/** @param {string} text */
export const oneLine = text => text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, ' ');
