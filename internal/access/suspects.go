package access

import (
	"cmp"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
)

// Suspects are the subjects of families of which a large message came. However many they
// are, what servers may pass on of all of them together has suspectBytes, a quarter of what
// ends the connection, or is one message. Each has one message at a time, in turns.
const (
	suspectBytes = 16 << 20
	// maxPlaces is how many suspects receive at once where servers take small messages only.
	maxPlaces = 256
)

type suspects struct {
	// of are they by subject.
	of map[string]*suspect
	// turns counts the places that were given.
	turns int
	// spent are places of which a large message came since creditTick: who sends those has
	// the next one then, and not as fast as they can be read.
	spent int
}

// suspect is a subject that has a place or waits for one.
type suspect struct {
	*debtor
	subject, family string
	// turn is when it had its last place, as suspects count them.
	turn int
	// kept: it had its place at the last tick. leaving: it has given it up, and what came
	// before the server knew may be on its way.
	kept, leaving bool
}

// places is how many messages suspects have on their way, where servers take those of so
// many bytes.
func places(maxPayload int64) int {
	return int(min(max(suspectBytes/max(maxPayload, 1), 1), maxPlaces))
}

// follow lets in who is to be suspected, and out who is no more, or is gone.
func (s *suspects) follow(debtors map[string]*debtor, distrusted map[string]time.Time) {
	for subject, one := range s.of {
		if _, still := distrusted[one.family]; !still || debtors[subject] != one.debtor {
			if one.leaving {
				// Nobody sees any more when it has left.
				one.drop(always)
			}
			delete(s.of, subject)
		}
	}
	if len(distrusted) == 0 {
		return
	}
	for subject, d := range debtors {
		of := family(subject)
		if _, distrusted := distrusted[of]; distrusted && s.of[subject] == nil {
			s.of[subject] = &suspect{debtor: d, subject: subject, family: of}
		}
	}
}

// used is how many messages of suspects are on their way, or count so.
func (s *suspects) used() int {
	used := s.spent
	for _, one := range s.of {
		for _, left := range one.left {
			used += left
		}
	}
	return used
}

// waiting are those without a place that may have one, in their turns: of the family with
// the fewest places first, and of that who has waited longest. Others that wait come after
// them.
func (s *suspects) waiting(may func(subject string) bool) []*suspect {
	held := s.held()
	var line []*suspect
	for _, one := range s.of {
		if len(one.left) == 0 && may(one.subject) {
			line = append(line, one)
		}
	}
	slices.SortFunc(line, func(a, b *suspect) int { return cmp.Or(a.turn-b.turn, cmp.Compare(a.subject, b.subject)) })
	rank := make(map[*suspect]int, len(line))
	for _, one := range line {
		rank[one] = held[one.family]
		held[one.family]++
	}
	slices.SortStableFunc(line, func(a, b *suspect) int { return rank[a] - rank[b] })
	return line
}

// held is how many places each family has.
func (s *suspects) held() map[string]int {
	held := map[string]int{}
	for _, one := range s.of {
		held[one.family] += len(one.left)
	}
	return held
}

// leavers are those that have to give up their places to so many that wait: of the same
// family, or of one that has more places even then. Who had its place the longest comes first.
func (s *suspects) leavers(waiting []*suspect) []*suspect {
	held := s.held()
	var idle, leavers []*suspect
	served := 0
	for _, one := range s.of {
		switch {
		case len(one.left) == 0:
		case one.leaving:
			served++
		case one.kept:
			idle = append(idle, one)
		}
	}
	slices.SortFunc(idle, func(a, b *suspect) int { return a.turn - b.turn })
	for _, one := range waiting[min(served, len(waiting)):] {
		at := slices.IndexFunc(idle, func(other *suspect) bool {
			return other.family == one.family || held[other.family] > held[one.family]+1
		})
		if at < 0 {
			continue
		}
		held[idle[at].family]--
		held[one.family]++
		leavers = append(leavers, idle[at])
		idle = slices.Delete(idle, at, at+1)
	}
	return leavers
}

// suspect has all subjects of a family share what suspects may. What they have on their way
// is still taken.
func (c *credits) suspect(family string) {
	_, known := c.distrusted[family]
	c.distrusted[family] = time.Now().Add(distrust)
	if known {
		return
	}
	c.suspects.follow(c.debtors, c.distrusted)
	for _, one := range c.suspects.of {
		if one.family == family {
			one.giveUp()
			one.credit = min(one.credit, firstCredit)
		}
	}
}

// giveUp tells the server to pass on no more. What it has passed on is still taken, and
// counts until it must have come: so a subscription is there until the server has answered.
func (s *suspect) giveUp() {
	s.leaving = true
	for sub := range s.left {
		// It fails when the connection is closed, and then nothing arrives anyway.
		_ = sub.Drain()
	}
}

// giveTurns is called every creditTick: suspects to which nothing came give their places to
// those that wait.
func (c *credits) giveTurns() {
	s := &c.suspects
	s.spent = 0
	for _, one := range s.of {
		one.drop(func(sub *nats.Subscription) bool { return !sub.IsValid() })
	}
	c.fill()
	free := places(c.conn.MaxPayload()) - s.used()
	if waiting := s.waiting(c.allowed.may); free <= 0 && len(waiting) > 0 {
		for _, one := range s.leavers(waiting) {
			one.giveUp()
		}
	}
	for _, one := range s.of {
		one.kept = len(one.left) > 0
	}
}

// fill gives the places that are free.
func (c *credits) fill() {
	s := &c.suspects
	free := places(c.conn.MaxPayload()) - s.used()
	if free <= 0 {
		return
	}
	for _, one := range s.waiting(c.allowed.may) {
		if free == 0 || !c.open(one.subject, one.debtor, 1) {
			return
		}
		free--
		s.turns++
		one.turn, one.kept, one.leaving = s.turns, false, false
	}
}
