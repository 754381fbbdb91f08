'use strict';

/** Runs at most so many tasks at once, in the order in which they came. */
class Queue {
  constructor(limit) {
    this.limit = limit;
    this.running = 0;
    this.waiting = [];
  }

  add(task) {
    return new Promise((resolve) => {
      this.waiting.push({ task, resolve });
      this.next();
    });
  }

  next() {
    if (this.running > this.limit) return;
    const entry = this.waiting.pop();
    if (!entry) return;
    this.running += 1;
    entry.task().then((value) => {
      this.running -= 1;
      entry.resolve(value);
      this.next();
    });
  }
}

module.exports = { Queue };
