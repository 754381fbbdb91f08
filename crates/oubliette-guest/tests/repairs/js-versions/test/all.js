'use strict';
const assert = require('assert');
const { compare } = require('../lib/compare');
const { newest } = require('../lib/newest');

const rising = ['1.0.0-alpha.2', '1.0.0-alpha.10', '1.0.0-beta', '1.0.0', '1.2.0', '1.10.0', '2.0.0-rc', '2.0.0'];
for (let place = 1; place < rising.length; place += 1) {
  assert(compare(rising[place - 1], rising[place]) < 0, `${rising[place - 1]} is older than ${rising[place]}`);
  assert(compare(rising[place], rising[place - 1]) > 0, `${rising[place]} is newer than ${rising[place - 1]}`);
}
assert.strictEqual(compare('1.0.0', '1.0.0'), 0);

const versions = ['1.2.0', '1.10.0', '2.0.0-rc'];
assert.strictEqual(newest(versions), '1.10.0');
assert.deepStrictEqual(versions, ['1.2.0', '1.10.0', '2.0.0-rc'], 'the list is left as it was');
assert.strictEqual(newest(['1.0.0-a', '1.0.0-b']), '1.0.0-b');
assert.strictEqual(newest([]), undefined);
console.log('versions: fine');
