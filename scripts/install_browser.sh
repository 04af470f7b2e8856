#!/bin/sh
# Installs Debian's Chromium, in which the tests look at reports, where it is missing.
set -eu

if command -v chromium >/dev/null; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "Chromium is needed by the tests of reports and was not found, and there is no apt-get to install it with." >&2
    echo "Install it in your system's way, so that the command 'chromium' is on the path." >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "Chromium is needed by the tests of reports and was not found. Install it as root:" >&2
    echo "    apt-get update && apt-get install -y --no-install-recommends chromium" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install -y --no-install-recommends chromium
