package jetstream

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// headerLatestVersion, on a message of an actor's snapshots, is the latest version that the
// actor had, where that is more than the message's own.
const headerLatestVersion = "aether-latest-version"

// remembered is the latest version of an actor as the last message of its snapshots has
// it, 0 for none. The message need be no snapshot that can be read.
func remembered(m *message) int64 {
	var version int64
	if snapshot, err := decodeSnapshot(m); err == nil {
		version = snapshot.Version
	}
	// It is no number where another has written it, and then counts as absent.
	latest, err := strconv.ParseInt(m.Header.Get(headerLatestVersion), 10, 64)
	if err != nil || latest > eventstore.MaxVersion {
		return version
	}
	return max(version, latest)
}

// remembering is a header that says which version was the latest, where its own is less.
func remembering(header nats.Header, own, latest int64) nats.Header {
	if latest > own {
		header[headerLatestVersion] = []string{strconv.FormatInt(latest, 10)}
	}
	return header
}

// remember has the snapshots of an actor remember a version, and says whether that took a
// message. last is what a replica has as the last one, nil for none, perhaps without
// its data: JetStream decides whether it is. ErrContested says that it never was.
func (s *Store) remember(ctx context.Context, actorID string, version int64, last *message) (wrote bool, err error) {
	// What is stored again is stored with its data.
	known := last == nil || isDeletedSnapshot(last)
	lost := 0
	err = retry(ctx, func() error {
		if !known {
			last, err = s.leaderGet(ctx, s.config.SnapshotsStream, getRequest{LastBySubject: SnapshotsSubject(s.config.EventsStream, actorID)})
			if err != nil {
				return err
			}
		}
		known = false
		if last != nil && remembered(last) >= version {
			return nil
		}
		var before uint64
		if last != nil {
			before = last.Sequence
		}
		header, data := s.mark(actorID, version, last)
		_, err := s.putSnapshot(ctx, actorID, before, header, data)
		wrote = err == nil
		if isConflict(err) {
			lost++
		}
		if lost == contestedTries {
			return fmt.Errorf("%w: %v", ErrContested, err)
		}
		return err
	})
	if err != nil {
		return wrote, fmt.Errorf("remember version %d of actor %.100q in stream %s: %w", version, actorID, s.config.SnapshotsStream, err)
	}
	return wrote, nil
}

// mark is what takes the place of the last message of an actor's snapshots to remember a
// version: the same once more, also where it cannot be read, since somebody may want to
// know why. Where there is no snapshot it is what stands for one that was deleted.
func (s *Store) mark(actorID string, version int64, last *message) (nats.Header, []byte) {
	if last == nil || isDeletedSnapshot(last) {
		return deletedSnapshotHeader(s.source(), rand.Text(), actorID, version, s.opts.Now()), nil
	}
	header := make(nats.Header, len(last.Header)+4)
	maps.Copy(header, last.Header)
	// Those are the server's, of this message or of how it was stored.
	maps.DeleteFunc(header, func(name string, _ []string) bool { return strings.HasPrefix(name, "Nats-") })
	return remembering(header, 0, version), last.Data
}
