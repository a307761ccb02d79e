// Command application is what the tests run in pods beside the sidecar. It tries
// everything once: what works only at the second attempt fails.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/sidecar"
)

// callTimeout bounds each call.
const callTimeout = 30 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "application:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	stopped, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	modes := map[string]func(a *application, stopped context.Context) error{"once": (*application).once, "serve": (*application).serve, "press": (*application).press}
	switch {
	case len(args) == 1 && args[0] == "pause":
		// What holds the namespaces of a pod.
		<-stopped.Done()
		return nil
	case len(args) == 1 && modes[args[0]] != nil:
		store, err := sidecar.New(os.Getenv("AETHER_ENDPOINT"), "")
		if err != nil {
			return err
		}
		return modes[args[0]](&application{store: store, actorID: os.Getenv("POD_NAME")}, stopped)
	}
	return fmt.Errorf("called with %q: give one of pause, once, serve, press", args)
}

// application has one actor, which is named like its pod.
type application struct {
	store   *sidecar.Store
	actorID string
}

func (a *application) save(eventType string, data any) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	content, err := json.Marshal(data)
	if err != nil {
		return err
	}
	_, err = a.store.SaveEvent(ctx, eventstore.Event{ID: uuid.NewString(), EventType: eventType, ActorID: a.actorID, Data: content})
	return err
}

// once saves two events, reads them, and ends.
func (a *application) once(context.Context) error {
	for _, eventType := range []string{"Started", "Worked"} {
		if err := a.save(eventType, nil); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	events, err := a.store.GetEvents(ctx, a.actorID, 0)
	if err == nil && len(events) != 2 {
		err = fmt.Errorf("2 events were saved, and %d read", len(events))
	}
	return err
}

// serve saves an event when it starts, one each time that it is asked to with
// SIGUSR1, and one when it is told to end.
func (a *application) serve(stopped context.Context) error {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	if err := a.save("Started", nil); err != nil {
		return err
	}
	fmt.Println("started")
	for {
		select {
		case <-asked:
			err := a.save("Asked", nil)
			fmt.Println("asked:", err)
		case <-stopped.Done():
			return a.save("Stopped", nil)
		}
	}
}

// press has the sidecar do more than it has memory for: 64 writers and readers of
// events of 900 KiB. It may refuse, and say that nothing was done; that it goes away,
// or does not know, is an error.
func (a *application) press(context.Context) error {
	large := strings.Repeat("x", 900<<10)
	var saved, read, refused atomic.Int64
	count := func(done *atomic.Int64, err error) error {
		switch {
		case err == nil:
			done.Add(1)
		case errors.Is(err, eventstore.ErrUnavailable):
			refused.Add(1)
		default:
			return err
		}
		return nil
	}
	var pressing errgroup.Group
	for n := range 64 {
		pressing.Go(func() error {
			one := &application{a.store, fmt.Sprintf("%s-%d", a.actorID, n)}
			for range 4 {
				if err := count(&saved, one.save("Pressed", large)); err != nil {
					return err
				}
				ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
				_, err := a.store.GetEvents(ctx, one.actorID, 0)
				cancel()
				if err := count(&read, err); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := pressing.Wait()
	fmt.Printf("%d saves and %d reads answered, %d calls refused\n", saved.Load(), read.Load(), refused.Load())
	return err
}
