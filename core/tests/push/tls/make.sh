#!/usr/bin/env bash
# Made the certificates beside it, which are valid for a hundred years: an authority, a server (localhost and 127.0.0.1), a
# client, and a server that nobody trusts. Needs openssl, which the tests themselves do not.
set -euo pipefail
cd "$(dirname "$0")"
authority() { # name
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 -subj "/CN=$1" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign -keyout "$1.key" -out "$1.pem" 2>/dev/null
}
signed() { # name authority extension
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$1" -keyout "$1.key" -out "$1.csr" 2>/dev/null
    openssl x509 -req -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -CAcreateserial -days 36500 -out "$1.pem" \
        -extfile <(printf 'basicConstraints=CA:FALSE\n%s\n' "$3") 2>/dev/null
}
authority root
authority stranger
signed server root "subjectAltName=DNS:localhost,IP:127.0.0.1"
signed elsewhere root "subjectAltName=DNS:elsewhere.invalid"
signed client root "extendedKeyUsage=clientAuth"
rm -f ./*.csr ./*.srl root.key stranger.key
