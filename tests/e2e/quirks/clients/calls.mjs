// The calls that the file in CALLS lists: each is made once, what was result of each goes to stdout, in order.
// Scripts find this in the folder BESIDE, for they come through stdin, where Node looks for their packages.

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

// `handlers[mode](model, body, result, { maxRetries })` makes a call; `errorFields(error)` is what a person or a program can read of an error.
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
