# Our images: one target each. `bin/` holds release binaries built for the base image's C library.
ARG BASE=docker.io/library/debian:bookworm-slim
FROM ${BASE} AS base
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
 && rm -rf /var/lib/apt/lists/*
USER 65532:65532

FROM base AS operator
COPY shardlane-operator /usr/local/bin/
ENTRYPOINT ["shardlane-operator"]

FROM base AS mover
COPY mover /usr/local/bin/
ENTRYPOINT ["mover"]

FROM base AS signup
COPY signup signup-ctl /usr/local/bin/
ENTRYPOINT ["signup"]

FROM base AS wallet
COPY wallet /usr/local/bin/
ENTRYPOINT ["wallet"]

FROM base AS counter
COPY counter /usr/local/bin/
ENTRYPOINT ["counter"]

FROM base AS blog
COPY blog /usr/local/bin/
ENTRYPOINT ["blog"]
