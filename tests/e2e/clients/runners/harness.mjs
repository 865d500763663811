// Shared code of the Node runners: run the scenarios of the file SCENARIOS, write their results to stdout.
// Node reads a runner from stdin and finds its packages in the working directory. RUNNERS is the folder of this file.

import { readFileSync } from 'node:fs';
import process from 'node:process';

// `handlers[kind](scenario, result)` runs a scenario; `errorFields(error)` converts an error to JSON.
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
