#!/bin/sh
# The slow handler, which takes 200 ms. For /disk, it reads a file again and again and asks the
# kernel not to keep the file in its cache. For /cpu, it computes.
printf 'Content-Type: application/json\n\n{}'
case $PATH_INFO in
/disk) timeout 0.2 sh -c 'while dd if="$COLD" iflag=nocache bs=64k of=/dev/null 2>/dev/null; do :; done' ;;
/cpu) timeout 0.2 sh -c 'while :; do :; done' ;;
esac
