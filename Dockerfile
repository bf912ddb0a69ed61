# syntax=docker/dockerfile:1

# Tags say what the images are. For a build that cannot change under you, add what they point to:
# `docker buildx imagetools inspect rust:1.95.0-bookworm` prints the digest, and `FROM rust:1.95.0-bookworm@sha256:…`
# pins it. Each platform of `docker buildx build --platform linux/amd64,linux/arm64` builds its own; Cloud Run
# wants linux/amd64.

# Must match rust-toolchain.toml.
FROM rust:1.95.0-bookworm AS build
WORKDIR /src
# The image has the right compiler: the file would only make rustup fetch components for tests.
ENV RUSTUP_TOOLCHAIN=1.95.0
# Seconds; the time of the files in the image. BuildKit knows the name.
ARG SOURCE_DATE_EPOCH=0

# A layer with all dependencies, built anew only when they change.
COPY Cargo.toml Cargo.lock build.rs ./
COPY deploy/image/build.sh deploy/image/build.sh
RUN mkdir src connectors schemas \
    && echo '//! Nothing yet.' > src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    # Cargo wants every target that Cargo.toml names to be there, built or not.
    && mkdir tests benches \
    && touch tests/main.rs benches/bigquery.rs benches/codec.rs benches/memory.rs benches/pipeline.rs benches/start.rs \
    && deploy/image/build.sh \
    && rm -rf src connectors schemas

COPY src src
COPY connectors connectors
COPY schemas schemas
# Cargo goes by modification times, which COPY takes from the host: they may be older than the layer above.
RUN touch src/lib.rs src/main.rs build.rs \
    && deploy/image/build.sh \
    && install -D target/*-unknown-linux-gnu/release/drawoff /out/drawoff \
    && mkdir /out/work \
    && touch -d "@$SOURCE_DATE_EPOCH" /out/drawoff /out/work

# CA certificates, time zones, /tmp and user 65532; no libc, no shell, no package manager.
FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/drawoff /usr/local/bin/drawoff
# A folder of its own: drawoff.yaml is looked for here, and drawoff.db made when nothing else is said.
COPY --from=build --chown=65532:65532 /out/work /work
WORKDIR /work
# By number, so that Kubernetes can see that it is not root.
USER 65532:65532
# In exec form, so that SIGTERM reaches the program.
ENTRYPOINT ["/usr/local/bin/drawoff"]
# Every source in drawoff.yaml.
CMD ["--all"]
