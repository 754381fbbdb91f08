'use strict';

function parse(version) {
  const [numbers, early] = version.split('-');
  return { numbers: numbers.split('.'), early };
}

/** Below 0 if the first is older, above 0 if it is newer. */
exports.compare = function compare(one, two) {
  const a = parse(one);
  const b = parse(two);
  for (let place = 0; place < 3; place += 1) {
    if (a.numbers[place] !== b.numbers[place]) return a.numbers[place] < b.numbers[place] ? -1 : 1;
  }
  if (a.early === b.early) return 0;
  return a.early < b.early ? -1 : 1;
};
