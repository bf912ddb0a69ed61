#!/bin/sh
# Builds the program as the image has it: linked statically, and the same bytes from any folder. The
# Dockerfile and check.sh build with this. Arguments go to cargo.
set -eu
cd "$(dirname "$0")/../.."

# Named, so that `+crt-static` is for the program and not for what runs while building.
target=$(rustc -vV | sed -n 's/^host: //p')
cargo_home=${CARGO_HOME:-$HOME/.cargo}
out=${CARGO_TARGET_DIR:-$PWD/target}

# Where it was built must not show in it; of folders inside each other the last one named counts.
RUSTFLAGS="-C target-feature=+crt-static"
for pair in "$PWD=/src" "$cargo_home=/cargo" "$out=/src/target"; do
    RUSTFLAGS="$RUSTFLAGS --remap-path-prefix=$pair"
    CFLAGS="${CFLAGS:-} -ffile-prefix-map=$pair"
done
export RUSTFLAGS CFLAGS
# For whatever would write the time of the build.
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-0}"

exec cargo build --locked --release --target "$target" "$@"
