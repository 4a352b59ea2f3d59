'use strict';
// Does the work that bullmq_app.js asks for, until SIGTERM.

const { Worker } = require('bullmq');
const { options, count, append, stop } = require('./bullmq_shop.js');

const tasks = {
  async plus({ name, value, amount }) {
    await count(name);
    return value + amount;
  },
  async stubborn({ name }) {
    const runs = await count(name);
    if (runs < 3) throw new Error(`run ${runs} of ${name}`);
    return runs;
  },
  async total({ name }, job) {
    await count(name);
    return Object.values(await job.getChildrenValues()).reduce((sum, value) => sum + value, 0);
  },
  async note({ place }) {
    await count(`note:${place}`);
    await append('note', place);
    return place;
  },
  async tick() {
    await count('tick');
  },
};

const process_job = (job) => tasks[job.name](job.data, job);
const workers = [
  new Worker('shop', process_job, { ...options, concurrency: 4 }),
  new Worker('ordered', process_job, { ...options, concurrency: 1 }),
];
for (const worker of workers) worker.on('error', (error) => console.error('ERROR', error));
process.on('SIGTERM', async () => {
  await Promise.all(workers.map((worker) => worker.close()));
  await stop();
});
