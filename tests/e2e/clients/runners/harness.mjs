// What the runners for Node share: the cases of the file in CASES, one after the other; what was result goes to stdout.
// Runners find this in the folder BESIDE, for they come through stdin, where Node looks for their packages.

import { readFileSync } from 'node:fs';
import process from 'node:process';

// `handlers[kind](scenario, result)` plays a case; `errorFields(error)` is what can be read of an error.
export async function runAll(handlers, errorFields) {
  const results = [];
  for (const scenario of JSON.parse(readFileSync(process.env.SCENARIOS, 'utf8'))) {
    const result = { text: null, calls: null, finish: null, models: null, vectors: null, ranks: null, total: null };
    Object.assign(result, { invalid: [], checked: 0, error: null });
    try {
      await handlers[scenario.kind](scenario, result);
    } catch (error) {
      result.error = errorFields(error);
    }
    results.push(result);
  }
  process.stdout.write(JSON.stringify(results));
}
