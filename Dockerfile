# syntax=docker/dockerfile:1

# Must match rust-toolchain.toml. Debian 12, as the image that the binary runs in.
FROM rust:1.95.0-bookworm AS build
WORKDIR /src
# The image has the right compiler: the file would only make rustup fetch components for tests.
ENV RUSTUP_TOOLCHAIN=1.95.0

# A layer with all dependencies, built anew only when they change.
COPY Cargo.toml Cargo.lock build.rs ./
RUN mkdir src connectors schemas \
    && echo '//! Nothing yet.' > src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    # Cargo wants every target that Cargo.toml names to be there, built or not.
    && mkdir tests benches \
    && touch tests/main.rs benches/bigquery.rs benches/codec.rs benches/memory.rs benches/pipeline.rs benches/start.rs \
    && cargo build --locked --release \
    && rm -rf src connectors schemas

COPY src src
COPY connectors connectors
COPY schemas schemas
# Cargo goes by modification times, which COPY takes from the host: they may be older than the layer above.
RUN touch src/lib.rs src/main.rs build.rs \
    && cargo build --locked --release \
    && mkdir /work

# glibc, libgcc and CA certificates; no shell, no package manager, user 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/drawoff /usr/local/bin/drawoff
# A folder of its own to write drawoff.db in, when nothing else is said.
COPY --from=build --chown=nonroot:nonroot /work /work
WORKDIR /work
# In exec form, so that SIGTERM reaches the program.
ENTRYPOINT ["/usr/local/bin/drawoff"]
