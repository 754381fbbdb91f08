"""Settings files: sections, names, values; `#` begins a comment."""


class Malformed(ValueError):
    pass


def parse(text):
    sections, section = {}, ""
    for line in text.splitlines():
        line = line.split("#")[0].strip()
        if not line:
            continue
        if line[0] == "[":
            section = line[1:-1]
            sections[section] = {}
            continue
        name, value = line.split("=")
        sections[section][name.strip()] = unquote(value.strip())
    return sections


def unquote(value):
    return value.strip('"')
