#!/bin/sh
# Usage: as_owner_of DIR COMMAND…
# Runs a command as the owner of a mounted directory, so that the files it writes there belong to that user.
# Without root privileges it runs the command as the current user.
set -eu
dir=$1
shift
[ "$(id -u)" = 0 ] || exec "$@"
exec setpriv --reuid "$(stat -c %u "$dir")" --regid "$(stat -c %g "$dir")" --clear-groups --no-new-privs "$@"
