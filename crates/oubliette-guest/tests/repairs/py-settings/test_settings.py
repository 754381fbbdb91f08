import unittest

from settings import Malformed, parse


class Settings(unittest.TestCase):
    def test_sections_and_names(self):
        self.assertEqual(parse("[a]\nx = 1\n[b]\ny=2 # two\n"), {"a": {"x": "1"}, "b": {"y": "2"}})

    def test_names_before_any_section(self):
        self.assertEqual(parse("x = 1\n"), {"": {"x": "1"}})

    def test_a_section_may_be_gone_on_with(self):
        self.assertEqual(parse("[a]\nx=1\n[b]\n[a]\ny=2\n"), {"a": {"x": "1", "y": "2"}, "b": {}})

    def test_values_may_hold_anything_in_quotes(self):
        self.assertEqual(parse('[a]\nx = "a # b = c"\n'), {"a": {"x": "a # b = c"}})

    def test_nonsense_is_refused_with_its_line(self):
        for text in ("[a\nx=1", "[a]\nnonsense"):
            with self.assertRaisesRegex(Malformed, "line"):
                parse(text)


if __name__ == "__main__":
    unittest.main()
