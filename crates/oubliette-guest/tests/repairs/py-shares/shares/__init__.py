from .split import split

__all__ = ["split"]
