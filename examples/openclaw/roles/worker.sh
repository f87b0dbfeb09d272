#!/bin/sh
# Serves its own name on port 8080, and says when it is ready.
mkdir -p /run/www /run/mvm
hostname >/run/www/index.html
echo worker >/run/role
touch /run/mvm/worker-ready
exec httpd -f -p 8080 -h /run/www
