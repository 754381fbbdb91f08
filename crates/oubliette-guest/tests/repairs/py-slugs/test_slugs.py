import unittest

from slugs import slug


class Slugs(unittest.TestCase):
    def test_words_are_joined_by_one_dash(self):
        self.assertEqual(slug("  Hello,  World! "), "hello-world")

    def test_accents_go(self):
        self.assertEqual(slug("Crème Brûlée"), "creme-brulee")

    def test_a_taken_name_gets_a_number(self):
        self.assertEqual(slug("A b", {"a-b"}), "a-b-2")
        self.assertEqual(slug("A b", {"a-b", "a-b-2", "a-b-3"}), "a-b-4")

    def test_a_long_title_does_not_end_in_a_dash(self):
        self.assertEqual(slug("x" * 59 + " y"), "x" * 59)


if __name__ == "__main__":
    unittest.main()
