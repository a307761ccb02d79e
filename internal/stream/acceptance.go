package stream

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"k8s.io/apimachinery/pkg/types"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// TokenLength is how many characters a token has: few enough to be pasted, and too
// many to be met by chance.
const TokenLength = 16

// PlanToken stands for the steps of plans that wait for a person, of the EventStore
// of a uid: for the streams, their fields, what they are and what they would become,
// and for nothing else that the plans do. newest is the token of the newest
// acceptance, so that each is used once.
func PlanToken(store types.UID, newest string, plans []Plan) string {
	var steps [][]string
	for _, plan := range plans {
		for _, s := range plan.Waiting() {
			steps = append(steps, []string{plan.Wanted.Config.Name, identity(plan.Live), s.Field, s.From, s.To})
		}
	}
	return token("plan", store, newest, steps)
}

// Offer is the token that a person is told of what waits, and whether it is accepted.
// tokenAfter makes the token by that of the newest acceptance; set is what the person
// set, and wasTold says whether they were told a token before. One that was set before
// it was ever told is left over from an earlier time, of which the status is lost: it
// accepts nothing, and another one is told.
func Offer(tokenAfter func(newest string) string, newest, set string, wasTold func(token string) bool) (token string, accepted bool) {
	first := tokenAfter(newest)
	second := tokenAfter(first)
	for _, candidate := range []string{first, second} {
		if set == candidate && wasTold(candidate) {
			return candidate, true
		}
	}
	if set == first || wasTold(second) {
		return second, false
	}
	return first, false
}

// Accepts says whether a token accepted these plans, when the newest acceptance before
// it was that of newest; see Offer.
func Accepts(token string, store types.UID, newest string, plans []Plan) bool {
	first := PlanToken(store, newest, plans)
	return token == first || token == PlanToken(store, first, plans)
}

// AskedFor puts down what a change is asked for by, which is accepted.
func AskedFor(accepted *v1alpha1.Acceptance, store *v1alpha1.EventStore, class *v1alpha1.EventStoreClass) {
	accepted.Generation, accepted.ClassUID, accepted.ClassGeneration = store.Generation, string(class.UID), class.Generation
}

// IsAskedFor says whether an accepted change that is asked for now has been all the time
// since. It takes one edit to take a change back, and another to make it again: after two
// nobody knows. A class that was made again may have said anything meanwhile.
func IsAskedFor(accepted v1alpha1.Acceptance, store *v1alpha1.EventStore, class *v1alpha1.EventStoreClass) bool {
	edits, classEdits := store.Generation-accepted.Generation, class.Generation-accepted.ClassGeneration
	return accepted.ClassUID == string(class.UID) && edits >= 0 && classEdits >= 0 && edits+classEdits <= 1
}

// LossToken stands for losses that were seen: the streams, what is on record of
// them, and what is there now.
func LossToken(store types.UID, newest string, losses []*Loss) string {
	seen := make([][]string, len(losses))
	for i, loss := range losses {
		seen[i] = []string{loss.Stream, loss.Reason, loss.recorded, loss.live}
	}
	return token("loss", store, newest, seen)
}

func token(kind string, store types.UID, newest string, parts [][]string) string {
	encoded, err := json.Marshal([]any{kind, store, newest, parts})
	if err != nil {
		// Nothing but texts: only a mistake in the code can fail here.
		panic(err)
	}
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:])[:TokenLength]
}
