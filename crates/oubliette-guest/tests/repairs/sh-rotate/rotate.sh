#!/bin/sh
# rotate.sh FOLDER COUNT: keeps the COUNT newest backups of each name in a folder. A backup is NAME.YYYY-MM-DD.
set -eu
folder=$1
count=$2
for name in $(ls $folder | sed 's/\.[0-9-]*$//' | sort -u); do
    ls $folder/$name.* | sort | tail -n +$((count + 1)) | xargs rm
done
