package controller

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// recordFullness tells of streams that have nearly taken what they may.
func (p *pass) recordFullness() {
	conditions := &p.store.Status.Conditions
	was := isFull(p.store)
	texts := fullTexts(p.live, was)
	if len(texts) == 0 {
		meta.RemoveStatusCondition(conditions, v1alpha1.ConditionFull)
		return
	}
	message := strings.Join(texts, "; ") +
		". A full stream refuses what is new: set maxBytes higher, or let less be stored"
	setCondition(conditions, v1alpha1.ConditionFull, metav1.ConditionTrue, v1alpha1.ReasonNearlyFull, message)
	if !was {
		p.tell(warning, v1alpha1.ReasonNearlyFull, "Store", "%s", message)
	}
}

func isFull(store *v1alpha1.EventStore) bool {
	return meta.IsStatusConditionTrue(store.Status.Conditions, v1alpha1.ConditionFull)
}

// fullTexts tell of each stream that is full, with figures; none is, when there is
// none.
func fullTexts(live []*liveStream, was bool) []string {
	var texts []string
	for _, s := range live {
		if s == nil {
			continue
		}
		if percent, full := stream.Fullness(s, was); full {
			texts = append(texts, fmt.Sprintf("stream %s has taken %d %% of its maxBytes, %s", s.Config.Name, percent, stream.SizeText(int64(s.State.Bytes), s.Config.MaxBytes)))
		}
	}
	return texts
}
