// Shared code of the Node runners: run the scenarios of the file INPUT, write their results to stdout.
// Node reads a runner from stdin and finds its packages in the working directory. RUNNERS is the folder of this file.

import { readFileSync } from 'node:fs';
import process from 'node:process';

export const AT_ONCE = 6;

export function errorFields(error) {
  return {
    class: error.constructor.name,
    message: String(error.message ?? JSON.stringify(error)), // the AI SDK throws an event of a stream as it is
    status: error.statusCode ?? error.status ?? null,
    code: error.code ?? null,
    retry_after: error.headers?.get?.('retry-after') ?? null,
    should_retry: error.headers?.get?.('x-should-retry') ?? null,
  };
}

async function run(scenario, handlers, fieldsOf) {
  const result = { text: null, calls: null, finish: null, role: null, models: null, vectors: null, ranks: null, total: null };
  Object.assign(result, { steps: [], invalid: [], checked: 0, error: null });
  try {
    await handlers[scenario.kind](scenario, result);
  } catch (error) {
    result.error = fieldsOf(error);
  }
  return result;
}

// `handlers[kind](scenario, result)` runs a scenario, `atOnce` at a time; `fieldsOf(error)` converts an error to JSON.
export async function runAll(handlers, { fieldsOf = errorFields, atOnce = 1 } = {}) {
  const scenarios = JSON.parse(readFileSync(process.env.INPUT, 'utf8'));
  const results = new Array(scenarios.length);
  let next = 0;
  async function work() {
    while (next < scenarios.length) {
      const at = next++;
      results[at] = await run(scenarios[at], handlers, fieldsOf);
    }
  }
  await Promise.all(Array.from({ length: atOnce }, work));
  process.stdout.write(JSON.stringify(results));
}
