export {Client, Problem, MAX_RETRY_AFTER, MAX_TOKEN, MAX_TRIES} from './client.js';
export {githubToken} from './github.js';
export {forms, MIN_MASKED} from './forms.js';
