'use strict';

/** The parameters of an address, as an object; a name that comes several times has a list. */
exports.parse = function parse(text) {
  const result = {};
  for (const part of text.replace('?', '').split('&')) {
    const [name, value] = part.split('=');
    result[name] = decodeURIComponent(value);
  }
  return result;
};
