'use strict';
// What tests/applications/client.py is for Python: node client.js MODULE, with prepare(), perform(number) and finish().
// Rounds go on until standard input ends; each answer is one line of JSON. An exception or an unheard `error` event
// anywhere ends the process with a status.

const path = require('node:path');

const WITHIN = 30; // seconds

async function until(condition) {
  const deadline = Date.now() + WITHIN * 1000;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`not within ${WITHIN} seconds: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

function say(answer) {
  process.stdout.write(JSON.stringify(answer ?? null) + '\n');
}

async function main(name) {
  const application = require(path.join(__dirname, name));
  let ended = false;
  process.stdin.on('end', () => { ended = true; }).resume();
  say(await application.prepare());
  for (let number = 0; !ended; number++) say(await application.perform(number));
  say(await application.finish());
}

module.exports = { WITHIN, until };
if (require.main === module) {
  main(process.argv[2]).catch((error) => {
    console.error(error);
    process.exit(1);
  });
}
