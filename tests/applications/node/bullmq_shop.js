'use strict';
// What the two sides of the BullMQ application share. All keys of BullMQ lie in one slot: its scripts use many of them.

const Redis = require('ioredis');

const { hostname, port } = new URL(process.env.APPLICATION_URL);
const connection = { host: hostname, port: Number(port) };
const options = { connection, prefix: process.env.BULLMQ_PREFIX };

let counting;

// Each task leaves a trace as in tests/applications/counting.py.
async function trace(command, key, ...values) {
  counting ??= new Redis(connection);
  return await counting[command](key, ...values);
}

const count = (name) => trace('incr', `ran:${name}`);
const append = (name, value) => trace('rpush', `order:${name}`, value);
const stop = () => counting?.quit();

module.exports = { options, count, append, trace, stop };
