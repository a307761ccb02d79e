package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

const (
	// elsewherePatience is how long the NATS systems of all other classes may take to
	// say whether they have the streams of a store.
	elsewherePatience = 5 * time.Second
	// classPatience is how long a store that is new waits for a class that cannot be
	// asked. After a restore of a whole cluster NATS may come later than the stores; a
	// class that is broken for good must not keep every new store from being made.
	classPatience = 5 * time.Minute
)

// checkElsewhere keeps a store from being made anew on the default class of today,
// when its streams are on that of yesterday. It is asked only before the streams of a
// store are made for the first time. Whether its team has named that class, or the
// webhook has, nobody can tell; a store on another class has named it.
func (p *pass) checkElsewhere(ctx context.Context) error {
	isThere := func(live *liveStream) bool { return live != nil }
	if p.store.Spec.ClassName != "" && !p.class.IsDefault() || stream.WasMade(p.store) || slices.ContainsFunc(p.live, isThere) {
		return nil
	}
	var classes v1alpha1.EventStoreClassList
	if err := p.List(ctx, &classes); err != nil {
		return fmt.Errorf("list EventStoreClasses: %w", err)
	}
	answers := p.askClasses(ctx, classes.Items)
	var silent []string
	for i, class := range classes.Items {
		switch answer := answers[i]; {
		case answer.live != nil:
			return stream.Stalled(v1alpha1.ReasonOnAnotherClass,
				"%s is the default class now, and stream %s of an earlier EventStore of this name is on EventStoreClass %s, with %d messages, so nothing is made: delete this EventStore and apply it again with className %s to go on with what is stored; to begin anew give it another name, or delete that stream",
				p.class.Name, answer.live.Config.Name, class.Name, answer.live.State.Msgs, class.Name)
		case answer.err != nil:
			silent = append(silent, fmt.Sprintf("%s (%v)", class.Name, answer.err))
		}
	}
	if len(silent) == 0 {
		return nil
	}
	slices.Sort(silent)
	// Whoever names a class does not wait for the others: one that is broken would keep
	// all new stores waiting.
	if p.store.Spec.ClassName == "" && waits(p.store, time.Now()) {
		return stream.Retrying(v1alpha1.ReasonProgressingWithRetry,
			"spec.className is not set, and these EventStoreClasses cannot be asked whether the streams of an earlier EventStore of this name are there: %s. They are asked for %s from the creation of this EventStore on, and then it is made; to have it made now delete it and apply it again with a className", strings.Join(silent, "; "), classPatience)
	}
	p.tell(warning, "ClassesNotAsked", "CreateStreams", "Streams are made, although these EventStoreClasses could not be asked whether those of an earlier EventStore of this name are there: %s", strings.Join(silent, "; "))
	return nil
}

// waits says whether a store is so new that classes which do not answer are waited
// for.
func waits(store *v1alpha1.EventStore, now time.Time) bool {
	return now.Before(store.CreationTimestamp.Add(classPatience))
}

// elsewhere is what another class has of a store.
type elsewhere struct {
	// live is a stream of the store, nil for none.
	live *liveStream
	err  error
}

// askClasses asks all other classes at once for the streams of the store.
func (p *pass) askClasses(ctx context.Context, classes []v1alpha1.EventStoreClass) []elsewhere {
	ctx, cancel := context.WithTimeout(ctx, elsewherePatience)
	defer cancel()
	answers := make([]elsewhere, len(classes))
	var asking errgroup.Group
	for i := range classes {
		if classes[i].Name == p.class.Name {
			continue
		}
		asking.Go(func() error {
			answers[i] = p.askClass(ctx, &classes[i])
			return nil
		})
	}
	// None fails: each keeps its own error.
	_ = asking.Wait()
	return answers
}

func (p *pass) askClass(ctx context.Context, class *v1alpha1.EventStoreClass) elsewhere {
	conn, err := p.connector.connect(ctx, class)
	if err != nil {
		return elsewhere{err: err}
	}
	for _, wanted := range p.wanted {
		live, err := conn.Stream(ctx, wanted.Config.Name)
		if err != nil {
			return elsewhere{err: err}
		}
		if live == nil {
			continue
		}
		if owner, named := stream.RecordedOwner(live.Config.Metadata); named && owner.String() == p.self().String() {
			return elsewhere{live: live}
		}
	}
	return elsewhere{}
}
