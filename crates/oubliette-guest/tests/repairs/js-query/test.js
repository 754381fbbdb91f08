'use strict';
const assert = require('assert');
const { parse } = require('./query');

const cases = [
  ['', {}],
  ['?a=1&b=2', { a: '1', b: '2' }],
  ['a=x+y%20z', { a: 'x y z' }],
  ['a%20b=1', { 'a b': '1' }],
  ['a=1&a=2&a=3', { a: ['1', '2', '3'] }],
  ['a=b=c&flag', { a: 'b=c', flag: '' }],
  ['q=why?', { q: 'why?' }],
];
let failed = 0;
for (const [text, expected] of cases) {
  try {
    assert.deepStrictEqual(parse(text), expected);
  } catch (error) {
    failed += 1;
    console.log(`not ok ${text}: ${error.message.split('\n')[0]}`);
  }
}
console.log(failed ? `${failed} failed` : `all ${cases.length} passed`);
process.exitCode = failed ? 1 : 0;
