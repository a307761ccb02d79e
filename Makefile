# make help lists what there is.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --warn-undefined-variables --no-builtin-rules
.DEFAULT_GOAL := help

# Arguments of go test for make test, such as TESTFLAGS='-run TestName -v'.
TESTFLAGS ?=
# Arguments for make bench and make bench-operator, such as BENCHFLAGS='-run save'.
BENCHFLAGS ?=
# What make test tests, such as PACKAGES=./internal/stream/...
PACKAGES ?= ./...
# Tags of the tests that need more than Go, each with a target of its own; make lint
# looks at them all.
TAGS := browser,node

.PHONY: help
help: ## List the targets.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Use

.PHONY: demo
demo: ## From nothing to a saved event, on this machine: ends with a summary.
	go run ./hack/demo

.PHONY: run
run: ## The same set-up, kept up until Ctrl-C, to try things on.
	@# Not go run, which fails when it is interrupted, however the program ends.
	go build -o bin/ ./hack/demo && exec bin/demo --stay

##@ Build and test

.PHONY: build
build: ## Build both binaries into bin/, as the images have them.
	CGO_ENABLED=0 go build -trimpath -tags grpcnotrace -o bin/ ./cmd/...

# The specs of the controllers wait more than they work: ginkgo runs them in four
# processes, each with an API server and nats-servers of its own.
CONTROLLERS := /internal/controller
EVERYTHING := $(filter ./...,$(PACKAGES))

.PHONY: test
test: test-packages $(if $(EVERYTHING),test-controllers) ## All tests, against a real API server and real nats-servers; faster with -j2.

.PHONY: test-packages
test-packages: controlplane oldserver
	go test -timeout 20m $(TESTFLAGS) $$(go list $(PACKAGES)$(if $(EVERYTHING), | grep -v '$(CONTROLLERS)$$'))

.PHONY: test-controllers
test-controllers: controlplane oldserver
	go tool ginkgo --procs 4 --no-color --timeout 20m .$(CONTROLLERS)

# Packages whose value is that many use them at once.
RACY := ./internal/access ./internal/openport ./internal/ports ./internal/stream ./internal/webhook ./internal/sidecar ./internal/natsconn ./api/eventstore ./api/eventstore/memory

# Of the engine those in which goroutines share most; all of them take ten minutes.
RACY_ENGINE := ^(TestStore|TestKeep|TestStoresRace|TestManyWritersOfOneActor|TestWriter|TestManyColdActors|TestSubscri|TestConsumer|TestPlace|TestLostAnswer|TestUnknownOutcome|TestRequest|TestCloseLeaves|TestCallWhile|TestSaveWhile|TestConflictReads|TestDurable(Close|Skips|Whose|DeletedBy|Hears))

.PHONY: test-race
test-race: controlplane ## The tests of what is used by many at once, with the race detector; needs a C compiler.
	@# A flood is of no use beside it: who is to be fast enough is ten times slower.
	CGO_ENABLED=1 go test -race -skip '^TestFloodOf(LargeRequests|ManyStores|StoresThatComeAndGo)$$' -timeout 20m $(TESTFLAGS) $(RACY)
	CGO_ENABLED=1 go test -race -run '$(RACY_ENGINE)' -timeout 20m $(TESTFLAGS) ./api/eventstore/jetstream

# The oldest nats-server that is supported, in its newest patch.
OLDEST := v2.12.15
# What is tested with it: what stands between stores, and the engine.
OLDEST_PACKAGES ?= ./internal/access ./api/eventstore/jetstream
# What it does not know: how many subscriptions the operator allows a connection.
OLDEST_LACKS := ^TestSubscriptionsOfOneConnection$$

# How many schedules the model of durable subscriptions runs.
SCHEDULES ?= 100000

.PHONY: test-model
test-model: ## Durable subscriptions against a model, at random: SCHEDULES of them, each some seconds of faults.
	go test -run '^TestModel$$' -timeout 2h -v ./api/eventstore/internal/group -schedules $(SCHEDULES) $(TESTFLAGS)

