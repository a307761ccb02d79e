# Two images, static and without root:
#   docker build --target operator -t aether-operator .
#   docker build --target sidecar  -t aether-sidecar .
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY api api
COPY internal internal
COPY cmd cmd
ARG TARGETOS TARGETARCH
# grpcnotrace leaves out a page for debugging that nobody serves. It has templates, which
# call methods by their names: the linker would keep every method there is.
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -tags grpcnotrace -ldflags "-s -w" -o /out/ ./cmd/...

FROM gcr.io/distroless/static:nonroot AS operator
COPY --from=build /out/operator /operator
USER 65532:65532
ENTRYPOINT ["/operator"]

FROM gcr.io/distroless/static:nonroot AS sidecar
COPY --from=build /out/sidecar /aether-sidecar
USER 65532:65532
ENTRYPOINT ["/aether-sidecar"]
