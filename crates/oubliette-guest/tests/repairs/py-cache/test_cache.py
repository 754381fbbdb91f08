import unittest

from cache import Cache


class CacheTest(unittest.TestCase):
    def setUp(self):
        self.now = 0
        self.cache = Cache(2, lambda: self.now, 10)

    def test_the_oldest_goes(self):
        for key in "abc":
            self.cache.put(key, key)
        self.assertEqual([self.cache.get(key) for key in "abc"], [None, "b", "c"])

    def test_what_is_read_stays(self):
        self.cache.put("a", 1)
        self.cache.put("b", 2)
        self.cache.get("a")
        self.cache.put("c", 3)
        self.assertEqual((self.cache.get("a"), self.cache.get("b")), (1, None))

    def test_what_is_written_again_stays(self):
        self.cache.put("a", 1)
        self.cache.put("b", 2)
        self.cache.put("a", 3)
        self.cache.put("c", 4)
        self.assertEqual((self.cache.get("a"), self.cache.get("b")), (3, None))

    def test_what_is_too_old_is_gone(self):
        self.cache.put("a", 1)
        self.now = 11
        self.assertIsNone(self.cache.get("a"))
        self.assertEqual(len(self.cache), 0)


if __name__ == "__main__":
    unittest.main()
