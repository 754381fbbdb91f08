'use strict';
const assert = require('assert');
const { Queue } = require('./queue');

async function main() {
  const queue = new Queue(2);
  const begun = [];
  let most = 0;
  let now = 0;
  const task = (name) => async () => {
    begun.push(name);
    now += 1;
    most = Math.max(most, now);
    await new Promise((resolve) => setImmediate(resolve));
    now -= 1;
    return name;
  };
  const names = ['a', 'b', 'c', 'd', 'e'];
  const values = await Promise.all(names.map((name) => queue.add(task(name))));
  assert.deepStrictEqual(values, names, 'each has its own value');
  assert.deepStrictEqual(begun, names, 'they begin in order');
  assert.strictEqual(most, 2, 'two at once');

  await assert.rejects(queue.add(async () => { throw new Error('broken'); }), /broken/);
  await assert.rejects(queue.add(() => { throw new Error('at once'); }), /at once/);
  assert.strictEqual(await queue.add(task('f')), 'f', 'it goes on after a failure');
  console.log('queue: fine');
}

main().catch((error) => {
  console.log(`queue: ${error.message}`);
  process.exitCode = 1;
});
