#!/bin/sh
# What takes 200 ms: reading a file that the kernel is told to forget, or computing.
printf 'Content-Type: application/json\n\n{}'
case $PATH_INFO in
/disk) timeout 0.2 sh -c 'while dd if="$COLD" iflag=nocache bs=64k of=/dev/null 2>/dev/null; do :; done' ;;
/cpu) timeout 0.2 sh -c 'while :; do :; done' ;;
esac
