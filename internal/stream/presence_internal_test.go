package stream

import (
	"maps"
	"testing"
	"time"
)

// An operator that was killed holds up nobody for ever, and one that is there is not
// forgotten between two times that it tells so.
func TestOperatorsAreForgotten(t *testing.T) {
	t.Parallel()
	var known operators
	start := time.Now()
	known.heard(speaker{Operator: "killed", Cluster: "one"}, start)
	known.heard(speaker{Operator: "there", Cluster: "one"}, start)
	known.heard(speaker{Operator: "there", Cluster: "one"}, start.Add(3*presenceInterval))
	for at, want := range map[time.Duration]int{0: 2, presencePatience: 2, presencePatience + time.Second: 1, 2 * presencePatience: 0} {
		there := (&operators{peers: maps.Clone(known.peers)}).there(start.Add(at))
		if len(there) != want {
			t.Errorf("after %s these are there, and %d should be: %v", at, want, there)
		}
	}
}

// What was said counts for some seconds, and not for the next deletion.
func TestAnswersAreForgotten(t *testing.T) {
	t.Parallel()
	var asked inquiries
	start, about := time.Now(), inquirySubject{"uid-0", Owner{UID: "uid-1"}}
	token := asked.begin(about, start)
	asked.told(token, answer{speaker: speaker{Operator: "one"}, Standing: Gone})
	if q, known := asked.of(about, start.Add(answersCount)); !known || len(q.answers) != 1 {
		t.Errorf("the answers are %v, known: %t", q.answers, known)
	}
	late := start.Add(answersCount + time.Second)
	if q, known := asked.of(about, late); known {
		t.Errorf("the answers %v count still", q.answers)
	}
	asked.begin(inquirySubject{"uid-0", Owner{UID: "uid-2"}}, late)
	if len(asked.bySubject) != 1 || len(asked.byToken) != 1 {
		t.Errorf("kept are %v", asked.bySubject)
	}
	asked.told(token, answer{speaker: speaker{Operator: "late"}, Standing: Gone})
}
