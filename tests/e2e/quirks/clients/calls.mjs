// Makes each call of the file CALLS once, and writes the results to stdout in order.
// Node reads a script from stdin and finds its packages in the working directory. CLIENT_FOLDER is this file's folder.

import { readFileSync } from 'node:fs';
import process from 'node:process';

const PARALLEL = 6;

async function runCall({ model, mode, body, repeats }, handlers, errorFields) {
  const result = { text: '', calls: [], usage: null, finish: null, role: null, chunks: 0, vectors: null, error: null };
  try {
    await handlers[mode](model, body, result, { maxRetries: repeats });
  } catch (error) {
    result.error = errorFields(error);
  }
  return result;
}

// `handlers[mode](model, body, result, { maxRetries })` makes a call; `errorFields(error)` converts an error to JSON.
export async function runAll(handlers, errorFields) {
  const calls = JSON.parse(readFileSync(process.env.CALLS, 'utf8'));
  const results = new Array(calls.length);
  let next = 0;
  async function work() {
    while (next < calls.length) {
      const at = next++;
      results[at] = await runCall(calls[at], handlers, errorFields);
    }
  }
  await Promise.all(Array.from({ length: PARALLEL }, work));
  process.stdout.write(JSON.stringify(results));
}
