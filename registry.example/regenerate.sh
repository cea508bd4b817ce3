#!/usr/bin/env bash
# Makes this registry again from condu's embedded tasks, with the `condu` that is on the PATH.
# Two cores need about two minutes. Going through an archive leaves out what is of one machine.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

export CONDU_REGISTRY=$work/registry
condu init --base mini --train image --dtype int8
condu learn --task digits --shots 60 --iterations 60 --image-size 96
condu learn --task shapes --shots 30 --iterations 20 --image-size 96
condu tag digits-only @~1
condu export -o "$work/example.condu"
condu import "$work/example.condu" --registry "$work/imported"

rm -rf "$here"/{blobs,condu.sqlite,README.txt}
cp -r "$work/imported"/{blobs,condu.sqlite,README.txt} "$here"
condu verify --registry "$here"
