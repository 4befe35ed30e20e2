#!/bin/sh
# Ray Serve starts this in the place of HAProxy: it makes the configuration that Serve wrote narrower, then becomes the
# real one. Serve has no settings for these things:
# - the pages with statistics and metrics are bound where the cluster is, not on all interfaces;
# - the admin socket is its owner's;
# - a request must be there within 15 s, its body up to the buffer's size included, before a replica hears of it;
# - what HAProxy says itself is a problem document (problems.cfg): what cannot be answered 502, 503 or 504, not 500, and
#   a path that is no use case 404, without the path; the list of all use cases is nobody's;
# - while it knows no use case at all, as when a head starts again, it says 503 to all: 404 would be taken for good.
set -eu
config='' previous=''
for word in "$@"; do
  [ "$previous" = -f ] && config=$word
  previous=$word
done
if [ -n "$config" ] && ! grep -q 'option http-buffer-request' "$config"; then
  umask 077
  unknown=404
  grep -q '^    use_backend' "$config" || unknown=503
  sed -e "/^frontend prometheus/,/bind/ s/bind .*:/bind $RAYSAAS_BIND:/" \
    -e "/^listen stats/,/bind/ s/bind .*:/bind $RAYSAAS_BIND:/" \
    -e 's/ mode 666 / mode 600 /' \
    -e 's/^    option abortonclose$/&\n    option http-buffer-request\n    timeout http-request 15s/' \
    -e '/^    errorfile 50[234] /d' \
    -e 's/^    http-request return .* if routes$/    http-request return status 404 default-errorfiles if routes/' \
    -e "/^defaults$/r ${0%/*}/problems.cfg" \
    -e "s/^    http-request return status 404 content-type text.*/    http-request return status $unknown default-errorfiles/" \
    "$config" > "$config.own"
  mv "$config.own" "$config"
fi
exec "$RAYSAAS_HAPROXY" "$@"
