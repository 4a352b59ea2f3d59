'use strict';
// What programs do with node-redis, as tests/applications/redis_py_app.py does it with redis-py. REDIS_PROTOCOL says
// which protocol is asked for, else it is the library's default.

const assert = require('node:assert/strict');
const { createClient, defineScript, WatchError } = require('redis');
const { WITHIN, until } = require('./client.js');

const KIND = 'node-redis';
const TEXTS = 8;
const url = process.env.APPLICATION_URL.split('?')[0];
const options = process.env.REDIS_PROTOCOL ? { RESP: Number(process.env.REDIS_PROTOCOL) } : {};
const places = [...Array(TEXTS).keys()];
let client, waiting, listening;

const add = defineScript({
  NUMBER_OF_KEYS: 1,
  SCRIPT: "return redis.call('INCRBY', KEYS[1], ARGV[1])",
  parseCommand(parser, key, amount) {
    parser.pushKey(key);
    parser.push(String(amount));
  },
  transformReply: (reply) => reply,
});

async function connect() {
  const connected = createClient({ url, scripts: { add }, ...options });
  connected.on('error', (error) => { throw error; });
  return await connected.connect();
}

exports.prepare = async () => {
  [client, waiting, listening] = [await connect(), await connect(), await connect()];
  await client.xGroupCreate(`${KIND}:stream`, 'group', '0', { MKSTREAM: true });
  return require('redis/package.json').version;
};

exports.perform = async (number) => {
  const popped = pop();
  await pipelines(number);
  await push();
  await transactions(number);
  await watching();
  assert.equal(await client.add(`ran:${KIND}:script`, 3), 3 * number + 3);
  await streams();
  await values(number);
  if (process.env.APPLICATION_SUBSCRIBES) await subscriptions();
  await popped;
};

async function pipelines(number) {
  const shown = `${number}!`;
  const calls = places.flatMap((place) => {
    const text = `${KIND}:text:${place}`;
    return [client.incr(`ran:${KIND}:pipe:${place}`), client.set(text, number), client.append(text, '!'), client.get(text)];
  });
  assert.deepEqual(await Promise.all(calls), places.flatMap(() => [number + 1, 'OK', shown.length, shown]));
  const pipe = client.multi();
  for (const place of places) pipe.get(`${KIND}:text:${place}`);
  assert.deepEqual(await pipe.execAsPipeline(), places.map(() => shown));
}

async function push() {
  for (const place of [0, 1, 2, 3]) {
    for (const name of ['a', 'b']) await client.rPush(`${KIND}:queue:${name}`, String(place));
  }
  await client.zAdd(`${KIND}:ready`, { score: 1.5, value: 'it' });
}

async function pop() {
  const popped = { a: [], b: [] };
  for (let count = 0; count < 8; count++) {
    const { key, element } = await waiting.blPop([`${KIND}:queue:a`, `${KIND}:queue:b`], WITHIN);
    popped[key.at(-1)].push(element);
  }
  assert.deepEqual(popped, { a: ['0', '1', '2', '3'], b: ['0', '1', '2', '3'] });
  assert.deepEqual({ ...await waiting.bzPopMin(`${KIND}:ready`, WITHIN) }, { key: `${KIND}:ready`, value: 'it', score: 1.5 });
}

async function transactions(number) {
  const block = client.multi().incr(`ran:${KIND}:{block}:a`).incr(`ran:${KIND}:{block}:b`).lRange('{block}:none', 0, -1);
  assert.deepEqual(await block.exec(), [number + 1, number + 1, []]);
}

async function watching() {
  // Somebody else writes the key between WATCH and EXEC, the first time.
  const key = `ran:${KIND}:watched`;
  for (let attempt = 1, done = null; done === null; attempt++) {
    await client.watch(key);
    const value = Number((await client.get(key)) ?? 0);
    if (attempt === 1) await listening.incr(key);
    try {
      done = await client.multi().set(key, value + 1).exec();
    } catch (error) {
      if (!(error instanceof WatchError)) throw error;
    }
    assert.ok(attempt > 1 || done === null);
  }
}

async function streams() {
  const stream = `${KIND}:stream`;
  const added = [];
  for (const place of [0, 1, 2, 3]) added.push(await client.xAdd(stream, '*', { place: String(place) }));
  const read = [];
  while (read.length < added.length) {
    const reply = await client.xReadGroup('group', 'me', { key: stream, id: '>' }, { COUNT: 2, BLOCK: 1000 });
    // A list in RESP2, a map in RESP3.
    read.push(...(Array.isArray(reply) ? reply[0].messages : reply[stream]));
  }
  assert.deepEqual(
    read.map(({ id, message }) => [id, message.place]),
    added.map((id, place) => [id, String(place)]),
  );
  assert.equal(await client.xAck(stream, 'group', added), added.length);
}

async function values(number) {
  const many = Object.fromEntries([...Array(6).keys()].map((place) => [`${KIND}:many:${place}`, String(place + number)]));
  assert.equal(await client.mSet(many), 'OK');
  assert.deepEqual(await client.mGet(Object.keys(many)), Object.values(many));
  assert.equal(await client.del(Object.keys(many)), 6);
  await client.hSet(`${KIND}:hash`, { number, name: 'it' });
  assert.deepEqual({ ...await client.hGetAll(`${KIND}:hash`) }, { number: String(number), name: 'it' });
  await client.zAdd(`${KIND}:ranked`, [{ score: 1, value: 'a' }, { score: 2.5, value: 'b' }]);
  const ranked = (await client.zRangeWithScores(`${KIND}:ranked`, 0, -1)).map(({ value, score }) => [value, score]);
  assert.deepEqual(ranked, [['a', 1], ['b', 2.5]]);
  await assert.rejects(client.incr(`${KIND}:text:0`), /value is not an integer/);
}

async function subscriptions() {
  const heard = [];
  await listening.subscribe(`${KIND}:news`, (message) => heard.push(message));
  await listening.pSubscribe(`${KIND}:new?:*`, (message) => heard.push(message));
  for (const place of [0, 1, 2, 3]) await client.publish(`${KIND}:news`, String(place));
  await client.publish(`${KIND}:news:today`, 'sunny');
  await until(() => heard.length >= 5);
  assert.deepEqual(heard, ['0', '1', '2', '3', 'sunny']);
  await listening.unsubscribe();
  await listening.pUnsubscribe();
}

exports.finish = async () => {
  const found = [];
  for await (const keys of client.scanIterator({ MATCH: `${KIND}:text:*`, COUNT: 10 })) found.push(...keys);
  assert.deepEqual(found.sort(), places.map((place) => `${KIND}:text:${place}`));
  await Promise.all([client, waiting, listening].map((one) => one.close()));
};
