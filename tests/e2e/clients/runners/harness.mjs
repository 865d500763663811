// What the runners for Node share: the cases of the file in CASES, one after the other; what was seen goes to stdout.
// Runners find this in the folder BESIDE, for they come through stdin, where Node looks for their packages.

import { readFileSync } from 'node:fs';
import process from 'node:process';

// `ways[kind](told, seen)` plays a case; `complaint(error)` is what can be read of an error.
export async function play(ways, complaint) {
  const results = [];
  for (const told of JSON.parse(readFileSync(process.env.CASES, 'utf8'))) {
    const seen = { text: null, calls: null, finish: null, models: null, vectors: null, ranks: null, total: null };
    Object.assign(seen, { invalid: [], checked: 0, error: null });
    try {
      await ways[told.kind](told, seen);
    } catch (error) {
      seen.error = complaint(error);
    }
    results.push(seen);
  }
  process.stdout.write(JSON.stringify(results));
}
