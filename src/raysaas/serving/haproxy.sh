#!/bin/sh
# Ray Serve starts this in the place of HAProxy: it makes the configuration that Serve wrote narrower, then becomes the
# real one. Serve has no settings for these things:
# - the pages with statistics and metrics are bound where the cluster is, not on all interfaces;
# - the admin socket is its owner's;
# - a request must be there within 15 s, its body up to the buffer's size included, before a replica hears of it;
# - what cannot be answered is 502, 503 or 504 as a problem document, not 500.
set -eu
config='' previous=''
for word in "$@"; do
  [ "$previous" = -f ] && config=$word
  previous=$word
done
problem() {  # status, title
  printf 'http-error status %s content-type application/problem+json string ' "$1"
  printf "'{\"type\":\"https://raysaas.dev/problems/unavailable\",\"title\":\"%s\",\"status\":%s," "$2" "$1"
  printf "\"detail\":\"No replica answered: try again.\"}'"
}
if [ -n "$config" ] && ! grep -q 'option http-buffer-request' "$config"; then
  umask 077
  sed -e "/^frontend prometheus/,/bind/ s/bind .*:/bind $RAYSAAS_BIND:/" \
    -e "/^listen stats/,/bind/ s/bind .*:/bind $RAYSAAS_BIND:/" \
    -e 's/ mode 666 / mode 600 /' \
    -e 's/^    option abortonclose$/&\n    option http-buffer-request\n    timeout http-request 15s/' \
    -e "s|errorfile 502 .*|$(problem 502 'Bad Gateway')|" \
    -e "s|errorfile 503 .*|$(problem 503 'Service Unavailable')|" \
    -e "s|errorfile 504 .*|$(problem 504 'Gateway Timeout')|" "$config" > "$config.own"
  mv "$config.own" "$config"
fi
exec "$RAYSAAS_HAPROXY" "$@"
