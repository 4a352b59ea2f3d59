'use strict';
// A BullMQ application: priorities, results by events, retries with backoff, delayed and repeated jobs, a flow.

const assert = require('node:assert/strict');
const { FlowProducer, Queue, QueueEvents } = require('bullmq');
const { until, WITHIN } = require('./client.js');
const { options, trace, stop } = require('./bullmq_shop.js');

const PRIORITIES = [3, 1, 2, 1, 0, 3, 2, 0]; // 0 is before 1
const TICKS = 5;
let shop, ordered, events, flows, early;

exports.prepare = async () => {
  [shop, ordered] = [new Queue('shop', options), new Queue('ordered', options)];
  events = new QueueEvents('shop', options);
  flows = new FlowProducer(options);
  for (const one of [shop, ordered, events, flows]) one.on('error', (error) => { throw error; });
  await events.waitUntilReady();
  for (const [place, priority] of PRIORITIES.entries()) await ordered.add('note', { place }, { priority });
  early = await shop.add('plus', { name: 'later', value: 20, amount: 1 }, { delay: 1000 });
  await shop.upsertJobScheduler('ticking', { every: 50, limit: TICKS }, { name: 'tick' });
  return PRIORITIES;
};

const result = (job) => job.waitUntilFinished(events, WITHIN * 1000);

// A node whose slot is on its way can refuse the script, for it uses the new job's key without saying so: see README.
async function addDelayed(...job) {
  let added;
  await until(async () => {
    added = await shop.add(...job).catch((error) => {
      if (!error.message.includes('access a non local key')) throw error;
    });
    return added !== undefined;
  });
  return added;
}

exports.perform = async (number) => {
  const plus = (name, amount, opts) => ({ name: 'plus', data: { name: `${number}:${name}`, value: number, amount }, opts });
  const sums = await shop.addBulk([0, 1, 2, 3].map((place) => plus(`plus:${place}`, place)));
  const delayed = await addDelayed(...Object.values(plus('delayed', 100, { delay: 20 })));
  const retry = { attempts: 3, backoff: { type: 'fixed', delay: 10 } };
  const stubborn = await shop.add('stubborn', { name: `${number}:stubborn` }, retry);
  const unique = { jobId: `unique-${number}` };
  const [once, again] = [await shop.add(...Object.values(plus('unique', 7, unique))), await shop.add(...Object.values(plus('unique', 7, unique)))];
  assert.equal(once.id, again.id);
  const children = [0, 1, 2].map((place) => ({ ...plus(`child:${place}`, place), queueName: 'shop' }));
  const flow = await flows.add({ name: 'total', queueName: 'shop', data: { name: `${number}:total` }, children });
  return [
    await Promise.all(sums.map(result)),
    await result(delayed),
    await result(stubborn),
    await result(once),
    await result(flow.job),
  ];
};

exports.finish = async () => {
  assert.equal(await result(early), 21);
  await until(async () => Number(await trace('get', 'ran:tick')) === TICKS);
  await until(async () => (await ordered.getJobCounts()).completed === PRIORITIES.length);
  const counts = await shop.getJobCounts();
  await Promise.all([shop, ordered, events, flows].map((one) => one.close()));
  await stop();
  return counts;
};
