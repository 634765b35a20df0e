// The program that the runner starts: for the step, and again when the job ends.
import {main} from './main.js';
import {post} from './post.js';
import {Runner} from './runner.js';

/**
 * @param {Record<string, string | undefined>} env
 * @param {{write(text: string, done: (err?: Error | null) => void): unknown}} stdout
 * @returns {Promise<number>} the exit code
 */
export async function start(env, stdout) {
  const runner = new Runner(env, stdout);
  try {
    return await (runner.state('main') === 'true' ? post(runner) : main(runner));
  } catch (err) {
    await runner.command('error', `Daypass: ${err instanceof Error ? err.message : err}`);
    return 1;
  }
}
