// Asks all models at once with the `openai` client for Node and its own retries; see own_retries.py.

import process from 'node:process';

import OpenAI from 'openai';

const chats = new OpenAI().chat.completions;

async function outcome(model) {
  try {
    const answer = await chats.create({ model, messages: [{ role: 'user', content: 'Hi' }] });
    return [model, answer.choices[0].message.content ? '' : 'no text'];
  } catch (error) {
    return [model, error.constructor.name];
  }
}

const outcomes = await Promise.all(process.argv.slice(2).map(outcome));
process.stdout.write(JSON.stringify(Object.fromEntries(outcomes)));
