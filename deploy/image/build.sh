#!/bin/sh
# Builds the program as the image has it: linked statically, and the same bytes from any folder. The
# Dockerfile and check.sh build with this. Arguments go to cargo.
set -eu
cd "$(dirname "$0")/../.."

# Named, so that `+crt-static` is for the program and not for what runs while building.
target=$(rustc -vV | sed -n 's/^host: //p')
cargo_home=${CARGO_HOME:-$HOME/.cargo}
out=${CARGO_TARGET_DIR:-$PWD/target}

RUSTFLAGS="-C target-feature=+crt-static"
# Random numbers by a system call. A static program does not find libc's function for it at run time, and would
# read /dev/random, which an empty root lacks.
RUSTFLAGS="$RUSTFLAGS --cfg getrandom_backend=\"linux_getrandom\""
# Where it was built must not show in it; of folders inside each other the last one named counts.
for pair in "$PWD=/src" "$cargo_home=/cargo" "$out=/src/target"; do
    RUSTFLAGS="$RUSTFLAGS --remap-path-prefix=$pair"
    CFLAGS="${CFLAGS:-} -ffile-prefix-map=$pair"
done
export RUSTFLAGS CFLAGS
# A sixth of the size; a panic says its file and line without them.
export CARGO_PROFILE_RELEASE_STRIP=symbols
# For whatever would write the time of the build.
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-0}"

exec cargo build --locked --release --target "$target" "$@"
