package injector

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// amount is a request or a limit of the sidecar.
type amount struct {
	// quantity is nil for none.
	quantity *resource.Quantity
	// given: the pod or the class asks for it, so that it is not adapted.
	given bool
	// annotation is the one that gives it.
	annotation string
}

// adapt gives an amount that nobody asked for another quantity.
func (a *amount) adapt(quantity resource.Quantity) {
	if !a.given {
		a.quantity = new(quantity.DeepCopy())
	}
}

// share is the request and the limit of one resource.
type share struct {
	name           corev1.ResourceName
	request, limit amount
}

// shares are small by default: the sidecar holds no events. CPU has no limit unless one
// is asked for, since a throttled sidecar shows as slow saves.
func (r *request) shares() []*share {
	class := r.class().Resources
	choose := func(annotation string, annotated, class *resource.Quantity, fallback string) amount {
		a := amount{quantity: annotated, given: true, annotation: annotation}
		if a.quantity == nil {
			a.quantity = class
		}
		if a.quantity == nil {
			a.given = false
			if fallback != "" {
				a.quantity = new(resource.MustParse(fallback))
			}
		}
		return a
	}
	return []*share{{
		name:    corev1.ResourceCPU,
		request: choose(v1alpha1.AnnotationSidecarCPURequest, r.cpuRequest, class.Requests.CPU, "10m"),
		limit:   choose(v1alpha1.AnnotationSidecarCPULimit, r.cpuLimit, class.Limits.CPU, ""),
	}, {
		name:    corev1.ResourceMemory,
		request: choose(v1alpha1.AnnotationSidecarMemoryRequest, r.memoryRequest, class.Requests.Memory, "32Mi"),
		limit:   choose(v1alpha1.AnnotationSidecarMemoryLimit, r.memoryLimit, class.Limits.Memory, "64Mi"),
	}}
}

// fitResources settles what the sidecar asks for. What nobody asked for is made to fit
// the pod and its namespace; what somebody asked for and does not fit is told.
func (r *request) fitResources() string {
	if r.existing != nil {
		// As it was made.
		return ""
	}
	r.resources = corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}
	for _, s := range r.shares() {
		s.fitEachOther()
		s.fitPod(r.pod)
		for _, bounds := range r.bounds() {
			s.fitBounds(bounds.item)
		}
		if reason := s.misfit(r); reason != "" {
			return reason
		}
		r.resources.Requests[s.name] = *s.request.quantity
		if s.limit.quantity != nil {
			r.resources.Limits[s.name] = *s.limit.quantity
		}
	}
	return ""
}

// fitEachOther: the API server refuses a request above its limit.
func (s *share) fitEachOther() {
	if s.limit.quantity == nil || s.request.quantity.Cmp(*s.limit.quantity) <= 0 {
		return
	}
	s.request.adapt(*s.limit.quantity)
	s.limit.adapt(*s.request.quantity)
}

// ofPod is what a pod asks for, or is limited to, as a whole; nil where it does not say.
func ofPod(pod *corev1.Pod, name corev1.ResourceName) (request, limit *resource.Quantity) {
	if pod.Spec.Resources == nil {
		return nil, nil
	}
	if q, set := pod.Spec.Resources.Limits[name]; set {
		request, limit = &q, &q
	}
	if q, set := pod.Spec.Resources.Requests[name]; set {
		request = &q
	}
	return request, limit
}

// fitPod: where the pod has resources as a whole, the sidecar asks for no part of its
// own of what is the application's, and is limited to no more than the pod.
func (s *share) fitPod(pod *corev1.Pod) {
	request, limit := ofPod(pod, s.name)
	if request != nil {
		s.request.adapt(resource.Quantity{Format: s.request.quantity.Format})
	}
	if limit != nil && s.limit.quantity != nil && s.limit.quantity.Cmp(*limit) > 0 {
		s.limit.adapt(*limit)
	}
}

// bound is what a LimitRange says of each container.
type bound struct {
	name string
	item corev1.LimitRangeItem
}

func (r *request) bounds() []bound {
	var bounds []bound
	for _, limits := range r.config.LimitRanges {
		for _, item := range limits.Spec.Limits {
			if item.Type == corev1.LimitTypeContainer {
				bounds = append(bounds, bound{limits.Name, item})
			}
		}
	}
	return bounds
}

// counts is the limit as LimitRanger sees it, which gives one that has none its default.
func (s *share) counts(item corev1.LimitRangeItem) *resource.Quantity {
	if s.limit.quantity != nil {
		return s.limit.quantity
	}
	if q, set := item.Default[s.name]; set {
		return &q
	}
	return nil
}

