'use strict';
// What programs do with ioredis, as tests/applications/redis_py_app.py does it with redis-py. REDIS_PROTOCOL says which
// protocol is asked for, else it is the library's default.

const assert = require('node:assert/strict');
const Redis = require('ioredis');
const { WITHIN, until } = require('./client.js');

const KIND = 'ioredis';
const TEXTS = 8;
const url = process.env.APPLICATION_URL.split('?')[0];
const options = process.env.REDIS_PROTOCOL ? { protocol: Number(process.env.REDIS_PROTOCOL) } : {};
const places = [...Array(TEXTS).keys()];
let client, waiting, listening;

function connect() {
  const connected = new Redis(url, options);
  connected.defineCommand('add', { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" });
  return connected;
}

exports.prepare = async () => {
  [client, waiting, listening] = [connect(), connect(), connect()];
  await client.xgroup('CREATE', `${KIND}:stream`, 'group', '0', 'MKSTREAM');
  return require('ioredis/package.json').version;
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
  const pipe = client.pipeline();
  for (const place of places) {
    const text = `${KIND}:text:${place}`;
    pipe.incr(`ran:${KIND}:pipe:${place}`).set(text, number).append(text, '!').get(text);
  }
  const shown = `${number}!`;
  const expected = places.flatMap(() => [number + 1, 'OK', shown.length, shown]);
  assert.deepEqual(await pipe.exec(), expected.map((reply) => [null, reply]));
  // What is sent without waiting goes out as one pipeline as well.
  const replies = await Promise.all(places.map((place) => client.get(`${KIND}:text:${place}`)));
  assert.deepEqual(replies, places.map(() => shown));
}

async function push() {
  for (const place of [0, 1, 2, 3]) {
    for (const name of ['a', 'b']) await client.rpush(`${KIND}:queue:${name}`, place);
  }
  await client.zadd(`${KIND}:ready`, 1.5, 'it');
}

async function pop() {
  const popped = { a: [], b: [] };
  for (let count = 0; count < 8; count++) {
    const [queue, element] = await waiting.blpop(`${KIND}:queue:a`, `${KIND}:queue:b`, WITHIN);
    popped[queue.at(-1)].push(element);
  }
  assert.deepEqual(popped, { a: ['0', '1', '2', '3'], b: ['0', '1', '2', '3'] });
  assert.deepEqual(await waiting.bzpopmin(`${KIND}:ready`, WITHIN), [`${KIND}:ready`, 'it', '1.5']);
}

async function transactions(number) {
  const block = client.multi().incr(`ran:${KIND}:{block}:a`).incr(`ran:${KIND}:{block}:b`).lrange('{block}:none', 0, -1);
  assert.deepEqual(await block.exec(), [[null, number + 1], [null, number + 1], [null, []]]);
}

async function watching() {
  // Somebody else writes the key between WATCH and EXEC, the first time.
  const key = `ran:${KIND}:watched`;
  for (let attempt = 1, done = null; done === null; attempt++) {
    await client.watch(key);
    const value = Number((await client.get(key)) ?? 0);
    if (attempt === 1) await listening.incr(key);
    done = await client.multi().set(key, value + 1).exec();
    assert.ok(attempt > 1 || done === null);
  }
}

async function streams() {
  const stream = `${KIND}:stream`;
  const added = [];
  for (const place of [0, 1, 2, 3]) added.push(await client.xadd(stream, '*', 'place', place));
  const read = [];
  while (read.length < added.length) {
    const reply = await client.xreadgroup('GROUP', 'group', 'me', 'COUNT', 2, 'BLOCK', 1000, 'STREAMS', stream, '>');
    const [[name, entries]] = reply;
    assert.equal(name, stream);
    read.push(...entries);
  }
  assert.deepEqual(read, added.map((id, place) => [id, ['place', String(place)]]));
  assert.equal(await client.xack(stream, 'group', ...added), added.length);
}

async function values(number) {
  const many = Object.fromEntries([...Array(6).keys()].map((place) => [`${KIND}:many:${place}`, String(place + number)]));
  assert.equal(await client.mset(many), 'OK');
  assert.deepEqual(await client.mget(Object.keys(many)), Object.values(many));
  assert.equal(await client.del(Object.keys(many)), 6);
  await client.hset(`${KIND}:hash`, { number, name: 'it' });
  assert.deepEqual({ ...await client.hgetall(`${KIND}:hash`) }, { number: String(number), name: 'it' });
  await client.zadd(`${KIND}:ranked`, 1, 'a', 2.5, 'b');
  assert.deepEqual(await client.zrange(`${KIND}:ranked`, 0, -1, 'WITHSCORES'), ['a', '1', 'b', '2.5']);
  await assert.rejects(client.incr(`${KIND}:text:0`), /value is not an integer/);
}

async function subscriptions() {
  const heard = [];
  const messages = (channel, message) => heard.push(message);
  const patterned = (pattern, channel, message) => heard.push(message);
  listening.on('message', messages).on('pmessage', patterned);
  assert.equal(await listening.subscribe(`${KIND}:news`), 1);
  assert.equal(await listening.psubscribe(`${KIND}:new?:*`), 2);
  for (const place of [0, 1, 2, 3]) await client.publish(`${KIND}:news`, place);
  await client.publish(`${KIND}:news:today`, 'sunny');
  await until(() => heard.length >= 5);
  assert.deepEqual(heard, ['0', '1', '2', '3', 'sunny']);
  // Without names ioredis waits until no subscription of either kind is left.
  await listening.unsubscribe(`${KIND}:news`);
  await listening.punsubscribe(`${KIND}:new?:*`);
  listening.off('message', messages).off('pmessage', patterned);
}

exports.finish = async () => {
  const found = [];
  for await (const keys of client.scanStream({ match: `${KIND}:text:*`, count: 10 })) found.push(...keys);
  assert.deepEqual(found.sort(), places.map((place) => `${KIND}:text:${place}`));
  await Promise.all([client, waiting, listening].map((one) => one.quit()));
};
