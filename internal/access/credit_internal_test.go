package access

import (
	"testing"

	"github.com/nats-io/nats.go"
)

// Who behaves is trusted with more; what is on its way of a subscription that was given up
// earns nothing.
func TestCreditGrows(t *testing.T) {
	t.Parallel()
	sub, givenUp := &nats.Subscription{}, &nats.Subscription{}
	d := &debtor{left: map[*nats.Subscription]int{sub: 3}, credit: 1}
	for range 10 {
		d.count(givenUp, maxCredit)
	}
	if d.credit != 1 || len(d.left) != 1 {
		t.Errorf("messages of a subscription that was given up made a credit of %d, %v", d.credit, d.left)
	}
	for range 3 {
		d.count(sub, maxCredit)
	}
	if d.credit != 2 || len(d.left) != 0 {
		t.Errorf("a subscription that came to its end made a credit of %d, %v", d.credit, d.left)
	}
	for range 20 {
		d.left[sub] = 1
		d.count(sub, maxCredit)
	}
	if d.credit != maxCredit {
		t.Errorf("the credit grew to %d, want %d", d.credit, maxCredit)
	}
}
