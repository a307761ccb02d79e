package jetstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// tryTime is how long one try may take. It leaves a third of what time there is
// to find out what has become of it.
func tryTime(ctx context.Context) time.Duration {
	if deadline, has := ctx.Deadline(); has {
		return min(tryTimeout, time.Until(deadline)*2/3)
	}
	return tryTimeout
}

func tryContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, tryTime(ctx))
}

// retry tries until what it does succeeds, fails for good, or the context ends.
func retry(ctx context.Context, do func() error) error {
	for try := 1; ; try++ {
		err := askAgain(do(), try)
		if !errors.Is(err, errAgain) {
			return err
		}
		if pauseErr := pause(ctx, waitAfter(err, try)); pauseErr != nil {
			return fmt.Errorf("%w; last try: %v", pauseErr, err)
		}
	}
}

var (
	// errAgain marks an error after which the same request may succeed.
	errAgain = errors.New("try again")
	// errNotConnected marks that nothing was sent since there is no connection. One that
	// is lost is commonly made again in less than a second.
	errNotConnected = errors.New("the connection to NATS is lost, and being made again")
	// errNoServer marks that nobody who has the stream answers, and that nobody says
	// that there is none.
	errNoServer = errors.New("no server that has the stream answers, as while they restart")
	// errAbsent marks that nobody has answered absentTries times, or that JetStream has
	// said as often that there is no such stream.
	errAbsent = errors.New("asked for two seconds in vain")
)

// askAgain marks what is worth another try and changes nothing else.
func askAgain(err error, try int) error {
	var refused *apiError
	switch {
	case errors.Is(err, errAbsent):
		// Asked often enough already.
	case errors.Is(err, errNoServer):
		return fmt.Errorf("%w: %w", errAgain, err)
	case errors.Is(err, errNotConnected):
		if try < absentTries {
			return fmt.Errorf("%w: %w", errAgain, err)
		}
	case errors.Is(err, errNoAnswer), errors.As(err, &refused) && refused.passing():
		return fmt.Errorf("%w: %w", errAgain, err)
	case errors.Is(err, errNoResponders), errCode(err) == codeStreamNotFound:
		if try < absentTries {
			return fmt.Errorf("%w: %w", errAgain, err)
		}
		return fmt.Errorf("%w: %w: %w", eventstore.ErrUnavailable, errAbsent, err)
	}
	return err
}

const (
	// conflictWait is the mean pause after the first try that lost against another
	// writer: about as long as the write of that one takes on a replicated stream.
	conflictWait = 2 * time.Millisecond
	// conflictDoublings is how often it doubles at most, to 64 ms: with 64 processes that
	// write to one actor, 1,000 tries a second are what JetStream has time for beside
	// the writes.
	conflictDoublings = 5
)

// waitAfter is the mean pause after so many tries, of which the last failed with err.
// Who loses again and again has many others to wait for: at a steady pace all of them
// would keep the server busy with tries that lose.
func waitAfter(err error, tries int) time.Duration {
	var refused *apiError
	if errors.Is(err, errNoAnswer) || errors.Is(err, errNoResponders) || errors.Is(err, errNotConnected) || errCode(err) == codeStreamNotFound || errors.As(err, &refused) && refused.passing() {
		return retryWait
	}
	return conflictWait << min(tries-1, conflictDoublings)
}

// pause waits for about the mean, spread so that writers who met once do not
// meet again.
func pause(ctx context.Context, mean time.Duration) error {
	timer := time.NewTimer(mean/2 + rand.N(mean))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ended(ctx)
	}
}

// isAway says whether an error is one of servers that did not answer, or could not.
func isAway(err error) bool {
	return errors.Is(err, eventstore.ErrUnavailable) || errors.Is(err, errNoAnswer)
}
