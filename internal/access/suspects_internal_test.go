package access

import (
	"fmt"
	"slices"
	"testing"

	"github.com/nats-io/nats.go"
)

// Places go round by family, and in a family to who has waited longest: many subjects of one
// family take nothing from that of another.
func TestSuspectsHaveTurns(t *testing.T) {
	t.Parallel()
	s := suspects{of: map[string]*suspect{}}
	add := func(subject string, turn, held int) {
		d := &debtor{left: map[*nats.Subscription]int{}}
		for range held {
			d.left[&nats.Subscription{}] = 1
		}
		s.of[subject] = &suspect{debtor: d, subject: subject, family: family(subject), turn: turn, kept: held > 0}
	}
	names := func(line []*suspect) (subjects []string) {
		for _, one := range line {
			subjects = append(subjects, one.subject)
		}
		return subjects
	}
	all := func(string) bool { return true }
	for i := range 4 {
		add(fmt.Sprintf("many_%d", i), 10+i, 1)
	}
	add("many_4", 4, 0)
	add("many_5", 5, 0)
	add("few_0", 9, 0)
	add("few_1", 8, 0)
	if line, want := names(s.waiting(all)), []string{"few_1", "few_0", "many_4", "many_5"}; !slices.Equal(line, want) {
		t.Errorf("%v have the next turns, want %v", line, want)
	}
	if line, want := names(s.waiting(func(subject string) bool { return subject != "few_1" })), []string{"few_0", "many_4", "many_5"}; !slices.Equal(line, want) {
		t.Errorf("%v have the next turns while one has used up what it may, want %v", line, want)
	}
	if line, want := names(s.leavers(s.waiting(all))), []string{"many_0", "many_1", "many_2", "many_3"}; !slices.Equal(line, want) {
		t.Errorf("%v give up their places, want %v", line, want)
	}
	if used := s.used(); used != 4 {
		t.Errorf("%d places are used, want 4", used)
	}
	s.of["many_0"].leaving, s.of["many_1"].leaving = true, true
	if line, want := names(s.leavers(s.waiting(all))), []string{"many_2", "many_3"}; !slices.Equal(line, want) {
		t.Errorf("beside two that leave %v give up their places, want %v", line, want)
	}
	add("few_2", 1, 1)
	s.of["many_2"].left, s.of["many_3"].left = nil, nil
	if line := names(s.leavers([]*suspect{s.of["many_4"]})); len(line) != 0 {
		t.Errorf("%v of a family that has no more than another give up their places to it", line)
	}
}

// What suspects have on their way together is bounded, whatever messages servers take.
func TestPlacesOfSuspects(t *testing.T) {
	t.Parallel()
	for maxPayload, want := range map[int64]int{0: 256, 64 << 10: 256, 1 << 20: 16, 8 << 20: 2, 64 << 20: 1} {
		if got := places(maxPayload); got != want {
			t.Errorf("with messages of %d bytes suspects have %d places, want %d", maxPayload, got, want)
		}
	}
}