# How many subscriptions there are while every server pauses.
SUBSCRIPTIONS ?= 1000

.PHONY: test-scale
test-scale: ## SUBSCRIPTIONS subscriptions while every server pauses: consumers before, at most and after.
	go test -run '^TestServersPause$$' -timeout 10m -count=1 -v ./api/eventstore/jetstream -subscriptions $(SUBSCRIPTIONS) $(TESTFLAGS)

.PHONY: test-durable
test-durable: ## The tests of durable subscriptions on real servers, with as many events as they are to stand; takes minutes.
	go test -run '^TestDurable' -timeout 30m -count=1 -v ./api/eventstore/jetstream -full $(TESTFLAGS)

.PHONY: test-oldest
test-oldest: controlplane ## The tests of access and of the engine, on the oldest nats-server that is supported.
	@mkdir -p bin && cp go.mod bin/oldest.mod && cp go.sum bin/oldest.sum
	go mod edit -replace=github.com/nats-io/nats-server/v2=github.com/nats-io/nats-server/v2@$(OLDEST) bin/oldest.mod
	go test -modfile=bin/oldest.mod -mod=mod -tags oldest -skip '$(OLDEST_LACKS)' -timeout 20m $(TESTFLAGS) $(OLDEST_PACKAGES)

.PHONY: test-browser
test-browser: ## Tests in a real browser; installs Chromium from Debian where it is missing and it may.
	@hack/debian.sh chromium:chromium
	go test -timeout 5m -tags browser -run '^TestBrowser' $(TESTFLAGS) ./cmd/sidecar

.PHONY: test-node
test-node: controlplane ## Tests of pods on a real node, as root; installs containerd and what it needs from Debian.
	@hack/debian.sh containerd:containerd runc:runc iproute2:ip iptables:/usr/sbin/xtables-legacy-multi \
		containernetworking-plugins:/usr/lib/cni/bridge
	@hack/controlplane/build.sh node
	@# What the node is made of is no input that go test knows.
	go test -timeout 10m -tags node -count=1 $(TESTFLAGS) ./internal/testenv/node

.PHONY: bench
bench: ## Measure the engine against the plainest use of nats.go; prints a table, takes minutes. See docs/benchmarks.md.
	go run ./hack/bench $(BENCHFLAGS)

.PHONY: bench-operator
bench-operator: controlplane ## Measure the operator with 1,000 EventStores; prints a table. See docs/benchmarks.md.
	go run ./hack/benchoperator $(BENCHFLAGS)

.PHONY: controlplane
controlplane: ## Build kube-apiserver and etcd into the user's cache, once for each version.
	@hack/controlplane/build.sh

.PHONY: oldserver
oldserver: ## Build a nats-server that is too old into the user's cache, once for each version.
	@hack/oldserver/build.sh > /dev/null

##@ Keep

.PHONY: generate
generate: ## Make every generated file anew.
	go tool controller-gen object:headerFile=hack/boilerplate.go.txt crd paths=./api/v1alpha1/ output:crd:dir=config/crd/bases
	go tool controller-gen rbac:roleName=aether-operator paths=./internal/... output:rbac:dir=config/rbac
	cd api/eventstore/v1 && go tool buf generate
	gofmt -w api config internal cmd hack

.PHONY: lint
lint: ## Vet and lint.
	go vet -tags $(TAGS) ./...
	go tool staticcheck -tags $(TAGS) ./...
	cd api/eventstore/v1 && go tool buf lint

.PHONY: verify
verify: generate lint ## Fail when a generated file, the formatting or go.mod is stale, or on a finding.
	go mod tidy -diff
	@if [[ -n "$$(git status --porcelain)" ]]; then \
		git status --short; git --no-pager diff | head -100; \
		echo "make verify: the tree is dirty: commit what is above (make generate has brought generated files up to date)"; exit 1; \
	fi
