import unittest
from decimal import Decimal

from shares import split


class Split(unittest.TestCase):
    def test_even(self):
        self.assertEqual(split(Decimal("10.00"), [1, 1]), [Decimal("5.00")] * 2)

    def test_no_cent_is_lost(self):
        for total in ("10.00", "0.01", "100.05"):
            for weights in ([1, 1, 1], [1, 2, 4], [3, 3, 1, 7]):
                self.assertEqual(sum(split(Decimal(total), weights)), Decimal(total), (total, weights))

    def test_the_rest_goes_to_the_first(self):
        self.assertEqual(split(Decimal("10.00"), [1, 1, 1]), [Decimal("3.34"), Decimal("3.33"), Decimal("3.33")])

    def test_nobody_to_pay_is_refused(self):
        with self.assertRaises(ValueError):
            split(Decimal("1.00"), [])
