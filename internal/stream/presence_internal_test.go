package stream

import (
	"strconv"
	"testing"
	"time"
)

// An operator that was killed holds up nobody for ever, one that is killed over and over
// has not much of it each time, and one that is there is not forgotten between two times
// that it tells so.
func TestOperatorsAreForgotten(t *testing.T) {
	t.Parallel()
	start := time.Now()
	at := func(d time.Duration) time.Time { return start.Add(d) }
	heard := func(times ...time.Duration) *operators {
		known := &operators{}
		for _, d := range times {
			known.heard(speaker{Operator: "one", Cluster: "cluster"}, at(d))
		}
		return known
	}
	for name, test := range map[string]struct {
		known *operators
		until time.Duration
	}{
		"heard once":               {heard(0), newcomerPatience},
		"and again at once":        {heard(0, time.Second), newcomerPatience + 2*time.Second},
		"for half a minute":        {heard(0, presenceInterval), newcomerPatience + 2*presenceInterval},
		"for long":                 {heard(0, presenceInterval, 2*presenceInterval, 3*presenceInterval), 3*presenceInterval + presencePatience},
		"anew after it was silent": {heard(0, presenceInterval, 10*presencePatience), 10*presencePatience + newcomerPatience},
	} {
		if there := test.known.there(at(test.until)); len(there) != 1 || there["one"] != "cluster" {
			t.Errorf("%s: after %s these are there: %v", name, test.until, there)
		}
		if there := test.known.there(at(test.until + time.Second)); len(there) != 0 {
			t.Errorf("%s: after %s and a second these are there: %v", name, test.until, there)
		}
	}
}

// Whoever may speak to operators may say any number of names. What is kept of them is
// bounded, also where nothing is asked, and none of them is taken for gone.
func TestOperatorsAreBounded(t *testing.T) {
	t.Parallel()
	var known operators
	start := time.Now()
	for i := range 3 * maxOperators {
		known.heard(speaker{Operator: strconv.Itoa(i), Cluster: "one"}, start)
	}
	if len(known.peers) > maxOperators+1 {
		t.Errorf("%d are known", len(known.peers))
	}
	there := known.there(start)
	if heard := (inquiry{}).heard(Owner{Home: Home{Cluster: "another"}}, there); !heard.Has(Untold) {
		t.Error("those that are too many are taken for gone")
	}
	later := start.Add(presencePatience + time.Second)
	known.heard(speaker{Operator: "late", Cluster: "one"}, later)
	if len(known.peers) != 1 {
		t.Errorf("%d are known still", len(known.peers))
	}

	var asked inquiries
	about := inquirySubject{Asker{UID: "uid-0"}, Owner{UID: "uid-1"}}
	token := asked.begin(about, start)
	for i := range 3 * maxOperators {
		asked.told(token, answer{speaker: speaker{Operator: strconv.Itoa(i)}, Standing: Ending})
	}
	q, _ := asked.of(about, start)
	if len(q.answers) > maxOperators+1 || !q.heard(Owner{}, nil).Has(Untold) {
		t.Errorf("%d answers are kept, and none that says that there are more", len(q.answers))
	}
}

// An operator hears itself from when its own words came back, and no more when they have
// not come for long.
func TestEchoes(t *testing.T) {
	t.Parallel()
	var e echoes
	start := time.Now()
	at := func(d time.Duration) time.Time { return start.Add(d) }
	expect := func(d time.Duration, hears bool, waited time.Duration) {
		t.Helper()
		if gotHears, gotWaited := e.state(at(d)); gotHears != hears || gotWaited != waited {
			t.Errorf("after %s: hears %t, waited %s", d, gotHears, gotWaited)
		}
	}
	expect(0, false, 0)
	e.send(start, 0)
	e.send(at(time.Second), 0)
	expect(2*time.Second, false, 2*time.Second)
	e.cameBack(at(3 * time.Second))
	expect(4*time.Second, true, 0)
	e.send(at(presenceInterval), 0)
	expect(presenceInterval+time.Second, true, time.Second)
	e.send(at(2*presenceInterval), 0)
	expect(2*presenceInterval, false, presenceInterval)
	// What was sent before the connection was lost is not waited for.
	e.send(at(3*presenceInterval), 1)
	expect(3*presenceInterval+time.Second, true, time.Second)
	e.cameBack(at(3*presenceInterval + time.Second))
	expect(4*presenceInterval, true, 0)
}

// What was said counts for some seconds, and not for the next deletion.
func TestAnswersAreForgotten(t *testing.T) {
	t.Parallel()
	var asked inquiries
	start, about := time.Now(), inquirySubject{Asker{UID: "uid-0"}, Owner{UID: "uid-1"}}
	token := asked.begin(about, start)
	asked.told(token, answer{speaker: speaker{Operator: "one"}, Standing: Gone})
	if q, known := asked.of(about, start.Add(answersCount)); !known || len(q.answers) != 1 {
		t.Errorf("the answers are %v, known: %t", q.answers, known)
	}
	late := start.Add(answersCount + time.Second)
	if q, known := asked.of(about, late); known {
		t.Errorf("the answers %v count still", q.answers)
	}
	asked.begin(inquirySubject{Asker{UID: "uid-0"}, Owner{UID: "uid-2"}}, late)
	if len(asked.bySubject) != 1 || len(asked.byToken) != 1 {
		t.Errorf("kept are %v", asked.bySubject)
	}
	asked.told(token, answer{speaker: speaker{Operator: "late"}, Standing: Gone})
}
