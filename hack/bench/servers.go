package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// setting is how the garbage collector of the servers is set. It decides what a read
// costs: nats-server 2.15 holds what it has read of its blocks by weak pointers, which a
// collection drops (server/elastic), and with a small heap collections are frequent.
type setting struct {
	name        string
	environment []string
}

var settings = []setting{
	{"Go's defaults (GOGC=100)", []string{"GOGC=100"}},
	{"GOGC=400, GOMEMLIMIT=2GiB", []string{"GOGC=400", "GOMEMLIMIT=2GiB"}},
	{"GOGC=off, GOMEMLIMIT=2GiB", []string{"GOGC=off", "GOMEMLIMIT=2GiB"}},
}

// startTimeout bounds how long servers take until JetStream answers.
const startTimeout = time.Minute

// start starts nats-servers, the program as it is released, each in a process of its own.
func (b *bench) start(ctx context.Context, servers int) (*system, error) {
	dir, err := os.MkdirTemp("", "aether-bench-")
	if err != nil {
		return nil, err
	}
	s := &system{dir: dir}
	if err := s.startProcesses(ctx, b.binary, servers, b.setting.environment); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

func (s *system) startProcesses(ctx context.Context, binary string, servers int, environment []string) (err error) {
	starting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if s.processes, err = natsserver.StartProcesses(starting, binary, s.dir, servers, environment...); err != nil {
		return err
	}
	s.url = s.processes.URL()
	return s.waitReady(ctx)
}

// waitReady connects, and waits until JetStream answers.
func (s *system) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		err := s.tryConnect(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for nats-server: %w", err)
		case <-again.C:
		}
	}
}

func (s *system) tryConnect(ctx context.Context) (err error) {
	if s.nc == nil {
		if s.nc, err = nats.Connect(s.url); err != nil {
			return err
		}
	}
	if s.js, err = natsjs.New(s.nc, natsjs.WithPublishAsyncMaxPending(4000)); err != nil {
		return err
	}
	// Servers that have no leader yet do not answer.
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err = s.js.AccountInfo(ctx)
	return err
}

// startHere starts one server in this process, whose allocations can be counted.
func startHere(ctx context.Context) (*system, error) {
	dir, err := os.MkdirTemp("", "aether-bench-")
	if err != nil {
		return nil, err
	}
	s := &system{dir: dir}
	if s.cluster, err = natsserver.Start(dir, 1); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	s.url = s.cluster.URL()
	if err := s.waitReady(ctx); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

func (s *system) stop() error {
	if s.nc != nil {
		s.nc.Close()
	}
	if s.cluster != nil {
		s.cluster.Stop()
	}
	if s.processes != nil {
		s.processes.Stop()
	}
	return os.RemoveAll(s.dir)
}
