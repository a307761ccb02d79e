// Package eventstorev1 is the protobuf contract of an event store, its
// generated code, the stable codes of its errors, and the conversions between
// its messages and the values of package eventstore.
package eventstorev1
