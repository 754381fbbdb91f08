"""Dividing a bill."""

from decimal import Decimal

CENT = Decimal("0.01")


def split(total, weights):
    """What each owes, in whole cents; together they owe exactly the total."""
    whole = sum(weights)
    return [(total * weight / whole).quantize(CENT) for weight in weights]
