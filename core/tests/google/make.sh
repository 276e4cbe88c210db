#!/usr/bin/env bash
# Made the key beside it, of nobody, and its public half by which tests judge what is signed. Needs openssl.
set -euo pipefail
cd "$(dirname "$0")"
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out key.pem
openssl pkey -in key.pem -pubout -out public.pem
