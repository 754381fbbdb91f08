'use strict';
const { compare } = require('./compare');

/** The newest version that is no early one, if there is any; else the newest of all. */
exports.newest = function newest(versions) {
  return versions.sort(compare)[0];
};
