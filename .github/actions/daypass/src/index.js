import {start} from './start.js';

process.exitCode = await start(process.env, process.stdout);
