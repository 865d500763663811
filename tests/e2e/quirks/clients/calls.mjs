// The calls that the file in CALLS lists: each is made once, what was seen of each goes to stdout, in order.
// Scripts find this in the folder BESIDE, for they come through stdin, where Node looks for their packages.

import { readFileSync } from 'node:fs';
import process from 'node:process';

const PARALLEL = 6;

async function seenOf({ model, way, body, repeats }, ways, complaint) {
  const seen = { text: '', calls: [], usage: null, finish: null, role: null, chunks: 0, vectors: null, error: null };
  try {
    await ways[way](model, body, seen, { maxRetries: repeats });
  } catch (error) {
    seen.error = complaint(error);
  }
  return seen;
}

// `ways[way](model, body, seen, { maxRetries })` makes a call; `complaint(error)` is what a person or a program can read of an error.
export async function makeAll(ways, complaint) {
  const calls = JSON.parse(readFileSync(process.env.CALLS, 'utf8'));
  const results = new Array(calls.length);
  let next = 0;
  async function work() {
    while (next < calls.length) {
      const at = next++;
      results[at] = await seenOf(calls[at], ways, complaint);
    }
  }
  await Promise.all(Array.from({ length: PARALLEL }, work));
  process.stdout.write(JSON.stringify(results));
}
