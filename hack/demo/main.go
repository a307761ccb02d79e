// Command demo shows the whole of Aether on one machine, with real parts: etcd
// and kube-apiserver, a JetStream cluster of three servers, the operator's and
// the sidecar's own binaries, and config/ as anyone would apply it. There is no
// kubelet: the demo starts what an admitted pod says, and nothing else.
//
// It ends with a summary and code 0, or with the step that failed and code 1.
// With --stay it does the set-up and stays up until Ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

func main() {
	stay := flag.Bool("stay", false, "do the set-up, stay up until Ctrl-C, and clean up")
	flag.Parse()
	// What envtest logs is of no interest to who watches.
	log.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, *stay); err != nil {
		fmt.Fprintf(os.Stderr, "\nFAILED: %v\n", err)
		stop()
		os.Exit(1)
	}
}

// demo is what the steps share.
type demo struct {
	out     io.Writer
	started time.Time
	steps   int

	system *system
	pod    *runningPod
	app    *application
}

// step is one thing that the demo shows.
type step struct {
	name string
	run  func(context.Context) error
}

func run(ctx context.Context, out io.Writer, stay bool) (err error) {
	d := &demo{out: out, started: time.Now(), system: &system{out: out}}
	defer func() { err = errors.Join(err, d.close(err != nil)) }()

	if err := d.perform(ctx, d.setUp()); err != nil {
		return err
	}
	if stay {
		d.invite()
		<-ctx.Done()
		d.say("")
		d.say("Cleaning up.")
		return nil
	}
	if err := d.perform(ctx, d.work()); err != nil {
		return err
	}
	d.summarise()
	return nil
}

func (d *demo) setUp() []step {
	return []step{
		{"Build the operator, the sidecar and, where they are not cached, kube-apiserver and etcd", d.system.build},
		{"Start etcd and kube-apiserver", d.system.startKubernetes},
		{"Start a JetStream cluster of three nats-servers, with file storage", d.system.startNATS},
		{"Install config/default: CRDs, RBAC, webhook", d.system.install},
		{"Run the operator, with the rights of its ServiceAccount", d.system.startOperator},
		{"Apply config/samples and wait for the EventStores", d.applySamples},
		{"Admit a labelled Pod, and run its sidecar as the pod spec says", d.startPod},
	}
}

func (d *demo) work() []step {
	return []step{
		{"Save events over HTTP", d.saveEvents},
		{"Be refused a stale version", d.refuseStaleVersion},
		{"Save the same event again, without harm", d.saveAgain},
		{"Read the events back", d.readBack},
		{"Save a snapshot and read it", d.snapshot},
		{"Follow events live", d.follow},
		{"Lose a nats-server, the sidecar and the operator while saving, and no event", d.breakThings},
		{"Change retention and replicas with an apply; the streams follow", d.changeStore},
		{"Delete the resource; the data is still there, and a new apply takes it back", d.deleteStore},
	}
}

func (d *demo) perform(ctx context.Context, steps []step) error {
	for _, s := range steps {
		d.steps++
		d.say("\n[%d] %s", d.steps, s.name)
		begun := time.Now()
		// No step takes this long but the first build of the control plane on a slow
		// machine.
		stepCtx, cancel := context.WithTimeout(ctx, 30*time.Minute)
		err := s.run(stepCtx)
		cancel()
		if err != nil {
			return fmt.Errorf("step %d, %s: %w", d.steps, s.name, err)
		}
		d.say("    ok, %.1f s", time.Since(begun).Seconds())
	}
	return nil
}

func (d *demo) say(format string, args ...any) { _, _ = fmt.Fprintf(d.out, format+"\n", args...) }

// show prints something under the step that it belongs to.
func (d *demo) show(format string, args ...any) { d.say("    "+format, args...) }

func (d *demo) invite() {
	d.say(`
Aether is up. Ctrl-C ends it and removes everything it made.

  export KUBECONFIG=%[1]s
  kubectl get eventstores -A
  kubectl get eventstoreclasses
  kubectl explain eventstore.spec

The sidecar of the pod shop/checkout serves the stores of the samples:

  curl -s %[2]s/v1/stores
  curl -s %[2]s/v1/stores/orders/events -d '{"id":"1","eventType":"OrderPlaced","actorId":"order-1","data":{"total":42}}'
  curl -s %[2]s/v1/stores/orders/actors/order-1/events
  curl -sN %[2]s/v1/stores/orders/events

NATS listens on %[3]s. The log of the operator is %[4]s.`,
		d.system.kubeconfig, d.pod.endpoint, d.system.nats.URL(), d.system.operator.log)
}

func (d *demo) summarise() {
	d.say("\nAll %d steps passed in %.0f s: %d events acknowledged, none lost, doubled or out of order.",
		d.steps, time.Since(d.started).Seconds(), len(d.app.acknowledged))
}

// close ends everything that was started, the last first. The logs are shown
// when something failed, since they go with the rest.
func (d *demo) close(failed bool) error {
	if failed {
		d.system.showLogs(d.pod)
	}
	if d.pod != nil {
		d.pod.sidecar.stop()
	}
	return d.system.close()
}
