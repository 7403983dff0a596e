#!/bin/sh
# as_owner_of DIR COMMAND…: runs a command as the user whom a mounted folder belongs to, so that what it leaves there is theirs.
# Started as anybody but root it changes nothing.
set -eu
dir=$1
shift
[ "$(id -u)" = 0 ] || exec "$@"
exec setpriv --reuid "$(stat -c %u "$dir")" --regid "$(stat -c %g "$dir")" --clear-groups --no-new-privs "$@"
