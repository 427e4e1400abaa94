# !/bin/sh The slow handler, which takes 200 ms. For /disk it reads a file that the kernel has
# dropped from its cache; for /cpu it computes.
printf 'Content-Type: application/json\n\n{}'
case $PATH_INFO in
/disk) timeout 0.2 sh -c 'while dd if="$COLD" iflag=nocache bs=64k of=/dev/null 2>/dev/null; do :; done' ;;
/cpu) timeout 0.2 sh -c 'while :; do :; done' ;;
esac
