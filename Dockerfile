# Checked by reading and a parser only, never built where it was written: no container engine was at hand.
#
#   docker build -t daypass .                the server and the client
#   docker build -t daypass-demo --target demo .

FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN make build VERSION="$VERSION"

FROM debian:bookworm-slim AS base
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates curl softhsm2 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /var/lib/daypass --shell /usr/sbin/nologin daypass \
 && install -d -o daypass -g daypass -m 0700 /var/lib/daypass \
 && install -d -o daypass -g daypass -m 0755 /var/lib/daypass-db

# A whole exchange in one container: private Postgres, demo provider, broker.
FROM base AS demo
RUN apt-get update \
 && apt-get install -y --no-install-recommends postgresql-common \
 && mkdir -p /etc/postgresql-common/createcluster.d \
 && echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/daypass.conf \
 && apt-get install -y --no-install-recommends postgresql postgresql-client \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -o daypass -g daypass /app
WORKDIR /app
COPY --from=build /src/build/bin/ build/bin/
COPY --from=build /src/scripts/ scripts/
USER daypass
CMD ["scripts/demo.sh"]

FROM base AS broker
COPY --from=build /src/build/bin/ /usr/local/bin/
COPY --from=build /src/policies/examples/ /usr/share/daypass/policies/
COPY --from=build /src/deploy/compose-init.sh /usr/share/daypass/
USER daypass
ENV SOFTHSM2_CONF=/var/lib/daypass/softhsm2.conf
VOLUME /var/lib/daypass
EXPOSE 8443
ENTRYPOINT ["daypassd"]
CMD ["serve", "--config", "/var/lib/daypass/daypass.yaml"]
