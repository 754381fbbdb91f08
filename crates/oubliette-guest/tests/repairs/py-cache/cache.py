"""A bounded cache whose least recently used entry goes first."""

from collections import OrderedDict


class Cache:
    def __init__(self, bound, clock, lifetime):
        self._entries = OrderedDict()
        self._bound = bound
        self._clock = clock
        self._lifetime = lifetime

    def put(self, key, value):
        self._entries[key] = (value, self._clock())
        if len(self._entries) > self._bound:
            self._entries.popitem()

    def get(self, key, default=None):
        if key not in self._entries:
            return default
        value, since = self._entries[key]
        if self._clock() - since > self._lifetime:
            return default
        return value

    def __len__(self):
        return len(self._entries)
