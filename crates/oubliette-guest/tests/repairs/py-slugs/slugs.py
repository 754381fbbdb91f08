"""Names of articles as parts of addresses."""

import re
import unicodedata

MAX = 60


def slug(title, taken=()):
    """The title as lower-case words with dashes between; a number makes it differ from those that are taken."""
    text = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    base = re.sub(r"[^a-z0-9]", "-", text.lower()).strip("-")[:MAX]
    name, number = base, 2
    while name in taken:
        name = f"{name}-{number}"
        number += 1
    return name