// fitBounds adapts to a LimitRange what nobody asked for.
func (s *share) fitBounds(item corev1.LimitRangeItem) {
	if least, set := item.Min[s.name]; set {
		if s.request.quantity.Cmp(least) < 0 {
			s.request.adapt(least)
		}
		if s.limit.quantity != nil && s.limit.quantity.Cmp(least) < 0 {
			s.limit.adapt(least)
		}
	}
	if most, set := item.Max[s.name]; set && s.limit.quantity != nil && s.limit.quantity.Cmp(most) > 0 {
		s.limit.adapt(most)
	}
	limit := s.counts(item)
	if limit == nil {
		return
	}
	if ratio, set := item.MaxLimitRequestRatio[s.name]; set && ratioOf(*limit, *s.request.quantity) > ratio.AsApproximateFloat64() {
		least := resource.NewMilliQuantity(ceil(float64(limit.MilliValue())/ratio.AsApproximateFloat64()), limit.Format)
		if s.name == corev1.ResourceMemory {
			least = resource.NewQuantity(ceil(float64(limit.Value())/ratio.AsApproximateFloat64()), limit.Format)
		}
		s.request.adapt(*least)
	}
	if s.request.quantity.Cmp(*limit) > 0 {
		s.request.adapt(*limit)
	}
}

func ceil(value float64) int64 {
	whole := int64(value)
	if float64(whole) < value {
		whole++
	}
	return whole
}

func ratioOf(limit, request resource.Quantity) float64 {
	if request.IsZero() {
		return 1 << 62
	}
	return limit.AsApproximateFloat64() / request.AsApproximateFloat64()
}

// misfit says what does not fit, and which annotation makes it.
func (s *share) misfit(r *request) string {
	request, limit := s.request.quantity, s.limit.quantity
	if limit != nil && request.Cmp(*limit) > 0 {
		return fmt.Sprintf("the container %s asks for %s of %s, which is more than its limit of %s: set the annotation %s or %s",
			ContainerName, request, s.name, limit, s.request.annotation, s.limit.annotation)
	}
	if reason := s.misfitPod(r.pod); reason != "" {
		return reason
	}
	for _, bounds := range r.bounds() {
		if reason := s.misfitBounds(bounds); reason != "" {
			return reason
		}
	}
	return ""
}

func (s *share) misfitPod(pod *corev1.Pod) string {
	podRequest, podLimit := ofPod(pod, s.name)
	if podLimit != nil && s.limit.quantity != nil && s.limit.quantity.Cmp(*podLimit) > 0 {
		return fmt.Sprintf("the container %s is limited to %s of %s, and the pod as a whole to %s by spec.resources: set the annotation %s, or give the pod more",
			ContainerName, s.limit.quantity, s.name, podLimit, s.limit.annotation)
	}
	if podRequest == nil || s.request.quantity.IsZero() {
		return ""
	}
	total := s.request.quantity.DeepCopy()
	for i := range pod.Spec.Containers {
		total.Add(requestOf(&pod.Spec.Containers[i], s.name))
	}
	for i := range pod.Spec.InitContainers {
		if isNative(&pod.Spec.InitContainers[i]) {
			total.Add(requestOf(&pod.Spec.InitContainers[i], s.name))
		}
	}
	if total.Cmp(*podRequest) <= 0 {
		return ""
	}
	return fmt.Sprintf("the container %s asks for %s of %s, and all containers together for more than the pod as a whole, %s by spec.resources: set the annotation %s, or give the pod more",
		ContainerName, s.request.quantity, s.name, podRequest, s.request.annotation)
}

// requestOf is what a container asks for; without a request that is its limit.
func requestOf(c *corev1.Container, name corev1.ResourceName) resource.Quantity {
	if q, set := c.Resources.Requests[name]; set {
		return q
	}
	return c.Resources.Limits[name]
}

func (s *share) misfitBounds(b bound) string {
	refuse := func(what string, have *resource.Quantity, but string, bound resource.Quantity, annotation string) string {
		return fmt.Sprintf("LimitRange %s: the container %s %s %s of %s, and %s is %s: set the annotation %s",
			b.name, ContainerName, what, have, s.name, but, &bound, annotation)
	}
	limit := s.counts(b.item)
	if least, set := b.item.Min[s.name]; set {
		if s.request.quantity.Cmp(least) < 0 {
			return refuse("asks for", s.request.quantity, "the least", least, s.request.annotation)
		}
		if limit != nil && limit.Cmp(least) < 0 {
			return refuse("is limited to", limit, "the least", least, s.limit.annotation)
		}
	}
	if most, set := b.item.Max[s.name]; set {
		if limit != nil && limit.Cmp(most) > 0 {
			return refuse("is limited to", limit, "the most", most, s.limit.annotation)
		}
		if s.request.quantity.Cmp(most) > 0 {
			return refuse("asks for", s.request.quantity, "the most", most, s.request.annotation)
		}
	}
	if ratio, set := b.item.MaxLimitRequestRatio[s.name]; set && limit != nil && ratioOf(*limit, *s.request.quantity) > ratio.AsApproximateFloat64() {
		return refuse("is limited to "+limit.String()+" and asks for", s.request.quantity, "the most that a limit may be of its request", ratio, s.request.annotation)
	}
	return ""
}
