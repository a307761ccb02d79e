// Package access decides what a pod may do in NATS, and tells the servers: it
// answers NATS auth callout after a review of the pod's token, and ends the
// connections of pods whose access is not what it was. It makes the consumers that
// pods ask for, since no permission bounds what one that they made themselves could do.
//
// What is granted is a pure function of the EventStores and of who asks; the
// calls to Kubernetes and to NATS are a thin edge around it. It makes no stream: that
// is package stream's.
package access
